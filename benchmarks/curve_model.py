"""Where an unfinished trial will end: a distribution of its final score, from its scores at rungs and its rivals'.

Scores at successive rungs are a Markov chain: the score at the next rung is a line in the score at this one, with noise
of Student's t, and both are learned from all trials that passed both rungs. A trial's end follows by going through the
rungs that it has not reached, so it has a mean and a variance in closed form, and what only few trials have shown is
uncertain. A prior says that a score stays where it is (slope 1). Predicting the end from parts of curves by regression
is that of Baker et al. (2017, Accelerating neural architecture search using performance prediction); deciding by the
probability to beat the best, that of Domhan et al. (2015), whose power laws and other families were tried first: on
the recorded curves, which stay flat through the warm-up of the learning rate and rise then, they erred by more in tries
of which no table was kept. Nothing is drawn: the same scores give the same answer. Higher is better.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.promotion import score_at

Array = NDArray[np.float64]

PRIOR_TRIALS = 1.0
"""How many trials the prior of a noise counts as."""
PRIOR_NOISE = 0.3
"""That noise, as a share of the spread of the scores at the rung."""
SLOPE_DEVIATION = 0.3
"""How far a slope may be from 1."""
FREEDOM = 4.0
"""Degrees of freedom of the noise: bad trials err by far more than good ones."""
ROUNDS = 4
"""Of weights and least squares (Lange, Little and Taylor 1989)."""


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
        spread = (1 + self.slope) ** 2 * variance + self.noise + gain + 2 * away * both + away**2 * slope
        return mean + self.gain + self.slope * away, spread


class RungModel:
    """Curves of runs of `epochs` epochs, looked at on `rungs`, of which the last is the last epoch."""

    def __init__(self, rungs: tuple[int, ...]) -> None:
        self.rungs = rungs

    def row(self, curve: list[float]) -> list[float]:
        """A trial's scores at the rungs that it reached; at the end its best score, which is what it is worth."""
        values = dict(enumerate(curve, 1))
        scores = [score_at(values, rung) for rung in self.rungs[:-1] if rung <= len(curve)]
        ended = [max(curve)] if len(curve) >= self.rungs[-1] else []
        return [score for score in scores if score is not None] + ended

    def ends(self, rows: list[list[float]]) -> tuple[Array, Array]:
        """Means and standard deviations of the final scores. rows: of `row`, none empty."""
        table = np.full((len(rows), len(self.rungs)), np.nan)
        for index, row in enumerate(rows):
            table[index, : len(row)] = row
        reached = np.array([len(row) for row in rows])
        mean = table[np.arange(len(rows)), reached - 1]
        variance = np.zeros(len(rows))
        for rung in range(len(self.rungs) - 1):
            if (reached > rung).any():
                behind = reached - 1 <= rung
                line = _line(table[:, rung], table[:, rung + 1])
                mean[behind], variance[behind] = line.through(mean[behind], variance[behind])
        return mean, np.sqrt(np.maximum(variance, 0.0))


def _line(here: Array, there: Array) -> Line:
    """The step from one rung to the next, by the trials that have a score at both."""
    scores = here[~np.isnan(here)]
    middle = float(np.median(scores))
    spread = max(1.4826 * float(np.median(np.abs(scores - middle))) if len(scores) > 2 else 0.05, 1e-3)
    both = ~np.isnan(here) & ~np.isnan(there)
    centre = float(np.median(here[both])) if both.any() else middle
    away, gains = here[both] - centre, (there - here)[both]
    noise = (PRIOR_NOISE * spread) ** 2
    prior, weights = PRIOR_TRIALS * noise, np.ones(len(away))
    p_gain, p_slope = 1 / (2 * spread) ** 2, 1 / SLOPE_DEVIATION**2
    gain, slope, covariance = 0.0, 0.0, (1 / p_gain, 0.0, 1 / p_slope)
    for _ in range(ROUNDS if both.any() else 0):
        a = weights.sum() / noise + p_gain
        b = (weights * away).sum() / noise
        d = (weights * away**2).sum() / noise + p_slope
        p, q = (weights * gains).sum() / noise, (weights * away * gains).sum() / noise
        determinant = a * d - b * b
        gain, slope = (d * p - b * q) / determinant, (a * q - b * p) / determinant
        covariance = (d / determinant, -b / determinant, a / determinant)
        rest = gains - gain - slope * away
        unsure = covariance[0] + 2 * away * covariance[1] + away**2 * covariance[2]
        noise = max(float(prior + (weights * (rest**2 + unsure)).sum()) / (PRIOR_TRIALS + len(away)), 1e-8)
        weights = (FREEDOM + 1) / (FREEDOM + rest**2 / noise)
    return Line(centre, float(gain), float(slope), tuple(map(float, covariance)), float(noise))  # type: ignore[arg-type]
