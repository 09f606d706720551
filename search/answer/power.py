"""The smallest gain that a confirmation can show, said before anything is trained and, with its own noise, after it."""

import math
from dataclasses import dataclass

import numpy as np

from search.answer.uncertainty import LEAST_GROUPS, LEAST_SEEDS, Floats


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the paired difference of two networks' scores of one image with one seed, by where they
    come from. `python -m benchmarks.coverage --study NAME` measures those of a confirmation.
    """

    seed: float
    """What a seed changes on all images alike."""
    group: float
    """What is a patient's or sequence's own, whatever the seed."""
    both: float
    """What belongs to one seed and one group."""


LONG = Noise(seed=0.006, group=0.05, both=0.09)
"""Assumed of trainings that run until the score stands still, at full size: no measured one is behind it."""
SHORT = Noise(seed=0.065, group=0.134, both=0.167)
"""Measured: 5 seeds of 12 epochs on 180 images of 64 pixels (colonoscopy, 40 test images)."""
POWER = 0.8
CLAIMS = 3
"""That are corrected together: the first of them is held against a third of what is allowed to be wrong."""


def smallest_gain(
    groups: int, seeds: int, noise: Noise, confidence: float = 0.95, claims: int = CLAIMS
) -> float | None:
    """The true difference that is shown with a probability of 80 %, whatever the other claims say.

    None where no interval can be estimated. groups: of the test part, taken as of equal size. The interval's formula
    (`search.answer.uncertainty`) with its variance known, at the first step of Holm's correction over so many claims.
    """
    if groups < LEAST_GROUPS or seeds < LEAST_SEEDS:
        return None
    from scipy.stats import t

    of_seeds = noise.seed**2 / seeds + noise.both**2 / (seeds * groups)
    of_groups = noise.group**2 / groups + noise.both**2 / (seeds * groups)
    variance = of_seeds + of_groups - noise.both**2 / (seeds * groups)
    if variance == 0:
        return 0.0
    freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_groups**2 / (groups - 1))
    wrong = (1 - confidence) / claims
    return float((t.ppf(1 - wrong / 2, freedom) + t.ppf(POWER, freedom)) * math.sqrt(variance))


def measured(values: Floats, groups: tuple[str, ...]) -> Noise:
    """The parts of the variance of differences (seeds, images), by the moments of a two-way layout without repetition.

    An image without a value for every seed is left out. Raises ValueError where there are fewer than two seeds or
    groups.
    """
    known = np.isfinite(values).all(axis=0)
    values = values[:, known]
    names, index = np.unique(np.asarray(groups)[known], return_inverse=True)
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
