"""INSERT statements that never raise IntegrityError: Optuna swallows it, or repeats what it was in the middle of."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from search.storage.schema import findings

Values = Mapping[str, Any]
NOTHING: Values = {}

_ATTRIBUTES = sa.table("trial_user_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json"))
"""What trials say of themselves, as Optuna keeps it."""


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
    if not attributes:
        return
    rows = [
        dict(trial_id=trial_id, key=key, value_json=json.dumps(value, allow_nan=False))
        for key, value in sorted(attributes.items())
    ]
    insert = _insert(dialect)(_ATTRIBUTES).values(rows)
    same = [_ATTRIBUTES.c.trial_id, _ATTRIBUTES.c.key]
    connection.execute(
        insert.on_conflict_do_update(index_elements=same, set_={"value_json": insert.excluded.value_json})
    )


def put_findings(connection: sa.Connection, dialect: str, rows: Sequence[Values]) -> None:
    """Keep rows of findings; what is known of a network and a part already stays."""
    for row in rows:
        connection.execute(insert_once(dialect, findings, **row))


def _insert(dialect: str) -> Any:
    return sqlite.insert if dialect == "sqlite" else postgresql.insert
