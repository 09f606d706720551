"""The one place where a storage is built: engine, tables, fence, and the checks that a database can be used at all.

Tables and studies are created by one process at a time, over all machines. Every call to PostgreSQL ends: the client
keeps the limit that it asks the server to keep, also where something between them keeps the connection open and
does not answer.
"""

import contextlib
import logging
import re
import select
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy as sa
from loguru import logger
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.storages._rdb import models as optuna_models
from psycopg2 import OperationalError, extensions  # type: ignore[import-untyped]  # it has no stubs

from search.storage import errors, schema
from search.storage.fencing import Fence, QuickStorage, lock_on_begin
from search.storage.leases import Leases
from search.storage.ownership import refuse_foreign
from search.storage.searches import Searches
from search.storage.url import DEFAULT, _template, _with_driver, label_of, refuse_bad_file
from trainer.atomic_files import private_folder
from trainer.errors import UserError

CALL_SECONDS = 30
"""No single statement may take longer."""


UPGRADE = "to bring them up: python -m search db backup -o FILE, then: python -m search db upgrade"
NEWER = "use the program of that version, or another database"
GONE = (KeyError, UpdateFinishedTrialError)
"""What Optuna raises about a trial that somebody deleted or ended."""


@dataclass(frozen=True)
class Database:
    """A database in use by this process."""

    storage: BaseStorage
    engine: sa.Engine
    fence: Fence
    leases: Leases
    searches: Searches
    label: str
    """The URL without its password."""

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """A lock that one process at a time has, over all machines; tables and studies are made under it, too."""
        return one_at_a_time(self.engine.url, self.label)


def open_storage(url: str, *, create: bool = True, studies: Sequence[str] = ()) -> Database:
    """Open the tables of Optuna and our own.

    create: make those that are missing; otherwise a database without them is an error. studies: names that are going
    to be used; where one is that of somebody else's Optuna study, nothing is made. Raises UserError in one line,
    without secrets.
    """
    label = label_of(url)
    parsed = _with_driver(url)
    dialect = parsed.get_backend_name()
    if dialect == "sqlite":
        _check_local_file(parsed, label, create=create)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if not create:
            _check_present(parsed, label)
        with one_at_a_time(parsed, label):
            _check_before(parsed, label, studies)
            rdb = QuickStorage(_template(parsed), engine_kwargs=_engine_arguments(dialect))
            if dialect == "sqlite":
                lock_on_begin(rdb.engine, CALL_SECONDS)
            else:
                _limit_transactions(rdb.engine)
            _create_own_tables(rdb.engine)
    except sa.exc.SQLAlchemyError as error:
        raise _not_opened(label, error) from None
    except RuntimeError:  # Optuna's own check of its tables
        tables = OptunaTables(url)
        raise UserError(
            f"storage: {label}: Optuna's tables are of version {tables.version}, Optuna {optuna.__version__} wants "
            f"{tables.wanted}; " + (UPGRADE if tables.older else NEWER)
        ) from None
    fence = Fence(rdb.scoped_session, optuna_models.TrialModel, dialect, GONE)
    named = dict(optuna_models.BaseModel.metadata.tables.items())
    leases, searches = Leases(rdb.engine, named), Searches(rdb.engine, named)
    return Database(get_storage(rdb), rdb.engine, fence, leases, searches, label)


def without_memory(opened: Database) -> BaseStorage:
    """The same database without what Optuna remembers of its studies by their ids."""
    storage: Any = opened.storage
    return get_storage(storage._backend)


def _engine_arguments(dialect: str) -> dict[str, Any]:
    if dialect == "sqlite":
        return {"connect_args": {"timeout": CALL_SECONDS}}
    bound()
    arguments = {
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": CALL_SECONDS * 1000,
        "options": " ".join(f"-c {name}={seconds}s" for name, seconds in _limits().items()),
    }
    return {"pool_size": 1, "max_overflow": 1, "pool_pre_ping": True, "connect_args": arguments}


