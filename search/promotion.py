"""Pause and promote: at a rung a trial is paused, and goes on later where it is among the promising of its choice.

Asynchronous successive halving (Li et al. 2020, algorithm 2) with two changes. A trial that is not promoted is paused
in place of being ended, so a rung's verdict is never final. And a score at a rung is the mean over the epochs that lead
to it, since the noise of one epoch is often larger than the difference between two good trials.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

SMOOTH = 0.35
"""The share of the epochs up to a rung, the last ones, over which a score at that rung is a mean."""
LEAST = 2
"""Trials of a choice that go on from each rung where no new ones are admitted, however few there are."""

ChoiceOf = Callable[[FrozenTrial], Hashable]
"""What a trial is compared within: its choice along the front."""


@dataclass(frozen=True)
class Promotion(BasePruner):
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

    def promising(
        self, trials: Sequence[FrozenTrial], *, minimize: bool, choice_of: ChoiceOf, last: bool
    ) -> list[FrozenTrial]:
        """The trials that stand at a rung and are worth more epochs, the best first.

        trials: all of a study. last: whether no new trial is admitted any more, and the best of each rung go on though
        too few stand beside them. Of two the one at the higher rung is better, then the one of the higher rank.
        """
        groups: dict[Hashable, list[FrozenTrial]] = defaultdict(list)
        for trial in trials:
            if trial.state not in (TrialState.FAIL, TrialState.WAITING) and trial.intermediate_values:
                groups[choice_of(trial)].append(trial)
        passing: list[tuple[int, int, int, FrozenTrial]] = []
        for rivals in groups.values():
            for rung in self.rungs:
                ranked = self._ranked(rivals, rung, minimize=minimize)
                most = len(ranked) // self.reduction
                for rank, trial in enumerate(ranked[: max(most, LEAST) if last else most]):
                    if trial.state == TrialState.RUNNING and self.rung_of(trial) == rung:
                        passing.append((-rung, rank, trial.number, trial))
        return [trial for *_, trial in sorted(passing, key=lambda entry: entry[:3])]

    def _ranked(self, trials: Sequence[FrozenTrial], rung: int, *, minimize: bool) -> list[FrozenTrial]:
        """The trials that came to a rung, the best there first; NaN is the worst of all."""
        there: list[tuple[float, int, FrozenTrial]] = []
        for trial in trials:
            score = score_at(trial.intermediate_values, rung)
            if score is not None:
                place = math.inf if math.isnan(score) else score if minimize else -score
                there.append((place, trial.number, trial))
        return [trial for *_, trial in sorted(there, key=lambda entry: entry[:2])]


def score_at(values: Mapping[int, float], rung: int) -> float | None:
    """A trial's score at a rung from its scores by epoch; None where it has not come so far.

    The mean over the last `SMOOTH` of the epochs up to the rung; where none of these was validated, the first score at
    the rung or beyond it.
    """
    beyond = [epoch for epoch in values if epoch >= rung]
    if not beyond:
        return None
    near = [value for epoch, value in values.items() if rung - max(int(rung * SMOOTH), 1) < epoch <= rung]
    return sum(near) / len(near) if near else values[min(beyond)]
