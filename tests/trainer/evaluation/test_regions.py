"""Regions are learned and scored each by itself: sigmoids, a threshold each, no ground."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from losses.config import Ce, LossTerms
from models.normalisation import Normalisation
from models.output import Output, Segmenter
from trainer import dry_run
from trainer.config import RunConfig
from trainer.data import DataSet, open_data
from trainer.data.dataset import Opening
from trainer.data.splits.split import Row, write_split
from trainer.distributed.ranks import Ranks
from trainer.engine.class_counts import class_pixels
from trainer.engine.fit import fit
from trainer.evaluation.metrics import validate
from trainer.evaluation.overlap import dice, iou, pixel_counts
from trainer.evaluation.per_image import Place, chosen_thresholds, measured
from trainer.evaluation.score_names import parse
from trainer.evaluation.threshold import GRID, kept_threshold
from trainer.reports import PerImageResult

OPENING = Opening("test", "2026-01-01T00:00:00+00:00", "test")
REGIONS = {"whole": [1, 2], "core": [2, 3]}
"""Value 1 is in one, 2 in both, 3 in the other, so that neither lies in the other."""
LEVELS = (20, 90, 160, 230)
PARTS = ("train",) * 8 + ("validation",) * 6 + ("test",) * 3


class Squares(Segmenter):
    """Whole where a pixel is grey (90 or 160), core where it is bright (160 or 230), with a doubt of its own."""

    stride, taps, normalisation = 1, {}, Normalisation((0.0,), (1.0,))

    def forward(self, images: Tensor) -> Output:
        grey = images[:, 0] * 255
        return Output(torch.stack([60 - (grey - 120).abs(), grey - 120 - 20 * grey.sin()], 1) / 10, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Seventeen pictures of two boxes that overlap, in noise; one has none, and a corner of each is ignored."""
    root = tmp_path_factory.mktemp("regions")
    rows = []
    for number, part in enumerate(PARTS):
        rng = np.random.default_rng(number)
        labels = np.zeros((30, 36), np.uint8)
        if number != 9:
            top, left = rng.integers(2, 8, 2)
            labels[top : top + 14, left : left + 16] = 1
            core = labels[top + 6 : top + 20, left + 8 : left + 22]
            core[:] = np.where(core == 1, 2, 3)
        image = np.clip(np.take(LEVELS, labels) + rng.normal(0, 14, labels.shape), 0, 255).astype(np.uint8)
        labels[:3, :3] = 9
        for folder, pixels in (("images", image), ("masks", labels)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number:02d}.png")
        rows.append(Row("S", f"images/{number:02d}.png", f"masks/{number:02d}.png", "", part))
    write_split(root / "split.csv", rows)
    data = {"name": "pictures", "root": str(root), "split": str(root / "split.csv"), "size": 32, "channels": 1}
    data |= {"regions": REGIONS, "ignore": 9, "augment": "none", "near_duplicates": "accept"}
    optim = {"lr": 2e-2, "schedule": {"name": "constant"}}
    student = {"name": "unet", "width": 6}
    return RunConfig.model_validate(
        {"epochs": 12, "batch_size": 2, "data": data, "student": student, "losses": {"bce-dice": {}}, "optim": optim}
    )


