"""Parameters of trials to come, drawn while students train.

Among thousands of trials a sampler takes longer than a free slot should wait. A proposal is a draw for a trial that
does not exist yet; the first trial created here that would see the others as it did takes its parameters.
"""

from collections.abc import Collection
from dataclasses import dataclass

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from search.proposing.builders import front_of
from search.proposing.draft import Draft, begun, study_drafting
from search.proposing.ranges import front_first, suggest
from search.samplers import view_of
from search.samplers.storage_view import paused, study_through
from search.spec.arms import Arm
from search.spec.space import Scalar, active
from search.storage.leases import LeaseHandle
from search.storage.statements import Suggested
from trainer.seeds import derive

LARGE = 1000
"""Trials of a study from which on proposals are made ahead."""
NEWER = 0.05
"""How many more trials than a proposal was drawn from, as a share of them, the study may have where it is used."""
SLOW = ("tpe", "gp")
"""The samplers that take longer with every trial."""
BEYOND = 2**40
"""Proposals are drawn for numbers from here on, which no trial reaches."""


@dataclass(frozen=True)
class Proposal:
    """Parameters that no trial has yet."""

    chosen: dict[str, Scalar]
    suggested: Suggested
    trial: FrozenTrial
    """As it would run: the next proposals keep away from it."""
    present: int
    """The trials that it was drawn from."""


def parameters_of(study: Study, arm: Arm, draft: Draft, paused_ids: Collection[int] = ()) -> dict[str, Scalar]:
    """All parameters of the draft's trial; those that it has are kept.

    study: the one that the trial is of. paused_ids: trials of it that samplers see as pruned meanwhile.
    """
    seen = study_drafting(study, draft)
    trial = Trial(study_through(seen, paused(paused_ids)) if paused_ids else seen, draft.trial._trial_id)
    chosen: dict[str, Scalar] = {}
    for parameter in front_first(arm):
        if active(parameter, arm.values(chosen)):
            chosen[parameter.name] = suggest(trial, parameter)
    return chosen


class Ahead:
    """The proposals of one arm.

    A sampler is seeded by the trial's number, which also decides what it sees of the others (`view_of`). A proposal has
    a number of this worker alone, so that no two trials are drawn alike, and serves trials of its own view. There is
    one a view at most: each is used before long, whoever else creates trials.
    """

    def __init__(self, arm: Arm, storage: BaseStorage, worker: str) -> None:
        """worker: its name, which no other worker of the study has."""
        self._arm, self._storage, self._worker = arm, storage, worker
        self._front = front_of(arm)
        self._views = 2 * (1 if self._front is None else len(self._front.points))
        self._ready: dict[tuple[int, bool], Proposal] = {}
        self._present = 0
        self._number: int | None = None

    @property
    def wants(self) -> bool:
        """Whether a proposal is to be drawn, by what is known without a look at the study."""
        return self._present >= LARGE and self._arm.sampler.name in SLOW and len(self._ready) < self._views

    def make(self, study: Study, paused_ids: Collection[int], ranges: dict[str, BaseDistribution]) -> None:
        """Draw for the next trial whose view has no proposal, if there is one.

        paused_ids: trials that samplers see as pruned. ranges: the distributions of its parameters, which grow.
        """
        present = study.get_trials(deepcopy=False)
        self._look(len(present))
        following = range(present[-1].number + 1, present[-1].number + 1 + 2 * self._views)
        wanted = next((view for each in following if (view := view_of(self._front, each)) not in self._ready), None)
        if wanted is None:
            return
        number = self._next_number(wanted, len(present))
        trial = begun(LeaseHandle(-number, number, study._study_id, 1))  # of no row in the database
        draft = Draft(self._storage, trial, [*present, *(each.trial for each in self._ready.values())], ranges)
        chosen = parameters_of(study, self._arm, draft, paused_ids)
        self._ready[wanted] = Proposal(chosen, draft.suggested, draft.trial, len(present))

    def take(self, number: int, present: int) -> Proposal | None:
        """The proposal for a trial that was just created, if there is one. present: how many trials the study has."""
        self._look(present)
        return self._ready.pop(view_of(self._front, number), None)

    def _look(self, present: int) -> None:
        """Drop what was drawn from too old a study."""
        self._present = present
        fresh = {view: each for view, each in self._ready.items() if present <= each.present * (1 + NEWER)}
        self._ready = fresh

    def _next_number(self, view: tuple[int, bool], present: int) -> int:
        """The next number of this worker whose view it is."""
        if self._number is None:
            # A worker that was restarted under its name meets another number of trials, and draws other numbers.
            self._number = BEYOND * (1 + derive(self._arm.sampler.seed, "ahead", self._worker, present) % BEYOND)
        self._number += 1
        while view_of(self._front, self._number) != view:
            self._number += 1
        return self._number
