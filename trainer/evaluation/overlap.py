"""Scores of overlap as functions of confusion counts: of each case and class, and of all cases together.

A case is an image or a volume. docs/scores.md has every formula with its rule for empty masks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class PixelCounts(NamedTuple):
    """Pixels of each case and class; arrays (cases, classes) of whole numbers as float64."""

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats

    def of(self, classes: slice) -> "PixelCounts":
        """The same cases, some classes."""
        return PixelCounts(*(a[:, classes] for a in self))

    def pooled(self) -> "PixelCounts":
        """All cases as one: (1, classes)."""
        return PixelCounts(*(a.sum(axis=0, keepdims=True) for a in self))


Measure = Callable[[PixelCounts], Floats]


def pixel_counts(counts: NDArray[np.floating] | NDArray[np.integer]) -> PixelCounts:
    """Counts (cases, ..., classes, 4) in the order tp, fp, fn, tn, as `trainer.evaluation.confusion` gives them."""
    return PixelCounts(*np.moveaxis(np.asarray(counts, np.float64), -1, 0))


def summed(counts: Floats, cases: Sequence[int]) -> Floats:
    """Counts of images (images, ...) added up over those of a case: (cases, ...)."""
    whole = np.zeros((max(cases) + 1, *counts.shape[1:]))
    np.add.at(whole, np.asarray(cases), counts)
    return whole


def ratio(part: Floats, whole: Floats, empty: Floats | float) -> Floats:
    """part / whole; `empty` where the whole has no pixels."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), empty)


def dice(c: PixelCounts) -> Floats:
    """2 tp / (2 tp + fp + fn), which is F1; 1 where truth and prediction are both empty."""
    return ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn, 1.0)


def f1(c: PixelCounts) -> Floats:
    """2 precision recall / (precision + recall), which is Dice and is computed as that, also where masks are empty."""
    return dice(c)


def iou(c: PixelCounts) -> Floats:
    """tp / (tp + fp + fn), the Jaccard index; 1 where truth and prediction are both empty."""
    return ratio(c.tp, c.tp + c.fp + c.fn, 1.0)


def precision(c: PixelCounts) -> Floats:
    """tp / (tp + fp); with an empty prediction 1 where the truth is empty too, else 0."""
    return ratio(c.tp, c.tp + c.fp, (c.fn == 0).astype(np.float64))


def recall(c: PixelCounts) -> Floats:
    """tp / (tp + fn), also called sensitivity; with an empty truth 1 where the prediction is empty too, else 0."""
    return ratio(c.tp, c.tp + c.fn, (c.fp == 0).astype(np.float64))


def specificity(c: PixelCounts) -> Floats:
    """tn / (tn + fp); 1 where the truth leaves no pixel to be wrong about."""
    return ratio(c.tn, c.tn + c.fp, 1.0)


def accuracy(c: PixelCounts) -> Floats:
    """(tp + tn) / all pixels that are not ignored, each class against all others; 1 where all are ignored."""
    return ratio(c.tp + c.tn, c.tp + c.fp + c.fn + c.tn, 1.0)


def dice_of_present(c: PixelCounts) -> Floats:
    """Dice where the truth has the class; nan where it has not, so that means leave the case out (MONAI's rule)."""
    return np.where(c.tp + c.fn > 0, dice(c), np.nan)


def iou_of_present(c: PixelCounts) -> Floats:
    """IoU where the truth has the class; nan where it has not, so that means leave the case out (MONAI's rule)."""
    return np.where(c.tp + c.fn > 0, iou(c), np.nan)


def dice_of_rows(rows: PixelCounts) -> Floats:
    """The mean over an image's rows of their Dice, rows without truth and prediction as 0: (cases, classes).

    Arrays (cases, rows, classes). With two classes it is what torchmetrics 1.6 and 1.7 give for
    `DiceScore(num_classes=2, average="macro")` on maps of labels, which it takes for one-hot, rows for classes: the
    column "Dice" of the U-Net-variants study, 0.2 to 0.4 beside an F1 of 0.95. It says how many rows the object has.
    """
    each = ratio(2 * rows.tp, 2 * rows.tp + rows.fp + rows.fn, 0.0)
    return np.asarray(each.mean(axis=1))


def macro(measure: Measure, counts: PixelCounts) -> float:
    """A score of all cases pooled: the mean over all classes, the first too, that truth or prediction have at all.

    1 where they have none, which is where every pixel is ignored or every region is empty.
    """
    c = counts.pooled()
    seen = (c.tp + c.fp + c.fn)[0] > 0
    return float(measure(c)[0][seen].mean()) if seen.any() else 1.0


def mdice(counts: PixelCounts) -> float:
    """Dice of the pixels of all images pooled, mean over the classes with the background."""
    return macro(dice, counts)


def miou(counts: PixelCounts) -> float:
    """IoU of the pixels of all images pooled, mean over the classes with the background."""
    return macro(iou, counts)


def pixel_accuracy(counts: PixelCounts) -> float:
    """The share of all pixels that have the right label; 1 where every pixel is ignored. Of labels, not of regions."""
    c = counts.pooled()
    right, pixels = c.tp.sum(), (c.tp + c.fn).sum()
    return float(right / pixels) if pixels else 1.0


BASIC: Mapping[str, Measure] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
    "accuracy": accuracy,
    "f1": f1,
}
"""Scores that every case and class has; each is also given for all cases pooled, as `pooled_dice` and so on."""

OF_CASES: Mapping[str, Measure] = {**BASIC, "dice_of_present": dice_of_present, "iou_of_present": iou_of_present}
"""Scores of single cases, from the counts of the foreground classes; their means are over classes, then cases."""

OF_ALL: Mapping[str, Callable[[PixelCounts], float]] = {
    "mdice": mdice,
    "miou": miou,
    "mprecision": lambda counts: macro(precision, counts),
    "mrecall": lambda counts: macro(recall, counts),
    "mspecificity": lambda counts: macro(specificity, counts),
    "pixel_accuracy": pixel_accuracy,
}
"""Scores of a whole set of cases, from the counts of all classes: one number, none of a single class."""


def case_scores(foreground: PixelCounts, names: Sequence[str]) -> dict[str, Floats]:
    """`dice`, `dice.liver`, ... of each case, (cases,): every name of OF_CASES, bare and with each class.

    foreground: counts (cases, classes) of the classes that `names` has, without the background.
    """
    every: dict[str, Floats] = {}
    for name, measure in OF_CASES.items():
        every |= by_class(name, measure(foreground).T, names)
    return every


def pooled_scores(foreground: PixelCounts, names: Sequence[str]) -> dict[str, float]:
    """`pooled_dice`, `pooled_dice.liver`, ...: BASIC of the pixels of all cases together; as `case_scores`."""
    pooled = foreground.pooled()
    every: dict[str, Floats] = {}
    for name, measure in BASIC.items():
        every |= by_class(f"pooled_{name}", measure(pooled)[0], names)
    return {name: float(value) for name, value in every.items()}


def set_scores(counts: PixelCounts) -> dict[str, float]:
    """Every name of OF_ALL, from the counts of all classes, the background first."""
    return {name: function(counts) for name, function in OF_ALL.items()}


def mean_of_known(values: Floats) -> Floats:
    """The mean along the first axis of what is not nan; nan where nothing is known."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64), np.nan)


def by_class(name: str, values: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """`NAME` for the mean of values (classes, ...) over the classes that have one, `NAME.CLASS` for each of them."""
    return {name: mean_of_known(values)} | {
        f"{name}.{label}": value for label, value in zip(names, values, strict=True)
    }
