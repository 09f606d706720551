"""Who holds which trial: the lease rows, the attempts on them, and which of them are stale.

A lease expires by no clock. It may be taken by a process that has watched its heartbeat stand still for one
time-to-live of uninterrupted contact with the database, on its own monotonic clock. The statements here stand outside
Optuna's transactions, and lock in this order: study, trial, lease, search. Taking a trial also deletes what it reported
of epochs that it will train again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from search.storage.schema import FINISHED, FREE, HELD, arms, attempts, leases, orphans, searches
from search.storage.searches import insert_search, why_closed
from search.storage.statements import (
    NOTHING,
    LeaseLost,
    Owner,
    Values,
    apply,
    begin_attempt,
    end_attempt,
    forget_leases,
    now_of,
    put_attributes,
)


@dataclass(frozen=True)
class LeaseHandle:
    """A trial in the hands of this process."""

    trial_id: int
    number: int
    study_id: int
    token: int


@dataclass(frozen=True)
class LeaseRow:
    """A lease as it was last read."""

    trial_id: int
    study_id: int
    number: int
    state: str
    owner: str | None
    token: int
    beat: int
    lost: int
    epoch: int
    run: str | None
    replay: str | None
    checkpoint: str | None
    checkpoint_sha256: str | None


def shortened(message: str, most: int = 4000) -> str:
    """Head and tail of a long message: what failed stands first, and a traceback names its error last.

    What a database cannot hold as text (NUL, half of a surrogate pair) becomes a question mark.
    """
    message = message.replace("\x00", "?").encode("utf-8", "replace").decode()
    return message if len(message) <= most else f"{message[: most // 2]}\n...\n{message[-most // 2 :]}"


class Leases:
    """Statements on the lease tables; `optuna_tables` are Optuna's tables by name."""

    def __init__(self, engine: sa.Engine, optuna_tables: Mapping[str, sa.Table]) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        self._tables = optuna_tables

    def of_studies(self, study_ids: Sequence[int], *, finished: bool = False) -> list[LeaseRow]:
        """The leases of some studies, by study and number; finished ones on request."""
        columns = [leases.c[name] for name in LeaseRow.__dataclass_fields__]
        query = sa.select(*columns).where(leases.c.study_id.in_(study_ids)).order_by(leases.c.study_id, leases.c.number)
        if not finished:
            query = query.where(leases.c.state != FINISHED)
        with self.engine.begin() as connection:
            return [LeaseRow(*row) for row in connection.execute(query)]

    def beat(self, held: Sequence[LeaseHandle]) -> set[int]:
        """One heartbeat for each; returns the ids of those that are no longer ours."""
        if not held:
            return set()
        keys = sa.tuple_(leases.c.trial_id, leases.c.token)
        mine = keys.in_([(h.trial_id, h.token) for h in held]) & (leases.c.state == HELD)
        with self.engine.begin() as connection:
            connection.execute(leases.update().where(mine).values(beat=leases.c.beat + 1))
            kept = set(connection.execute(sa.select(leases.c.trial_id).where(mine)).scalars())
        return {h.trial_id for h in held} - kept

    def take(self, seen: LeaseRow, owner: Owner, *, resume_epoch: int, lost: bool) -> LeaseHandle | None:
        """Take a free, stale or own lease exactly as it was seen; None where somebody was quicker.

        In the same transaction the former attempt ends (as lost, where `lost`), and reports above `resume_epoch` go:
        the new holder trains those epochs again.
        """
        trials = self._tables["trials"]
        with self.engine.begin() as connection:
            state = connection.execute(
                sa.select(trials.c.state).where(trials.c.trial_id == seen.trial_id).with_for_update()
            ).scalar_one_or_none()
            if state is None or state.name != "RUNNING":
                self._close(connection, seen, "deleted" if state is None else "told")
                return None
            same = (
                (leases.c.trial_id == seen.trial_id) & (leases.c.token == seen.token) & (leases.c.state == seen.state)
            )
            if seen.state == HELD:
                # What is told of an epoch raises the beat; a stored run is a sign of life, too.
                same &= (leases.c.beat == seen.beat) & leases.c.run.is_not_distinct_from(seen.run)
            token = seen.token + 1
            changes: dict[str, Any] = dict(state=HELD, owner=owner.name, host=owner.host, token=token, beat=0)
            if lost:
                changes["lost"] = leases.c.lost + 1
            if resume_epoch < seen.epoch:
                changes |= dict(epoch=0, checkpoint=None, checkpoint_sha256=None, best_epoch=None, best_score=None)
            if connection.execute(leases.update().where(same).values(**changes)).rowcount != 1:
                return None
            forget_above(connection, self._tables, seen.trial_id, resume_epoch)
            if seen.state == HELD:
                end_attempt(connection, self.dialect, seen.trial_id, seen.token, "lost" if lost else "restarted")
            begin_attempt(connection, self.dialect, seen.trial_id, token, owner, resume_epoch + 1)
        return LeaseHandle(seen.trial_id, seen.number, seen.study_id, token)

    def _close(self, connection: sa.Connection, seen: LeaseRow, why: str) -> None:
        """A trial that somebody ended or deleted in Optuna, past its holder, must not be waited for."""
        mine = (leases.c.trial_id == seen.trial_id) & (leases.c.token == seen.token) & (leases.c.state == seen.state)
        changes = dict(state=FINISHED, owner=None, checkpoint=None, message="ended by somebody else, not by its worker")
        if connection.execute(leases.update().where(mine).values(**changes)).rowcount == 1 and seen.state == HELD:
            end_attempt(connection, self.dialect, seen.trial_id, seen.token, why)

    def change(
        self, held: LeaseHandle, changes: Values, *, ends: str | None = None, attributes: Values = NOTHING
    ) -> None:
        """Change a held lease outside Optuna's transactions, and user attributes of its trial with it: checkpoint, run,
        give back. Raises LeaseLost."""
        with self.engine.begin() as connection:
            # Trial before lease, as everywhere; a lost lease takes the attributes back.
            put_attributes(connection, self.dialect, held.trial_id, attributes)
            apply(connection, self.dialect, held.trial_id, held.token, changes, ends)

    def give_back(self, held: LeaseHandle, why: str = "preempted", attributes: Values = NOTHING) -> None:
        """Free a held trial for anybody, uncharged. Raises LeaseLost."""
        self.change(held, {"state": FREE, "owner": None}, ends=why, attributes=attributes)

    def orphan(self, held: LeaseHandle, epoch: int, record: Mapping[str, Any]) -> None:
        """Keep what a former holder had to say about a trial that it lost."""
        text = json.dumps(record, allow_nan=False, sort_keys=True)
        values = dict(trial_id=held.trial_id, token=held.token, epoch=epoch, record=text)
        with self.engine.begin() as connection:
            connection.execute(orphans.insert().values(**values))

    def closed(self, search_id: int) -> tuple[str | None, str | None]:
        """(why nothing new is admitted, the stop wish): None where there is none."""
        with self.engine.begin() as connection:
            search = connection.execute(sa.select(searches).where(searches.c.search_id == search_id)).one_or_none()
            if search is None:
                return "the study was deleted", "now"
            present = sa.select(self._tables["studies"].c.study_id)
            gone = sa.select(arms.c.study_name).where(arms.c.search_id == search_id, arms.c.study_id.not_in(present))
            deleted = connection.execute(gone.limit(1)).scalar_one_or_none()
            if deleted is not None:
                return f"the study {deleted} was deleted", "now"
            now = connection.execute(sa.select(now_of(self.dialect))).scalar_one()
            return why_closed(connection, search, now), search.stop

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

    def search(self, name: str) -> Any | None:
        """The row of a search by name."""
        with self.engine.begin() as connection:
            return connection.execute(sa.select(searches).where(searches.c.name == name)).one_or_none()

    def names(self) -> list[str]:
        """The names of all searches in this database."""
        with self.engine.begin() as connection:
            return list(connection.execute(sa.select(searches.c.name).order_by(searches.c.name)).scalars())

    def arms_of(self, search_id: int) -> list[Any]:
        """The arms of a search, the main one first."""
        with self.engine.begin() as connection:
            query = sa.select(arms).where(arms.c.search_id == search_id).order_by(arms.c.study_id)
            return list(connection.execute(query))

    def add_search(self, values: Mapping[str, Any], arm_rows: Sequence[Mapping[str, Any]]) -> int:
        """Write a search with its arms, or bring the changeable figures of an existing one up to date."""
        with self.engine.begin() as connection:
            found = connection.execute(sa.select(searches).where(searches.c.name == values["name"])).one_or_none()
            if found is None:
                search_id = insert_search(connection, values)
            else:
                search_id = found.search_id
                _lock_arms(connection, search_id)
                changeable = {k: values[k] for k in ("spec", "settings", "max_failed", "gpu_hours", "wall_seconds")}
                connection.execute(searches.update().where(searches.c.search_id == search_id).values(**changeable))
            for row in arm_rows:
                known = connection.execute(sa.select(arms.c.study_id).where(arms.c.study_id == row["study_id"]))
                if known.one_or_none() is None:
                    connection.execute(arms.insert().values(search_id=search_id, **row))
                else:
                    mine = arms.update().where(arms.c.study_id == row["study_id"])
                    connection.execute(mine.values(search_id=search_id, **row))
        return search_id

    def states(self, study_ids: Sequence[int]) -> dict[tuple[int, str], int]:
        """How many trials of each study are in each of Optuna's states."""
        trials = self._tables["trials"]
        query = sa.select(trials.c.study_id, trials.c.state, sa.func.count()).where(trials.c.study_id.in_(study_ids))
        with self.engine.begin() as connection:
            rows = connection.execute(query.group_by(trials.c.study_id, trials.c.state))
            return {(study_id, state.name): count for study_id, state, count in rows}

    def best(self, study_ids: Sequence[int], *, minimize: bool) -> Any | None:
        """The finished, not failed lease with the best score; None where there is none."""
        done = leases.c.study_id.in_(study_ids) & (leases.c.state == FINISHED) & leases.c.failure.is_(None)
        order = leases.c.best_score.asc() if minimize else leases.c.best_score.desc()
        query = (
            sa.select(leases).where(done, leases.c.best_score.is_not(None)).order_by(order, leases.c.number).limit(1)
        )
        with self.engine.begin() as connection:
            return connection.execute(query).one_or_none()

    def row(self, trial_id: int) -> Any | None:
        """One whole lease row."""
        with self.engine.begin() as connection:
            return connection.execute(sa.select(leases).where(leases.c.trial_id == trial_id)).one_or_none()

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
        studies = self._tables["studies"]
        same = (studies.c.study_id == arms.c.study_id) & (studies.c.study_name == arms.c.study_name)
        query = sa.select(arms.c.study_id).where(arms.c.search_id == search_id, ~sa.exists().where(same))
        with self.engine.begin() as connection:
            return set(connection.execute(query).scalars())

    def rename(self, study_id: int, name: str) -> None:
        """Give one of Optuna's studies another name, so that its own is free."""
        studies = self._tables["studies"]
        with self.engine.begin() as connection:
            connection.execute(studies.update().where(studies.c.study_id == study_id).values(study_name=name))

    def details(self, study_ids: Sequence[int]) -> list[Any]:
        """Whole lease rows, for status and export."""
        with self.engine.begin() as connection:
            query = (
                sa.select(leases).where(leases.c.study_id.in_(study_ids)).order_by(leases.c.study_id, leases.c.number)
            )
            return list(connection.execute(query))

    def attempts_of(self, study_ids: Sequence[int]) -> list[Any]:
        """Whole attempt rows of some studies' trials."""
        with self.engine.begin() as connection:
            mine = sa.select(leases.c.trial_id).where(leases.c.study_id.in_(study_ids))
            query = (
                sa.select(attempts).where(attempts.c.trial_id.in_(mine)).order_by(attempts.c.trial_id, attempts.c.token)
            )
            return list(connection.execute(query))


