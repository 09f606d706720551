"""The open spread: a trial goes to the choice of the front whose best one more trial is expected to raise most.

What is wanted of a search along a front is the best of every choice. The expected best of n draws rises with n by steps
that shrink, so trials that go one by one where the next step is largest raise the sum of all bests most (Fox 1966,
marginal analysis). The step itself is estimated from a choice's own newest scores (`Tail`). Searches for the largest
of many draws are known as the max k-armed bandit (Cicirello and Smith 2005) or extreme bandits (Carpentier and Valko
2014); these play for one best over all arms, a front for the best of each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Self

from optuna.trial import FrozenTrial, TrialState

from search.samplers.front import FrontChoice, Point, fits, point_of, turns
from search.samplers.storage_view import Scalar

WINDOW = 24
"""Ended trials of a choice, the newest, from which the scale of its scores is taken."""
TOP = 5
"""Scores above a threshold that give the scale, where there are so many; the threshold is the next score. The scale of
all choices counts as many."""


@dataclass(frozen=True)
class Tail:
    """The upper end of a choice's newest scores, in the score's unit, and how often something was drawn for it."""

    scale: float
    """Mean excess of a further score over a high threshold; at least 0."""
    above: int
    """Scores that gave the scale."""
    draws: int
    """All its trials that have ended, with a score or without."""

    def towards(self, usual: float) -> Self:
        """The same with the scale drawn towards that of all choices, since few scores give it and an estimate that is
        too small by chance would not be corrected: its choice gets few trials.

        The mean of an exponential scale after `above` excesses, where it was expected to be `usual` as surely as `TOP`
        excesses say it (inverse gamma; Morris 1983, empirical Bayes).
        """
        scale = (self.above * self.scale + TOP * usual) / (self.above + TOP)
        return replace(self, scale=scale)

    def gain(self, running: int = 0) -> float:
        """By how much one more trial is expected to raise the best, once `running` trials more have ended.

        Of n exchangeable draws and a further one, each is the largest with probability 1 / (n + 1), whatever their
        distribution. Where its upper tail falls off exponentially with scale s, the largest lies above the second by s
        in the mean. Hence

            gain = s / (n + running + 1),

        which is the expected largest of n + running + 1 draws less that of n + running. The draws of a sampler that
        learns are not exchangeable: the newer ones are better. What it can still gain shows in the newest: while it
        learns they lie far apart, and one that has converged proposes scores close to each other, so that s is small.
        """
        return self.scale / (self.draws + running + 1)


def tail(ended: Sequence[float | None]) -> Tail | None:
    """The tail of the scores of a choice's ended trials, in the order of their numbers; higher is better.

    None stands for a trial without a final score, pruned or paused: it is a draw that was not better. The newest are
    the last `WINDOW` trials, and further ones until `TOP` + 1 scores are among them. The scale is the mean of the
    `TOP` best less the next best: of an exponential tail the i-th largest spacing times i is distributed as an excess
    (Rényi 1953), so this is without bias. Excesses over a high threshold are exponential or generalised Pareto in the
    limit (Pickands 1975); for the latter the estimate is off by a factor, which choices with tails of the same shape
    share. None with less than two scores, which show no spacing.
    """
    scored = [place for place, score in enumerate(ended) if score is not None]
    if len(scored) < 2:
        return None
    first = min(max(len(ended) - WINDOW, 0), scored[-TOP - 1] if len(scored) > TOP else 0)
    newest = sorted((score for score in ended[first:] if score is not None), reverse=True)
    above = newest[: min(TOP, len(newest) - 1)]
    return Tail(sum(above) / len(above) - newest[len(above)], len(above), len(ended))


@dataclass(frozen=True)
class Share:
    """What a choice of the front has had so far."""

    ended: tuple[float | None, ...]
    """The final scores of its ended trials by number, higher is better; None of one that was pruned or is paused."""
    running: int
    """Trials that have begun, or wait in the queue for this choice, and have not ended."""
    seconds: tuple[float, ...]
    """Device seconds of its ended trials, as far as they are known."""

    @property
    def begun(self) -> int:
        """All its trials; failed ones are none."""
        return len(self.ended) + self.running


def open_choice(
    front: FrontChoice,
    number: int,
    others: Sequence[FrozenTrial],
    *,
    start: int,
    minimize: bool,
    given: Mapping[str, Scalar] | None = None,
    seconds: Mapping[int, float] | None = None,
) -> Point:
    """The choice of trial `number`, from what the study's other trials are and scored; nothing is drawn.

    others: paused ones as PRUNED. start: trials that each choice has begun before scores count. given: parameters of
    the front that the trial has already; only choices with these are dealt. seconds: device seconds of finished trials
    by trial id, where the gain per hour decides, else None. Raises ValueError where no choice has what is given.

    1. A choice that has begun less than `start` trials, the one with the fewest.
    2. A choice that would fall below half of an equal share: after n trials over k choices each has at least
       n / 2k, rounded down, whatever the scores say; the last k trials of every 2k go to those that lack one.
    3. The choice with the largest gain (`Tail.gain`), its scale drawn towards the median of all (`Tail.towards`); one
       with less than two scores has that median. Per hour the gain is divided by the median of the device seconds
       of the choice's trials; without any, by that of all choices.

    Ties go by the permutation of the equal spread, so that until `start` both deal the same where no trial fails or is
    enqueued.
    """
    order = [place for place in turns(front, number) if fits(front.points[place], given or {})]
    if not order:
        raise ValueError(f"no choice of the front has {dict(given or {})}")
    shares = shares_of(front, others, minimize=minimize, seconds=seconds)
    count, begun = len(front.points), sum(share.begun for share in shares)
    least = max(start, (begun + count) // (2 * count))
    behind = [place for place in order if shares[place].begun < least]
    if behind:
        return front.points[min(behind, key=lambda place: shares[place].begun)]
    gains = _gains(shares)
    costs = [1.0] * count if seconds is None else _costs(shares)
    return front.points[max(order, key=lambda place: gains[place] / costs[place])]


def shares_of(
    front: FrontChoice, trials: Sequence[FrozenTrial], *, minimize: bool, seconds: Mapping[int, float] | None = None
) -> list[Share]:
    """What each choice has had, in the order of the front's points; trials whose choice is open count nowhere."""
    ended: list[list[float | None]] = [[] for _ in front.points]
    running = [0] * len(front.points)
    spent: list[list[float]] = [[] for _ in front.points]
    for trial in sorted(trials, key=lambda trial: trial.number):
        point = None if trial.state == TrialState.FAIL else point_of(front, trial)
        if point is None:
            continue
        place = front.points.index(point)
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            running[place] += 1
            continue
        ended[place].append(_score(trial, minimize=minimize))
        if seconds is not None and seconds.get(trial._trial_id, 0.0) > 0.0:
            spent[place].append(seconds[trial._trial_id])
    return [Share(tuple(e), r, tuple(s)) for e, r, s in zip(ended, running, spent, strict=True)]


def _score(trial: FrozenTrial, *, minimize: bool) -> float | None:
    if trial.state != TrialState.COMPLETE or trial.value is None or not math.isfinite(trial.value):
        return None
    return -trial.value if minimize else trial.value


def _gains(shares: Sequence[Share]) -> list[float]:
    tails = [tail(share.ended) for share in shares]
    known = [each.scale for each in tails if each is not None]
    usual = median(known) if known else 1.0
    return [
        (each or Tail(usual, 0, len(share.ended))).towards(usual).gain(share.running)
        for each, share in zip(tails, shares, strict=True)
    ]


def _costs(shares: Sequence[Share]) -> list[float]:
    every = [second for share in shares for second in share.seconds]
    usual = median(every) if every else 1.0
    return [median(share.seconds) if share.seconds else usual for share in shares]
