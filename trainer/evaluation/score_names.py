"""The names of scores: `dice` is the mean over foreground classes, `dice.liver` that of one class. Free of torch.

The table says of each name which way is better, its unit, and whether a search may have it for an objective.
docs/scores.md has the formulas.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.nearest import nearest

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class ScoreKind:
    """What a bare name stands for."""

    summary: str
    direction: Direction = "maximize"
    unit: Literal["share", "length"] = "share"
    """A share is from 0 to 1. A length is in mm where the data has a spacing, else in pixels; see `unit_of`."""
    of_classes: bool = True
    """Whether single classes have it, too, as `NAME.CLASS`."""
    refused: str = ""
    """Why no search may have it for its objective; empty where one may."""
    instead: str = ""
    """The name that an objective has in its place."""
    thresholded: str = ""
    """The score that it is at a threshold chosen on validation; a confirmation, which chooses one by itself, compares
    that. Empty of all others."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Where every value lies, and so every mean."""
        return 0.0, 1.0 if self.unit == "share" else math.inf


_FEW = "it is of the cases alone in which truth and prediction have the class, so that it gets better by missing more"
_COUNT = "it is no score of how good a mask is"


def _pooled(name: str) -> ScoreKind:
    return ScoreKind(f"{name} of the pixels of all cases together")


SCORE_KINDS: Mapping[str, ScoreKind] = {
    "dice": ScoreKind("2 tp / (2 tp + fp + fn), mean over cases"),
    "iou": ScoreKind("tp / (tp + fp + fn), the Jaccard index, mean over cases"),
    "precision": ScoreKind("tp / (tp + fp), mean over cases"),
    "recall": ScoreKind("tp / (tp + fn), the sensitivity, mean over cases"),
    "specificity": ScoreKind("tn / (tn + fp), mean over cases"),
    "accuracy": ScoreKind("(tp + tn) / pixels, each class against all others, mean over cases"),
    "f1": ScoreKind("the same number as dice, under the name that other fields have for it"),
    "dice_of_present": ScoreKind("dice over the cases whose truth has the class (MONAI's rule)"),
    "iou_of_present": ScoreKind("iou over the cases whose truth has the class (MONAI's rule)"),
    "dice_at_best_threshold": ScoreKind(
        "dice at the threshold, of 0.05, 0.10 to 0.95, where its mean over cases is highest", thresholded="dice"
    ),
    "iou_at_best_threshold": ScoreKind(
        "iou at the threshold, of 0.05, 0.10 to 0.95, where its mean over cases is highest", thresholded="iou"
    ),
    "mdice": ScoreKind("dice of all pixels pooled, mean over all classes with the background", of_classes=False),
    "miou": ScoreKind("iou of all pixels pooled, mean over all classes with the background", of_classes=False),
    "mprecision": ScoreKind(
        "precision of all pixels pooled, mean over all classes with the background", of_classes=False
    ),
    "mrecall": ScoreKind(
        "recall of all pixels pooled, mean over all classes with the background: torchmetrics' macro accuracy",
        of_classes=False,
    ),
    "mspecificity": ScoreKind(
        "specificity of all pixels pooled, mean over all classes with the background", of_classes=False
    ),
    "pixel_accuracy": ScoreKind("the share of all pixels with the right label", of_classes=False),
    "pooled_dice": _pooled("dice"),
    "pooled_iou": _pooled("iou"),
    "pooled_precision": _pooled("precision"),
    "pooled_recall": _pooled("recall"),
    "pooled_specificity": _pooled("specificity"),
    "pooled_accuracy": _pooled("accuracy"),
    "pooled_f1": _pooled("f1"),
    "dice_of_rows": ScoreKind(
        "mean over an image's rows of their dice, empty rows as 0: the U-Net-variants study's column Dice",
        refused="it says how many rows the object has, and is there to compare with that study",
        instead="dice",
    ),
    "surface_dice": ScoreKind("the share of both surfaces that lies within a tolerance of the other"),
    "hd95": ScoreKind(
        "95th percentile of the distances between the surfaces, both ways pooled (MedPy's form)",
        "minimize", "length", refused=_FEW, instead="hd95_missed_as_diagonal",
    ),
    "hd95_larger": ScoreKind(
        "the larger of the 95th percentiles of the two directions (MONAI's form)",
        "minimize", "length", refused=_FEW, instead="hd95_larger_missed_as_diagonal",
    ),
    "asd": ScoreKind(
        "average symmetric surface distance: the mean of the distances between the surfaces, both ways pooled",
        "minimize", "length", refused=_FEW, instead="asd_missed_as_diagonal",
    ),
    "hd95_missed_as_diagonal": ScoreKind("hd95, a miss as the image's diagonal", "minimize", "length"),
    "hd95_larger_missed_as_diagonal": ScoreKind("hd95_larger, a miss as the image's diagonal", "minimize", "length"),
    "asd_missed_as_diagonal": ScoreKind("asd, a miss as the image's diagonal", "minimize", "length"),
    "class_missed": ScoreKind(
        "the share of cases whose truth has the class and whose prediction has none of it",
        "minimize", refused=_COUNT, instead="dice",
    ),
    "class_made_up": ScoreKind(
        "the share of cases whose prediction has the class and whose truth has none of it",
        "minimize", refused=_COUNT, instead="dice",
    ),
}  # fmt: skip
"""Every bare name."""
LABELS_ALONE = "pixel_accuracy"
"""The score that regions have not."""


