"""The arms of a search whose trials are paused at rungs: their rules over what is stored of them."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from search import samplers
from search.promotion import ArmTrials, Pausing, Turn
from search.pruners import passes
from search.spec.arms import Arm
from search.storage.leases import LeaseRow, Standing, paused_of
from search.storage.schema import HELD
from search.storage.searches import ArmRow
from search.storage.statements import Owner


@dataclass(frozen=True)
class PausingArms:
    """Rules by study id, with what they need of their arms."""

    arms: Mapping[int, Arm]
    pruners: Mapping[str, BasePruner]
    """By arm; those that pause are looked at."""
    fronts: Mapping[str, samplers.FrontChoice | None]
    studies: Mapping[str, optuna.Study]
    minimize: bool

    def rule(self, study_id: int) -> Pausing | None:
        """The rule of an arm that pauses trials; None of another arm."""
        pruner = self.pruners[self.arms[study_id].name]
        return pruner if isinstance(pruner, Pausing) else None

    def promising(self, rows: Sequence[LeaseRow], arms: Sequence[ArmRow]) -> list[LeaseRow]:
        """The paused ones of these leases that are worth more epochs, of each arm the best first.

        arms: as the database has them.
        """
        stands = paused_of(rows)
        worth: list[LeaseRow] = []
        for study_id in sorted({row.study_id for row in stands.values()}):
            rule = self.rule(study_id)
            if rule is not None:
                keys = [trial._trial_id for trial in rule.promising(self._seen(study_id, arms))]
                worth += [stands[key] for key in keys if key in stands]
        return worth

    def turns(self, standing: Standing, owner: Owner, later: Collection[int]) -> dict[int, Turn]:
        """What arms do with a free slot of this owner, by study id; no word on those that begin a new trial without a
        look at others. later: the ids of paused trials that get no slot now."""
        turns = {}
        for study_id in sorted(self.arms):
            rows = [row for row in standing.rows if row.study_id == study_id]
            paused = paused_of(rows).keys() - set(later)
            beside = [row.trial_id for row in rows if row.state == HELD and row.owner == owner.name]
            rule = self.rule(study_id)
            if rule is not None and (paused or (beside and rule.leaves_slots_empty)):
                turns[study_id] = rule.turn(self._seen(study_id, standing.arms), paused, beside)
        return turns

    def goes_on(
        self, study_id: int, trial: FrozenTrial, beside: Collection[int], slots: int, arms: Sequence[ArmRow]
    ) -> bool:
        """Whether a trial goes on from the rung that it came to. beside: the ids of what its worker holds in all its
        `slots`, of other arms too. arms: as the database has them."""
        rule = self.rule(study_id)
        if rule is None:
            return True
        seen = self._seen(study_id, arms, slots)
        own = {each._trial_id for each in seen.trials}
        held = {each for each in beside if each in own} | {trial._trial_id}
        elsewhere = [t for t in seen.trials if t.state == TrialState.RUNNING and t._trial_id not in held]
        flying = sum(each._trial_id in seen.passed or rule.rung_of(each) is None for each in elsewhere)
        room = min(slots - sum(each not in own for each in beside), self._budget(study_id, arms)[1] - flying)
        return rule.goes_on(seen, trial, held, max(room, 1))

    def _budget(self, study_id: int, arms: Sequence[ArmRow]) -> tuple[int, int]:
        """Trials of an arm, and those in flight at most: a newer file may have changed them since this worker came."""
        rows: list[Arm | ArmRow] = [row for row in arms if row.study_id == study_id]
        arm = (rows or [self.arms[study_id]])[0]
        return arm.trials, arm.in_flight

    def _seen(self, study_id: int, arms: Sequence[ArmRow], most: int = 1) -> ArmTrials:
        """An arm's trials as they are stored, as its rule sees them. most: of the trials to come."""
        name = self.arms[study_id].name
        front = self.fronts[name]
        trials = self.studies[name].get_trials(deepcopy=False)

        def key(point: samplers.Point) -> Hashable:
            return tuple(point.items())

        def choice_of(trial: FrozenTrial) -> Hashable:
            return () if front is None else key(samplers.choice_of(front, trial))

        left = self._budget(study_id, arms)[0] - sum(trial.state != TrialState.FAIL for trial in trials)
        coming = [choice_of(trial) for trial in trials if trial.state == TrialState.WAITING][:most]
        for number in range(len(trials), len(trials) + min(left, most - len(coming))):
            coming.append(() if front is None else key(samplers.choice_for(front, number)))
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        passed = {trial._trial_id for trial in running if passes(trial)}
        return ArmTrials(trials, self.minimize, choice_of, coming, passed)
