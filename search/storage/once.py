"""What must not happen twice: a trial queued again as an answer was lost, an id given out again after a deletion."""

import json
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from search.storage.schema import searches

QUEUED_AS = "queued_as"
"""The system attribute of an enqueued trial that names the call which put it there."""
_SYSTEM_ATTRIBUTES = sa.table("trial_system_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json"))


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


def insert_search(connection: sa.Connection, values: Mapping[str, Any]) -> int:
    """Write a new search; returns its id, one that no search had before, as far as chance goes.

    SQLite would give out that of a deleted search again, and who still works for that would take the new one for its
    own.
    """
    taken = set(connection.execute(sa.select(searches.c.search_id)).scalars())
    drawn = next(drawn for drawn in iter(lambda: secrets.randbelow(2**31 - 1) + 1, 0) if drawn not in taken)
    connection.execute(searches.insert().values(search_id=drawn, **values))
    return drawn
