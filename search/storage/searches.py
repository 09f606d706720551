"""Whose turn it is to write a search's notes: one lead in a while, settled by one row and the database's clock."""

from collections.abc import Sequence

import sqlalchemy as sa

from search.storage.schema import HELD, attempts, leases, searches
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
