"""The rows of leases (which worker holds which trial) and of attempts, and which leases are stale.

A lease expires by no clock. It may be taken by a process that has watched its heartbeat stand still for one
time-to-live of uninterrupted contact with the database, on its own monotonic clock. The statements here stand outside
Optuna's transactions, and lock in this order: study, trial, lease, search. Acquiring a trial also deletes its
reports on epochs that it will train again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from search.pruners import RUNGS, VERDICT
from search.storage.schema import FINISHED, FREE, HELD, PAUSED, attempts, leases, orphans
from search.storage.searches import ArmRow, arms_within, check_room, states_within
from search.storage.statements import (
    NOTHING,
    Owner,
    Values,
    apply,
    begin_attempt,
    end_attempt,
    put_attributes,
    put_notes,
)


@dataclass(frozen=True)
class EpochCount:
    """The trials of one study that did not fail, and the epochs that are stored of them."""

    finished: int = 0
    unfinished: int = 0
    finished_epochs: int = 0
    unfinished_epochs: int = 0

    @property
    def epochs(self) -> int:
        """All epochs."""
        return self.finished_epochs + self.unfinished_epochs


@dataclass(frozen=True)
class LeaseHandle:
    """A lease that this process holds."""

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


@dataclass(frozen=True)
class LeaseDetails(LeaseRow):
    """A whole row of the table of leases."""

    host: str | None
    best_epoch: int | None
    best_score: float | None
    scores: str | None
    """All scores of the best epoch by name, as JSON."""
    seconds: str | None
    """Wall time by part, as JSON."""
    gpu_seconds: float
    environment: str | None
    """Versions, ranks and forecast of those that trained it, as JSON."""
    weights: str | None
    weights_sha256: str | None
    failure: str | None
    """The failure's class; None where it did not fail."""
    message: str | None

    @classmethod
    def of(cls, row: sa.Row[Any]) -> "LeaseDetails":
        """The typed form of a row with all columns."""
        return cls(**row._asdict())

    @property
    def known_run(self) -> str:
        """The run of a trial that began to train. Raises ValueError for others."""
        if self.run is None:
            raise ValueError(f"trial {self.trial_id} has no run yet")
        return self.run

    @property
    def known_score(self) -> float:
        """The best score of a trial that was validated. Raises ValueError for others."""
        if self.best_score is None:
            raise ValueError(f"trial {self.trial_id} has no score yet")
        return self.best_score


@dataclass(frozen=True)
class AttemptRow:
    """A row of the table of attempts: one holder of a trial."""

    trial_id: int
    token: int
    owner: str
    host: str
    first_epoch: int
    began: float
    """Seconds since 1970 by the database's clock; `ended` too."""
    ended: float | None
    why: str | None
    """How it ended; None while it goes on."""

    @classmethod
    def of(cls, row: sa.Row[Any]) -> "AttemptRow":
        """The typed form of a row with all columns."""
        return cls(**row._asdict())


def shortened(message: str, most: int = 4000) -> str:
    """Head and tail of a long message: what failed stands first, and a traceback names its error last.

    What a database cannot hold as text (NUL, half of a surrogate pair) becomes a question mark.
    """
    message = message.replace("\x00", "?").encode("utf-8", "replace").decode()
    return message if len(message) <= most else f"{message[: most // 2]}\n...\n{message[-most // 2 :]}"


@dataclass(frozen=True)
class Standing:
    """A search as one transaction sees it."""

    rows: list[LeaseRow]
    """Leases of trials that are not finished, by study and number."""
    states: dict[tuple[int, str], int]
    """Numbers of trials by study and Optuna's state."""
    arms: list[ArmRow]


def paused_of(rows: Sequence[LeaseRow]) -> dict[int, LeaseRow]:
    """The paused ones of some leases, by trial id."""
    return {row.trial_id: row for row in rows if row.state == PAUSED}


