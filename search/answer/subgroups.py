"""What each network did on whole parts, on each source, and on small, middle and large polyps."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from search.answer.document import Reliability, Scores
from search.answer.score_arrays import ScoreArray, level
from search.answer.uncertainty import Floats, Mask

SIZES = ("small", "middle", "large")


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


def reliability(grid: ScoreArray) -> Reliability:
    """Confidence and accuracy by bin of all seeds' pixels, and the mean gap (Guo et al. 2017, eq. 3)."""
    bins = _bins(grid)
    pixels = bins[:, 0].sum()
    rows = tuple((c / n, r / n, n / pixels) for n, c, r in bins.tolist() if n > 0)
    return Reliability(network=grid.configuration, part=grid.part, ece=_ece(bins), bins=rows)


def _bins(grid: ScoreArray) -> Floats:
    every = np.asarray([each.calibration for each in grid.by_seed.values()], dtype=np.float64)
    bins: Floats = every.sum(axis=0)
    return bins


def _ece(bins: Floats) -> float | None:
    pixels, confidence, right = bins.sum(axis=0)[0], bins[:, 1], bins[:, 2]
    return float(np.abs(confidence - right).sum() / pixels) if pixels > 0 else None


def _row(grid: ScoreArray, by: Literal["all", "source", "size"], stratum: str, mask: Mask, confidence: float) -> Scores:
    groups = len({g for g, keep in zip(grid.one.groups, mask, strict=True) if keep})
    dice = level(grid, "dice", mask)
    interval = None if dice is None else dice.interval(confidence)
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
        **{name: _mean(grid, name, mask) for name in ("iou", "precision", "recall", "hd95", "brier")},
        ece=_ece(_bins(grid)) if by == "all" else None,
        polyps=int(polyps.sum()),
        missed=None if missed is None else float(missed.mean()),
        negatives=int(negatives.sum()),
        false_positives=_mean(grid, "false_positives", negatives) if negatives.any() else None,
    )


def _mean(grid: ScoreArray, column: str, mask: Mask) -> float | None:
    values = grid.values(column)[:, mask]
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None
