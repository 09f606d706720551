"""The plan of a confirmation: made once from what the database has of a search, kept there, and from then on the truth.

A confirmation is a search of its own, `STUDY.confirm`: one arm a configuration, whose queue is the seeds and whose
budget they fill. Everything that knows a search by its name knows it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from search.confirm.configurations import Configuration, chosen, used_seeds
from search.spec.arms import Arm, fixed_values
from search.spec.config import Budget, Confirm, Dashboard, Limits, NoPruning, Objective, RandomConfig
from search.spec.file import CONFIRMATION
from search.spec.identity import arm_identity, digest
from search.spec.load import StudySpec
from search.spec.overrides import apply
from search.spec.space import Choices
from search.storage.database import open_storage
from search.storage.errors import patient
from search.storage.lookup import search_row
from search.storage.url import storage_url
from search.study.snapshot import SearchSnapshot
from trainer.config import RunConfig
from trainer.config.validation import explain
from trainer.errors import UserError

if TYPE_CHECKING:
    pass

LONGEST = 128
"""Characters of a study's name."""


@dataclass(frozen=True)
class Plan:
    """What is trained again, and why nothing else is."""

    name: str
    """Name of the confirmation."""
    study: str
    uuid: str
    """Id of the search."""
    objective: Objective
    table: Confirm
    dashboard: Dashboard
    content: Mapping[str, Any]
    """Hashes of data and teacher, as the search had them."""
    configurations: tuple[Configuration, ...]
    gpu_seconds: Mapping[str, float]
    """By configuration: what its run took in the search."""
    early: bool
    """Whether the search had not ended."""
    methods: tuple[str, ...] = ()
    """The ways of distilling that the search dealt its trials over, beside none."""

    @property
    def trials(self) -> int:
        """How many are trained."""
        return len(self.configurations) * len(self.table.seeds)

    def record(self) -> dict[str, Any]:
        """All that it is, as JSON values; the search's row keeps it. `plan_of` reads it."""
        return {
            "objective": {self.objective.direction: self.objective.metric},
            "front": None,
            "limits": {},
            "content": dict(self.content),
            "confirm": {
                "study": self.study,
                "uuid": self.uuid,
                "table": self.table.model_dump(mode="json"),
                "dashboard": self.dashboard.model_dump(mode="json"),
                "configurations": [asdict(each) for each in self.configurations],
                "gpu_seconds": dict(self.gpu_seconds),
                "early": self.early,
                # Plans of other studies, and their hashes, have no such key.
                **({"methods": list(self.methods)} if self.methods else {}),
            },
        }

    @property
    def identity(self) -> str:
        """sha256 (hex) over the record."""
        return digest(self.record())

    def spec(self) -> StudySpec:
        """The plan as a study."""
        arms = tuple(self._arm(each) for each in self.configurations)
        # Each planned trial may fail, and the others still count.
        budget = Budget(trials=len(self.table.seeds), max_failed=self.trials + 1, in_flight=len(self.table.seeds))
        return StudySpec(
            name=self.name,
            source=Path(self.name),
            objective=self.objective,
            front=None,
            limits=Limits(),
            run=arms[0].base,
            teach={},
            sampler=RandomConfig(name="random"),
            pruner=NoPruning(name="none"),
            budget=budget,
            arms=arms,
            confirm=self.table,
            dashboard=self.dashboard,
            confirms=self,
        )

    def _arm(self, configuration: Configuration) -> Arm:
        seeds = self.table.seeds
        run = RunConfig.model_validate({**configuration.run, "seed": seeds[0]})
        return Arm(
            name=configuration.name,
            study_name=f"{self.name}.{configuration.name}",
            where=f"{self.name}: {configuration.name}",
            run=run.model_dump(mode="json"),
            space=(Choices("seed", "seed", seeds),),
            front=(),
            trials=len(seeds),
            in_flight=len(seeds),
            sampler=RandomConfig(name="random"),
            pruner=NoPruning(name="none"),
            enqueue=tuple({"seed": seed} for seed in seeds),
            dropped=(),
            base=run,
            fixed=fixed_values(run),
            planned=True,
        )