@dataclass(frozen=True)
class NamedScore:
    """A name that is known, in its parts."""

    name: str
    """One of SCORE_KINDS."""
    label: str | None
    """A foreground class; None for the mean over them, or where the score is of all classes at once."""

    @property
    def kind(self) -> ScoreKind:
        """What the table says of it."""
        return SCORE_KINDS[self.name]

    def __str__(self) -> str:
        return self.name if self.label is None else f"{self.name}.{self.label}"


def parse(text: str, foreground: Sequence[str], *, regions: bool = False) -> NamedScore:
    """A score's name in its parts; what stands behind the first dot is a class.

    foreground: the names of the classes without the background, or of the regions where `regions` is true. Raises
    ValueError in one line that names what is known and nearest.
    """
    name, dot, label = text.partition(".")
    if name not in SCORE_KINDS:
        raise ValueError(f"{text!r}: no score is called {name!r}{nearest(name, SCORE_KINDS)}")
    if regions and name == LABELS_ALONE:
        raise ValueError(f"{text!r}: is of one label a pixel, and the data has regions that overlap; use dice")
    if SCORE_KINDS[name].thresholded and len(foreground) > 1 and not regions:
        likeliest = "with more than two classes a pixel is of its likeliest, and there is no threshold"
        raise ValueError(f"{text!r}: {likeliest}; use {SCORE_KINDS[name].thresholded}{dot}{label}")
    if not dot:
        return NamedScore(name, None)
    if not SCORE_KINDS[name].of_classes:
        raise ValueError(f"{text!r}: {name} is one number of all classes, none of a single one; write {name}")
    if label not in foreground:
        kind = "region" if regions else "foreground class"
        raise ValueError(f"{text!r}: no {kind} is called {label!r}{nearest(label, foreground)}")
    return NamedScore(name, label)


def objective(text: str, direction: Direction, foreground: Sequence[str], *, regions: bool = False) -> NamedScore:
    """A score that a search may have for its objective, in this direction; else as `parse`.

    Raises ValueError in one line with the name to use where the score is refused, and where the direction is the wrong
    one.
    """
    score = parse(text, foreground, regions=regions)
    if score.kind.refused:
        instead = NamedScore(score.kind.instead, score.label)
        raise ValueError(f"{text!r}: is no objective: {score.kind.refused}; use {instead}")
    if direction != score.kind.direction:
        better = "lower" if score.kind.direction == "minimize" else "higher"
        raise ValueError(f"{direction} = {text!r}: {better} is better; write {score.kind.direction} = {text!r}")
    return score


def at_best_threshold(text: str) -> str | None:
    """The score at the best threshold that tells networks apart which all have 0 by this one: `dice_at_best_threshold`
    of `recall`, which is 0 where no pixel is found. None for a score that is not 0 there."""
    name, dot, label = text.partition(".")
    bare = name.removesuffix("_of_present")
    instead = {"f1": "dice", "precision": "dice", "recall": "dice"}.get(bare, bare)
    return f"{instead}_at_best_threshold{dot}{label}" if f"{instead}_at_best_threshold" in SCORE_KINDS else None


def confirmed_name(text: str) -> str:
    """The score that a confirmation compares where a search followed this one: `dice.core` of
    `dice_at_best_threshold.core`, as it chooses thresholds by itself, and else the same."""
    name, dot, label = text.partition(".")
    return f"{SCORE_KINDS[name].thresholded or name}{dot}{label}"


def unit_of(name: str, *, spacing: bool) -> str:
    """What a score is in: empty for a share from 0 to 1, `mm` where the data has a spacing, else `px`."""
    return "" if SCORE_KINDS[name].unit == "share" else "mm" if spacing else "px"
