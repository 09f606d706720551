"""Slots go to the trials with the most probability to be the best of their choice, by what the rest of them costs.

The probability is that of `search.curve_model`. Where a further trial would only slow down the promising, a slot stays
empty. Every answer follows from stored trials alone.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from search.curve_model import RungModel, chances, rungs_of
from search.promotion import ArmTrials, Pausing, Turn

FORGONE = 0.02
"""The probability that the best of a choice is among all of its trials that are left at rungs for good."""
NEW = 0.1
"""What a new trial's probability to beat all of its choice counts beside that of a trial with a curve."""
SHARE = 0.35
"""The part of a whole run that a new trial takes: most are paused early."""
LEAST_NEW = 0.02
"""Its probability at least: no model knows what nobody has tried."""
SHARED = 1.16
"""What teacher and data cost an epoch, in epochs of the widest student alone (`benchmarks.time_to_answer`)."""
GFLOPS = "model.gflops"
"""The attribute of a trial that says what its network costs; seconds grow about with its root, as with the width."""


@dataclass(frozen=True)
class Judgement:
    """What the curves of an arm say."""

    chance: dict[int, float] = field(default_factory=dict)
    """The probability of each trial with a curve to be the best of its choice, by number; pruned ones have none."""
    best: set[int] = field(default_factory=set)
    """The trial of each choice with the highest one."""
    further: dict[Hashable, float] = field(default_factory=dict)
    """By choice, the probability of a new trial to be better than all."""
    begun: Counter[Hashable] = field(default_factory=Counter)
    """By choice, how many trials were begun."""
    own: dict[int, float] = field(default_factory=dict)
    """What an epoch of each trial costs beside what all share, by number: 1 of the widest."""
    own_of: dict[Hashable, float] = field(default_factory=dict)
    """The mean of that, by choice."""


