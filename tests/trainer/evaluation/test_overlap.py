"""Scores of counts: as torchmetrics, MONAI and MedPy have them, with a rule for every empty mask."""

import json
import math
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.mask_pairs import Pair, every
from models.torchvision_guard import make_importable
from trainer.evaluation.confusion import confusion, region_confusion
from trainer.evaluation.overlap import (
    BASIC,
    OF_ALL,
    OF_CASES,
    PixelCounts,
    case_scores,
    dice_of_rows,
    mean_of_known,
    pixel_counts,
    pooled_scores,
    set_scores,
)

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("peer_scores.json").read_text())
FOREGROUND = slice(1, None)


def counted(pair: Pair) -> PixelCounts:
    truth, predicted = (torch.from_numpy(labels)[None] for labels in (pair.truth, pair.predicted))
    return pixel_counts(confusion(predicted, truth, pair.classes).numpy())


def named(pair: Pair) -> list[str]:
    return [str(label) for label in range(1, pair.classes)]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return list(every())


@pytest.fixture(scope="module")
def second() -> Any:
    """torchmetrics, which imports torchvision where that is installed."""
    if find_spec("torchvision"):
        make_importable()
    return import_module("torchmetrics.functional.classification")


def test_two_hundred_random_and_twenty_degenerate_pairs_equal_torchmetrics(second: Any, pairs: list[Pair]):
    """Of each class that has pixels to be right and wrong about; what is given elsewhere is `RULES` below."""
    assert len(pairs) == 220
    assert {pair.classes for pair in pairs} == set(range(2, 15))
    compared = 0
    for pair in pairs:
        counts = counted(pair)
        own = {name: measure(counts)[0] for name, measure in BASIC.items()}
        # Every score of every class from one matrix of theirs, as their functions do it.
        truth, predicted = (torch.from_numpy(labels)[None].long() for labels in (pair.truth, pair.predicted))
        tp, fp, tn, fn, _ = second.multiclass_stat_scores(
            predicted, truth, num_classes=pair.classes, average="none", ignore_index=255
        ).T.numpy()
        assert [field[0].tolist() for field in counts] == [each.tolist() for each in (tp, fp, fn, tn)]
        ordinary = (tp + fp > 0) & (tp + fn > 0) & (tn + fp > 0)
        for label in np.flatnonzero(ordinary):
            right, over, under = int(tp[label]), int(fp[label]), int(fn[label])
            assert own["dice"][label] == own["f1"][label] == 2 * right / (2 * right + over + under)
            assert own["precision"][label] == right / (right + over)
            assert own["recall"][label] == right / (right + under)
            compared += 1
    assert compared > 1000


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("f1", "multiclass_f1_score"),
        ("iou", "multiclass_jaccard_index"),
        ("precision", "multiclass_precision"),
        ("recall", "multiclass_recall"),
        ("specificity", "multiclass_specificity"),
    ],
)
def test_their_functions_give_the_same_numbers(second: Any, pairs: list[Pair], name: str, function: str):
    for pair in pairs[20:60:3]:
        counts = counted(pair)
        truth, predicted = (torch.from_numpy(labels)[None].long() for labels in (pair.truth, pair.predicted))
        theirs = getattr(second, function)(
            predicted, truth, num_classes=pair.classes, average="none", ignore_index=255
        ).numpy()
        ordinary = ((counts.tp + counts.fp > 0) & (counts.tp + counts.fn > 0) & (counts.tn + counts.fp > 0))[0]
        assert BASIC[name](counts)[0][ordinary] == pytest.approx(theirs[ordinary], abs=2e-6)


@pytest.mark.parametrize("name", FROZEN["pairs"])
def test_scores_equal_monais_and_medpys(pairs: list[Pair], name: str):
    pair = next(pair for pair in pairs if pair.name == name)
    own = case_scores(counted(pair).of(FOREGROUND), named(pair))
    for label, values in FROZEN["pairs"][name]["classes"].items():
        for score in ("dice", "iou"):
            assert own[f"{score}.{label}"][0] == pytest.approx(values[f"MONAI {score}"], abs=2e-7)
            assert own[f"{score}.{label}"][0] == values[f"MedPy {score}"]


NAN = math.nan
RULES: Mapping[str, tuple[float, float, float, float]] = {
    # both empty, truth empty, prediction empty, both full
    "dice": (1, 0, 0, 1),
    "f1": (1, 0, 0, 1),
    "iou": (1, 0, 0, 1),
    "precision": (1, 0, 0, 1),
    "recall": (1, 0, 0, 1),
    "specificity": (1, 0.5, 1, 1),
    "accuracy": (1, 0.5, 0.5, 1),
    "dice_of_present": (NAN, NAN, 0, 1),
    "iou_of_present": (NAN, NAN, 0, 1),
}


@pytest.mark.parametrize("name", OF_CASES)
def test_every_score_has_a_rule_for_empty_masks(name: str):
    empty, half, full = (torch.tensor([row], dtype=torch.uint8) for row in ([0, 0], [0, 1], [1, 1]))
    cases = ((empty, empty), (half, empty), (empty, half), (full, full))
    given = [OF_CASES[name](pixel_counts(confusion(p, t, 2).numpy()))[0, 1] for p, t in cases]
    assert given == pytest.approx(RULES[name], nan_ok=True)


