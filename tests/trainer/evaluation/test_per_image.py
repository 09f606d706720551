"""What is measured of a trained network: surfaces, lesions, threshold and calibration, and that runs are paired."""

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models.output import Output, Segmenter
from trainer.checkpoint import weights
from trainer.config import BlobsData, PolypData, RunConfig
from trainer.data import DataError, DataSet, Opening, open_data
from trainer.data.sets.blobs import draw
from trainer.data.sets.pictures import open_unseen
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.evaluation.metrics import validate
from trainer.evaluation.per_image import (
    COLUMNS,
    FinalEvaluation,
    Place,
    chosen_thresholds,
    image_columns,
    measured,
)
from trainer.evaluation.threshold import GRID, kept_threshold
from trainer.reports import EpochReport, PerImageResult

OPENING = Opening("me@here", "2026-01-01T00:00:00+00:00", "a test")
LOW, HIGH = -9.0, 9.0


def mask(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


def columns(truth: np.ndarray, said: np.ndarray) -> dict[str, float]:
    return dict(image_columns(np.where(said, HIGH, LOW).astype(np.float32), truth.astype(np.uint8), 0.5))


def test_lesions_are_found_missed_or_made_up():
    truth = mask("##....", "##...#", "......", "#.....", ".#....")
    said = mask("#...##", "....##", "......", "......", "....##")
    found = columns(truth, said)
    # Of the truth's three parts (a diagonal connects) the one at the lower left has no predicted pixel.
    assert (found["polyps"], found["missed"], found["false_positives"]) == (3, 1, 1)
    assert found["area"] == pytest.approx(7 / 30)
    tp, fp, fn = 2, 5, 5
    assert found["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["brier"] == pytest.approx(10 / 30, abs=1e-3)


def test_an_empty_truth_counts_what_is_made_up_and_has_no_surface():
    nothing, something = np.zeros((4, 4), bool), mask("....", ".#..", "....", "...#")
    found = columns(nothing, something)
    assert (found["dice"], found["polyps"], found["missed"], found["false_positives"]) == (0, 0, 0, 2)
    assert math.isnan(found["hd95"])
    assert columns(nothing, nothing)["dice"] == 1


def test_a_miss_is_as_far_off_as_the_image_is_long_and_never_better_than_what_was_found_badly():
    """The mean of hd95 over what both have is 1 for who finds one of two, and 3.5 for who finds the other one too."""
    truth, nothing = mask("......", ".##...", ".##...", "......"), np.zeros((4, 6), bool)
    aside = np.roll(truth, 3, axis=1)
    values = {name: columns(truth, said) for name, said in {"found": aside, "missed": nothing}.items()}
    assert values["found"]["hd95"] == values["found"]["hd95_missed_as_diagonal"] < math.hypot(4, 6)
    assert math.isnan(values["missed"]["hd95"])
    assert values["missed"]["hd95_missed_as_diagonal"] == math.hypot(4, 6)
    assert columns(nothing, truth)["hd95_missed_as_diagonal"] == math.hypot(4, 6)
    assert columns(nothing, nothing)["hd95_missed_as_diagonal"] == 0


def test_ignored_pixels_are_left_out():
    truth = np.zeros((4, 4), np.uint8)
    truth[0], truth[1, 0] = 255, 1
    odds = np.full((4, 4), LOW, np.float32)
    odds[:2] = HIGH
    found = image_columns(odds, truth, 0.5)
    assert (found["precision"], found["recall"]) == (0.25, 1.0)
    assert found["area"] == pytest.approx(1 / 12)


class Bright(Segmenter):
    """The redder, the more foreground; everything is a little too unsure, or more than a little."""

    stride, taps = 1, {}

    def __init__(self, unsure: float = 3.5) -> None:
        super().__init__()
        self.unsure = unsure

    def forward(self, images: Tensor) -> Output:
        odds = 2.0 * images[:, 0] - self.unsure
        return Output(torch.stack((torch.zeros_like(odds), odds), dim=1), {})


@pytest.fixture(scope="module")
def data() -> DataSet:
    return open_data(BlobsData(name="blobs", size=32, train=8, validation=8, test=6), cache=Path("unused"))


@pytest.mark.parametrize(("unsure", "leaves"), [(0.5, True), (3.5, False)])
def test_the_threshold_has_the_best_mean_dice_of_the_grid_where_that_is_shown_to_gain(
    data: DataSet, unsure: float, leaves: bool
):
    network, ranks = Bright(unsure), Ranks("cpu")
    heard: dict[int, np.ndarray] = {}
    keep = lambda index, logits: heard.update({index: (logits[1] - logits[0]).numpy()})  # noqa: E731
    validate(network, data, "validation", ranks=ranks, precision="fp32", keep=keep)
    dice = {
        threshold: np.array(
            [image_columns(odds, data.native_mask("validation", i), threshold)["dice"] for i, odds in heard.items()]
        )
        for threshold in GRID
    }
    best = max(GRID, key=lambda threshold: (round(dice[threshold].mean(), 12), -abs(threshold - 0.5)))
    gain = dice[best] - dice[0.5]
    shown = gain.mean() > gain.std(ddof=1) / math.sqrt(len(gain))
    (chosen,) = chosen_thresholds(network, data, ranks=ranks, precision="fp32")
    assert chosen == (best if shown else 0.5)
    assert shown == leaves


def test_a_score_at_the_best_threshold_sees_a_network_that_has_nothing_at_a_half(data: DataSet):
    """Every probability is below a half: by Dice there it is worth what an empty mask is."""
    network, ranks = Bright(6.0), Ranks("cpu")
    heard: dict[int, np.ndarray] = {}
    keep = lambda index, logits: heard.update({index: (logits[1] - logits[0]).numpy()})  # noqa: E731
    scores = {
        name: validate(network, data, "validation", ranks=ranks, precision="fp32", keep=keep, monitor=name).means
        for name in ("dice_at_best_threshold", "iou_at_best_threshold", "dice")
    }
    columns = [
        [image_columns(odds, data.native_mask("validation", i), threshold) for i, odds in heard.items()]
        for threshold in GRID
    ]
    for bare in ("dice", "iou"):
        best = max(float(np.mean([column[bare] for column in images])) for images in columns)
        assert best > scores["dice"][bare] + 0.05
        assert scores[f"{bare}_at_best_threshold"][f"{bare}_at_best_threshold"] == pytest.approx(best, abs=1e-12)
    empty = np.mean([not (data.native_mask("validation", i) == 1).any() for i in heard])
    assert scores["dice"]["dice"] == scores["dice_at_best_threshold"]["dice"] == empty


def test_what_is_no_number_is_foreground_at_no_threshold(data: DataSet):
    name = "dice_at_best_threshold"
    means = validate(Bright(math.nan), data, "validation", ranks=Ranks("cpu"), precision="fp32", monitor=name).means
    assert means[name] == means["dice"] < 1


def at(gain: float, spread: float, images: int, place: int) -> np.ndarray:
    """Scores (images, thresholds): 0.8 everywhere but at one place, where the gain scatters by so much."""
    scores = np.full((images, len(GRID)), 0.8)
    scores[:, place] += gain + spread * np.resize((1.0, -1.0), images)
    return scores


@pytest.mark.parametrize(
    ("gain", "spread", "images", "place", "kept"),
    [
        (0.02, 0.05, 4, 12, 0.5),  # a gain of 0.02 with a standard error of 0.029
        (0.02, 0.05, 12, 12, 0.65),  # and of 0.015
        (0.02, 0.05, 12, 2, 0.15),
        (0.0, 0.0, 50, 12, 0.5),
        (-0.1, 0.0, 50, 12, 0.5),
        (0.3, 0.0, 1, 12, 0.5),  # of one image nothing is known
        (0.01, 0.0, 2, 12, 0.65),
    ],
)
def test_another_threshold_takes_the_place_of_a_half_where_it_gains_more_than_its_standard_error(
    gain: float, spread: float, images: int, place: int, kept: float
):
    assert kept_threshold(at(gain, spread, images, place)) == kept


def test_of_thresholds_that_gain_alike_the_one_nearest_a_half_is_kept():
    scores = np.full((6, len(GRID)), 0.8)
    scores[:, [2, 11, 15]] = 0.9
    assert kept_threshold(scores) == GRID[11]


def test_a_part_is_measured_image_by_image_as_validation_scores_it(data: DataSet):
    network, ranks = Bright(), Ranks("cpu")
    found = measured(network, Place("test", data, "test", OPENING), ranks, thresholds=(0.5,), precision="fp32")
    scores = validate(network, data, "test", ranks=ranks, precision="fp32", opening=OPENING)
    for name in ("dice", "iou", "precision", "recall"):
        assert found.columns[name] == tuple(scores.images[name])
    assert set(found.columns) == set(COLUMNS)
    assert found.images == tuple(sample.name for sample in data.samples("test", OPENING))
    pixels = sum(data.native_mask("test", i, OPENING).size for i in range(6))
    assert sum(count for count, _, _ in found.calibration) == pixels
    assert sum(right for _, _, right in found.calibration) / pixels == pytest.approx(
        np.average(scores.images["accuracy"], weights=[data.native_mask("test", i, OPENING).size for i in range(6)])
    )
    assert sum(count for count, _, _ in found.calibration_positive) == pixels
    foreground = sum((data.native_mask("test", i, OPENING) > 0).sum() for i in range(6))
    assert sum(positive for _, _, positive in found.calibration_positive) == foreground
    again = PerImageResult.from_json(found.to_json())
    assert str(again) == str(found)
    before = {name: value for name, value in found.to_json().items() if name != "calibration_positive"}
    assert PerImageResult.from_json(before).calibration_positive == ()
    assert (again.threshold_rule, PerImageResult.from_json(before).threshold_rule) == ("gain", "gain")
    del before["threshold_rule"]
    assert PerImageResult.from_json(before).threshold_rule == "best"


def test_test_rows_are_not_measured_without_an_opening(data: DataSet):
    with pytest.raises(DataError, match="test rows are closed"):
        measured(Bright(), Place("test", data, "test", None), Ranks("cpu"), thresholds=(0.5,), precision="fp32")


# ---- sources that no split names


def pictures(folder: Path, count: int, seed: int) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        image, label = draw(1000 * seed + index, 32)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{index}.png"), 255 * label)


def test_an_unseen_source_is_a_folder_below_the_root_and_is_read_with_an_opening_alone(tmp_path: Path):
    pictures(tmp_path / "ETIS", 3, seed=1)
    config = PolypData(name="polyp", root=str(tmp_path), split="none.csv", size=32)
    source = open_unseen(config, "ETIS", cache=tmp_path / "cache")
    assert [sample.image for sample in source.samples("test", OPENING)] == [f"ETIS/images/{i}.png" for i in range(3)]
    assert {sample.source for sample in source.samples("test", OPENING)} == {"ETIS"}
    with pytest.raises(DataError, match="test rows are closed"):
        source.fitted("test", 0)
    found = measured(
        Bright(), Place("ETIS", source, "test", OPENING), Ranks("cpu"), thresholds=(0.5,), precision="fp32"
    )
    assert (found.part, len(found.images)) == ("ETIS", 3)
    with pytest.raises(DataError, match=r"no such folder.*ETIS"):
        open_unseen(config, "ETIZ", cache=tmp_path / "cache")


# ---- pairs


def run(**changes: object) -> RunConfig:
    values: dict[str, object] = dict(
        epochs=2,
        batch_size=4,
        seed=11,
        data=dict(name="blobs", size=32, train=8, validation=4, test=3, augment="flips"),
        student=dict(name="unet", width=2),
        losses=dict(ce={}),
    )
    return RunConfig.model_validate(values | changes)


def train(cohort: Cohort, folder: Path) -> dict[int, tuple[EpochReport, dict[str, Tensor]]]:
    """Every member to its last epoch: its last report, and the weights of its best epoch."""
    ended = {}
    while cohort._members:
        for key, report in cohort.epoch().items():
            assert isinstance(report, EpochReport), report
            if report.final:
                ended[key] = (report, dict(weights(cohort.export(key, folder / f"{key}.safetensors").path).tensors))
                cohort.dismiss(key)
    return ended


def test_runs_of_one_seed_are_paired_in_any_cohort_and_whenever_they_join(tmp_path: Path):
    """Equal runs are equal bit for bit: the same start, the same batches, from the first epoch of their stream on."""
    examination = FinalEvaluation(OPENING, tmp_path)
    make = lambda: Cohort(Ranks("cpu"), slots=4, cache=tmp_path, examination=examination)  # noqa: E731
    together, alone = make(), make()
    together.admit(1, run())
    together.admit(2, run(seed=12))
    together.epoch()
    together.admit(3, run())  # an epoch late
    (tmp_path / "one").mkdir()
    first = train(together, tmp_path / "one")
    alone.admit(4, run())
    other = train(alone, tmp_path / "two")
    (report, tensors), (late, late_tensors), (lone, lone_tensors) = first[1], first[3], other[4]
    assert all(torch.equal(tensors[name], late_tensors[name]) for name in tensors)
    assert all(torch.equal(tensors[name], lone_tensors[name]) for name in tensors)
    assert any(not torch.equal(tensors[name], first[2][1][name]) for name in tensors)
    assert report.measured is not None
    assert [each.part for each in report.measured] == ["validation", "test"]
    assert str(report.measured) == str(late.measured) == str(lone.measured)
    assert report.measured != first[2][0].measured


def test_runs_are_examined_after_their_last_epoch_alone_and_only_where_that_is_asked_for(tmp_path: Path):
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path, examination=FinalEvaluation(OPENING, tmp_path))
    cohort.admit(1, run())
    first, last = cohort.epoch()[1], cohort.epoch()[1]
    assert isinstance(first, EpochReport)
    assert isinstance(last, EpochReport)
    assert (first.measured, len(last.measured or ())) == (None, 2)
    assert replace(last, measured=None).final
    plain = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    plain.admit(1, run(epochs=1))
    report = plain.epoch()[1]
    assert isinstance(report, EpochReport)
    assert report.measured is None
