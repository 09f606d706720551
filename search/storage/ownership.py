"""Which of a database's Optuna studies are this program's: each carries a mark, written with its creation.

A study of the same name that somebody else made is never touched. One of ours whose process died between its creation
and our own rows has the mark and no trial, and is completed by the next process.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from search.storage.schema import arms, searches
from trainer.errors import UserError

MARK = "kd_search:study"
"""The system attribute of a study of this program; its value is the name that the study was created with, so that a
copy under another name is none."""
BRACKETS = "kd_search:brackets"
"""The system attribute of a study whose hyperband has as many brackets as its rungs allow. A study without it is from
before, and keeps the number that Optuna computes: another would move its trials to other brackets."""
MARKED = '"marked": true'
"""What the settings of a search hold once all its studies carry the mark; older ones do not until a worker joins."""

_STUDIES = sa.table("studies", sa.column("study_id"), sa.column("study_name"))
_DIRECTIONS = sa.table("study_directions", sa.column("study_id"), sa.column("direction"), sa.column("objective"))
_MARKS = sa.table("study_system_attributes", sa.column("study_id"), sa.column("key"), sa.column("value_json"))
_TRIALS = sa.table(
    "trials",
    sa.column("study_id"),
    sa.column("trial_id"),
    sa.column("number"),
    sa.column("datetime_start", sa.DateTime),
)


def put_mark(connection: sa.Connection, study_id: int, name: str) -> None:
    """Mark a study that is being created as one of this program."""
    for key, value in ((MARK, name), (BRACKETS, "exact")):
        connection.execute(_MARKS.insert().values(study_id=study_id, key=key, value_json=json.dumps(value)))


def is_present() -> sa.ColumnElement[bool]:
    """Whether the study of a row of the table of arms is still there, and is the one that was created for it.

    SQLite gives out the ids of deleted studies again: id and name alone may be those of somebody else's study.
    """
    same = (_STUDIES.c.study_id == arms.c.study_id) & (_STUDIES.c.study_name == arms.c.study_name)
    mark = sa.exists().where(_MARKS.c.study_id == arms.c.study_id, _MARKS.c.key == MARK).correlate(arms)
    marked = sa.exists().where(
        searches.c.search_id == arms.c.search_id, searches.c.settings.contains(MARKED, autoescape=True)
    )
    return sa.exists().where(same) & (mark | ~marked.correlate(arms))


def refuse_foreign(connection: sa.Connection, label: str, names: Sequence[str]) -> None:
    """Raises UserError for the first of these names that is an Optuna study which this program did not make."""
    inspector = sa.inspect(connection)
    if not inspector.has_table("studies"):
        return
    own: set[int] = set()
    if inspector.has_table(arms.name):
        own = set(connection.execute(sa.select(arms.c.study_id).where(is_present())).scalars())
    query = sa.select(_STUDIES).where(_STUDIES.c.study_name.in_(list(names))).order_by(_STUDIES.c.study_id)
    for study_id, name in connection.execute(query).all():
        if study_id in own:
            continue
        trials = sa.select(sa.func.count()).select_from(_TRIALS).where(_TRIALS.c.study_id == study_id)
        count = int(connection.execute(trials).scalar_one())
        mark = sa.select(_MARKS.c.value_json).where(_MARKS.c.study_id == study_id, _MARKS.c.key == MARK)
        if count == 0 and connection.execute(mark).scalar_one_or_none() == json.dumps(name):
            continue
        ways = sa.select(_DIRECTIONS.c.direction).where(_DIRECTIONS.c.study_id == study_id)
        directions = connection.execute(ways.order_by(_DIRECTIONS.c.objective)).scalars()
        facts = f"{' and '.join(str(each).lower() for each in directions)}; {count} trial{'' if count == 1 else 's'}"
        raise UserError(
            f"study {name!r}: {label} holds an Optuna study of this name which is not a study of this program "
            f"({facts}), and it is left as it is; use another name (--name), or another database (--storage)"
        )


@dataclass(frozen=True)
class Incarnation:
    """What tells a study from a later one with the same id: its name and its first trial."""

    name: str
    trial_id: int | None
    """None while it has no trial."""
    start: datetime | None
    """None while that trial waits."""

    def ended_by(self, later: "Incarnation") -> bool:
        """Whether `later`, read under the same id, is another study; its first trial may have come or begun since."""
        came = self.trial_id is None and self.name == later.name
        began = self.start is None and (self.name, self.trial_id) == (later.name, later.trial_id)
        return not (self == later or came or began)


Incarnations = Mapping[int, Incarnation]
"""The studies of a database by their ids."""


def incarnations(engine: sa.Engine) -> Incarnations:
    """The studies that a database holds now."""
    first = (_TRIALS.c.study_id == _STUDIES.c.study_id) & (_TRIALS.c.number == 0)
    columns = (_STUDIES.c.study_id, _STUDIES.c.study_name, _TRIALS.c.trial_id, _TRIALS.c.datetime_start)
    with engine.begin() as connection:
        rows = connection.execute(sa.select(*columns).select_from(_STUDIES.outerjoin(_TRIALS, first))).all()
    return {study_id: Incarnation(*row) for study_id, *row in rows}