def _limits() -> dict[str, int]:
    """PostgreSQL's settings that end a call, and their seconds."""
    return {
        "statement_timeout": CALL_SECONDS,
        "lock_timeout": CALL_SECONDS,
        "idle_in_transaction_session_timeout": 2 * CALL_SECONDS,
    }


def _limit_transactions(engine: sa.Engine) -> None:
    """Set the limits in each transaction where those that a connection asks for at its start do not hold.

    A pooler in transaction mode drops them: its connections to the server are everybody's. Elsewhere this costs one
    question, and transactions have no statement more.
    """
    holds = sa.text("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'")
    with engine.connect() as connection:
        if int(connection.execute(holds).scalar_one()) == CALL_SECONDS * 1000:
            return
    limits = "; ".join(f"SET LOCAL {name} = '{seconds}s'" for name, seconds in _limits().items())

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(limits)

    sa.event.listen(engine, "begin", begin)


def _bounded(url: sa.URL) -> sa.Engine:
    """An engine for a look at what is there, whose calls end as those of every other one."""
    arguments = _engine_arguments(url.get_backend_name())["connect_args"]
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args=arguments)


def creation_lock(url: str) -> contextlib.AbstractContextManager[None]:
    """The lock under which studies are created."""
    return one_at_a_time(_with_driver(url), label_of(url))


def own_version(connection: sa.Connection) -> int | None:
    """The version of our own tables in a database; None where there are none."""
    if not sa.inspect(connection).has_table(schema.version_row.name):
        return None
    version = connection.execute(sa.select(schema.version_row.c.version)).scalar_one_or_none()
    return None if version is None else int(version)


def _check_before(url: sa.URL, label: str, studies: Sequence[str]) -> None:
    """Before anything is created: tables of another version, and studies of somebody else, are left as they are."""
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return
    engine = _bounded(url)
    with engine.connect() as connection:
        version = own_version(connection)
        if version is not None and version != schema.VERSION:
            raise UserError(
                f"storage: {label} holds tables of version {version}, "
                f"{'newer' if version > schema.VERSION else 'older'} than this program's {schema.VERSION}; "
                + (NEWER if version > schema.VERSION else UPGRADE)
            )
        if studies:
            refuse_foreign(connection, label, studies)


def _create_own_tables(engine: sa.Engine) -> None:
    schema.metadata.create_all(engine)
    with engine.begin() as connection:
        if own_version(connection) is None:
            connection.execute(schema.version_row.insert().values(version=schema.VERSION))


def bare_engine(url: str) -> sa.Engine:
    """An engine on a database as it is: nothing is created or checked, and no statement has a time limit.

    Raises UserError for a URL or a file that cannot be used.
    """
    parsed = _with_driver(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, poolclass=sa.NullPool, connect_args={"connect_timeout": 10})
    _check_local_file(parsed, label_of(url), create=True)
    engine = sa.create_engine(parsed, poolclass=sa.NullPool, **_engine_arguments("sqlite"))
    lock_on_begin(engine, CALL_SECONDS)
    return engine


class OptunaTables:
    """Optuna's own tables of a database that has them, whatever their version."""

    def __init__(self, url: str) -> None:
        self._rdb = RDBStorage(_template(_with_driver(url)), skip_compatibility_check=True, skip_table_creation=True)
        self.version: str = self._rdb.get_current_version()
        self.wanted: str = self._rdb.get_head_version()
        self.older: bool = self.version != self.wanted and self.version in self._rdb.get_all_versions()
        self.newer: bool = self.version != self.wanted and not self.older
        self._rdb.engine.dispose()

    @staticmethod
    def names() -> set[str]:
        """The names of Optuna's tables in this version."""
        return {*optuna_models.BaseModel.metadata.tables, "alembic_version"}

    def upgrade(self) -> None:
        """Bring them to this Optuna's version."""
        # Without a handler on the root logger, alembic would print its messages and disable other loggers.
        logging.getLogger().addHandler(logging.NullHandler())
        self._rdb.upgrade()
        self._rdb.engine.dispose()


