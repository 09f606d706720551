"""Scores by case: slices of a volume together, in three dimensions, and classes beside their mean."""

import math
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist
from torch import Tensor

from models.normalisation import Normalisation
from models.output import Output, Segmenter
from trainer import checkpoint
from trainer.commands.evaluate import per_case
from trainer.config import PictureData
from trainer.data import DataError, DataSet, open_data
from trainer.data.dataset import Opening
from trainer.data.splits.near_duplicates import packed
from trainer.data.splits.split import Row, write_split
from trainer.distributed.ranks import Ranks
from trainer.evaluation.by_case import CaseRows, case_columns
from trainer.evaluation.metrics import validate
from trainer.evaluation.per_image import COLUMNS, Place, chosen_thresholds, measured
from trainer.evaluation.threshold import GRID, kept_threshold
from trainer.reports import PerImageResult
from trainer.teacher import assessment

OPENING = Opening("test", "2026-01-01T00:00:00+00:00", "test")
NAMES = ("ground", "liver", "spleen")
SLICES, SIDE = 11, 24


class Levels(Segmenter):
    """Each class has a level of grey, and a pixel is of the nearest."""

    stride, taps, normalisation = 1, {}, Normalisation((0.0,), (1.0,))

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.levels = torch.arange(classes) / (classes - 1)

    def forward(self, images: Tensor) -> Output:
        return Output(-20 * (images - self.levels[:, None, None]).square(), {})


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares and labels, (SLICES, SIDE, SIDE) both: a ball of each organ, drawn with noise."""
    rng = np.random.default_rng(seed)
    at = np.indices((SLICES, SIDE, SIDE))
    labels = np.zeros(at.shape[1:], np.uint8)
    for label, (height, down, across) in enumerate(((4, 8, 7), (7, 15, 16)), 1):
        away = (at[0] - height) ** 2 + (at[1] - down - seed % 2) ** 2 + (at[2] - across) ** 2
        labels[away <= 14 + label] = label
    image = np.clip(labels / 2 + rng.normal(0, 0.12, labels.shape), 0, 1)
    return image.astype(np.float32), labels


def settings(root: Path, classes: int = 3) -> PictureData:
    values = [[0], [1], [2]] if classes == 3 else [[0], [1, 2]]
    return PictureData.model_validate(
        {
            "name": "pictures", "root": str(root), "split": str(root / "split.csv"), "size": SIDE, "augment": "none",
            "channels": 1, "bits": 16, "mean": [0.0], "std": [1.0],
            "classes": [{"name": name, "value": value} for name, value in zip(NAMES, values, strict=False)],
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases as .npz, whose numbers are not padded, so that names do not sort as slices lie."""
    folder = tmp_path_factory.mktemp("volumes")
    rows = []
    for case, part in enumerate(("train", "train", "validation", "validation", "test", "test")):
        image, labels = volume(case)
        for at in range(SLICES):
            name = f"case{case}_slice{at}.npz"
            np.savez(folder / name, image=image[at], label=labels[at])
            rows.append(Row("S", name, name, "", part, f"case{case}"))
    write_split(folder / "split.csv", rows)
    return folder


