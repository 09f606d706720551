"""The statements on what a confirmation leaves: who opened the test rows, and what each network did on each image."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from search.storage.schema import findings, openings
from search.storage.statements import insert_once, now_of, put_findings
from trainer.reports import PerImageResult

TEACHER = 0
"""The number that stands for the teacher in the place of a trial's id."""


@dataclass(frozen=True)
class OpeningRecord:
    """One opening of the test rows."""

    who: str
    when: float
    """Seconds since 1970 by the database's clock."""
    purpose: str
    configurations: tuple[str, ...]
    uuid: str
    """The confirmation for which the rows were opened."""


class Evidence:
    """Openings and findings in one database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._dialect = engine.dialect.name

    def open(self, study: str, uuid: str, who: str, purpose: str, configurations: Sequence[str]) -> None:
        """Record that a person opens the test rows; a second time for the same confirmation adds nothing."""
        values = dict(study=study, uuid=uuid, who=who, purpose=purpose)
        opened = dict(opened=now_of(self._dialect), configurations=json.dumps(list(configurations)))
        with self._engine.begin() as connection:
            connection.execute(insert_once(self._dialect, openings, **values, **opened))

    def openings(self, study: str) -> tuple[OpeningRecord, ...]:
        """Every opening for the winners of a study, the oldest first."""
        query = sa.select(openings).where(openings.c.study == study).order_by(openings.c.opened, openings.c.who)
        with self._engine.begin() as connection:
            rows = list(connection.execute(query))
        return tuple(
            OpeningRecord(r.who, r.opened, r.purpose, tuple(json.loads(r.configurations)), r.uuid) for r in rows
        )

    def keep(self, uuid: str, trial_id: int, measured: Sequence[PerImageResult]) -> None:
        """Store findings outside of a trial's end: those of the teacher. Rows that exist stay: they are the same."""
        with self._engine.begin() as connection:
            put_findings(connection, self._dialect, rows_of(uuid, trial_id, [each.to_json() for each in measured]))

    def forget(self, uuid: str) -> None:
        """Delete the findings of a confirmation; who opened the test rows stays."""
        with self._engine.begin() as connection:
            connection.execute(findings.delete().where(findings.c.uuid == uuid))

    def has(self, uuid: str, trial_id: int) -> bool:
        """Whether there are findings of a network."""
        own = (findings.c.uuid == uuid) & (findings.c.trial_id == trial_id)
        with self._engine.begin() as connection:
            return connection.execute(sa.select(findings.c.part).where(own).limit(1)).one_or_none() is not None

    def findings(self, uuid: str) -> dict[int, tuple[PerImageResult, ...]]:
        """The results of each network by trial id (`TEACHER`: 0), one a part, in the order of the parts' names."""
        query = sa.select(findings).where(findings.c.uuid == uuid).order_by(findings.c.trial_id, findings.c.part)
        results: dict[int, list[PerImageResult]] = {}
        with self._engine.begin() as connection:
            for row in connection.execute(query):
                results.setdefault(row.trial_id, []).append(PerImageResult.from_json(json.loads(row.record)))
        return {trial_id: tuple(parts) for trial_id, parts in results.items()}


def rows_of(uuid: str, trial_id: int, measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of findings, from what `PerImageResult.to_json` gives."""
    return [
        dict(uuid=uuid, trial_id=trial_id, part=each["part"], record=json.dumps(each, allow_nan=False))
        for each in measured
    ]
