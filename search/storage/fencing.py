"""Checks of ours inside Optuna's own transactions, through SQLAlchemy's public session events; how trials are read.

Every write to a trial stands inside `Fence.write(...)`: the commit checks the trial's token and applies the lease's
changes with it. A trial is created or popped inside `Fence.admit(...)`: the commit counts the budget and
inserts the lease. A check that fails raises one of our own exceptions and rolls everything back. Optuna swallows an
IntegrityError in reports and attributes and retries others, so the statements here never let one out.
"""

import contextvars
import functools
import json
import sqlite3
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Container, ItemsView, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from sys import intern
from typing import Any, cast

import sqlalchemy as sa
from loguru import logger
from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as optuna_models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import orm

from search.storage.ownership import put_mark
from search.storage.schema import FINISHED, FREE, HELD, PAUSED, arms, leases, searches
from search.storage.searches import CLOSED, DELETED, ArmRow, Closed, ClosedKind, SearchClosed, SearchRow, why_closed
from search.storage.statements import (
    NOTHING,
    Admission,
    LeaseLost,
    Owner,
    Refused,
    Suggested,
    Values,
    Withdrawal,
    Write,
    apply,
    begin_attempt,
    forget_leases,
    insert_once,
    now_of,
    put_attributes,
    put_findings,
    put_suggested,
    refuse_twice,
)