@pytest.fixture(scope="module")
def data(root: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return open_data(settings(root), cache=tmp_path_factory.mktemp("cache"))


def distances(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of each surface voxel of a mask to the nearest of the other, both ways, from all pairs."""
    both = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (one, other)]
    pairs = cdist(*both)
    return pairs.min(axis=1), pairs.min(axis=0)


def predicted(data: DataSet, part="validation") -> dict[int, np.ndarray]:
    kept: dict[int, np.ndarray] = {}
    validate(
        Levels(), data, part, ranks=Ranks("cpu"), precision="fp32", opening=OPENING,
        keep=lambda index, logits: kept.update({index: logits.argmax(0).numpy()}),
    )  # fmt: skip
    return kept


def test_a_volume_is_one_row_with_summed_counts_and_surfaces_of_the_stack(data: DataSet):
    result = measured(Levels(), Place("test", data, "test", OPENING), Ranks("cpu"), thresholds=(), precision="fp32")
    assert result.images == result.groups == ("S/case4", "S/case5")
    assert (result.threshold, result.threshold_rule) == (None, "likeliest")
    said = predicted(data, "test")
    by_class: dict[str, list[float]] = {}
    for case in (4, 5):
        truth = volume(case)[1]
        order = {sample.image: index for index, sample in enumerate(data.samples("test", OPENING))}
        stack = np.stack([said[order[f"case{case}_slice{at}.npz"]] for at in range(SLICES)])
        for label, name in enumerate(NAMES[1:], 1):
            one, other = stack == label, truth == label
            both = np.concatenate(distances(one, other, (1, 1, 1)))
            for score, value in {
                "dice": 2 * (one & other).sum() / (one.sum() + other.sum()),
                "hd95": np.percentile(both, 95),
                "asd": both.mean(),
            }.items():
                by_class.setdefault(f"{score}.{name}", []).append(float(value))
    for name, values in by_class.items():
        assert result.columns[name] == pytest.approx(tuple(values), abs=1e-12), name
    for score in ("dice", "hd95", "asd"):
        mean = np.mean([by_class[f"{score}.{name}"] for name in NAMES[1:]], axis=0)
        assert result.columns[score] == pytest.approx(tuple(mean), abs=1e-12)
    assert set(COLUMNS) <= set(result.columns)
    assert result.columns["polyps"] == (2.0, 2.0)
    assert 0.5 < min(result.columns["dice"]) < max(result.columns["dice"]) < 1
    again = PerImageResult.from_json(result.to_json())
    assert str(again) == str(result)


def test_the_mean_of_the_rows_is_the_score_of_validation(data: DataSet):
    ranks = Ranks("cpu")
    scores = validate(Levels(), data, "validation", ranks=ranks, precision="fp32")
    place = Place("validation", data, "validation", None)
    result = measured(Levels(), place, ranks, thresholds=(), precision="fp32")
    for name in scores.cases:
        assert result.columns[name] == pytest.approx(tuple(scores.cases[name]), abs=1e-12)
        assert np.mean(result.columns[name]) == pytest.approx(scores.means[name], abs=1e-12)
    assert len(scores.images["dice"]) == 2 * SLICES
    followed = validate(
        Levels(), data, "validation", ranks=ranks, precision="fp32", monitor="asd_missed_as_diagonal.liver"
    )
    name = "asd_missed_as_diagonal.liver"
    assert followed.means[name] == pytest.approx(np.mean(result.columns[name]), abs=1e-12)


def test_lengths_are_in_millimetres_where_the_spacing_is_known():
    spacing = (5.0, 0.5, 0.75)
    truth = volume(0)[1]
    shifted = np.roll(truth, (1, 2, 3), axis=(0, 1, 2))
    row = case_columns(shifted, truth, NAMES[1:], errors=0.0, spacing=spacing)
    for label, name in enumerate(NAMES[1:], 1):
        one, other = distances(shifted == label, truth == label, spacing)
        assert row[f"hd95.{name}"] == pytest.approx(np.percentile(np.concatenate([one, other]), 95))
        assert row[f"hd95_larger.{name}"] == pytest.approx(max(np.percentile(one, 95), np.percentile(other, 95)))
        assert row[f"asd.{name}"] == pytest.approx(np.concatenate([one, other]).mean())
    missed = case_columns(
        np.where(truth == 1, 0, truth).astype(np.uint8), truth, NAMES[1:], errors=0.0, spacing=spacing
    )
    assert math.isnan(missed["hd95.liver"])
    assert missed["hd95.spleen"] == missed["hd95"] == 0
    assert missed["hd95_missed_as_diagonal.liver"] == pytest.approx(math.hypot(SLICES * 5, SIDE * 0.5, SIDE * 0.75))
    assert (missed["class_missed.liver"], missed["class_missed.spleen"]) == (1, 0)


def test_ignored_voxels_belong_to_no_class():
    truth, said = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    truth[0], truth[1, 0], said[0], said[1, :2] = 255, 1, 1, 1
    row = case_columns(said, truth, NAMES[1:], errors=2.0)
    assert (row["precision.liver"], row["recall.liver"], row["dice.spleen"]) == (0.5, 1, 1)
    assert (row["area"], row["brier"], row["polyps"], row["false_positives"]) == (0.25, 2 / 16, 1, 0)


def test_volumes_of_two_classes_have_bare_names_and_a_threshold_by_case(root: Path, tmp_path: Path):
    data, ranks = open_data(settings(root, 2), cache=tmp_path), Ranks("cpu")
    odds: dict[int, np.ndarray] = {}
    keep = lambda index, logits: odds.update({index: (logits[1] - logits[0]).numpy()})  # noqa: E731
    validate(Levels(2), data, "validation", ranks=ranks, precision="fp32", keep=keep)
    said, truth = (
        np.stack([of(at) for at in range(2 * SLICES)]).reshape(2, -1)
        for of in (odds.__getitem__, lambda at: data.native_mask("validation", at) > 0)
    )
    masks = [said > math.log(threshold / (1 - threshold)) for threshold in GRID]
    dice = [2 * (mask & truth).sum(axis=1) / (mask.sum(axis=1) + truth.sum(axis=1)) for mask in masks]
    (threshold,) = chosen_thresholds(Levels(2), data, ranks=ranks, precision="fp32")
    assert threshold == kept_threshold(np.stack(dice, axis=1))
    name = "dice_at_best_threshold"
    best = validate(Levels(2), data, "validation", ranks=ranks, precision="fp32", monitor=name).means[name]
    assert best == pytest.approx(np.mean(dice, axis=1).max(), abs=1e-12)
    place = Place("test", data, "test", OPENING)
    result = measured(Levels(2), place, ranks, thresholds=(threshold,), precision="fp32")
    assert result.images == ("S/case4", "S/case5")
    assert set(COLUMNS) <= set(result.columns)
    assert not any("." in name for name in result.columns)


def test_the_table_of_evaluate_has_a_line_a_case(data: DataSet):
    rows = CaseRows(data, "validation", None)
    validate(Levels(), data, "validation", ranks=Ranks("cpu"), precision="fp32", keep=rows.keep)
    head, *lines = per_case(rows, Ranks("cpu")).splitlines()
    assert head.startswith("name,source,group,dice,dice.liver,dice.spleen,iou,")
    assert [line.split(",")[:3] for line in lines] == [[f"S/case{at}", "S", f"S/case{at}"] for at in (2, 3)]


def test_slices_of_the_own_split_were_compared_as_volumes_and_are_no_teachers_leak(data: DataSet, tmp_path: Path):
    """Slices of two bodies at one height look alike; a teacher of other volumes is still judged slice by slice."""
    look, names = data.sketches("validation")[4], list(data.image_hashes("train"))
    for saw, expected in ((names, 0), (["0" * 64, *names[1:]], 1)):
        path = tmp_path / f"{expected}.safetensors"
        blank = bytes(len(look))
        checkpoint.export(path, {}, {"train_images": saw, "train_sketches": packed([look, *[blank] * (len(saw) - 1)])})
        counts = assessment.alike(checkpoint.weights(path), data)
        assert counts is not None
        assert (counts["validation"] > 0) == bool(expected)


class Side(Ranks):
    """One of two ranks that are threads of this process."""

    def __init__(self, rank: int, meeting: Barrier, table: dict[int, object]) -> None:
        super().__init__("cpu")
        self.world, self.rank, self._turns, self._table = 2, rank, meeting, table

    def all_gather(self, value):
        self._table[self.rank] = value
        self._turns.wait()
        both = [self._table[0], self._table[1]]
        self._turns.wait()
        return both


def test_a_volume_may_have_its_slices_on_two_ranks(data: DataSet):
    alone = CaseRows(data, "validation", None)
    halves = [CaseRows(data, "validation", None) for _ in range(2)]

    def keep(index: int, logits: Tensor) -> None:
        alone.keep(index, logits)
        halves[index % 2].keep(index, logits)

    validate(Levels(), data, "validation", ranks=Ranks("cpu"), precision="fp32", keep=keep)
    meeting, table = Barrier(2), {}
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda rank: halves[rank].rows(Side(rank, meeting, table)), range(2)))
    assert rows[0] == rows[1] == alone.rows(Ranks("cpu"))


def test_slices_of_different_sizes_are_no_volume(tmp_path: Path):
    rows = []
    for at, part in enumerate(("train", "validation", "validation")):
        mask = np.zeros((8, 8 + at), np.uint8)
        mask[2:4, 2:4] = 1
        image = np.random.default_rng(at).random((8, 8 + at), np.float32)
        np.savez(tmp_path / f"{at}.npz", image=image, label=mask)
        rows.append(Row("S", f"{at}.npz", f"{at}.npz", "", part, part))
    write_split(tmp_path / "split.csv", rows)
    data = open_data(settings(tmp_path), cache=tmp_path / "cache")
    with pytest.raises(DataError, match=r"S/validation: slices .* differ in size \(S/1.npz is 9 x 8, S/2.npz 10 x 8"):
        CaseRows(data, "validation", None)


@pytest.mark.skipif(find_spec("nibabel") is None, reason="nibabel is not installed (extra volumes)")
def test_the_spacing_of_a_nifti_file_reaches_its_scores(tmp_path: Path):
    import nibabel

    rows = []
    for case, part in enumerate(("train", "validation")):
        image, labels = volume(case)
        for name, stack in ((f"c{case}", image), (f"c{case}_gt", labels)):
            nibabel.save(nibabel.Nifti1Image(stack.T, np.diag([0.75, -0.5, 5.0, 1.0])), tmp_path / f"{name}.nii.gz")
        rows += [
            Row("S", f"c{case}.nii.gz#{at}", f"c{case}_gt.nii.gz#{at}", "", part, f"c{case}") for at in range(SLICES)
        ]
    write_split(tmp_path / "split.csv", rows)
    data = open_data(settings(tmp_path), cache=tmp_path / "cache")
    assert data.samples("validation")[2].image == "c1.nii.gz#2"
    place = Place("validation", data, "validation", None)
    result = measured(Levels(), place, Ranks("cpu"), thresholds=(), precision="fp32")
    name = "asd_missed_as_diagonal.liver"
    scores = validate(Levels(), data, "validation", ranks=Ranks("cpu"), precision="fp32", monitor=name)
    assert scores.means[name] == pytest.approx(result.columns[name][0])
    said = predicted(data)
    stack = np.stack([said[at] for at in range(SLICES)])
    both = np.concatenate(distances(stack == 1, volume(1)[1] == 1, (5.0, 0.5, 0.75)))
    assert result.columns["asd.liver"] == pytest.approx((both.mean(),))
