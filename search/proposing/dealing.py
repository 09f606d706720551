"""The choice of a trial along a front that is dealt where the answer is open."""

from optuna.distributions import distribution_to_json

from search.proposing.builders import front_of
from search.proposing.ranges import distributions
from search.samplers import given_of, open_choice, point_of
from search.samplers.storage_view import paused
from search.spec.arms import Arm
from search.spec.load import StudySpec
from search.storage.database import Database
from search.storage.leases import LeaseHandle
from search.storage.schema import PAUSED
from search.storage.statements import NOTHING, LeaseLost, Suggested


def is_open(spec: StudySpec, arm: Arm) -> bool:
    """Whether the trials of an arm go where the answer is open; an arm that sets the front's paths has no front."""
    return spec.front is not None and spec.front.spread == "open" and bool(arm.front)


def deal(opened: Database, spec: StudySpec, arm: Arm, held: LeaseHandle) -> None:
    """Choose a held trial's point of the front, and store it as the trial's parameters before anything else is drawn.

    One worker at a time, over all machines: each sees what the others were dealt. A trial that has its choice, of a
    former holder or from the queue, keeps it. Raises LeaseLost.
    """
    front, dealing = front_of(arm), spec.front
    if front is None or dealing is None:
        return
    with opened.alone():
        present = opened.storage.get_all_trials(held.study_id, deepcopy=False)
        trial = next((each for each in present if each._trial_id == held.trial_id), None)
        if trial is None:
            raise LeaseLost(f"trial {held.trial_id}: somebody deleted it")
        if point_of(front, trial) is not None:
            return
        stands = {row.trial_id for row in opened.leases.of_studies([held.study_id]) if row.state == PAUSED}
        point = open_choice(
            front,
            trial.number,
            [each for each in paused(stands)(present) if each.number != trial.number],
            start=dealing.start,
            minimize=spec.objective.direction == "minimize",
            given=given_of(front, trial),
            seconds=opened.leases.device_seconds(held.study_id) if dealing.per == "hour" else None,
        )
        ranges = distributions(arm)
        params = {
            name: (ranges[name].to_internal_repr(value), distribution_to_json(ranges[name]))
            for name, value in point.items()
            if name not in trial.params
        }
        opened.fence.store(held.trial_id, held.token, Suggested(params, NOTHING), NOTHING, NOTHING)