def _check_present(url: sa.URL, label: str) -> None:
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise UserError(f"storage: {label}: no such file; give --storage or OPTUNA_STORAGE as the workers had it")
    engine = _bounded(url)
    present = sa.inspect(engine).has_table(schema.searches.name)
    engine.dispose()
    if not present:
        raise UserError(f"storage: {label} holds no search yet; start a worker, or give another --storage")


def _check_local_file(url: sa.URL, label: str, *, create: bool) -> None:
    file = Path(url.database or "")
    if create and file == DEFAULT:
        private_folder(file.resolve().parent)
    refuse_bad_file(url, label)


def _not_opened(label: str, error: Exception) -> UserError:
    if errors.is_transient(error):
        text = f"storage: {label} does not answer: {errors.driver_message(error)}; is the server up, is the URL right?"
        return errors.DatabaseUnavailable(text, error)
    return errors.refusal(label, error)


GRACE_SECONDS = 2.0
"""How much later than the server the client gives up: a server that still answers has the better message."""
CONNECT_SECONDS = 12.0
"""The limit for a server that accepts a connection and then does not answer."""
QUIET_SECONDS = 4.0
"""How long nothing is said of such a server."""
_LIMIT = re.compile(r"statement_timeout=(\d+)s")


def bound() -> None:
    """From now on this process waits for PostgreSQL no longer than each connection's own `statement_timeout`."""
    extensions.set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    """Wait for an answer, or to be connected. Raises OperationalError at the limit; psycopg2 then closes the call's
    connection."""
    limit = _LIMIT.search(connection.dsn)
    seconds = None if limit is None else int(limit[1]) + GRACE_SECONDS
    quiet = None
    if connection.status == extensions.STATUS_SETUP:
        # libpq's own connect_timeout does not count when we wait ourselves.
        seconds = CONNECT_SECONDS if seconds is None else min(seconds, CONNECT_SECONDS)
        quiet = time.monotonic() + QUIET_SECONDS
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise OperationalError(f"no answer within {seconds:g} s")
        waiting = select.poll()
        waiting.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        until = [moment for moment in (end, quiet) if moment is not None]
        waiting.poll(max(0.0, min(until) - time.monotonic()) * 1000 if until else None)
        if quiet is not None and time.monotonic() >= quiet:
            quiet = None
            logger.info("the database accepts a connection and does not answer; waits up to {:g} s", seconds)


CREATION_SECONDS = 120
"""Many workers that start at once make tables and studies one after the other."""
_ADVISORY_LOCK = 0x6B64_7365  # any constant serves, if no other program on the same database uses it


@contextlib.contextmanager
def one_at_a_time(url: sa.URL, label: str) -> Iterator[None]:
    """One process at a time creates tables and studies: concurrent CREATE TABLE fails on PostgreSQL."""
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            yield
            return
        lock = filelock.FileLock(f"{url.database}.lock", timeout=CREATION_SECONDS)
        with _waiting(label):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
        return
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": 10})
    # The lock is a transaction's: that of a session would stay behind in a connection that a pooler keeps.
    with engine.begin() as connection:
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{CREATION_SECONDS}s'"))
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        with _waiting(label):
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        yield


@contextlib.contextmanager
def _waiting(label: str) -> Iterator[None]:
    try:
        yield
    except (filelock.Timeout, sa.exc.OperationalError) as error:
        if isinstance(error, sa.exc.OperationalError) and "lock timeout" not in str(error):
            raise
        raise UserError(
            f"storage: {label}: another process has been making tables "
            f"or studies for {CREATION_SECONDS} s; see whether it hangs, then repeat"
        ) from None