class Fence:
    """Listens on the session factory of the one storage of this process."""

    def __init__(
        self,
        sessions: orm.scoped_session[orm.Session],
        trial_model: type[Any],
        dialect: str,
        gone: tuple[type[Exception], ...] = (),
    ) -> None:
        self._trial = trial_model
        self._dialect = dialect
        self._sessions = sessions
        self._gone = gone
        self._write: contextvars.ContextVar[Write | None] = contextvars.ContextVar("write", default=None)
        self._admission: contextvars.ContextVar[Admission | None] = contextvars.ContextVar("admission", default=None)
        self._withdrawal: contextvars.ContextVar[Withdrawal | None] = contextvars.ContextVar("withdrawal", default=None)
        self._creates: contextvars.ContextVar[bool] = contextvars.ContextVar("creates", default=False)
        sa.event.listen(sessions.session_factory, "after_flush", self._after_flush)
        sa.event.listen(sessions.session_factory, "before_commit", self._before_commit)

    @contextmanager
    def write(
        self,
        trial_id: int,
        token: int,
        changes: Mapping[str, Any] | None = None,
        *,
        ends: str | None = None,
        attributes: Values = NOTHING,
        findings: Sequence[Values] = (),
    ) -> Iterator[None]:
        """Every commit inside checks that `token` still holds the trial; the first one applies `changes` to its lease.

        `ends` closes the attempt with that reason; `attributes` become the trial's user attributes, `findings` rows of
        that table. Raises LeaseLost.
        """
        pending = bool(changes or ends or attributes or findings)
        previous = self._write.set(Write(trial_id, token, changes or {}, ends, attributes, findings, pending))
        try:
            yield
        except self._gone as error:
            if self._runs(trial_id):
                raise
            raise LeaseLost(f"trial {trial_id}: somebody ended or deleted it") from error
        finally:
            self._write.reset(previous)

    @contextmanager
    def admit(
        self, study_id: int, owner: Owner | None, search_id: int, *, once: str | None = None
    ) -> Iterator[Admission]:
        """A trial created or popped inside is counted and leased, if to anybody. Raises Refused, AlreadyQueuedError."""
        admission = Admission(study_id, owner, search_id, once)
        previous = self._admission.set(admission)
        try:
            yield admission
        finally:
            self._admission.reset(previous)

    def store(self, trial_id: int, token: int, suggested: Suggested, changes: Values, attributes: Values) -> None:
        """Store what was suggested for a held trial, the changes of its lease and user attributes, in one transaction.

        Raises LeaseLost.
        """
        with (
            self.write(trial_id, token, changes, attributes=attributes),
            self._sessions.session_factory() as session,
            session.begin(),
        ):
            table = self._trial.__table__
            query = sa.select(table.c.state).where(table.c.trial_id == trial_id).with_for_update()
            state = session.execute(query).scalar_one_or_none()
            if state is None or state.name != "RUNNING":
                raise LeaseLost(f"trial {trial_id}: somebody ended or deleted it")
            put_suggested(session.connection(), self._dialect, trial_id, suggested)

    @contextmanager
    def withdraw(
        self, trial_id: int, *, paused: bool, lease: Mapping[str, Any], attributes: Values = NOTHING
    ) -> Iterator[Withdrawal]:
        """The commit inside ends a trial that no worker holds, and writes `lease` and user attributes with it.

        paused: it has a lease that says so; else it waits and has none yet. Raises LeaseLost where a worker has it.
        """
        withdrawal = Withdrawal(trial_id, paused, lease, attributes)
        previous = self._withdrawal.set(withdrawal)
        try:
            yield withdrawal
        finally:
            self._withdrawal.reset(previous)

    @contextmanager
    def create(self) -> Iterator[None]:
        """A study that is created inside carries this program's mark, from the same transaction on."""
        previous = self._creates.set(True)
        try:
            yield
        finally:
            self._creates.reset(previous)

    def _runs(self, trial_id: int) -> bool:
        table = self._trial.__table__
        with self._sessions.session_factory() as session:
            query = sa.select(table.c.state).where(table.c.trial_id == trial_id)
            state = session.execute(query).scalar_one_or_none()
        return state is not None and state.name == "RUNNING"

    def _after_flush(self, session: orm.Session, _context: orm.UOWTransaction) -> None:
        admission = self._admission.get()
        if admission is not None:
            fresh = [o for o in (*session.new, *session.dirty) if isinstance(o, self._trial)]
            admission.seen.extend(o for o in fresh if o not in admission.seen)

    def _before_commit(self, session: orm.Session) -> None:
        if self._creates.get():
            created: list[Any] = [new for new in session.new if sa.inspect(new).mapper.local_table.name == "studies"]
            session.flush()
            for study in created:
                put_mark(session.connection(), study.study_id, study.study_name)
        write = self._write.get()
        if write is not None:
            self._check_token(session, write)
        withdrawal = self._withdrawal.get()
        if withdrawal is not None:
            session.flush()
            self._end_unheld(session, withdrawal)
        admission = self._admission.get()
        if admission is not None:
            session.flush()
            # Optuna repeats a creation that failed: rows of a try that was rolled back have left the session.
            seen, admission.seen = [trial for trial in admission.seen if trial in session], []
            for trial in seen:
                self._count_and_lease(session, admission, trial)

    def _check_token(self, session: orm.Session, write: Write) -> None:
        try:
            session.flush()
        except sa.exc.IntegrityError as error:
            # Optuna would drop it silently, and the writer would take the write for stored.
            raise LeaseLost(f"trial {write.trial_id}: somebody else wrote the same row ({error.orig})") from error
        query = sa.select(leases.c.token, leases.c.state).where(leases.c.trial_id == write.trial_id).with_for_update()
        row = session.execute(query).one_or_none()
        if row is None or row.token != write.token or row.state != HELD:
            state = "no lease" if row is None else f"token {row.token}, {row.state}"
            raise LeaseLost(f"trial {write.trial_id}: token {write.token} holds it no longer ({state})")
        if write.pending:
            apply(session.connection(), self._dialect, write.trial_id, write.token, write.changes, write.ends)
            put_attributes(session.connection(), self._dialect, write.trial_id, write.attributes)
            put_findings(session.connection(), self._dialect, write.findings)
            write.pending = False

    def _end_unheld(self, session: orm.Session, end: Withdrawal) -> None:
        values = {**end.lease, "state": FINISHED, "owner": None}
        if end.paused:
            paused = (leases.c.trial_id == end.trial_id) & (leases.c.state == PAUSED)
            named = sa.select(leases.c.checkpoint).where(paused).with_for_update()
            end.checkpoint = session.connection().execute(named).scalar_one_or_none()
            changed = session.connection().execute(leases.update().where(paused).values(**values))
        else:
            fresh = dict(trial_id=end.trial_id, token=1, beat=0, lost=0, epoch=0, gpu_seconds=0.0)
            changed = session.connection().execute(insert_once(self._dialect, leases, **fresh, **values))
        if changed.rowcount != 1:
            raise LeaseLost(f"trial {end.trial_id}: somebody took it meanwhile")
        put_attributes(session.connection(), self._dialect, end.trial_id, end.attributes)

    def _count_and_lease(self, session: orm.Session, admission: Admission, trial: Any) -> None:
        of_study = sa.select(arms).where(arms.c.study_id == admission.study_id)
        row = session.execute(of_study.with_for_update()).one_or_none()
        if row is None or row.search_id != admission.search_id:  # an id that SQLite gave out again
            raise SearchClosed(Closed(ClosedKind.DELETED, DELETED))
        arm = ArmRow.of(row)
        refuse_twice(session.connection(), trial.trial_id, admission.once)
        query = sa.select(searches, now_of(self._dialect).label("now")).where(searches.c.search_id == arm.search_id)
        row = session.execute(query).one()
        search, now = SearchRow.of(row), float(row.now)
        # This transaction has locked the arm's row, as closing a search does: nothing is admitted after a close.
        if search.closed:
            raise SearchClosed(Closed(ClosedKind.CLOSED, CLOSED))
        admission.numbers[trial.trial_id] = trial.number
        table = self._trial.__table__
        of_arm = table.c.study_id == admission.study_id
        counted = sa.select(sa.func.count()).where(of_arm, table.c.state != type(trial.state).FAIL)
        if session.execute(counted).scalar_one() > arm.trials:
            raise Refused(f"arm {arm.name}: all {arm.trials} trials are taken")
        if admission.owner is None:
            return
        self._check_search(session, search, now)
        flies = (leases.c.study_id == admission.study_id) & leases.c.state.in_([HELD, FREE])
        flying = sa.select(sa.func.count()).where(flies)
        if session.execute(flying).scalar_one() >= arm.in_flight:
            raise Refused(f"arm {arm.name}: {arm.in_flight} trials are in flight")
        self._lease(session, admission.owner, trial)

    def _lease(self, session: orm.Session, owner: Owner, trial: Any) -> None:
        lease = dict(study_id=trial.study_id, number=trial.number, state=HELD, owner=owner.name, host=owner.host)
        fresh = dict(trial_id=trial.trial_id, token=1, beat=0, lost=0, epoch=0, gpu_seconds=0.0)
        # SQLite gives out the ids of deleted rows again: what a deleted study left of this one must not be in the way.
        other = (leases.c.study_id != trial.study_id) | (leases.c.number != trial.number)
        leftover = (leases.c.trial_id == trial.trial_id) & other
        if session.execute(sa.select(leases.c.trial_id).where(leftover)).one_or_none() is not None:
            forget_leases(session.connection(), leftover)
        inserted = session.connection().execute(insert_once(self._dialect, leases, **fresh, **lease))
        if inserted.rowcount != 1:
            raise Refused(f"trial {trial.trial_id} has a lease already")
        begin_attempt(session.connection(), self._dialect, trial.trial_id, 1, owner, 1)

    def _check_search(self, session: orm.Session, search: SearchRow, now: float) -> None:
        reason = why_closed(session.connection(), search, now)
        if reason is not None:
            raise SearchClosed(reason)
        if search.began is None:
            started = searches.update().where(searches.c.search_id == search.search_id, searches.c.began.is_(None))
            session.execute(started.values(began=now))


