"""What each network did on whole parts, on each source, and on small, middle and large polyps."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from search.answer.document import ClassScores, Reliability, Scores
from search.answer.score_arrays import ScoreArray, level
from search.answer.uncertainty import Floats, Mask
from trainer.evaluation.score_names import SCORE_KINDS

MEANS = ("iou", "precision", "recall", "hd95", "hd95_missed_as_diagonal", "brier")
"""Columns whose mean over images and seeds is told as it is."""
MEANS_OF_CLASSES = ("iou", "precision", "recall", "hd95_missed_as_diagonal")
"""The same of single classes."""
SIZES = ("small", "middle", "large")
DICE_BOUNDS = SCORE_KINDS["dice"].bounds


def scores(grid: ScoreArray, confidence: float) -> Iterator[Scores]:
    """One row for all images, one a source where there are several, one a third of the images with a polyp by its area,
    `small (to 3.1%)` of the image, `middle (to 9.0%)`, `large (over 9.0%)`.

    Areas are shares of the image; the thirds have equal numbers of images of the part, so they are the same for all
    networks.
    """
    everything = np.ones(len(grid.one.images), dtype=np.bool_)
    yield _row(grid, "all", grid.part, everything, confidence)
    sources = np.asarray(grid.one.sources, dtype=object)
    names = sorted(set(grid.one.sources))
    if len(names) > 1:
        for name in names:
            yield _row(grid, "source", name, np.asarray(sources == name, dtype=np.bool_), confidence)
    area = np.asarray(grid.one.columns["area"], dtype=np.float64)
    if (area > 0).sum() >= len(SIZES):
        low, high = np.quantile(area[area > 0], (1 / 3, 2 / 3))
        thirds = ((area > 0) & (area <= low), (area > low) & (area <= high), area > high)
        bounds = (f"to {low:.1%}", f"to {high:.1%}", f"over {high:.1%}")
        for name, bound, third in zip(SIZES, bounds, thirds, strict=True):
            if third.any():
                yield _row(grid, "size", f"{name} ({bound})", third, confidence)


def class_scores(grid: ScoreArray, labels: Sequence[str], confidence: float) -> Iterator[ClassScores]:
    """One row a class of what was measured on a whole part; nothing with one foreground class."""
    everything = np.ones(len(grid.one.images), dtype=np.bool_)
    for label in labels:
        dice = level(grid, f"dice.{label}")
        low, high = (None if dice is None else dice.interval(confidence, DICE_BOUNDS)) or (None, None)
        yield ClassScores(
            network=grid.configuration,
            part=grid.part,
            label=label,
            images=len(grid.one.images),
            groups=len(set(grid.one.groups)),
            seeds=len(grid.seeds),
            dice=None if dice is None else dice.value,
            low=low,
            high=high,
            **{name: _mean(grid, f"{name}.{label}", everything) for name in MEANS_OF_CLASSES},
        )


def reliability(grid: ScoreArray) -> Reliability:
    """Probability and truth by bin of all seeds' pixels, and the mean gap (Guo et al. 2017, eq. 3)."""
    chosen, positive = _bins(grid), _positive_bins(grid)
    return Reliability(
        network=grid.configuration, part=grid.part, ece_positive=_ece(positive), positive_bins=_shares(positive),
        ece=_ece(chosen), bins=_shares(chosen),
    )  # fmt: skip


def _shares(bins: Floats | None) -> tuple[tuple[float, float, float], ...]:
    if bins is None:
        return ()
    pixels = bins[:, 0].sum()
    return tuple((c / n, r / n, n / pixels) for n, c, r in bins.tolist() if n > 0)


def _bins(grid: ScoreArray) -> Floats:
    every = np.asarray([each.calibration for each in grid.by_seed.values()], dtype=np.float64)
    bins: Floats = every.sum(axis=0)
    return bins


def _positive_bins(grid: ScoreArray) -> Floats | None:
    """None where a seed was measured before they were kept."""
    every = [each.calibration_positive for each in grid.by_seed.values()]
    return np.asarray(every, dtype=np.float64).sum(axis=0) if all(every) else None


def _ece(bins: Floats | None) -> float | None:
    if bins is None:
        return None
    pixels, confidence, right = bins.sum(axis=0)[0], bins[:, 1], bins[:, 2]
    return float(np.abs(confidence - right).sum() / pixels) if pixels > 0 else None


def _row(grid: ScoreArray, by: Literal["all", "source", "size"], stratum: str, mask: Mask, confidence: float) -> Scores:
    groups = len({g for g, keep in zip(grid.one.groups, mask, strict=True) if keep})
    dice = level(grid, "dice", mask)
    interval = None if dice is None else dice.interval(confidence, DICE_BOUNDS)
    low, high = interval or (None, None)
    polyps = np.asarray(grid.one.columns["polyps"], dtype=np.float64)[mask]
    negatives = mask & (np.asarray(grid.one.columns["polyps"], dtype=np.float64) == 0)
    missed = grid.values("missed")[:, mask].sum(axis=1) / polyps.sum() if polyps.sum() > 0 else None
    return Scores(
        network=grid.configuration,
        part=grid.part,
        by=by,
        stratum=stratum,
        images=int(mask.sum()),
        groups=groups,
        seeds=len(grid.seeds),
        thresholds=tuple(threshold for _, threshold in grid.thresholds),
        dice=None if dice is None else dice.value,
        low=low,
        high=high,
        **{name: _mean(grid, name, mask) for name in MEANS},
        hd95_left_out=float((~np.isfinite(grid.values("hd95")[:, mask])).sum(axis=1).mean()),
        ece_positive=_ece(_positive_bins(grid)) if by == "all" else None,
        ece=_ece(_bins(grid)) if by == "all" else None,
        polyps=int(polyps.sum()),
        missed=None if missed is None else float(missed.mean()),
        negatives=int(negatives.sum()),
        false_positives=_mean(grid, "false_positives", negatives) if negatives.any() else None,
    )


def _mean(grid: ScoreArray, column: str, mask: Mask) -> float | None:
    if not grid.has(column):
        return None
    values = grid.values(column)[:, mask]
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None
