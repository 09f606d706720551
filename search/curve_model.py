"""Where an unfinished trial will end: a distribution of its final score, and the probability to be the best of all.

Scores at successive rungs, the best so far at each, are a Markov chain: the score at the next rung is a line in the
score at this one, fitted with the tails of Student's t, and noise; both are learned from all trials that passed both
rungs. A trial's end follows by going through the rungs that it has not reached, so it has a mean and a
variance in closed form, and what only few trials have shown is uncertain. A prior says that a score stays where it is
(slope 1). Predicting the end from parts of curves by regression is that of Baker et al. (2017, Accelerating neural
architecture search using performance prediction); deciding by the probability to beat the best, that of Domhan et al.
(2015), whose power laws and other families were tried first: on the recorded curves, which stay flat through the
warm-up of the learning rate and rise then, they erred by more in tries of which no table was kept. Nothing is drawn:
the same scores give the same answer. Higher is better, in any unit.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from search.promotion import scores_at

Array = NDArray[np.float64]

PRIOR_TRIALS = 0.1
"""How many trials the prior of a noise counts as: it is gone after the first few."""
PRIOR_NOISE = 0.6
"""That noise, as a share of the spread of the scores at the rung."""
PRIOR_SPREAD = 0.05
"""That spread, as a share of a usual score, where fewer than three trials show one."""
SLOPE_DEVIATION = 0.3
"""How far a slope may be from 1."""
FREEDOM = 4.0
"""Degrees of freedom of the noise by which a line is fitted: bad trials err by far more than good ones."""
ROUNDS = 4
"""Of weights and least squares (Lange, Little and Taylor 1989)."""
FARTHEST = 1e6
"""A score is taken for at most so many usual ones, so that squares stay numbers."""
CELLS = 160
"""Into which the scores that the best may have are divided."""
REACH = 6.0
"""Deviations beyond which nobody ends."""
_STEPS = np.linspace(-REACH, REACH, 25)


@cache
def rungs_of(epochs: int, first: int, factor: float) -> tuple[int, ...]:
    """Epochs from `first` on, each `factor` times the one before, and the last epoch."""
    rungs, at = list[int](), float(first)
    while at < epochs:
        rungs.append(round(at))
        at = max(at * factor, at + 1)
    return (*sorted({rung for rung in rungs if rung < epochs}), epochs)


@dataclass(frozen=True)
class Line:
    """A step from one rung to the next: gain and slope around a centre, with their covariance and the noise."""

    centre: float
    gain: float
    slope: float
    covariance: tuple[float, float, float]
    """Of gain; of gain and slope; of slope."""
    noise: float

    def through(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Distributions of scores at the next rung."""
        away = mean - self.centre
        gain, both, slope = self.covariance
        known = self.noise + gain + 2 * away * both + (away**2 + variance) * slope
        return mean + self.gain + self.slope * away, (1 + self.slope) ** 2 * variance + known


class RungModel:
    """Curves of runs of `rungs[-1]` epochs at most, looked at on `rungs`, of which the last is the last epoch."""

    def __init__(self, rungs: tuple[int, ...]) -> None:
        self.rungs = rungs

    def row(self, values: Mapping[int, float], end: float | None = None, *, minimize: bool = False) -> list[float]:
        """A trial's scores at the rungs that it reached, from its scores by epoch, as `scores_at` has them; at the end
        what it is worth. A run that ended before the last rungs has NaN there. Negative of what is minimized.

        end: what a run that is over is worth, its best score; None where it is not over.
        """
        sign = -1.0 if minimize else 1.0
        row = [sign * score for score in scores_at(values, self.rungs[:-1], minimize=minimize)]
        if end is None:
            return row
        return [*row, *[math.nan] * (len(self.rungs) - 1 - len(row)), sign * end]

    def table(self, rows: Sequence[Sequence[float]]) -> Array:
        """Rows under one another, NaN where a trial has not come so far: trials x rungs."""
        table = np.full((len(rows), len(self.rungs)), np.nan)
        for index, row in enumerate(rows):
            table[index, : len(row)] = row
        return table

    def lines(self, table: Array) -> list[Line | None]:
        """The step from each rung to the next; None from one that nobody reached. table: scores, finite or NaN."""
        steps = itertools.pairwise(table.T)
        return [None if np.isnan(here).all() else _line(here, there) for here, there in steps]

    def ends(self, rows: Sequence[Sequence[float]]) -> tuple[Array, Array]:
        """Means and standard deviations of the final scores, which are certain (0) of runs that are over.

        rows: of `row`, none empty and each with a number in its last place; NaN before is a score that is not known.
        """
        reached = np.array([len(row) for row in rows])
        table = self.table(rows)
        unit = usual(table)
        table = np.clip(table / unit, -FARTHEST, FARTHEST)
        mean = table[np.arange(len(rows)), reached - 1]
        variance = np.zeros(len(rows))
        for rung, line in enumerate(self.lines(table)):
            if line is not None:
                behind = reached - 1 <= rung
                mean[behind], variance[behind] = line.through(mean[behind], variance[behind])
        return mean * unit, np.sqrt(np.maximum(variance, 0.0)) * unit


