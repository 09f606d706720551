"""The row of a search: why it is closed, what it was asked, and which leader writes its notes next.

Turns of notes are settled by one row and the database's clock: one leader in a while, over all workers.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from search.storage.schema import HELD, arms, attempts, leases, searches
from search.storage.statements import now_of


def clock(engine: sa.Engine) -> float:
    """Seconds since 1970 by the database's clock."""
    with engine.begin() as connection:
        return float(connection.execute(sa.select(now_of(engine.dialect.name))).scalar_one())


def take_turn(engine: sa.Engine, search_id: int, every: float) -> bool:
    """Whether the notes are the caller's to write now: nobody set out to within the last `every` seconds."""
    now = now_of(engine.dialect.name)
    due = searches.c.noted.is_(None) | (searches.c.noted <= now - every)
    mine = searches.update().where(searches.c.search_id == search_id, due).values(noted=now)
    with engine.begin() as connection:
        return connection.execute(mine).rowcount == 1


def take_last_turn(engine: sa.Engine, search_id: int, study_ids: Sequence[int]) -> bool:
    """Whether the caller, who ends, is to write the last notes: nobody trains, and nobody wrote since trials ended.

    study_ids: of the search's arms.
    """
    mine = leases.c.study_id.in_(study_ids)
    held = sa.exists().where(mine, leases.c.state == HELD)
    ends = (
        sa.select(sa.func.max(attempts.c.ended))
        .join(leases, leases.c.trial_id == attempts.c.trial_id)
        .where(mine)
        .scalar_subquery()
    )
    due = ~held & (searches.c.noted.is_(None) | (searches.c.noted <= ends))
    turn = searches.update().where(searches.c.search_id == search_id, due).values(noted=now_of(engine.dialect.name))
    with engine.begin() as connection:
        return connection.execute(turn).rowcount == 1


def noted(engine: sa.Engine, search_id: int) -> float | None:
    """When somebody last set out to write the notes, by the database's clock; None: never."""
    with engine.begin() as connection:
        found = connection.execute(sa.select(searches.c.noted).where(searches.c.search_id == search_id))
        return found.scalar_one_or_none()


def insert_search(connection: sa.Connection, values: Mapping[str, Any]) -> int:
    """Write a new search; returns its id, one that no search had before, as far as chance goes.

    SQLite would give out that of a deleted search again, and who still works for that would take the new one for its
    own.
    """
    taken = set(connection.execute(sa.select(searches.c.search_id)).scalars())
    drawn = next(drawn for drawn in iter(lambda: secrets.randbelow(2**31 - 1) + 1, 0) if drawn not in taken)
    connection.execute(searches.insert().values(search_id=drawn, **values))
    return drawn


CLOSED = "the search is closed for good"
"""Why nothing begins in a search that a person has closed."""
DELETED = "the study was deleted"
"""Why nothing begins in a study that Optuna no longer has."""


def why_closed(connection: sa.Connection, search: Any, now: float) -> str | None:
    """Why nothing new is admitted to a search any more, in words; None where something is."""
    if search.closed:
        return CLOSED
    if search.stop is not None:
        how = "now" if search.stop == "now" else "running trials go on to their end"
        return f"the search was asked to stop ({how})"
    of_search = leases.c.study_id.in_(sa.select(arms.c.study_id).where(arms.c.search_id == search.search_id))
    failed = sa.select(sa.func.count()).where(of_search, leases.c.failure.is_not(None))
    if connection.execute(failed).scalar_one() >= search.max_failed:
        return f"max_failed: {search.max_failed} trials failed"
    if search.wall_seconds is not None and search.began is not None and now - search.began >= search.wall_seconds:
        return f"wall: {search.wall_seconds / 3600:.2f} h are over"
    if search.gpu_hours is not None:
        used = connection.execute(sa.select(sa.func.sum(leases.c.gpu_seconds)).where(of_search)).scalar_one() or 0.0
        if used >= search.gpu_hours * 3600:
            return f"gpu_hours: {search.gpu_hours} are used"
    return None