@dataclass(frozen=True)
class CurveRule(Pausing):
    """The rule `curves`, of runs of at most `epochs` epochs.

    first: the first rung, below `epochs`; each further one is `factor` times the one before. startup: so many trials of
    each choice are begun before all else. idle_below: a slot stays empty where a further trial's probability, by what
    it costs, is below so many times that of the trials beside it, by what they and all that they share cost; 0 fills
    every slot.
    """

    epochs: int
    first: int
    factor: float
    startup: int
    idle_below: float

    @property
    def rungs(self) -> tuple[int, ...]:
        """See `Pausing`."""
        return rungs_of(self.epochs, self.first, self.factor)[:-1]

    @property
    def leaves_slots_empty(self) -> bool:
        """See `Pausing`."""
        return self.idle_below > 0.0

    def promising(self, arm: ArmTrials) -> list[FrozenTrial]:
        """See `Pausing`. The best of each choice is always worth its end, however many share its probability."""
        return self._worth(arm, self._judged(arm))

    def goes_on(self, arm: ArmTrials, trial: FrozenTrial, beside: Collection[int], slots: int) -> bool:
        """See `Pausing`: where it has a slot if its worker fills those of its trials at rungs anew, from all that are
        paused, from these and from new ones."""
        judged = self._judged(arm)
        standing = [each for each in self._worth(arm, judged) if self._undecided(arm, each)]
        stay = [each for each in arm.trials if each._trial_id in beside and not self._undecided(arm, each)]
        stay = [each for each in stay if each._trial_id != trial._trial_id]
        chosen, _ = self._filled(arm, judged, stay, standing, max(slots - len(stay), 1))
        return any(each is not None and each._trial_id == trial._trial_id for each in chosen)

    def turn(self, arm: ArmTrials, paused: Collection[int], beside: Collection[int]) -> Turn:
        """See `Pausing`. A worker that holds nothing of this arm leaves no slot empty."""
        judged = self._judged(arm)
        stay = [each for each in arm.trials if each._trial_id in beside]
        waiting = [each for each in self._worth(arm, judged) if each._trial_id in paused]
        chosen, empty = self._filled(arm, judged, stay, waiting, 1)
        if not chosen:
            return Turn(empty=empty)
        return Turn(new=True) if chosen[0] is None else Turn([chosen[0]])

    def _undecided(self, arm: ArmTrials, trial: FrozenTrial) -> bool:
        """Whether a trial stands at a rung from which nobody has let it go on: it is paused, or judged in a moment."""
        return trial._trial_id not in arm.passed and self.rung_of(trial) is not None

    def _worth(self, arm: ArmTrials, judged: Judgement) -> list[FrozenTrial]:
        """The trials at rungs that are worth more epochs, the best first: all but the least likely of each choice, as
        many as hold its best with a probability of `FORGONE` together."""
        standing: dict[Hashable, list[FrozenTrial]] = defaultdict(list)
        for trial in arm.trials:
            if trial.state == TrialState.RUNNING and trial.number in judged.chance and self.rung_of(trial) is not None:
                standing[arm.choice_of(trial)].append(trial)
        worth: list[FrozenTrial] = []
        for rivals in standing.values():
            left = 0.0
            for trial in sorted(rivals, key=lambda each: (judged.chance[each.number], -each.number)):
                left += judged.chance[trial.number]
                if left > FORGONE or trial.number in judged.best:
                    worth.append(trial)
        density = {t.number: self._rate(arm, t, judged) / judged.own[t.number] for t in worth}
        return sorted(worth, key=lambda trial: (-density[trial.number], trial.number))

    def _rate(self, arm: ArmTrials, trial: FrozenTrial, judged: Judgement) -> float:
        """A trial's probability by the epochs that it still takes; without a curve it is as a new one."""
        if trial.number not in judged.chance:
            return self._hope(arm.choice_of(trial), judged)
        return judged.chance[trial.number] / max(self.epochs - max(trial.intermediate_values), 1)

    def _hope(self, choice: Hashable, judged: Judgement) -> float:
        """The same of a new trial of a choice."""
        return NEW * max(judged.further.get(choice, 1.0), LEAST_NEW) / (self.epochs * SHARE)

    def _filled(
        self,
        arm: ArmTrials,
        judged: Judgement,
        stay: Sequence[FrozenTrial],
        waiting: Sequence[FrozenTrial],
        free: int,
    ) -> tuple[list[FrozenTrial | None], bool]:
        """What the free slots of a worker get, in this order, beside the trials that stay; None is a new trial.

        waiting: trials at rungs, the best first. The second value: whether a slot was left empty though something was
        there to be trained.
        """
        gain = sum(self._rate(arm, trial, judged) for trial in stay)
        cost = SHARED + sum(judged.own[trial.number] for trial in stay)
        begun, coming, left = judged.begun.copy(), list(arm.coming), list(waiting)
        chosen: list[FrozenTrial | None] = []
        while len(chosen) < free:
            offers: list[tuple[float, float, FrozenTrial | None]] = []
            if left:
                offers.append((self._rate(arm, left[0], judged), judged.own[left[0].number], left[0]))
            if coming:
                offers.append((self._hope(coming[0], judged), judged.own_of.get(coming[0], 1.0), None))
            if not offers:
                return chosen, False
            first = bool(coming) and begun[coming[0]] < self.startup
            more, own, trial = offers[-1] if first else max(offers, key=lambda offer: offer[0] / offer[1])
            if (stay or chosen) and not first and more / own < self.idle_below * gain / cost:
                return chosen, True
            chosen.append(trial)
            if trial is None:
                begun[coming.pop(0)] += 1
            else:
                del left[0]
            gain, cost = gain + more, cost + own
        return chosen, False

    def _judged(self, arm: ArmTrials) -> Judgement:
        judged, model = Judgement(), RungModel((*self.rungs, self.epochs))
        by_choice: dict[Hashable, list[FrozenTrial]] = defaultdict(list)
        for trial in arm.trials:
            if trial.state not in (TrialState.FAIL, TrialState.WAITING):
                by_choice[arm.choice_of(trial)].append(trial)
        _count(judged, by_choice)
        begun = sorted((trial for trials in by_choice.values() for trial in trials), key=lambda trial: trial.number)
        rows = {t.number: row for t in begun if (row := _row(model, t, minimize=arm.minimize))}
        # A trial that has no number where it stands has collapsed: it is the best of nothing.
        judged.chance.update((number, 0.0) for number, row in rows.items() if math.isnan(row[-1]))
        known = [number for number in rows if number not in judged.chance]
        if not known:
            return judged
        mean, deviation = model.ends([rows[number] for number in known])
        place = {number: index for index, number in enumerate(known)}
        for choice, trials in by_choice.items():
            # What was pruned cannot become the best any more; what it showed is in the lines.
            rivals = [t.number for t in trials if t.number in place and t.state != TrialState.PRUNED]
            if rivals:
                at = [place[number] for number in rivals]
                of_choice = chances(mean[at], deviation[at])
                judged.chance.update(zip(rivals, map(float, of_choice.best), strict=True))
                judged.best.add(rivals[int(of_choice.best.argmax())])
                judged.further[choice] = of_choice.further
        return judged


def _count(judged: Judgement, by_choice: Mapping[Hashable, Sequence[FrozenTrial]]) -> None:
    """Begun trials and what they cost, by choice."""
    size = {trial.number: _size(trial) for trials in by_choice.values() for trial in trials}
    widest = max((each for each in size.values() if each is not None), default=1.0)
    for choice, trials in by_choice.items():
        judged.begun[choice] = len(trials)
        known = [each / widest for trial in trials if (each := size[trial.number]) is not None]
        judged.own_of[choice] = sum(known) / len(known) if known else 1.0
        for trial in trials:
            own = size[trial.number]
            judged.own[trial.number] = judged.own_of[choice] if own is None else own / widest


def _row(model: RungModel, trial: FrozenTrial, *, minimize: bool) -> list[float]:
    """A trial's scores at rungs, higher is better; what is no finite number is NaN."""
    end = trial.values[0] if trial.state == TrialState.COMPLETE else None
    row = model.row(trial.intermediate_values, end, minimize=minimize)
    return [score if math.isfinite(score) else math.nan for score in row]


def _size(trial: FrozenTrial) -> float | None:
    """What a trial's network costs, about in proportion to the seconds of a step; None where nobody wrote it."""
    gflops = trial.user_attrs.get(GFLOPS)
    return math.sqrt(gflops) if isinstance(gflops, int | float) and 0.0 < gflops < math.inf else None