def usual(scores: Array) -> float:
    """The size of a usual score, by which all are divided: constants mean the same for Dice and for pixels."""
    sizes = np.abs(scores[np.isfinite(scores)])
    unit = float(np.median(sizes)) if len(sizes) else 0.0
    return unit if unit > 0.0 else float(sizes.max(initial=0.0)) or 1.0


def spread_of(scores: Array) -> float:
    """The standard deviation of most of some scores, by their median distance from the median."""
    return 1.4826 * float(np.median(np.abs(scores - np.median(scores))))


def _line(here: Array, there: Array) -> Line:
    """The step from one rung to the next, by the trials that have a score at both.

    The line itself is robust on both sides. Its noise counts in full what lies above: it is by such a jump that a trial
    which stood at a rung among others becomes the best.
    """
    scores = here[~np.isnan(here)]
    spread = max(spread_of(scores) if len(scores) > 2 else PRIOR_SPREAD, 1e-3)
    both = ~np.isnan(here) & ~np.isnan(there)
    centre = float(np.median(here[both] if both.any() else scores))
    away, gains = here[both] - centre, (there - here)[both]
    scale = noise = (PRIOR_NOISE * spread) ** 2
    prior, weights = PRIOR_TRIALS * noise, np.ones(len(away))
    p_gain, p_slope = 1 / (2 * spread) ** 2, 1 / SLOPE_DEVIATION**2
    gain, slope, covariance = 0.0, 0.0, (1 / p_gain, 0.0, 1 / p_slope)
    for _ in range(ROUNDS if both.any() else 0):
        a = weights.sum() / scale + p_gain
        b = (weights * away).sum() / scale
        d = (weights * away**2).sum() / scale + p_slope
        p, q = (weights * gains).sum() / scale, (weights * away * gains).sum() / scale
        determinant = a * d - b * b
        gain, slope = float((d * p - b * q) / determinant), float((a * q - b * p) / determinant)
        covariance = (float(d / determinant), float(-b / determinant), float(a / determinant))
        rest = gains - gain - slope * away
        squares = rest**2 + covariance[0] + 2 * away * covariance[1] + away**2 * covariance[2]
        scale, noise = (
            max(float(prior + (counts * squares).sum()) / (PRIOR_TRIALS + len(away)), 1e-8)
            for counts in (weights, np.where(rest > 0.0, 1.0, weights))
        )
        weights = (FREEDOM + 1) / (FREEDOM + rest**2 / scale)
    return Line(centre, gain, slope, covariance, noise)


@dataclass(frozen=True)
class Chances:
    """Who of some rivals ends best."""

    best: Array
    """The probability of each; they sum to 1."""
    further: float
    """The probability that one more, drawn like them, is better than all of them."""


def chances(mean: Array, deviation: Array) -> Chances:
    """Who ends best, by the integral over the score of the best one.

    mean, deviation: of the final scores, normal and independent, at least one; a deviation of 0 is a run that is over.
    Of equal ones that are over the first counts. How a further one ends follows the middle and spread of the means.
    """
    from scipy.special import ndtr  # a third of a second that no other command of this program needs

    over = deviation <= 0.0
    known = float(mean[over].max()) if over.any() else -math.inf
    low = max(known, float((mean - REACH * deviation).max()))
    may = ~over & (mean + REACH * deviation > low)
    best = np.zeros(len(mean))
    first = int(np.flatnonzero(over & (mean == known))[0]) if over.any() else 0
    middle, spread = float(np.median(mean)), max(spread_of(mean), 1e-4 * usual(mean))
    if not may.any():
        best[first] = 1.0
        return Chances(best, float(ndtr((middle - low) / spread)))
    m, d = mean[may, None], deviation[may, None]
    edges = _edges(m, d, low)
    below = ndtr((edges - m) / d)  # rivals x edges: each one's probability to end below
    all_below = below.prod(0)
    # Where the best one lies in a cell, each has its part by the density over the distribution there.
    parts = np.diff(below) / np.maximum(below[:, 1:] + below[:, :-1], 1e-300)
    sums = parts.sum(0)
    best[may] = (parts * np.where(sums > 0, np.diff(all_below) / np.where(sums > 0, sums, 1.0), 0.0)).sum(1)
    if over.any():
        best[first] = all_below[0]
    own = ndtr((edges - middle) / spread)
    further = (np.diff(own) * (all_below[1:] + all_below[:-1])).sum() / 2 + 1.0 - own[-1]
    return Chances(best / best.sum(), float(further))


def _edges(mean: Array, deviation: Array, low: float) -> Array:
    """Borders of cells from `low` up to where nobody ends, narrow where somebody's end is nearly certain."""
    ends = np.sort((mean + deviation * _STEPS).ravel())
    above = np.append(low, ends[ends > low])
    return np.unique(above[np.linspace(0, len(above) - 1, CELLS + 1).round().astype(int)])