def test_where_all_is_ignored_every_score_is_that_of_two_empty_masks():
    ignored = pixel_counts(confusion(torch.ones(1, 2), torch.full((1, 2), 255), 2).numpy())
    own = {name: float(values[0]) for name, values in case_scores(ignored.of(FOREGROUND), ["polyp"]).items()}
    assert own == pytest.approx({f"{n}{c}": RULES[n][0] for n in OF_CASES for c in ("", ".polyp")}, nan_ok=True)
    assert set(set_scores(ignored).values()) == {1.0}


def test_a_bare_name_is_the_mean_over_foreground_classes_and_a_class_has_its_own():
    predicted = torch.tensor([[0, 0, 1, 1, 2, 2]])
    truth = torch.tensor([[0, 0, 1, 1, 1, 2]])
    own = case_scores(pixel_counts(confusion(predicted, truth, 4).numpy()).of(FOREGROUND), ["a", "b", "c"])
    assert own["dice.a"][0] == pytest.approx(4 / 5)
    assert own["dice.b"][0] == pytest.approx(2 / 3)
    assert own["dice.c"][0] == 1.0
    assert own["dice"][0] == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)
    assert own["dice_of_present"][0] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert math.isnan(own["dice_of_present.c"][0])


def test_pooled_scores_are_of_the_pixels_of_all_cases():
    predicted = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]])
    truth = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 0]])
    counts = pixel_counts(confusion(predicted, truth, 2).numpy())
    assert case_scores(counts.of(FOREGROUND), ["x"])["dice"].tolist() == [1.0, 0.0]
    own = pooled_scores(counts.of(FOREGROUND), ["x"])
    assert own["pooled_dice"] == own["pooled_dice.x"] == pytest.approx(2 * 4 / (8 + 1 + 1))
    assert set(own) == {f"pooled_{name}{of}" for name in BASIC for of in ("", ".x")}


def test_scores_of_all_classes_are_torchmetrics_macro_ones(second: Any, pairs: list[Pair]):
    pair = pairs[30]
    own = set_scores(counted(pair))
    truth, predicted = (torch.from_numpy(labels)[None].long() for labels in (pair.truth, pair.predicted))
    arguments: dict[str, Any] = {"num_classes": pair.classes, "average": "macro", "ignore_index": 255}
    macro = {
        "mdice": "f1_score", "miou": "jaccard_index", "mprecision": "precision", "mrecall": "accuracy",
        "mspecificity": "specificity",
    }  # fmt: skip
    for name, function in macro.items():
        theirs = getattr(second, f"multiclass_{function}")(predicted, truth, **arguments)
        assert own[name] == pytest.approx(float(theirs), abs=2e-6), name
    micro = second.multiclass_accuracy(predicted, truth, **arguments | {"average": "micro"})
    assert own["pixel_accuracy"] == pytest.approx(float(micro), abs=2e-6)
    assert set(own) == set(OF_ALL)


def test_with_two_classes_macro_recall_is_macro_specificity():
    """So it stands in the study of U-Net variants, whose ISIC columns are macro scores of two classes."""
    generator = torch.Generator().manual_seed(0)
    predicted, truth = (torch.randint(0, 2, (3, 50), generator=generator) for _ in range(2))
    own = set_scores(pixel_counts(confusion(predicted, truth, 2).numpy()))
    assert own["mrecall"] == own["mspecificity"]


def test_the_dice_of_rows_is_low_where_an_object_has_few_rows():
    """0.38 beside a Dice of 0.95; and the value that torchmetrics 1.7.4 gives for the same labels."""
    truth, predicted = torch.zeros(1, 50, 50, dtype=torch.long), torch.zeros(1, 50, 50, dtype=torch.long)
    truth[0, 10:30, 10:30] = 1
    predicted[0, 10:30, 11:31] = 1
    dice = case_scores(pixel_counts(confusion(predicted, truth, 2).numpy()).of(FOREGROUND), ["cell"])["dice"]
    assert dice.tolist() == [0.95]
    rows = dice_of_rows(pixel_counts(confusion(predicted[0], truth[0], 2)[None].numpy()))
    assert rows.shape == (1, 2)
    assert rows[0, 1] == pytest.approx(0.38)
    nothing = confusion(0 * truth[0], 0 * truth[0], 2)[None].numpy()
    assert dice_of_rows(pixel_counts(nothing))[0, 1] == 0.0


def test_regions_are_all_foreground():
    predicted = torch.tensor([[[[1, 1, 0]], [[1, 0, 0]]]], dtype=torch.bool)
    truth = torch.tensor([[[[1, 0, 0]], [[1, 255, 0]]]], dtype=torch.uint8)
    own = case_scores(pixel_counts(region_confusion(predicted, truth).numpy()), ["TC", "WT"])
    assert (own["dice.TC"][0], own["dice.WT"][0]) == (pytest.approx(2 / 3), 1.0)


def test_means_leave_out_what_is_not_known():
    values = np.array([[1.0, NAN, NAN], [0.5, 0.25, NAN]])
    assert mean_of_known(values) == pytest.approx([0.75, 0.25, NAN], nan_ok=True)
