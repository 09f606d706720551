"""The statements inside Optuna's own transactions: leases, attempts, attributes, and what must not happen twice.

An INSERT here never raises IntegrityError: Optuna swallows it, or repeats what it was in the middle of.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from search.storage.schema import HELD, attempts, findings, leases, orphans

Values = Mapping[str, Any]
NOTHING: Values = {}

_ATTRIBUTES = sa.table("trial_user_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json"))
"""Optuna's table of the user attributes of trials."""


def now_of(dialect: str) -> sa.ColumnElement[float]:
    """Seconds since 1970 by the database's clock."""
    if dialect == "sqlite":
        return sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Float)
    return sa.literal_column("extract(epoch FROM clock_timestamp())::float8", sa.Float)


def insert_once(dialect: str, table: sa.Table, **values: Any) -> Any:
    """An INSERT that leaves an existing row alone; its row count says which it was."""
    return _insert(dialect)(table).values(**values).on_conflict_do_nothing()


def put_attributes(connection: sa.Connection, dialect: str, trial_id: int, attributes: Values) -> None:
    """Set user attributes of a trial in one statement; the caller has checked that it may.

    Raises ValueError for a number that JSON has no form for.
    """
    _put(connection, dialect, _ATTRIBUTES, trial_id, attributes)


def put_notes(connection: sa.Connection, dialect: str, trial_id: int, notes: Values) -> None:
    """Set system attributes of a trial in one statement; the caller has checked that it may."""
    _put(connection, dialect, _SYSTEM_ATTRIBUTES, trial_id, notes)


def _put(connection: sa.Connection, dialect: str, table: sa.TableClause, trial_id: int, values: Values) -> None:
    if not values:
        return
    rows = [
        dict(trial_id=trial_id, key=key, value_json=json.dumps(value, allow_nan=False))
        for key, value in sorted(values.items())
    ]
    insert = _insert(dialect)(table).values(rows)
    same = [table.c.trial_id, table.c.key]
    connection.execute(
        insert.on_conflict_do_update(index_elements=same, set_={"value_json": insert.excluded.value_json})
    )


_PARAMETERS = sa.table(
    "trial_params",
    sa.column("trial_id"),
    sa.column("param_name"),
    sa.column("param_value"),
    sa.column("distribution_json"),
)
"""Optuna's table of the parameters of trials."""


@dataclass(frozen=True)
class Suggested:
    """What was suggested for a trial and is not stored yet."""

    params: Mapping[str, tuple[float, str]]
    """By name: the value as Optuna stores it, and its distribution as Optuna's JSON."""
    notes: Values
    """System attributes that a sampler left."""


NOTHING_SUGGESTED = Suggested({}, NOTHING)


def put_suggested(connection: sa.Connection, dialect: str, trial_id: int, suggested: Suggested) -> None:
    """Store what was suggested for a trial, as Optuna's own rows, in a statement a table. Raises LeaseLost where
    somebody else has stored a suggestion."""
    names = ("trial_id", "param_name", "param_value", "distribution_json")
    rows = [dict(zip(names, (trial_id, name, *each), strict=True)) for name, each in suggested.params.items()]
    if rows:
        inserted = connection.execute(_insert(dialect)(_PARAMETERS).values(rows).on_conflict_do_nothing())
        if inserted.rowcount != len(rows):
            raise LeaseLost(f"trial {trial_id}: its next holder has suggested already")
    put_notes(connection, dialect, trial_id, suggested.notes)


def put_findings(connection: sa.Connection, dialect: str, rows: Sequence[Values]) -> None:
    """Keep rows of findings; what is known of a network and a part already stays."""
    for row in rows:
        connection.execute(insert_once(dialect, findings, **row))


def _insert(dialect: str) -> Any:
    return sqlite.insert if dialect == "sqlite" else postgresql.insert


QUEUED_AS = "queued_as"
"""The system attribute of an enqueued trial that names the call which put it there."""
_SYSTEM_ATTRIBUTES = sa.table(
    "trial_system_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json")
)