class QuickStorage(RDBStorage):
    """Optuna's storage, which reads the trials of a study by plain rows.

    Optuna makes an object of its mapper for each row, and each trial's distributions anew, twice; of 5,000 trials with
    50 scores that takes most of a worker's first look and of its memory. What is returned is equal (a test compares),
    but equal distributions and names are one object, and a finished trial's scores are a `Curve`. All writing is
    Optuna's own.
    """

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        trials = optuna_models.TrialModel.__table__
        wanted = trials.c.trial_id > trial_id_greater_than
        older = sorted(trial_id for trial_id in included_trial_ids if trial_id <= trial_id_greater_than)
        if older:
            wanted |= trials.c.trial_id.in_(older)
        which = (trials.c.study_id == study_id) & wanted
        if states is not None:
            which &= trials.c.state.in_([state for state in TrialState if state in states])
        with self.engine.begin() as connection:
            rows = connection.execute(sa.select(trials).where(which).order_by(trials.c.trial_id)).all()
            if not rows and connection.execute(_study_of(study_id)).one_or_none() is None:
                raise KeyError(optuna_models.NOT_FOUND_MSG)
            trials_read: list[FrozenTrial] = []
            for first in range(0, len(rows), AT_ONCE):
                some = rows[first : first + AT_ONCE]
                parts = _Parts(connection, [row.trial_id for row in some])
                trials_read += [self._frozen(row, parts) for row in some]
            return trials_read

    def _frozen(self, row: Any, parts: "_Parts") -> FrozenTrial:
        params = [(intern(each.param_name), each) for each in parts.params[row.trial_id]]
        kinds = {name: _distribution(each.distribution_json) for name, each in params}
        values = {each.objective: each for each in parts.values[row.trial_id]}
        of_value = optuna_models.TrialValueModel.stored_repr_to_value
        of_score = optuna_models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
        curve = {
            each.step: of_score(each.intermediate_value, each.intermediate_value_type)
            for each in parts.intermediate_values[row.trial_id]
        }
        return FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=[of_value(values[i].value, values[i].value_type) for i in range(len(values))] or None,
            datetime_start=row.datetime_start,
            datetime_complete=row.datetime_complete,
            params={name: kinds[name].to_external_repr(each.param_value) for name, each in params},
            distributions=kinds,
            user_attrs={intern(each.key): json.loads(each.value_json) for each in parts.user_attributes[row.trial_id]},
            system_attrs={
                intern(each.key): json.loads(each.value_json) for each in parts.system_attributes[row.trial_id]
            },
            intermediate_values=cast(Any, Curve(curve) if row.state.is_finished() else curve),
            trial_id=row.trial_id,
        )


