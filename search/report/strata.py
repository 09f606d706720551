"""What each network did on each part, source and size of polyp: descriptions, from what was kept of every image."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.confirmed import Confirmed, Findings
from search.report.confirmed_part import Reliability, Scores

Numbers = NDArray[np.float64]
SIZES = ("smallest third", "middle third", "largest third")
NEGATIVE = "no polyp"
MEANS = ("dice", "iou", "precision", "recall", "hd95", "brier")
"""Columns that are told as means over images."""


def by_network(found: Confirmed, part: str) -> dict[str, list[Findings]]:
    """The findings of each network on one part, one a seed, with the same images in the same order."""
    mine: dict[str, list[Findings]] = {}
    for each in found.findings:
        if each.part == part:
            mine.setdefault(each.configuration, []).append(each)
    return mine


def parts(found: Confirmed) -> list[str]:
    """Parts whose scores are told: test first, then unseen sources; validation chose thresholds."""
    names = dict.fromkeys(each.part for each in found.findings if each.part != "validation")
    return sorted(names, key=lambda name: (name != "test", name))


def scores_of(found: Confirmed) -> Iterator[Scores]:
    """Whole parts, each source of the test images, unseen sources, and the thirds of each part by size of polyp."""
    order = [c.name for c in found.configurations]
    for part in parts(found):
        networks = by_network(found, part)
        for name in sorted(networks, key=order.index):
            runs = networks[name]
            for by, stratum, chosen in _strata(runs[0]):
                yield _scores(name, runs, by, stratum, chosen)


def _strata(one: Findings) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    sources, area = np.array(one.sources), np.array(one.columns["area"], dtype=float)
    yield "all", "all", np.ones(len(sources), dtype=bool)
    for source in dict.fromkeys(one.sources):
        yield "source", source, sources == source
    if np.count_nonzero(area > 0) >= len(SIZES):
        cuts = np.quantile(area[area > 0], [1 / 3, 2 / 3])
        third = np.searchsorted(cuts, area, side="left")
        for place, name in enumerate(SIZES):
            yield "size", name, (area > 0) & (third == place)
    if np.any(area == 0):
        yield "size", NEGATIVE, area == 0


def _scores(name: str, runs: Sequence[Findings], by: str, stratum: str, chosen: NDArray[np.bool_]) -> Scores:
    means = {column: _mean([_column(run, column)[chosen] for run in runs]) for column in MEANS}
    polyps = _column(runs[0], "polyps")[chosen]
    missed = sum(float(np.nansum(_column(run, "missed")[chosen])) for run in runs)
    negative = chosen & (_column(runs[0], "area") == 0)
    false = [_column(run, "false_positives")[negative] for run in runs]
    groups = {group for group, mine in zip(runs[0].groups, chosen, strict=True) if mine}
    total = float(polyps.sum())
    return Scores(
        network=name,
        part=runs[0].part,
        by="all" if by == "all" else "source" if by == "source" else "size",
        stratum=stratum,
        images=int(chosen.sum()),
        groups=len(groups),
        seeds=len(runs),
        low=None,
        high=None,
        ece=_ece(runs) if by == "all" else None,
        polyps=int(total),
        missed=missed / (total * len(runs)) if total else None,
        negatives=int(negative.sum()),
        false_positives=_mean(false),
        **means,
    )


def _column(run: Findings, name: str) -> Numbers:
    return np.array(run.columns[name], dtype=float)


def _mean(values: Sequence[Numbers]) -> float | None:
    """Mean over images, then over seeds; images for which it is not defined are left out; None where none is left."""
    known = [float(np.nanmean(each)) for each in values if np.any(np.isfinite(each))]
    return sum(known) / len(known) if known else None


def reliability_of(found: Confirmed) -> Iterator[Reliability]:
    """The bins of each network on each part, over its seeds."""
    for part in parts(found):
        for name, runs in by_network(found, part).items():
            pixels, confidence, right = _bins(runs)
            total = float(pixels.sum())
            some = pixels > 0
            points = zip(confidence[some], right[some], pixels[some], strict=True)
            bins = tuple((float(c / n), float(r / n), float(n / total)) for c, r, n in points)
            yield Reliability(network=name, part=part, ece=_ece(runs), bins=bins)


def _bins(runs: Sequence[Findings]) -> tuple[Numbers, Numbers, Numbers]:
    """(pixels, sum of confidence, pixels right) of each bin."""
    sums = np.sum([np.array(run.calibration, dtype=float) for run in runs], axis=0)
    return sums[:, 0], sums[:, 1], sums[:, 2]


def _ece(runs: Sequence[Findings]) -> float | None:
    """Expected calibration error over bins of equal width (Naeini et al. 2015; Guo et al. 2017)."""
    pixels, confidence, right = _bins(runs)
    total = float(pixels.sum())
    return float(np.abs(confidence - right).sum() / total) if total else None


def means_by_seed(runs: Sequence[Findings], metric: str) -> tuple[tuple[int, float], ...]:
    """(seed, mean over images) of each run that has a seed."""
    found: Mapping[int, float] = {
        run.seed: float(np.nanmean(_column(run, metric))) for run in runs if run.seed is not None
    }
    return tuple(sorted(found.items()))


def mean_of(runs: Sequence[Findings], metric: str) -> float | None:
    """The mean over images, then over seeds."""
    return _mean([_column(run, metric) for run in runs])
