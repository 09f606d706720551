"""A trial between its admission and its commit: what Optuna suggests for it is kept here and stored all at once.

Optuna stores a suggestion parameter by parameter, each in a transaction of its own that reads the trial again. Here the
suggestion sees one state of the study, and its rows, equal to those that Optuna writes, are stored in the transaction
that stores the run: whoever dies before it leaves a trial without parameters, which its next holder suggests anew.
"""

import copy
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.samplers.storage_view import View, everything
from search.storage.leases import LeaseHandle
from search.storage.statements import Suggested


class Draft(View):
    """A storage in front of another, for the suggestion of one trial: its own rows are kept, all else goes through.

    trial: as the database has it. present: all trials of its study as they were read. ranges: the distributions of the
    study by parameter, which grow here.
    """

    def __init__(
        self,
        storage: BaseStorage,
        trial: FrozenTrial,
        present: Sequence[FrozenTrial],
        ranges: dict[str, BaseDistribution],
    ) -> None:
        super().__init__(storage, everything, once=True)
        self._trial = copy.deepcopy(trial)
        self._ranges = ranges
        self._params: dict[str, tuple[float, str]] = {}
        self._notes: dict[str, Any] = {}
        others = [each for each in present if each._trial_id != trial._trial_id]
        # The very object that grows here: the others are seen as they were read, this one as it is suggested so far.
        self._present = sorted([*others, self._trial], key=lambda each: each.number)
        self._kept = self._present

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial as it is suggested so far."""
        return copy.deepcopy(self._trial) if trial_id == self._trial._trial_id else self._real.get_trial(trial_id)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """The trial's system attributes, those that are not stored yet included."""
        return self.get_trial(trial_id).system_attrs

    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        """The trial's user attributes."""
        return self.get_trial(trial_id).user_attrs

    def get_trial_params(self, trial_id: int) -> dict[str, Any]:
        """The trial's parameters so far."""
        return self.get_trial(trial_id).params

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Keep a parameter. Raises ValueError where the study's other trials have another kind of range for it."""
        self._refuse_others(trial_id)
        check_distribution_compatibility(self._range_of(param_name, distribution), distribution)
        self._params[param_name] = param_value_internal, distribution_to_json(distribution)
        self._trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        self._trial.distributions[param_name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep a system attribute as it will be read: what JSON makes of it."""
        self._refuse_others(trial_id)
        self._notes[key] = value
        self._trial.system_attrs[key] = json.loads(json.dumps(value))

    @property
    def trial(self) -> FrozenTrial:
        """The trial as it is suggested so far: the very object, which grows."""
        return self._trial

    @property
    def suggested(self) -> Suggested:
        """What the database does not have of it yet."""
        return Suggested(dict(self._params), dict(self._notes))

    def _range_of(self, name: str, distribution: BaseDistribution) -> BaseDistribution:
        if name not in self._ranges:
            known = (each.distributions[name] for each in self._present if name in each.distributions)
            self._ranges[name] = next(known, distribution)
        return self._ranges[name]

    def _refuse_others(self, trial_id: int) -> None:
        if trial_id != self._trial._trial_id:
            raise ValueError(f"trial {trial_id} is written through the draft of trial {self._trial._trial_id}")


def begun(held: LeaseHandle) -> FrozenTrial:
    """A trial as it stands in the database when it has just been created."""
    state, now = TrialState.RUNNING, datetime.now()
    return FrozenTrial(
        number=held.number,
        state=state,
        value=None,
        datetime_start=now,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=held.trial_id,
    )


def study_drafting(study: Study, draft: Draft) -> Study:
    """The study over the draft of one of its trials: the same name, id, sampler and pruner, no query."""
    seen = copy.copy(study)
    seen._storage = cast(BaseStorage, draft)
    return seen