class Curve(Mapping[int, float]):
    """Scores by step that nobody changes any more: 16 bytes each, where a dictionary takes about 70."""

    __slots__ = ("_scores", "_steps")

    def __init__(self, scores: Mapping[int, float]) -> None:
        ordered = sorted(scores.items())
        self._steps = array("q", [step for step, _ in ordered])
        self._scores = array("d", [score for _, score in ordered])

    def __getitem__(self, step: int) -> float:
        place = bisect_left(self._steps, step)
        if place == len(self._steps) or self._steps[place] != step:
            raise KeyError(step)
        return self._scores[place]

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def items(self) -> ItemsView[int, float]:
        """Pairs of step and score; samplers go through those of all trials at every draw."""
        return _CurveItems(self)

    def __repr__(self) -> str:
        return repr(dict(self))


class _CurveItems(ItemsView[int, float]):
    """Without a search for each step, as the general one makes."""

    _mapping: Curve

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return zip(self._mapping._steps, self._mapping._scores, strict=True)


def _study_of(study_id: int) -> Any:
    studies = optuna_models.StudyModel.__table__
    return sa.select(studies.c.study_id).where(studies.c.study_id == study_id)


_distribution = functools.cache(json_to_distribution)
"""One object for all equal texts: a study has few."""


AT_ONCE = 400
"""Trials whose rows are read together: a statement has room for so many ids, and memory for their rows."""


class _Parts:
    """The rows that belong to some trials, by trial id; each list in the order of its keys."""

    def __init__(self, connection: sa.Connection, trial_ids: Sequence[int]) -> None:
        self._connection, self._trial_ids = connection, trial_ids
        self.params = self._rows(optuna_models.TrialParamModel)
        self.values = self._rows(optuna_models.TrialValueModel)
        self.user_attributes = self._rows(optuna_models.TrialUserAttributeModel)
        self.system_attributes = self._rows(optuna_models.TrialSystemAttributeModel)
        self.intermediate_values = self._rows(optuna_models.TrialIntermediateValueModel)

    def _rows(self, model: type[Any]) -> Mapping[int, list[Any]]:
        by_trial: defaultdict[int, list[Any]] = defaultdict(list)
        table = model.__table__
        (key,) = table.primary_key.columns
        query = sa.select(table).where(table.c.trial_id.in_(self._trial_ids)).order_by(key)
        for row in self._connection.execute(query):
            by_trial[row.trial_id].append(row)
        return by_trial


SILENT_SECONDS = 3.0
"""How long a wait for SQLite's write lock may go on without a word."""


def lock_on_begin(engine: sa.Engine, seconds: float) -> None:
    """SQLite takes its write lock at BEGIN: otherwise two processes pop the same enqueued trial.

    seconds: how long it is waited for, with a line in the log where that takes longer than usual.

    A file that is removed or replaced meanwhile counts as a database that is away: SQLite itself would write on, into
    what nobody can open any more, or begin an empty file.
    """
    file = _SameFile(Path(engine.url.database or ""))

    @sa.event.listens_for(engine, "do_connect")
    def do_connect(*_: object) -> None:
        file.check()

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        file.check()
        _take_write_lock(connection, seconds)

    engine.dispose()  # connections made before the listeners go


def _take_write_lock(connection: sa.Connection, seconds: float) -> None:
    try:
        _begin_within(connection, min(SILENT_SECONDS, seconds))
    except sa.exc.OperationalError as error:
        if seconds <= SILENT_SECONDS or "locked" not in str(error.orig):
            raise
        file = Path(connection.engine.url.database or "").absolute()
        logger.warning("{} is locked by another program that writes: waiting for it, {:g} s at most", file, seconds)
        _begin_within(connection, seconds - SILENT_SECONDS)


def _begin_within(connection: sa.Connection, seconds: float) -> None:
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(seconds * 1000)}").close()
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class _SameFile:
    """A path that has to lead to the same file as when it was seen first."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._first = self._now()

    def check(self) -> None:
        """Raises the error of a database that is away."""
        now = self._now()
        self._first = self._first or now
        if now != self._first:
            state = "was removed" if now is None else "is another file than before"
            lost = sqlite3.OperationalError(
                f"{self._path} {state}; put the former one back, or end this process and start it again"
            )
            lost.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise sa.exc.OperationalError("BEGIN IMMEDIATE", None, lost)

    def _now(self) -> tuple[int, int] | None:
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return None
        return state.st_dev, state.st_ino