def _lock_arms(connection: sa.Connection, search_id: int) -> None:
    """Take the rows of all arms before that of the search, as admissions do."""
    query = sa.select(arms.c.study_id).where(arms.c.search_id == search_id).order_by(arms.c.study_id)
    connection.execute(query.with_for_update())


__all__ = ["LeaseHandle", "LeaseLost", "LeaseRow", "Leases", "Owner"]

RUNG = "completed_rung_"
"""What a halving pruner's notes on a trial are called, with the rung's number: the score that reached it."""


def forget_above(connection: sa.Connection, tables: Mapping[str, sa.Table], trial_id: int, epoch: int) -> None:
    """Delete a trial's reports above `epoch`, and what a halving pruner noted of them.

    An epoch that is trained again may come out otherwise, as the data stand elsewhere: were its note kept, it would
    not be judged, and rivals would be measured against a score that is on no curve.
    """
    values, notes = tables["trial_intermediate_values"], tables["trial_system_attributes"]
    of_trial = values.c.trial_id == trial_id
    gone = set(
        connection.execute(sa.select(values.c.intermediate_value).where(of_trial, values.c.step > epoch)).scalars()
    )
    if not gone:
        return
    connection.execute(values.delete().where(of_trial, values.c.step > epoch))
    # A student that learns nothing has the same score in each epoch: then the note may be of one that stays.
    gone -= set(connection.execute(sa.select(values.c.intermediate_value).where(of_trial)).scalars())
    mine = (notes.c.trial_id == trial_id) & notes.c.key.startswith(RUNG, autoescape=True)
    for row in connection.execute(sa.select(notes.c.key, notes.c.value_json).where(mine)).all():
        score = json.loads(row.value_json)
        if (score if math.isfinite(score) else None) in gone:
            connection.execute(notes.delete().where(mine & (notes.c.key == row.key)))


@dataclass
class StaleLeases:
    """Whose beat stood still, on the watcher's own monotonic clock; an interruption of contact begins anew."""

    ttl: float
    _since: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    _contact: float | None = None

    def stale(self, rows: Sequence[LeaseRow], now: float) -> list[LeaseRow]:
        """The held leases whose beat stood still for a whole time-to-live; `now` in monotonic seconds."""
        if self._contact is not None and now - self._contact > self.ttl / 2:
            self._since.clear()
        self._contact = now
        seen: dict[int, tuple[int, int, float]] = {}
        for row in rows:
            if row.state == HELD:
                before = self._since.get(row.trial_id)
                same = before is not None and before[:2] == (row.token, row.beat)
                seen[row.trial_id] = before if same and before is not None else (row.token, row.beat, now)
        self._since = seen
        return [row for row in rows if row.trial_id in seen and now - seen[row.trial_id][2] >= self.ttl]

    def interrupt(self) -> None:
        """Contact with the database was lost: what was seen before proves nothing."""
        self._since.clear()
