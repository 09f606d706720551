"""Trials of an older study for the sampler of a new one: which there are, and which of them lie in its space."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from loguru import logger
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.proposing.ranges import distributions
from search.samplers import WARM, Older
from search.samplers.storage_view import quantiles_within
from search.spec.arms import Arm
from search.spec.config import MAIN
from search.spec.load import StudySpec
from search.spec.strategies import WarmStart
from search.storage.database import Database, open_storage
from search.storage.lookup import search_row
from trainer.errors import UserError, counted


def warm_trials(opened: Database | None, spec: StudySpec, given: WarmStart) -> dict[str, Older]:
    """By arm, the older study's trials in the arm's parameters; a line in the log for each.

    opened: the new study's database; None where the older one has its own and this one is not there yet. An arm learns
    from the older study's arm of its name; one that it does not have learns from none. Raises UserError where there is
    no such study, it searched for something else, has no finished trial, or none that lies in the space.
    """
    place = f"{spec.source}: warm_start.from = {given.source!r}"
    with _database(opened, given, place) as there:
        row = _row(there, given, place)
        if opened is not None and there.label == opened.label and given.source == spec.name:
            raise UserError(f"{place}: is this study itself; name an older one")
        _check_objective(row.spec, spec, place)
        names = {arm.name: arm.study_name for arm in there.searches.arms_of(row.search_id)}
        older = {}
        for arm in spec.arms:
            if arm.sampler.name not in WARM or arm.name not in names:
                continue
            study = optuna.load_study(study_name=names[arm.name], storage=there.storage)
            trials = study.get_trials(deepcopy=True, states=(TrialState.COMPLETE, TrialState.PRUNED))
            try:
                older[arm.name] = Older(fitting(arm, trials, place), given.weight)
            except UserError as error:
                if arm.name == MAIN:
                    raise
                logger.info("{}: begins without older trials: {}", arm.study_name, error)
                continue
            logger.info(
                "{}: {} of {} of {} inform its sampler",
                arm.study_name,
                len(older[arm.name].trials),
                counted(len(trials), "finished trial"),
                study.study_name,
            )
    return older


@contextmanager
def _database(opened: Database | None, given: WarmStart, place: str) -> Iterator[Database]:
    if given.storage is None:
        if opened is None:
            raise ValueError("an older study in this database needs it opened")
        yield opened
        return
    url = os.environ.get(given.storage, "").strip()
    if not url:
        raise UserError(f"{place}: the variable {given.storage} is not set; export it with the URL of its database")
    there = open_storage(url, create=False)
    try:
        yield there
    finally:
        there.engine.dispose()


def _row(there: Database, given: WarmStart, place: str) -> Any:
    try:
        return search_row(there, given.source)
    except UserError as error:
        raise UserError(f"{place}: {error}; name an older study, or remove [warm_start]") from None


def _check_objective(record: str, spec: StudySpec, place: str) -> None:
    before, now = json.loads(record).get("objective"), {spec.objective.direction: spec.objective.metric}
    if before != now:
        its = " ".join(f"{how}s {metric}" for how, metric in (before or {}).items())
        raise UserError(
            f"{place}: it {its or 'has no objective'}, this study {spec.objective.direction}s "
            f"{spec.objective.metric}; name a study with the same [objective]"
        )


def fitting(arm: Arm, trials: Sequence[FrozenTrial], place: str) -> tuple[FrozenTrial, ...]:
    """The trials with the parameters that both studies have, in the ranges of the new one; values become quantiles."""
    if not trials:
        raise UserError(f"{place}: none of its trials has finished; let it finish some, or remove [warm_start]")
    space = distributions(arm)
    shared = [name for name in space if any(name in trial.params for trial in trials)]
    if not shared:
        raise UserError(
            f"{place}: no parameter of it is in this space ({', '.join(space) or 'which is empty'}); "
            "name a study that searched the same, or remove [warm_start]"
        )
    kept = [t for t in trials if all(fits(space[name], t.params[name]) for name in shared if name in t.params)]
    if not kept:
        out = {name: sum(name in t.params and not fits(space[name], t.params[name]) for t in trials) for name in shared}
        worst = max(out, key=lambda name: out[name])
        raise UserError(
            f"{place}: none of its {counted(len(trials), 'trial')} lies in this space, most of all for {worst}; "
            "name a study that searched here, or remove [warm_start]"
        )
    ranked = quantiles_within(*(name for point in arm.points for name in point if name in shared))(
        [_translated(trial, space, shared, number - len(kept)) for number, trial in enumerate(kept)]
    )
    return tuple(ranked)


def fits(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value may be drawn from a range of another study; true is no 1, and 2.5 no whole number."""
    if isinstance(distribution, CategoricalDistribution):
        return any(type(value) is type(choice) and value == choice for choice in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(distribution, IntDistribution) and not float(value).is_integer():
        return False
    if not isinstance(distribution, IntDistribution | FloatDistribution):
        return False
    return bool(distribution._contains(float(value)))


def _translated(
    trial: FrozenTrial, space: Mapping[str, BaseDistribution], shared: Sequence[str], number: int
) -> FrozenTrial:
    params = {name: trial.params[name] for name in shared if name in trial.params}
    copied = create_trial(
        state=trial.state,
        values=trial.values if trial.state == TrialState.COMPLETE else None,
        params=params,
        distributions={name: space[name] for name in params},
        intermediate_values=trial.intermediate_values,
    )
    copied.number = number
    return copied