def plan_of(name: str, record: Mapping[str, Any]) -> Plan:
    """What `Plan.record` gave, read from the database."""
    kept = record["confirm"]
    return Plan(
        name=name,
        study=kept["study"],
        uuid=kept["uuid"],
        objective=Objective.model_validate(record["objective"]),
        table=Confirm.model_validate(kept["table"]),
        dashboard=Dashboard.model_validate(kept["dashboard"]),
        content=record["content"],
        configurations=tuple(Configuration(**each) for each in kept["configurations"]),
        gpu_seconds=kept["gpu_seconds"],
        early=kept["early"],
        methods=tuple(kept.get("methods", ())),
    )


def made(rows: SearchSnapshot, table: Confirm, *, name: str, dashboard: Dashboard, early: bool) -> Plan:
    """The plan for what a search has found. Raises UserError in one line where there is nothing to confirm."""
    taken = used_seeds(rows) & set(table.seeds)
    if taken:
        raise UserError(
            f"confirm.seeds = {list(table.seeds)}: the search itself trained with seed {min(taken)}, so it is not "
            "fresh; take others: --set confirm.seeds=[...]"
        )
    configurations, costs = chosen(rows, table.top)
    return Plan(
        name=name,
        study=rows.search.name,
        uuid=rows.search.uuid,
        objective=Objective.model_validate(rows.record["objective"]),
        table=table,
        dashboard=dashboard,
        content=rows.record["content"],
        configurations=configurations,
        gpu_seconds=costs,
        early=early,
        methods=rows.methods,
    )


def confirmations(study: str, names: Sequence[str]) -> list[str]:
    """The confirmations of a study among the names of searches, the first one first."""
    numbered = [
        (int(match["again"] or 1), n) for n in names if (match := CONFIRMATION.fullmatch(n)) and match["study"] == study
    ]
    return [name for _, name in sorted(numbered)]


def name_of(study: str, number: int) -> str:
    """The name of a study's confirmation, counted from 1. Raises UserError where it is too long for a study."""
    name = f"{study}.confirm" if number == 1 else f"{study}.confirm-{number}"
    if len(name) > LONGEST:
        raise UserError(f"study {study!r}: {name!r} is too long for a study's name ({LONGEST} characters)")
    return name


def table_of(settings: Mapping[str, Any], overrides: Sequence[str], where: str) -> Confirm:
    """[confirm] as the search's workers had it, with `confirm.KEY=VALUE` on top. Raises UserError."""
    table = settings.get("confirm", {})
    strange = next((text for text in overrides if not text.startswith("confirm.")), None)
    if strange is not None:
        raise UserError(f"--set {strange}: a confirmation trains what the search found; known: confirm.KEY=VALUE")
    if overrides:
        table = apply({"confirm": table}, list(overrides), where)[0]["confirm"]
    try:
        return Confirm.model_validate(table)
    except ValidationError as error:
        raise UserError(explain(error, where, under="confirm", model=Confirm)) from None


def identities(plan: Plan, spec: StudySpec) -> dict[str, str]:
    """By arm: what it is, as the search's tables keep it."""
    return {arm.name: arm_identity(arm, **_hashes(plan)) for arm in spec.arms}


def _hashes(plan: Plan) -> dict[str, Any]:
    return {"data_hash": plan.content["data"], "teacher_hash": plan.content["teacher"]}


def stored_plan(storage: str | None, name: str) -> Plan:
    """The plan of a confirmation that exists. Raises UserError."""
    with patient("confirm"):
        opened = open_storage(storage_url(storage), create=False)
        try:
            study = name.rpartition(".confirm")[0]
            row = search_row(opened, name, remedy=f"python -m search confirm {study} plans it")
        finally:
            opened.engine.dispose()
    return plan_of(name, json.loads(row.spec))