class Leases:
    """Statements on the lease tables; `optuna_tables` are Optuna's tables by name."""

    def __init__(self, engine: sa.Engine, optuna_tables: Mapping[str, sa.Table]) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        self._tables = optuna_tables

    def of_studies(self, study_ids: Sequence[int], *, finished: bool = False) -> list[LeaseRow]:
        """The leases of some studies, by study and number; finished ones on request."""
        with self.engine.begin() as connection:
            return _rows_within(connection, study_ids, finished=finished)

    def standing(self, search_id: int, study_ids: Sequence[int]) -> Standing:
        """A search as it stands: the leases of trials that are not finished, its trials by state, its arms."""
        with self.engine.begin() as connection:
            return Standing(
                _rows_within(connection, study_ids, finished=False),
                states_within(connection, self._tables["trials"], study_ids),
                arms_within(connection, search_id),
            )

    def heartbeat(self, held: Sequence[LeaseHandle]) -> set[int]:
        """Raise the heartbeat of each lease; returns the trial ids of those that this process no longer holds."""
        if not held:
            return set()
        keys = sa.tuple_(leases.c.trial_id, leases.c.token)
        still_held = keys.in_([(h.trial_id, h.token) for h in held]) & (leases.c.state == HELD)
        with self.engine.begin() as connection:
            connection.execute(leases.update().where(still_held).values(beat=leases.c.beat + 1))
            kept = set(connection.execute(sa.select(leases.c.trial_id).where(still_held)).scalars())
        return {h.trial_id for h in held} - kept

    def acquire(self, seen: LeaseRow, owner: Owner, *, resume_epoch: int, lost: bool) -> LeaseHandle | None:
        """Acquire a free, stale or own lease exactly as it was read; None where another process was quicker.

        In the same transaction the former attempt ends (as lost, where `lost`), and reports above `resume_epoch` go:
        the new holder trains those epochs again.
        """
        with self.engine.begin() as connection:
            return self._acquire(connection, seen, owner, resume_epoch=resume_epoch, lost=lost)

    def promote(
        self, seen: LeaseRow, owner: Owner, *, resume_epoch: int, search_id: int, notes: Values, kept: Values = NOTHING
    ) -> LeaseHandle | None:
        """Acquire a paused lease as it was read; None where another process was quicker.

        In the same transaction the arm has to have room, and system attributes of the trial are written: `kept`, and
        `notes` where it goes on from its newest checkpoint. Raises Refused, also where the search is closed.
        """
        with self.engine.begin() as connection:
            check_room(connection, self.dialect, seen.study_id, search_id)
            held = self._acquire(connection, seen, owner, resume_epoch=resume_epoch, lost=False)
            if held is not None:
                written = {**kept, **(notes if resume_epoch == seen.epoch else {})}
                put_notes(connection, self.dialect, seen.trial_id, written)
            return held

    def _acquire(
        self, connection: sa.Connection, seen: LeaseRow, owner: Owner, *, resume_epoch: int, lost: bool
    ) -> LeaseHandle | None:
        trials = self._tables["trials"]
        state = connection.execute(
            sa.select(trials.c.state).where(trials.c.trial_id == seen.trial_id).with_for_update()
        ).scalar_one_or_none()
        if state is None or state.name != "RUNNING":
            self._close(connection, seen, "deleted" if state is None else "told")
            return None
        same = (leases.c.trial_id == seen.trial_id) & (leases.c.token == seen.token) & (leases.c.state == seen.state)
        if seen.state == HELD:
            # A report of an epoch raises the heartbeat; a stored run is a sign of life, too.
            same &= (leases.c.beat == seen.beat) & leases.c.run.is_not_distinct_from(seen.run)
        if seen.state == PAUSED:
            # Its newest checkpoint may have come to disk since it was read.
            same &= leases.c.epoch == seen.epoch
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
        """Finish the lease of a trial that was ended or deleted past its holder, so that nobody waits for it."""
        as_seen = (leases.c.trial_id == seen.trial_id) & (leases.c.token == seen.token) & (leases.c.state == seen.state)
        changes = dict(state=FINISHED, owner=None, checkpoint=None, message="ended by somebody else, not by its worker")
        if connection.execute(leases.update().where(as_seen).values(**changes)).rowcount == 1 and seen.state == HELD:
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

    def note(self, held: LeaseHandle, notes: Values) -> None:
        """Write system attributes of a held trial, all or none; a sign of life, too. Raises LeaseLost."""
        with self.engine.begin() as connection:
            put_notes(connection, self.dialect, held.trial_id, notes)
            apply(connection, self.dialect, held.trial_id, held.token, {"beat": leases.c.beat + 1}, None)

    def give_back(self, held: LeaseHandle, why: str = "preempted", attributes: Values = NOTHING) -> None:
        """Free a held trial for anybody, uncharged. Raises LeaseLost."""
        self.change(held, {"state": FREE, "owner": None}, ends=why, attributes=attributes)

    def pause(self, held: LeaseHandle, attributes: Values = NOTHING) -> None:
        """Pause a held trial: it keeps what it reported and its checkpoint, and nobody holds it. Raises LeaseLost."""
        self.change(held, {"state": PAUSED, "owner": None}, ends=PAUSED, attributes=attributes)

    def change_paused(self, paused: LeaseHandle, changes: Values) -> bool:
        """Change the lease of a trial that this holder paused; whether it still is as it left it.

        Its last checkpoint comes to disk after it was paused.
        """
        same = (leases.c.trial_id == paused.trial_id) & (leases.c.token == paused.token) & (leases.c.state == PAUSED)
        with self.engine.begin() as connection:
            return connection.execute(leases.update().where(same).values(**changes)).rowcount == 1

    def orphan(self, held: LeaseHandle, epoch: int, record: Mapping[str, Any]) -> None:
        """Store the report of a former holder on a trial that it lost."""
        text = json.dumps(record, allow_nan=False, sort_keys=True)
        values = dict(trial_id=held.trial_id, token=held.token, epoch=epoch, record=text)
        with self.engine.begin() as connection:
            connection.execute(orphans.insert().values(**values))

    def best(self, study_ids: Sequence[int], *, minimize: bool) -> LeaseDetails | None:
        """The finished, not failed lease with the best score; None where there is none."""
        done = leases.c.study_id.in_(study_ids) & (leases.c.state == FINISHED) & leases.c.failure.is_(None)
        order = leases.c.best_score.asc() if minimize else leases.c.best_score.desc()
        query = (
            sa.select(leases).where(done, leases.c.best_score.is_not(None)).order_by(order, leases.c.number).limit(1)
        )
        with self.engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else LeaseDetails.of(row)

    def row(self, trial_id: int) -> LeaseDetails | None:
        """The whole lease row of a trial; None where it has none."""
        with self.engine.begin() as connection:
            row = connection.execute(sa.select(leases).where(leases.c.trial_id == trial_id)).one_or_none()
        return None if row is None else LeaseDetails.of(row)

    def details(self, study_ids: Sequence[int]) -> list[LeaseDetails]:
        """Whole lease rows, for status and export."""
        with self.engine.begin() as connection:
            query = (
                sa.select(leases).where(leases.c.study_id.in_(study_ids)).order_by(leases.c.study_id, leases.c.number)
            )
            return [LeaseDetails.of(row) for row in connection.execute(query)]

    def device_seconds(self, study_id: int) -> dict[int, float]:
        """What each finished trial of a study took, by trial id, in seconds of devices; failed ones are left out."""
        good = (leases.c.study_id == study_id) & (leases.c.state == FINISHED) & leases.c.failure.is_(None)
        with self.engine.begin() as connection:
            rows = connection.execute(sa.select(leases.c.trial_id, leases.c.gpu_seconds).where(good))
            return {trial_id: float(seconds) for trial_id, seconds in rows}

    def epoch_counts(self, study_ids: Sequence[int]) -> dict[int, EpochCount]:
        """By study: how many trials are finished and not, and the epochs stored of each kind; failed ones left out."""
        over = leases.c.state == FINISHED
        counts = [
            sa.func.count().filter(over),
            sa.func.count().filter(~over),
            sa.func.coalesce(sa.func.sum(leases.c.epoch).filter(over), 0),
            sa.func.coalesce(sa.func.sum(leases.c.epoch).filter(~over), 0),
        ]
        good = leases.c.study_id.in_(study_ids) & leases.c.failure.is_(None)
        query = sa.select(leases.c.study_id, *counts).where(good).group_by(leases.c.study_id)
        with self.engine.begin() as connection:
            return {study_id: EpochCount(*map(int, row)) for study_id, *row in connection.execute(query)}

    def attempts_of(self, study_ids: Sequence[int]) -> list[AttemptRow]:
        """Whole attempt rows of some studies' trials."""
        with self.engine.begin() as connection:
            of_studies = sa.select(leases.c.trial_id).where(leases.c.study_id.in_(study_ids))
            query = (
                sa.select(attempts)
                .where(attempts.c.trial_id.in_(of_studies))
                .order_by(attempts.c.trial_id, attempts.c.token)
            )
            return [AttemptRow.of(row) for row in connection.execute(query)]


