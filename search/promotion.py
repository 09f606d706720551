"""Pause and promote: at a rung a trial is paused, and goes on later where it is among the promising of its choice.

`Pausing` is what every such rule answers. `Promotion` is asynchronous successive halving (Li et al. 2020, algorithm 2)
with two changes. A trial that is not promoted is paused in place of being ended, so a rung's verdict is never final.
And a score at a rung is the best one up to it, as a trial is worth its best epoch in the end: on curves of real small
trainings, which jump from epoch to epoch, it foretells the end better than the rung's own score or a mean before it
(`benchmarks/RESULTS.md`, "What a score at a rung is").
"""

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

LEAST = 2
"""Trials of a choice that go on from each rung where no new ones are admitted, however few there are."""

ChoiceOf = Callable[[FrozenTrial], Hashable]
"""What a trial is compared within: its choice along the front."""


@dataclass(frozen=True)
class ArmTrials:
    """The trials of one arm as a rule sees them."""

    trials: Sequence[FrozenTrial]
    """All of them, in the order of their numbers."""
    minimize: bool
    choice_of: ChoiceOf
    coming: Sequence[Hashable] = ()
    """The choices of the next new trials, in their order, as many as a worker may begin at once; none: no new trial is
    admitted any more."""
    passed: Collection[int] = ()
    """The ids of trials whose going on from their newest report is decided."""


@dataclass(frozen=True)
class Turn:
    """What a free slot of a worker gets: the first of these paused trials that nobody else takes, or a new one."""

    paused: Sequence[FrozenTrial] = ()
    new: bool = False
    """Whether a new trial may begin where no paused one was taken."""
    empty: bool = False
    """Whether the slot is left empty though something could be trained in it."""


class Pausing(BasePruner, ABC):
    """Pauses trials at rungs. Ended by nobody before the study's end, they go on when this says so.

    The same trials have the same answers in every process, in whatever order it asks.
    """

    epochs: int
    """Of the longest run."""

    @property
    def leaves_slots_empty(self) -> bool:
        """Whether a slot of a worker that holds trials may stay empty though something could be trained in it."""
        return False

    @property
    @abstractmethod
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials are paused, all before the last one."""

    @abstractmethod
    def promising(self, arm: ArmTrials) -> list[FrozenTrial]:
        """The trials that stand at a rung and are worth more epochs, the best first. Where no new trial is admitted and
        nothing runs, none means that the search is over, and a worker that holds nothing goes on with the first."""

    @abstractmethod
    def goes_on(self, arm: ArmTrials, trial: FrozenTrial, beside: Collection[int], slots: int) -> bool:
        """Whether a trial that came to a rung now goes on at once.

        beside: the ids of the other trials that its worker holds. slots: how many of this arm it may hold, this one
        included.
        """

    @abstractmethod
    def turn(self, arm: ArmTrials, paused: Collection[int], beside: Collection[int]) -> Turn:
        """What the next free slot of a worker gets. paused: the ids of paused trials. beside: of those it holds."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:  # noqa: ARG002 - Optuna's signature
        """False: a trial is paused here, and ended by nobody before the study's end."""
        return False

    def rung_of(self, trial: FrozenTrial) -> int | None:
        """The rung that the trial's newest report was the first to reach; None between rungs."""
        steps = sorted(trial.intermediate_values)
        if not steps:
            return None
        before = steps[-2] if len(steps) > 1 else 0
        passed = [rung for rung in self.rungs if before < rung <= steps[-1]]
        return passed[-1] if passed and steps[-1] < self.epochs else None


@dataclass(frozen=True)
class Promotion(Pausing):
    """Rungs at `first`, `first * reduction`, ...; one trial in `reduction` of a choice passes each.

    The first rung lies below `epochs`, the others in their first half: a pause shortly before the end spares little.
    """

    epochs: int
    first: int
    reduction: int

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs of all rungs."""
        rungs = [self.first] if self.first < self.epochs else []
        while rungs and 2 * rungs[-1] * self.reduction <= self.epochs:
            rungs.append(rungs[-1] * self.reduction)
        return tuple(rungs)

    def promising(self, arm: ArmTrials) -> list[FrozenTrial]:
        """See `Pausing`. Where no new trial is admitted, the best of each rung go on though too few stand beside them.
        Of two the one at the higher rung is better, then the one of the higher rank."""
        groups: dict[Hashable, list[FrozenTrial]] = defaultdict(list)
        for trial in arm.trials:
            if trial.state not in (TrialState.FAIL, TrialState.WAITING) and trial.intermediate_values:
                groups[arm.choice_of(trial)].append(trial)
        passing: list[tuple[int, int, int, FrozenTrial]] = []
        for rivals in groups.values():
            for rung in self.rungs:
                ranked = self._ranked(rivals, rung, minimize=arm.minimize)
                most = len(ranked) // self.reduction
                for rank, trial in enumerate(ranked[: most if arm.coming else max(most, LEAST)]):
                    if trial.state == TrialState.RUNNING and self.rung_of(trial) == rung:
                        passing.append((-rung, rank, trial.number, trial))
        return [trial for *_, trial in sorted(passing, key=lambda entry: entry[:3])]

    def goes_on(self, arm: ArmTrials, trial: FrozenTrial, beside: Collection[int], slots: int) -> bool:  # noqa: ARG002
        """See `Pausing`: where it is among the promising."""
        return any(each._trial_id == trial._trial_id for each in self.promising(arm))

    def turn(self, arm: ArmTrials, paused: Collection[int], beside: Collection[int]) -> Turn:  # noqa: ARG002
        """See `Pausing`: paused ones before new ones."""
        return Turn([trial for trial in self.promising(arm) if trial._trial_id in paused], new=True)

    def _ranked(self, trials: Sequence[FrozenTrial], rung: int, *, minimize: bool) -> list[FrozenTrial]:
        """The trials that came to a rung, the best there first; NaN is the worst of all."""
        there: list[tuple[float, int, FrozenTrial]] = []
        for trial in trials:
            for score in scores_at(trial.intermediate_values, (rung,), minimize=minimize):
                place = math.inf if math.isnan(score) else score if minimize else -score
                there.append((place, trial.number, trial))
        return [trial for *_, trial in sorted(there, key=lambda entry: entry[:2])]


def scores_at(values: Mapping[int, float], rungs: Sequence[int], *, minimize: bool) -> list[float]:
    """A trial's score at each of the rising rungs that it has reached, from its scores by epoch.

    The best up to the rung; where nothing was validated so early, the first score beyond it. NaN is no score, unless
    it is the newest one at a rung: a trial that has no number where it stands has collapsed.
    """
    steps = sorted(values)
    better = min if minimize else max
    scores, best, at = list[float](), math.nan, 0
    for rung in rungs:
        if not steps or steps[-1] < rung:
            break
        while at < len(steps) and steps[at] <= rung:
            score = values[steps[at]]
            best = score if math.isnan(best) else best if math.isnan(score) else better(best, score)
            at += 1
        newest = values[steps[max(at - 1, 0)]]
        scores.append(newest if at == 0 or math.isnan(newest) else best)
    return scores
