"""What was measured, as arrays of seeds and images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from search.answer.document import SEARCH_THRESHOLD
from search.answer.uncertainty import Estimate, Floats, Mask, estimate
from search.confirm.results import Confirmed, PerImageScores


@dataclass(frozen=True)
class ScoreArray:
    """One network on one part of the data. Its images are in the same order for every seed."""

    configuration: str
    part: str
    by_seed: dict[int | None, PerImageScores]

    @property
    def one(self) -> PerImageScores:
        """Any of the seeds: images, sources, groups and true areas are those of all."""
        return next(iter(self.by_seed.values()))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Fresh seeds; none of a teacher."""
        return tuple(sorted(seed for seed in self.by_seed if seed is not None))

    @property
    def thresholds(self) -> tuple[tuple[int | None, float], ...]:
        """(seed, its threshold), by seed, one a region where these differ; a teacher's with None. Nothing with more
        than two classes."""
        return tuple((seed, at) for seed in (self.seeds or (None,)) for at in self.by_seed[seed].thresholds)

    def has(self, column: str) -> bool:
        """Whether every seed was measured with this column; those from before it was kept were not."""
        return all(column in each.columns for each in self.by_seed.values())

    def values(self, column: str, seeds: Sequence[int] | None = None) -> Floats:
        """(seeds, images); a teacher's single row stands for every seed that is asked for."""
        if not self.seeds:
            row = np.asarray(self.by_seed[None].columns[column], dtype=np.float64)
            return np.tile(row, (1 if seeds is None else len(seeds), 1))
        chosen = self.seeds if seeds is None else seeds
        return np.asarray([self.by_seed[seed].columns[column] for seed in chosen], dtype=np.float64)


def describe_thresholds(thresholds: Iterable[float]) -> str:
    """`threshold 0.5`, or the least and the greatest where they differ: `thresholds 0.5 to 0.65`; `the likeliest class`
    where there is none, which is so with more than two classes."""
    known = sorted({round(each, 6) for each in thresholds})
    if not known:
        return "the likeliest class"
    low, *rest = known
    return f"thresholds {low:g} to {rest[-1]:g}" if rest else f"threshold {low:g}"


RULES = {
    "gain": f"{SEARCH_THRESHOLD:g}, or another one that gains on validation more than the gain's standard error",
    "gain-by-region": f"of each region by itself {SEARCH_THRESHOLD:g}, or another one that gains on validation more "
    "than the gain's standard error",
    "likeliest": "none, since each {element} has the likeliest of its classes",
    "best": f"the best one on validation, as an earlier version took it, though {SEARCH_THRESHOLD:g} may be no worse",
}
"""How a seed got its threshold, by `PerImageResult.threshold_rule`; element: pixel or voxel."""


def describe_rule(confirmed: Confirmed) -> str:
    """How each seed of a confirmation got its threshold."""
    rules = dict.fromkeys(each.threshold_rule for each in confirmed.findings)
    return "; of some seeds ".join(
        text.format(element=confirmed.nouns.element) for rule, text in RULES.items() if rule in rules
    )


def score_arrays(confirmed: Confirmed) -> dict[tuple[str, str], ScoreArray]:
    """By (configuration, part). Raises ValueError where two seeds did not see the same images in the same order."""
    arrays: dict[tuple[str, str], ScoreArray] = {}
    for each in confirmed.findings:
        key = each.configuration, each.part
        grid = arrays.setdefault(key, ScoreArray(*key, {}))
        if grid.by_seed and grid.one.images != each.images:
            raise ValueError(f"{each.configuration} on {each.part}: seed {each.seed} was measured on other images")
        grid.by_seed[each.seed] = each
    return arrays


def level(grid: ScoreArray, column: str, chosen: Mask | None = None) -> Estimate | None:
    """The mean of a column over images and seeds; None where no image has a value. chosen: a mask of images.

    A teacher has no seeds: its interval is over groups alone, the only thing that was sampled.
    """
    return _estimated(grid.values(column), grid.one.groups, chosen, seeds=len(grid.seeds))


def difference(
    minuend: ScoreArray, subtrahend: ScoreArray, column: str, chosen: Mask | None = None
) -> tuple[Estimate | None, int]:
    """The mean of one column less the other's, paired by seed and image, and the seeds that both have.

    Where one of them is a teacher all seeds of the other count. None where nothing can be paired. Raises ValueError
    where the two were not measured on the same images.
    """
    if minuend.one.images != subtrahend.one.images:
        raise ValueError(f"{minuend.configuration} and {subtrahend.configuration} were measured on other images")
    seeds = shared(minuend, subtrahend)
    if not seeds:
        return None, 0
    values = minuend.values(column, seeds) - subtrahend.values(column, seeds)
    return _estimated(values, minuend.one.groups, chosen, seeds=len(seeds)), len(seeds)


def shared(minuend: ScoreArray, subtrahend: ScoreArray) -> tuple[int, ...]:
    """Seeds with which both were trained; all of the other's where one is a teacher."""
    if not subtrahend.seeds:
        return minuend.seeds
    return tuple(seed for seed in minuend.seeds if seed in subtrahend.seeds)


def _estimated(values: Floats, groups: tuple[str, ...], chosen: Mask | None, *, seeds: int) -> Estimate | None:
    if chosen is not None:
        values, groups = values[:, chosen], tuple(g for g, keep in zip(groups, chosen, strict=True) if keep)
    if not np.isfinite(values).all(axis=0).any():
        return None
    if seeds:
        return estimate(values, groups)
    # Two equal rows: no variance of seeds, and the degrees of freedom are those of the groups.
    return replace(estimate(np.repeat(values[:1], 2, axis=0), groups), seeds=0)