def named(params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A new name for a call that queues a trial, and the system attributes of that trial."""
    name = uuid.uuid4().hex
    return name, {"fixed_params": dict(params), QUEUED_AS: name}


class AlreadyQueuedError(Exception):
    """The trial is in the queue: it was created before, and only the answer was lost on the way."""


def refuse_twice(connection: sa.Connection, trial_id: int, name: str | None) -> None:
    """Raises AlreadyQueuedError where another trial than this was put into a queue by the call of that name."""
    if name is None:
        return
    same = (_SYSTEM_ATTRIBUTES.c.key == QUEUED_AS) & (_SYSTEM_ATTRIBUTES.c.value_json == json.dumps(name))
    query = sa.select(_SYSTEM_ATTRIBUTES.c.trial_id).where(same, _SYSTEM_ATTRIBUTES.c.trial_id != trial_id).limit(1)
    if connection.execute(query).scalar_one_or_none() is not None:
        raise AlreadyQueuedError


class LeaseLost(Exception):
    """Somebody else holds the trial now, or it is finished: this holder's writes do not count."""


class Refused(Exception):
    """No trial may begin now; `final` says whether that can change while the search runs."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


class LeftEmpty(Refused):
    """A slot stays empty, so that what its worker trains is over sooner."""

    def __init__(self, arm: str) -> None:
        super().__init__(f"arm {arm}: a slot is left empty, so that the promising train faster (pruner.idle_below)")


@dataclass(frozen=True)
class Owner:
    """Who holds a lease: stable over a restart of the ranks by the same torchrun."""

    name: str
    host: str


def forget_leases(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Delete some leases, and what was written down of their attempts."""
    trial_ids = sa.select(leases.c.trial_id).where(which)
    for table in (attempts, orphans, findings, leases):
        connection.execute(table.delete().where(table.c.trial_id.in_(trial_ids)))


def begin_attempt(
    connection: sa.Connection, dialect: str, trial_id: int, token: int, owner: Owner, first_epoch: int
) -> None:
    """Write down who begins with a trial, from which epoch. Raises Refused where that attempt exists."""
    values = dict(trial_id=trial_id, token=token, owner=owner.name, host=owner.host, first_epoch=first_epoch)
    inserted = connection.execute(insert_once(dialect, attempts, began=now_of(dialect), **values))
    if inserted.rowcount != 1:
        raise Refused(f"trial {trial_id} has an attempt {token} already")


def end_attempt(connection: sa.Connection, dialect: str, trial_id: int, token: int, why: str) -> None:
    """Write down how an attempt ended."""
    attempt = (attempts.c.trial_id == trial_id) & (attempts.c.token == token)
    connection.execute(attempts.update().where(attempt).values(ended=now_of(dialect), why=why))


def apply(
    connection: sa.Connection, dialect: str, trial_id: int, token: int, changes: Mapping[str, Any], ends: str | None
) -> None:
    """Change a held lease; raises LeaseLost where the token no longer holds it."""
    if changes:
        held = (leases.c.trial_id == trial_id) & (leases.c.token == token) & (leases.c.state == HELD)
        if connection.execute(leases.update().where(held).values(**changes)).rowcount != 1:
            raise LeaseLost(f"trial {trial_id}: token {token} holds it no longer")
    if ends is not None:
        end_attempt(connection, dialect, trial_id, token, ends)


@dataclass
class Write:
    """What the commits inside check of a held trial's lease, and what the first of them writes."""

    trial_id: int
    token: int
    changes: Mapping[str, Any]
    ends: str | None
    attributes: Values
    findings: Sequence[Values]
    pending: bool
    """Whether something is still to be written with the first commit."""


@dataclass
class Admission:
    """Who begins a trial of which study."""

    study_id: int
    owner: Owner | None
    search_id: int
    once: str | None
    seen: list[Any] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)

    def number_of(self, trial_id: int) -> int:
        """The number of a trial that was admitted here."""
        return self.numbers[trial_id]


@dataclass
class Withdrawal:
    """How a trial ends that no worker holds."""

    trial_id: int
    paused: bool
    lease: Mapping[str, Any]
    attributes: Values
    checkpoint: str | None = None
    """The file that its lease named when it ended: a holder may have named it just before."""
