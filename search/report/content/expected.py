"""The best of n trials, on average, so that searches with unequal budgets can be compared."""

import math
from collections.abc import Sequence

import numpy as np

MOST = 48
"""Values of n that a curve has at most."""


def expected_best(scores: Sequence[float], n: int, *, maximize: bool = True) -> float:
    """The mean, over all sets of n of these scores, of the set's best; n from 1 to len(scores).

    With the N scores in rising order it is the sum over i of x_i C(i - 1, n - 1) / C(N, n): draws without replacement,
    unbiased for the best of n new draws, where draws with replacement are too low (Tang et al. 2020, "Showing Your Work
    Doesn't Always Work", section 3; the question is that of Dodge et al. 2019, "Show Your Work").
    """
    ordered = np.sort(np.asarray(scores, dtype=float) * (1 if maximize else -1))
    count = len(ordered)
    if not 1 <= n <= count:
        raise ValueError(f"n = {n}: from 1 to {count} scores")
    places = np.arange(n, count + 1)
    chances = np.exp(_log_choose(places - 1, n - 1) - _log_choose(np.array([count]), n))
    return float(ordered[n - 1 :] @ chances) * (1 if maximize else -1)


def curve(scores: Sequence[float], *, maximize: bool = True) -> list[tuple[int, float]]:
    """(n, expected best of n) for some n from 1 to all, denser where the curve bends."""
    count = len(scores)
    if not count:
        return []
    steps = sorted({max(1, round(math.exp(x))) for x in np.linspace(0.0, math.log(count), MOST)} | {count})
    return [(n, expected_best(scores, n, maximize=maximize)) for n in steps]


def _log_choose(of: np.ndarray, n: int) -> np.ndarray:
    from scipy.special import gammaln

    found: np.ndarray = gammaln(of + 1) - gammaln(n + 1) - gammaln(of - n + 1)
    return found
