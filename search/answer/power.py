"""The smallest gain that a confirmation can show, said before anything is trained."""

import math
from dataclasses import dataclass

import numpy as np

from search.answer.crossed import LEAST_GROUPS, LEAST_SEEDS, Floats


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the paired difference of two networks' scores of one image with one seed, by where they
    come from. The defaults are assumed; `python -m benchmarks.coverage --study NAME` measures those of a confirmation.
    """

    seed: float = 0.006
    """What a seed changes on all images alike."""
    group: float = 0.05
    """What is a patient's or sequence's own, whatever the seed."""
    both: float = 0.09
    """What belongs to one seed and one group."""


ASSUMED = Noise()
POWER = 0.8


def smallest_gain(groups: int, seeds: int, confidence: float = 0.95, noise: Noise = ASSUMED) -> float | None:
    """The true difference that is shown with a probability of 80 %; None where no interval can be estimated.

    groups: of the test part, taken as of equal size. The interval's formula (`search.answer.crossed`) with its
    variance known; corrected for no other claim.
    """
    if groups < LEAST_GROUPS or seeds < LEAST_SEEDS:
        return None
    from scipy.stats import t

    of_seeds = noise.seed**2 / seeds + noise.both**2 / (seeds * groups)
    of_groups = noise.group**2 / groups + noise.both**2 / (seeds * groups)
    variance = of_seeds + of_groups - noise.both**2 / (seeds * groups)
    freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_groups**2 / (groups - 1))
    return float((t.ppf((1 + confidence) / 2, freedom) + t.ppf(POWER, freedom)) * math.sqrt(variance))


def measured(values: Floats, groups: tuple[str, ...]) -> Noise:
    """The parts of the variance of differences (seeds, images), by the moments of a two-way layout without repetition.

    Raises ValueError where there are fewer than two seeds or groups.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    if len(values) < 2 or len(names) < 2:
        raise ValueError(f"{len(values)} seeds and {len(names)} groups: two of each are needed")
    cells = np.stack([np.bincount(index, row) for row in values]) / np.bincount(index)
    by_seed, by_group = cells.mean(axis=1), cells.mean(axis=0)
    rest = cells - by_seed[:, None] - by_group + cells.mean()
    seeds, count = cells.shape
    both = float((rest**2).sum()) / ((seeds - 1) * (count - 1))
    seed = max(0.0, float(by_seed.var(ddof=1)) - both / count)
    group = max(0.0, float(by_group.var(ddof=1)) - both / seeds)
    return Noise(math.sqrt(seed), math.sqrt(group), math.sqrt(both))