def _rows_within(connection: sa.Connection, study_ids: Sequence[int], *, finished: bool) -> list[LeaseRow]:
    columns = [leases.c[name] for name in LeaseRow.__dataclass_fields__]
    query = sa.select(*columns).where(leases.c.study_id.in_(study_ids)).order_by(leases.c.study_id, leases.c.number)
    if not finished:
        query = query.where(leases.c.state != FINISHED)
    return [LeaseRow(*row) for row in connection.execute(query)]


RUNG = "completed_rung_"
"""The name of a halving pruner's attribute of a trial, before the rung's number; it holds the score at that rung."""


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
    verdict = (notes.c.trial_id == trial_id) & (notes.c.key == VERDICT)
    stored = connection.execute(sa.select(notes.c.value_json).where(verdict)).scalar_one_or_none()
    if stored is not None and json.loads(stored)["step"] > epoch:
        connection.execute(notes.delete().where(verdict))
    of_rungs = sa.select(notes.c.value_json).where((notes.c.trial_id == trial_id) & (notes.c.key == RUNGS))
    epochs = json.loads(connection.execute(of_rungs).scalar_one_or_none() or "{}")
    # Of notes from before their epochs were kept. A student that learns nothing has the same score in each epoch: then
    # the note may be of one that stays.
    gone -= set(connection.execute(sa.select(values.c.intermediate_value).where(of_trial)).scalars())
    rung_notes = (notes.c.trial_id == trial_id) & notes.c.key.startswith(RUNG, autoescape=True)
    for row in connection.execute(sa.select(notes.c.key, notes.c.value_json).where(rung_notes)).all():
        score = json.loads(row.value_json)
        if epochs[row.key] > epoch if row.key in epochs else (score if math.isfinite(score) else None) in gone:
            connection.execute(notes.delete().where(rung_notes & (notes.c.key == row.key)))


@dataclass
class StaleLeases:
    """Finds leases whose heartbeat stands still, on the watcher's own monotonic clock; a lost contact begins anew."""

    ttl: float
    _since: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    _contact: float | None = None

    def stale(self, rows: Sequence[LeaseRow], now: float) -> list[LeaseRow]:
        """The held leases whose heartbeat stood still for a whole time-to-live; `now` in monotonic seconds."""
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
        """Forget all heartbeats that were read before contact with the database was lost: they prove nothing."""
        self._since.clear()
