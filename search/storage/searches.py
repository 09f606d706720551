"""The rows of searches and their arms: what was asked of a search, why it is closed, and who writes its notes next.

One row and the database's clock decide whose turn it is to write notes: one leader at a time, over all workers.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import sqlalchemy as sa

from search.storage.ownership import is_present
from search.storage.schema import FREE, HELD, arms, attempts, leases, searches
from search.storage.statements import Refused, forget_leases, now_of


@dataclass(frozen=True)
class SearchRow:
    """A row of the table of searches."""

    search_id: int
    name: str
    uuid: str
    identity: str
    spec: str
    """What the search was opened with, as JSON."""
    settings: str
    """What may change while it goes on, as JSON."""
    stop: str | None
    """The stop wish, `drain` or `now`."""
    closed: bool
    max_failed: int
    gpu_hours: float | None
    wall_seconds: float | None
    began: float | None
    """Seconds since 1970 by the database's clock; `noted` too."""
    noted: float | None

    @classmethod
    def of(cls, row: sa.Row[Any]) -> "SearchRow":
        """The typed form of a row with all columns, and perhaps others."""
        return cls(**{name: getattr(row, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class ArmRow:
    """A row of the table of arms."""

    study_id: int
    search_id: int
    name: str
    study_name: str
    identity: str
    trials: int
    in_flight: int

    @classmethod
    def of(cls, row: sa.Row[Any]) -> "ArmRow":
        """The typed form of a row with all columns."""
        return cls(**row._asdict())


def clock(engine: sa.Engine) -> float:
    """Seconds since 1970 by the database's clock."""
    with engine.begin() as connection:
        return float(connection.execute(sa.select(now_of(engine.dialect.name))).scalar_one())


def claim_note_turn(engine: sa.Engine, search_id: int, every: float) -> bool:
    """Whether the caller is to write the notes now: no leader began to within the last `every` seconds."""
    now = now_of(engine.dialect.name)
    due = searches.c.noted.is_(None) | (searches.c.noted <= now - every)
    turn = searches.update().where(searches.c.search_id == search_id, due).values(noted=now)
    with engine.begin() as connection:
        return connection.execute(turn).rowcount == 1


def claim_last_note_turn(engine: sa.Engine, search_id: int, study_ids: Sequence[int]) -> bool:
    """Whether the caller, which ends, is to write the last notes: no trial is held, and one ended after the last ones.

    study_ids: the studies of the search's arms.
    """
    of_search = leases.c.study_id.in_(study_ids)
    held = sa.exists().where(of_search, leases.c.state == HELD)
    ends = (
        sa.select(sa.func.max(attempts.c.ended))
        .join(leases, leases.c.trial_id == attempts.c.trial_id)
        .where(of_search)
        .scalar_subquery()
    )
    due = ~held & (searches.c.noted.is_(None) | (searches.c.noted <= ends))
    turn = searches.update().where(searches.c.search_id == search_id, due).values(noted=now_of(engine.dialect.name))
    with engine.begin() as connection:
        return connection.execute(turn).rowcount == 1


def notes_begun(engine: sa.Engine, search_id: int) -> float | None:
    """When a leader last began to write the notes, by the database's clock; None: never."""
    with engine.begin() as connection:
        query = sa.select(searches.c.noted).where(searches.c.search_id == search_id)
        return connection.execute(query).scalar_one_or_none()


def insert_search(connection: sa.Connection, values: Mapping[str, Any]) -> int:
    """Write a new search; returns its id, one that no search had before, as far as chance goes.

    SQLite would give out the id of a deleted search again, and a worker of the deleted one would take the new one for
    its own.
    """
    taken = set(connection.execute(sa.select(searches.c.search_id)).scalars())
    drawn = next(drawn for drawn in iter(lambda: secrets.randbelow(2**31 - 1) + 1, 0) if drawn not in taken)
    connection.execute(searches.insert().values(search_id=drawn, **values))
    return drawn


CLOSED = "the search is closed for good"
"""Why nothing begins in a search that a person has closed."""
DELETED = "the study was deleted"
"""Why nothing begins in a study that Optuna no longer has."""


class ClosedKind(Enum):
    """Why a search admits no new trials."""

    CLOSED = auto()
    """A person closed it for good."""
    DELETED = auto()
    """Somebody deleted the search or one of its studies."""
    STOP = auto()
    """A person asked it to stop."""
    MAX_FAILED = auto()
    """Too many trials failed."""
    WALL = auto()
    """Its time is over."""
    GPU_HOURS = auto()
    """Its GPU hours are used."""


@dataclass(frozen=True)
class Closed:
    """Why a search admits no new trials. Compare by kind; the text is for people."""

    kind: ClosedKind
    text: str


class SearchClosed(Refused):
    """No trial may begin: the whole search admits none any more."""

    def __init__(self, closed: Closed) -> None:
        super().__init__(closed.text, final=True)
        self.closed = closed


def arms_within(connection: sa.Connection, search_id: int) -> list[ArmRow]:
    """The arms of a search, the main one first."""
    query = sa.select(arms).where(arms.c.search_id == search_id).order_by(arms.c.study_id)
    return [ArmRow.of(row) for row in connection.execute(query)]


def states_within(connection: sa.Connection, trials: sa.Table, study_ids: Sequence[int]) -> dict[tuple[int, str], int]:
    """How many trials of each study are in each of Optuna's states. trials: Optuna's table of them."""
    query = sa.select(trials.c.study_id, trials.c.state, sa.func.count()).where(trials.c.study_id.in_(study_ids))
    rows = connection.execute(query.group_by(trials.c.study_id, trials.c.state))
    return {(study_id, state.name): count for study_id, state, count in rows}


def why_closed(connection: sa.Connection, search: SearchRow, now: float) -> Closed | None:
    """Why nothing new is admitted to a search any more; None where something is."""
    if search.closed:
        return Closed(ClosedKind.CLOSED, CLOSED)
    if search.stop is not None:
        how = "now" if search.stop == "now" else "running trials go on to their end"
        return Closed(ClosedKind.STOP, f"the search was asked to stop ({how})")
    of_search = leases.c.study_id.in_(sa.select(arms.c.study_id).where(arms.c.search_id == search.search_id))
    failed = sa.select(sa.func.count()).where(of_search, leases.c.failure.is_not(None))
    if connection.execute(failed).scalar_one() >= search.max_failed:
        return Closed(ClosedKind.MAX_FAILED, f"max_failed: {search.max_failed} trials failed")
    if search.wall_seconds is not None and search.began is not None and now - search.began >= search.wall_seconds:
        return Closed(ClosedKind.WALL, f"wall: {search.wall_seconds / 3600:.2f} h are over")
    if search.gpu_hours is not None:
        used = connection.execute(sa.select(sa.func.sum(leases.c.gpu_seconds)).where(of_search)).scalar_one() or 0.0
        if used >= search.gpu_hours * 3600:
            return Closed(ClosedKind.GPU_HOURS, f"gpu_hours: {search.gpu_hours} are used")
    series = series_place(search.settings)
    return None if series is None else why_series_closed(connection, series, now)


SERIES, SERIES_WISH = "series", "series_wish"
"""Keys of the settings of a search that is a member of a series: its place there with what all members together may
use, and what a person wished of the whole series, so that members that nobody began know of it."""
STOP, CLOSE = "stop", "close"
"""What may be wished of a series."""


def series_place(settings: str) -> Mapping[str, Any] | None:
    """What the settings of a search say of its series; None of a study of its own."""
    place = json.loads(settings).get(SERIES)
    return place if isinstance(place, Mapping) else None


def why_series_closed(connection: sa.Connection, series: Mapping[str, Any], now: float) -> Closed | None:
    """Why nothing new is admitted to any member of a series; None where something is.

    series: as `series_place` gives it.
    """
    named = searches.c.name.in_([f"{series['name']}.{number}" for number in range(1, series["of"] + 1)])
    wall, hours = series["wall_seconds"], series["gpu_hours"]
    if wall is not None:
        began = connection.execute(sa.select(sa.func.min(searches.c.began)).where(named)).scalar_one()
        if began is not None and now - began >= wall:
            return Closed(ClosedKind.WALL, f"wall of the series {series['name']}: {wall / 3600:.2f} h are over")
    if hours is not None:
        members = sa.select(searches.c.search_id).where(named)
        of_members = leases.c.study_id.in_(sa.select(arms.c.study_id).where(arms.c.search_id.in_(members)))
        used = connection.execute(sa.select(sa.func.sum(leases.c.gpu_seconds)).where(of_members)).scalar_one() or 0.0
        if used >= hours * 3600:
            return Closed(ClosedKind.GPU_HOURS, f"gpu_hours of the series {series['name']}: {hours} are used")
    return None


def check_room(connection: sa.Connection, dialect: str, study_id: int, search_id: int) -> None:
    """Lock the row of an arm, as admissions do, and raise Refused where no paused trial of it may go on now.

    That is where the search admits nothing (SearchClosed), or as many trials are in flight as may be.
    """
    of_arm = sa.select(arms).where(arms.c.study_id == study_id, arms.c.search_id == search_id)
    row = connection.execute(of_arm.with_for_update()).one_or_none()
    if row is None:
        raise SearchClosed(Closed(ClosedKind.DELETED, DELETED))
    search = connection.execute(sa.select(searches).where(searches.c.search_id == search_id)).one()
    now = connection.execute(sa.select(now_of(dialect))).scalar_one()
    reason = why_closed(connection, SearchRow.of(search), now)
    if reason is not None:
        raise SearchClosed(reason)
    arm = ArmRow.of(row)
    flies = (leases.c.study_id == study_id) & leases.c.state.in_([HELD, FREE])
    if connection.execute(sa.select(sa.func.count()).where(flies)).scalar_one() >= arm.in_flight:
        raise Refused(f"arm {arm.name}: {arm.in_flight} trials are in flight")


def _in_order(name: str) -> tuple[str, int, str]:
    series, _, number = name.rpartition(".")
    return (series, int(number), name) if series and number.isdecimal() else (name, 0, name)


class Searches:
    """Statements on the rows of searches and their arms; `optuna_tables` are Optuna's tables by name."""

    def __init__(self, engine: sa.Engine, optuna_tables: Mapping[str, sa.Table]) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        self._tables = optuna_tables

    def search(self, name: str) -> SearchRow | None:
        """The row of a search by name; None where there is none."""
        with self.engine.begin() as connection:
            row = connection.execute(sa.select(searches).where(searches.c.name == name)).one_or_none()
        return None if row is None else SearchRow.of(row)

    def names(self) -> list[str]:
        """The names of all searches in this database in their order: NAME.2 before NAME.10, as in a series."""
        with self.engine.begin() as connection:
            return sorted(connection.execute(sa.select(searches.c.name)).scalars(), key=_in_order)

    def members(self, series: str) -> list[SearchRow]:
        """The members of a series that were begun, in the order of their numbers; none where it is no series."""
        query = sa.select(searches).where(searches.c.name.startswith(f"{series}.", autoescape=True))
        with self.engine.begin() as connection:
            rows = [SearchRow.of(row) for row in connection.execute(query)]
        places = [(series_place(row.settings), row) for row in rows]
        own = [(place["number"], row) for place, row in places if place is not None and place["name"] == series]
        return [row for _, row in sorted(own, key=lambda each: each[0])]

    def wish_of_series(self, series: str, wish: str | None) -> None:
        """Keep in all members that were begun what a person wishes of the whole series: `stop`, `close`, or nothing
        any more; call it under `creation_lock`."""
        for row in self.members(series):
            before = json.loads(row.settings)
            if before.get(SERIES_WISH) == CLOSE:
                continue  # for good
            kept = {key: value for key, value in before.items() if key != SERIES_WISH}
            kept |= {} if wish is None else {SERIES_WISH: wish}
            text = json.dumps(kept, allow_nan=False, sort_keys=True)
            with self.engine.begin() as connection:
                connection.execute(searches.update().where(searches.c.search_id == row.search_id).values(settings=text))

    def series_closed(self, series: Mapping[str, Any]) -> Closed | None:
        """As `why_series_closed`, for members that are in no database yet, too."""
        with self.engine.begin() as connection:
            now = connection.execute(sa.select(now_of(self.dialect))).scalar_one()
            return why_series_closed(connection, series, now)

    def arms_of(self, search_id: int) -> list[ArmRow]:
        """The arms of a search, the main one first."""
        with self.engine.begin() as connection:
            return arms_within(connection, search_id)

    def states(self, study_ids: Sequence[int]) -> dict[tuple[int, str], int]:
        """How many trials of each study are in each of Optuna's states."""
        with self.engine.begin() as connection:
            return states_within(connection, self._tables["trials"], study_ids)

    def closed(self, search_id: int) -> tuple[Closed | None, str | None]:
        """(why nothing new is admitted, the stop wish): None where there is none."""
        with self.engine.begin() as connection:
            search = connection.execute(sa.select(searches).where(searches.c.search_id == search_id)).one_or_none()
            if search is None:
                return Closed(ClosedKind.DELETED, DELETED), "now"
            gone = sa.select(arms.c.study_name).where(arms.c.search_id == search_id, ~is_present())
            deleted = connection.execute(gone.limit(1)).scalar_one_or_none()
            if deleted is not None:
                return Closed(ClosedKind.DELETED, f"the study {deleted} was deleted"), "now"
            now = connection.execute(sa.select(now_of(self.dialect))).scalar_one()
            return why_closed(connection, SearchRow.of(search), now), search.stop

    def ask_to_stop(self, search_id: int, wish: str | None) -> None:
        """Write a stop wish (`drain`, `now`) for all workers of a search; None takes it back.

        Admissions that are under way hold the row of their arm: they are over when this returns.
        """
        with self.engine.begin() as connection:
            _lock_arms(connection, search_id)
            connection.execute(searches.update().where(searches.c.search_id == search_id).values(stop=wish))

    def close(self, search_id: int) -> None:
        """Admit nothing to a search any more, for good; call it under `creation_lock`.

        Admissions that are under way hold the row of their arm: they are over when this returns.
        """
        with self.engine.begin() as connection:
            _lock_arms(connection, search_id)
            connection.execute(searches.update().where(searches.c.search_id == search_id).values(closed=True))

    def add_search(self, values: Mapping[str, Any], arm_rows: Sequence[Mapping[str, Any]]) -> int:
        """Write a search with its arms, or bring the changeable figures of an existing one up to date."""
        with self.engine.begin() as connection:
            existing = connection.execute(sa.select(searches).where(searches.c.name == values["name"])).one_or_none()
            if existing is None:
                search_id = insert_search(connection, values)
            else:
                search_id = existing.search_id
                _lock_arms(connection, search_id)
                changeable = {k: values[k] for k in ("spec", "settings", "max_failed", "gpu_hours", "wall_seconds")}
                connection.execute(searches.update().where(searches.c.search_id == search_id).values(**changeable))
            for row in arm_rows:
                known = connection.execute(sa.select(arms.c.study_id).where(arms.c.study_id == row["study_id"]))
                if known.one_or_none() is None:
                    connection.execute(arms.insert().values(search_id=search_id, **row))
                else:
                    update = arms.update().where(arms.c.study_id == row["study_id"])
                    connection.execute(update.values(search_id=search_id, **row))
        return search_id

    def forget(self, study_ids: Sequence[int]) -> None:
        """Delete what is known of studies that Optuna no longer has, and searches that have no arm left."""
        with self.engine.begin() as connection:
            forget_leases(connection, leases.c.study_id.in_(study_ids))
            connection.execute(arms.delete().where(arms.c.study_id.in_(study_ids)))
            connection.execute(searches.delete().where(searches.c.search_id.not_in(sa.select(arms.c.search_id))))

    def forget_leftovers(self) -> None:
        """Delete the leases of trials that Optuna no longer has, or whose id is another trial's by now."""
        trials = self._tables["trials"]
        same = (trials.c.trial_id == leases.c.trial_id) & (trials.c.study_id == leases.c.study_id)
        with self.engine.begin() as connection:
            forget_leases(connection, ~sa.exists().where(same, trials.c.number == leases.c.number))

    def gone_arms(self, search_id: int) -> set[int]:
        """The study ids of a search's arms that Optuna no longer has, or that are another study's by now."""
        query = sa.select(arms.c.study_id).where(arms.c.search_id == search_id, ~is_present())
        with self.engine.begin() as connection:
            return set(connection.execute(query).scalars())

    def rename(self, study_id: int, name: str) -> None:
        """Give one of Optuna's studies another name, so that its own is free."""
        studies = self._tables["studies"]
        with self.engine.begin() as connection:
            connection.execute(studies.update().where(studies.c.study_id == study_id).values(study_name=name))


def _lock_arms(connection: sa.Connection, search_id: int) -> None:
    """Take the rows of all arms before that of the search, as admissions do."""
    query = sa.select(arms.c.study_id).where(arms.c.search_id == search_id).order_by(arms.c.study_id)
    connection.execute(query.with_for_update())
