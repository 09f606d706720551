"""The smallest gain that a confirmation can show, said before anything is trained."""

import math
from dataclasses import dataclass

from search.answer.crossed import LEAST_GROUPS, LEAST_SEEDS


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the paired difference of two networks' scores of one image with one seed, by where they
    come from. The defaults are those of `benchmarks/coverage.py`, from students of 0.1 to 0.5 M parameters on polyps.
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
