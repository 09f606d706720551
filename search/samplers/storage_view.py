"""What a sampler or a pruner may see of a study: the stored trials, changed on the way out, never in the database."""

import copy
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, cast

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

Scalar = str | int | float | bool
Change = Callable[[list[FrozenTrial]], list[FrozenTrial]]
"""From all trials of a study, in the order of their numbers, to those that are seen; a trial that differs is a copy."""


class View:
    """A storage in front of another: `get_all_trials` is changed, every other call goes through, writes too.

    Views stack. `once` keeps what the first look saw: one suggestion reads the database once and sees one state of the
    study. A view with `once` serves one study.
    """

    def __init__(self, storage: BaseStorage, change: Change, *, once: bool = False) -> None:
        self._real = storage
        self._change = change
        self._once = once
        self._kept: list[FrozenTrial] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "_real":
            # Asked of an instance whose fields are not set yet (a copy in the making): no storage to pass on to.
            raise AttributeError(name)
        return getattr(self._real, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials as seen, in the order of their numbers; `states` selects after the change."""
        trials = self._kept
        if trials is None:
            trials = self._change(self._real.get_all_trials(study_id, deepcopy=False))
            self._kept = trials if self._once else None
        seen = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(seen) if deepcopy else seen


class Recorder(View):
    """A storage whose trials get no system attributes: what somebody writes there is kept in `notes` by its key."""

    def __init__(self, storage: BaseStorage) -> None:
        super().__init__(storage, everything)
        self.notes: dict[str, Any] = {}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: ARG002 - Optuna's signature
        """Kept, and not written."""
        self.notes[key] = value


def storage_through(storage: BaseStorage, change: Change, *, once: bool = False) -> BaseStorage:
    """A `View` of the storage, for whoever asks for a storage."""
    return cast(BaseStorage, View(storage, change, once=once))


def study_through(study: Study, change: Change, *, once: bool = False) -> Study:
    """The study over a `View` of its storage: the same name, id, directions, sampler and pruner, no query.

    Optuna keeps a thread's last look at all trials in the study object; the copy starts with none and hands none back,
    so that no view's trials are taken for the study's.
    """
    seen = copy.copy(study)
    seen._storage = storage_through(study._storage, change, once=once)
    return seen


def study_recorded(study: Study) -> tuple[Study, dict[str, Any]]:
    """The study over a `Recorder` of its storage, for a pruner that looks at one trial, and the recorder's notes."""
    recorder, seen = Recorder(study._storage), copy.copy(study)
    seen._storage = cast(BaseStorage, recorder)
    return seen, recorder.notes


def everything(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """No change."""
    return trials


def paused(ids: Container[int]) -> Change:
    """Trials with these ids are PRUNED as long as the database has them RUNNING; `ids` is read anew at every look."""

    def change(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return [_as_pruned(t) if t.state == TrialState.RUNNING and t._trial_id in ids else t for t in trials]

    return change


def same_choice(point: Mapping[str, Scalar]) -> Change:
    """Only trials that have all of these parameters, with these values."""

    def change(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return [t for t in trials if all(name in t.params and t.params[name] == value for name, value in point.items())]

    return change


def quantiles_within(*names: str) -> Change:
    """Values become their quantile, in (0, 1) and rising with the value, among trials of the same values of `names`.

    A COMPLETE trial: each of its values among those of the COMPLETE trials of its choice. A PRUNED trial: its last
    intermediate value, the only one that is left, among the values of its choice at that epoch, FAIL left out. Ties
    share the middle of their ranks. NaN is counted nowhere and stays; a PRUNED trial without a value stays. Trials
    without these parameters are a group of their own. The direction needs no word: the smallest value has the smallest
    quantile, so a study that minimises still does.
    """

    def change(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        finals = _final_values(names, trials)
        curves = _curve_values(names, trials)
        return [_ranked(trial, _choice(trial, names), finals, curves) for trial in trials]

    return change


_Choice = tuple[Scalar | None, ...]
_Groups = dict[_Choice, dict[int, list[float]]]
"""Choice to place to the sorted values there; a place is an objective's index or an epoch."""


def _choice(trial: FrozenTrial, names: Sequence[str]) -> _Choice:
    return tuple(trial.params.get(name) for name in names)


def _final_values(names: Sequence[str], trials: list[FrozenTrial]) -> _Groups:
    groups: _Groups = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            for index, value in enumerate(trial.values):
                groups[_choice(trial, names)][index].append(value)
    return _sorted(groups)


def _curve_values(names: Sequence[str], trials: list[FrozenTrial]) -> _Groups:
    # Only epochs at which some trial of the choice was pruned are collected: a study has far more values than those.
    ends: dict[_Choice, set[int]] = defaultdict(set)
    for trial in trials:
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            ends[_choice(trial, names)].add(max(trial.intermediate_values))
    groups: _Groups = {choice: {epoch: [] for epoch in epochs} for choice, epochs in ends.items()}
    for trial in trials:
        group = groups.get(_choice(trial, names))
        if group is None or trial.state == TrialState.FAIL:
            continue
        scores = trial.intermediate_values
        # The shorter of the two is gone through: a stored curve gives all its pairs faster than it looks up each.
        pairs = ((at, scores[at]) for at in group if at in scores) if len(group) < len(scores) else scores.items()
        for epoch, value in pairs:
            if epoch in group and not math.isnan(value):
                group[epoch].append(value)
    return _sorted(groups)


def _sorted(groups: _Groups) -> _Groups:
    for group in groups.values():
        for values in group.values():
            values.sort()
    return groups


def _ranked(trial: FrozenTrial, choice: _Choice, finals: _Groups, curves: _Groups) -> FrozenTrial:
    if trial.state == TrialState.COMPLETE:
        ranked = copy.copy(trial)
        ranked.values = [_quantile(finals[choice][index], value) for index, value in enumerate(trial.values)]
        return ranked
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        epoch = max(trial.intermediate_values)
        value = trial.intermediate_values[epoch]
        ranked = copy.copy(trial)
        ranked.intermediate_values = {epoch: value if math.isnan(value) else _quantile(curves[choice][epoch], value)}
        return ranked
    return trial


def _quantile(values: list[float], value: float) -> float:
    return (bisect_left(values, value) + bisect_right(values, value)) / (2 * len(values))


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    seen = copy.copy(trial)
    seen.state = TrialState.PRUNED
    return seen