@pytest.fixture(scope="module")
def data(run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return open_data(run.data, cache=tmp_path_factory.mktemp("cache"))


def truth_of(data: DataSet, index: int, part="validation") -> np.ndarray:
    assert data.regions is not None
    return data.regions.masks(data.native_mask(part, index, OPENING))


def test_a_student_learns_regions_that_overlap(run, data):
    reports = list(fit(run, cache=data._cache, ranks=Ranks("cpu")))  # type: ignore[attr-defined]
    scores = reports[-1].scores
    assert {"dice", "dice.whole", "dice.core", "iou.core"} <= scores.keys()
    assert scores["dice"] == pytest.approx((scores["dice.whole"] + scores["dice.core"]) / 2)
    assert min(scores["dice.whole"], scores["dice.core"]) > 0.6 > reports[0].scores["dice"]


def test_scores_are_of_each_region_by_itself_and_their_mean_over_regions(data):
    kept = {}
    scores = validate(Squares(), data, "validation", ranks=Ranks("cpu"), precision="fp32", keep=kept.__setitem__)
    for name, measure in (("dice", dice), ("iou", iou)):
        each = []
        for index, logits in kept.items():
            truth, predicted = truth_of(data, index), logits.numpy() > 0
            valid = truth != 255
            inside = [(predicted & (truth == 1) & valid), (predicted & (truth == 0) & valid)]
            outside = [(~predicted & (truth == 1) & valid), (~predicted & (truth == 0) & valid)]
            counts = np.stack([where.sum((1, 2)) for where in (*inside, *outside)], -1)[None]
            each.append(measure(pixel_counts(counts))[0])
        assert [scores.means[f"{name}.{region}"] for region in REGIONS] == pytest.approx(np.mean(each, 0).tolist())
        assert scores.means[name] == pytest.approx(float(np.mean(each)))
    assert 0.2 < scores.means["dice"] < 1


@pytest.mark.parametrize("monitor", ["hd95_missed_as_diagonal.core", "hd95_missed_as_diagonal"])
def test_surfaces_of_a_region_are_an_objective_that_agrees_with_the_final_measures(data, monitor):
    scores = validate(Squares(), data, "validation", ranks=Ranks("cpu"), precision="fp32", monitor=monitor)
    place = Place("validation", data, "validation", None)
    row = measured(Squares(), place, Ranks("cpu"), thresholds=(0.5,), precision="fp32").columns
    assert scores.means[monitor] == pytest.approx(float(np.nanmean(row[monitor])))


def test_each_region_has_a_threshold_of_its_own_by_its_own_dice(data):
    kept = {}
    validate(Squares(), data, "validation", ranks=Ranks("cpu"), precision="fp32", keep=kept.__setitem__)
    scores = np.empty((2, len(kept), len(GRID)))
    for index, logits in kept.items():
        truth = truth_of(data, index)
        for at, threshold in enumerate(GRID):
            predicted = (torch.sigmoid(logits.double()) > threshold).numpy() & (truth != 255)
            tp, both = (predicted & (truth == 1)).sum((1, 2)), predicted.sum((1, 2)) + (truth == 1).sum((1, 2))
            scores[:, index, at] = np.where(both, 2 * tp / np.maximum(both, 1), 1)
    chosen = chosen_thresholds(Squares(), data, ranks=Ranks("cpu"), precision="fp32")
    assert chosen == tuple(map(kept_threshold, scores))
    assert min(chosen) > 0.5
    means = scores.mean(axis=1).max(axis=1)
    for name, expected in {"": means.mean(), **dict(zip(REGIONS, means, strict=True))}.items():
        monitor = f"dice_at_best_threshold{name and '.'}{name}"
        found = validate(Squares(), data, "validation", ranks=Ranks("cpu"), precision="fp32", monitor=monitor)
        assert found.means[monitor] == pytest.approx(float(expected), abs=1e-6)
    place = Place("validation", data, "validation", None)
    own = (GRID[12], GRID[6])
    result = measured(Squares(), place, Ranks("cpu"), thresholds=own, precision="fp32")
    for name, each, threshold in zip(REGIONS, scores, own, strict=True):
        assert result.columns[f"dice.{name}"] == pytest.approx(each[:, GRID.index(threshold)].tolist(), abs=1e-6)
    assert (result.thresholds, result.threshold_rule) == (own, "gain-by-region")
    assert PerImageResult.from_json(json.loads(json.dumps(result.to_json()))).thresholds == own
    alike = measured(Squares(), place, Ranks("cpu"), thresholds=(0.4, 0.4), precision="fp32")
    assert (alike.threshold, alike.thresholds) == (0.4, (0.4,))
    assert "region_thresholds" not in alike.to_json()


def test_final_measures_have_every_score_by_region_and_the_union_as_foreground(data):
    result = measured(
        Squares(), Place("test", data, "test", OPENING), Ranks("cpu"), thresholds=(0.5,), precision="fp32"
    )
    assert {"dice.whole", "hd95.core", "surface_dice.core", "class_missed.whole", "brier", "polyps"} <= set(
        result.columns
    )
    truth = truth_of(data, 0, "test")
    valid = truth[0] != 255
    assert result.columns["area"][0] == pytest.approx(((truth == 1).any(0) & valid).sum() / valid.sum())
    assert result.columns["polyps"][0] == 1.0
    pixels = sum(bin_[0] for bin_ in result.calibration)
    assert pixels == sum((truth_of(data, at, "test") != 255).sum() for at in range(3)), "each pixel once a region"


def test_a_loss_of_labels_is_refused_before_anything_is_read(run):
    with pytest.raises(ValueError, match=r"^losses\.ce: compares one label a voxel, .*; use bce-dice or dice$"):
        dry_run.check(run.model_copy(update={"losses": LossTerms(ce=Ce())}))
    assert dry_run.check(run).live_terms == ("bce-dice",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dice.cor", r"'dice\.cor': no region is called 'cor'; known: core, whole; nearest: core"),
        (
            "pixel_accuracy",
            r"'pixel_accuracy': is of one label a pixel, and the data has regions that overlap; use dice",
        ),
    ],
)
def test_scores_that_regions_have_not_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        parse(name, ["core", "whole"], regions=True)


def test_pixels_are_counted_once_for_each_region_they_are_in(data):
    whole, core = class_pixels(data, "validation")
    truth = np.concatenate([truth_of(data, index).reshape(2, -1) for index in range(6)], 1)
    assert [whole, core] == (truth == 1).sum(1).tolist()
