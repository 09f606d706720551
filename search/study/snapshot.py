"""The rows of a search as one consistent reading of the database: trials, leases, attempts and parameters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.spec.front import choice_shown, paths_of, title
from search.storage.database import Database
from search.storage.leases import AttemptRow, LeaseDetails
from search.storage.lookup import search_row
from search.storage.searches import ArmRow, SearchRow, clock
from trainer.config_paths import flatten

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

PARAMS, TEACHER, PASSES = "model.params_m", "teacher.dice", "teacher.passes_per_step"
"""Attributes of trials that hold the student's parameters in millions, the teacher's validation Dice, and its passes a
student step."""


NO_METHOD = "none"
"""The choice of `method` that trains without a teacher."""


@dataclass(frozen=True)
class SearchSnapshot:
    """All rows of a search, read once."""

    search: SearchRow
    arms: Sequence[ArmRow]
    leases: Mapping[str, Sequence[LeaseDetails]]
    """By arm, in the order of trial numbers."""
    attempts: Sequence[AttemptRow]
    trials: "Mapping[str, Sequence[FrozenTrial]]"
    """Optuna's trials by arm."""
    now: float
    """By the database's clock."""

    @property
    def record(self) -> dict[str, Any]:
        """What the search was opened with: objective, front, limits, run, space."""
        return dict(json.loads(self.search.spec))

    @property
    def metric(self) -> str:
        """The score that trials are judged by."""
        return str(next(iter(self.record["objective"].values())))

    @property
    def maximize(self) -> bool:
        """Whether higher scores are better."""
        return "minimize" not in self.record["objective"]

    @property
    def along(self) -> str | None:
        """What trials are spread along, one path or several; None where there is no front."""
        return title(self.front) or None

    @property
    def front(self) -> tuple[str, ...]:
        """The paths that trials are spread along; none without a front."""
        return paths_of(self.record.get("front"))

    @property
    def dealt(self) -> tuple[str, ...]:
        """The names of the front's parameters."""
        return tuple(name for name in self.record.get("space", {}) if name.partition("[")[0] in self.front)

    @property
    def methods(self) -> tuple[str, ...]:
        """The ways of distilling that a study deals its trials over, beside none; empty where it does not."""
        if "method" not in self.front:
            return ()
        ranges = [kept for name, kept in self.record["space"].items() if name.partition("[")[0] == "method"]
        choices = dict.fromkeys(choice for kept in ranges for choice in kept["choices"])
        return tuple(choice for choice in choices if choice != NO_METHOD) if NO_METHOD in choices else ()

    @property
    def confirms(self) -> str | None:
        """The study that this one confirms; None for a search."""
        kept = self.record.get("confirm")
        return None if kept is None else str(kept["study"])

    @property
    def teacher(self) -> float | None:
        """The teacher's score where trials name one and it is known in the search's own metric."""
        scores = (t.user_attrs.get(TEACHER) for trials in self.trials.values() for t in trials)
        return next((float(score) for score in scores if score is not None and self.metric == "dice"), None)

    @property
    def teacher_passes(self) -> float | None:
        """The teacher's passes a student step, mean over the trials that recorded them; None where none did."""
        passes = [t.user_attrs[PASSES] for trials in self.trials.values() for t in trials if PASSES in t.user_attrs]
        return sum(map(float, passes)) / len(passes) if passes else None

    @property
    def every(self) -> list[LeaseDetails]:
        """The leases of all arms."""
        return [lease for leases in self.leases.values() for lease in leases]

    def taught(self, arm: str) -> bool:
        """Whether a run of an arm has a KD term. Before it has one: as [run] for the main search, else not."""
        methods = [json.loads(lease.run)["method"] for lease in self.leases[arm] if lease.run is not None]
        first = self.record["run"].get("method", "none") if arm == self.arms[0].name else "none"
        return any(method != "none" for method in methods or [first])

    def params_m(self) -> dict[int, float]:
        """Millions of parameters by trial id, where known."""
        named = [(t._trial_id, t.user_attrs.get(PARAMS)) for trials in self.trials.values() for t in trials]
        return {trial_id: float(size) for trial_id, size in named if size is not None}

    def choice(self, lease: LeaseDetails) -> Any:
        """A trial's choice of the front: a value, or `unet, 8` of several; None before its run is known, or without a
        front."""
        return None if lease.run is None else self.choice_in(json.loads(lease.run))

    def family(self, lease: LeaseDetails) -> str | None:
        """A trial's choice of the first of several paths of the front; None of other fronts, or before it is known."""
        if lease.run is None or len(self.front) < 2:
            return None
        return str(flatten(json.loads(lease.run)).get(self.front[0]))

    def choice_in(self, run: Mapping[str, Any]) -> Any:
        """The front's choice in a run as JSON has it; None without a front."""
        flat = flatten(run)
        return choice_shown([flat.get(path) for path in self.front])

    def ended(self) -> dict[int, float]:
        """When each finished trial ended, by trial id."""
        return {a.trial_id: a.ended for a in self.attempts if a.ended is not None}


def read(opened: Database, name: str) -> SearchSnapshot:
    """Everything of a search. Raises UserError where the study is unknown."""
    row = search_row(opened, name)
    arms = opened.searches.arms_of(row.search_id)
    ids = [arm.study_id for arm in arms]
    return SearchSnapshot(
        search=row,
        arms=arms,
        leases={arm.name: opened.leases.details([arm.study_id]) for arm in arms},
        attempts=opened.leases.attempts_of(ids),
        trials={arm.name: opened.storage.get_all_trials(arm.study_id, deepcopy=False) for arm in arms},
        now=clock(opened.engine),
    )
