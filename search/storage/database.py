"""The one place where a storage is built: engine, tables, fence, and the checks that a database can be used at all."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.storages._rdb import models as optuna_models

from search.storage import calls, errors, schema
from search.storage.creation import one_at_a_time
from search.storage.fencing import Fence
from search.storage.leases import Leases
from search.storage.url import NETWORK_DISKS, disk_kind
from trainer.errors import UserError

DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg2",
    "postgresql+psycopg2": "postgresql+psycopg2",
}
"""What a URL may begin with, and the driver that serves it."""
SECRET_WORDS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
"""What of a URL's query nobody but the database may see."""
CALL_SECONDS = 30
"""No single statement may take longer."""


UPGRADE = "to bring them up: python -m search db backup -o FILE, then: python -m search db upgrade"
NEWER = "use the program of that version, or another database"
AWAY = (
    StorageInternalError,
    sa.exc.OperationalError,
    sa.exc.TimeoutError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
)
"""What a call raises while the database is away, full or (the last one) read-only."""
GONE = (KeyError, UpdateFinishedTrialError)
"""What Optuna raises about a trial that somebody deleted or ended."""


@dataclass(frozen=True)
class Opened:
    """A database in use by this process."""

    storage: BaseStorage
    engine: sa.Engine
    fence: Fence
    leases: Leases
    label: str
    """The URL without its password."""


def label_of(url: str) -> str:
    """The URL as it may be shown: without its password, and other secrets. Raises UserError for what is no URL."""
    parsed = _parsed(url)
    hidden = {name: "***" for name in SECRET_WORDS if name in parsed.query}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # a port that is no number: the message would show it
        raise UserError(
            "storage: this is no database URL (not shown, it may hold a password); known forms: "
            "postgresql://USER@HOST/DATABASE, sqlite:///FILE"
        ) from None


def _with_driver(url: str) -> sa.URL:
    """The URL with the driver that is installed: which one `postgresql://` means depends on SQLAlchemy's version."""
    parsed = _parsed(url)
    driver = DRIVERS.get(parsed.drivername)
    if driver is None:
        raise UserError(f"storage: {label_of(url)}: {parsed.drivername!r} is not supported; known: postgresql, sqlite")
    return parsed.set(drivername=driver)


def open_storage(url: str, *, create: bool = True) -> Opened:
    """Open the tables of Optuna and our own.

    create: make those that are missing; otherwise a database without them is an error. Raises UserError in one line,
    without secrets.
    """
    label = label_of(url)
    parsed = _with_driver(url)
    dialect = parsed.get_backend_name()
    if dialect == "sqlite":
        _check_local_file(parsed, label)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if not create:
            _check_present(parsed, label)
        with one_at_a_time(parsed, label):
            _check_own_version(parsed, label)
            rdb = RDBStorage(_template(parsed), engine_kwargs=_engine_arguments(dialect))
            if dialect == "sqlite":
                _lock_on_begin(rdb.engine)
            _create_own_tables(rdb.engine)
    except sa.exc.SQLAlchemyError as error:
        raise _not_opened(label, error) from None
    except RuntimeError:  # Optuna's own check of its tables
        found = OptunaTables(url)
        raise UserError(
            f"storage: {label}: Optuna's tables are of version {found.version}, Optuna {optuna.__version__} wants "
            f"{found.wanted}; " + (UPGRADE if found.older else NEWER)
        ) from None
    fence = Fence(rdb.scoped_session, optuna_models.TrialModel, dialect, GONE)
    named = dict(optuna_models.BaseModel.metadata.tables.items())
    return Opened(get_storage(rdb), rdb.engine, fence, Leases(rdb.engine, named), label)


def _engine_arguments(dialect: str) -> dict[str, Any]:
    if dialect == "sqlite":
        return {"connect_args": {"timeout": CALL_SECONDS}}
    calls.bound()
    arguments = {
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": CALL_SECONDS * 1000,
        "options": f"-c statement_timeout={CALL_SECONDS}s -c lock_timeout={CALL_SECONDS}s "
        f"-c idle_in_transaction_session_timeout={2 * CALL_SECONDS}s",
    }
    return {"pool_size": 1, "max_overflow": 1, "pool_pre_ping": True, "connect_args": arguments}


def _lock_on_begin(engine: sa.Engine) -> None:
    """SQLite takes its write lock at BEGIN: otherwise two processes pop the same enqueued trial."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections made before the listeners go


def creation_lock(url: str) -> contextlib.AbstractContextManager[None]:
    """The lock under which studies are created."""
    return one_at_a_time(_with_driver(url), label_of(url))


def _template(url: sa.URL) -> str:
    """Optuna formats the URL as a template: braces in a password are doubled so that they survive."""
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")


def own_version(connection: sa.Connection) -> int | None:
    """The version of our own tables in a database; None where there are none."""
    if not sa.inspect(connection).has_table(schema.version_row.name):
        return None
    found = connection.execute(sa.select(schema.version_row.c.version)).scalar_one_or_none()
    return None if found is None else int(found)


def _check_own_version(url: sa.URL, label: str) -> None:
    """Before anything is created: tables of another version are left as they are."""
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = own_version(connection)
    if found is not None and found != schema.VERSION:
        raise UserError(
            f"storage: {label} holds tables of version {found}, "
            f"{'newer' if found > schema.VERSION else 'older'} than this program's {schema.VERSION}; "
            + (NEWER if found > schema.VERSION else UPGRADE)
        )


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
    _check_local_file(parsed, label_of(url))
    engine = sa.create_engine(parsed, poolclass=sa.NullPool, **_engine_arguments("sqlite"))
    _lock_on_begin(engine)
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
        # Where nobody listens to `logging`, alembic's own settings would make it talk, and silence other loggers.
        logging.getLogger().addHandler(logging.NullHandler())
        self._rdb.upgrade()
        self._rdb.engine.dispose()


def _check_present(url: sa.URL, label: str) -> None:
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise UserError(f"storage: {label}: no such file; give --storage or OPTUNA_STORAGE as the workers had it")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    present = sa.inspect(engine).has_table(schema.searches.name)
    engine.dispose()
    if not present:
        raise UserError(f"storage: {label} holds no search yet; start a worker, or give another --storage")


def _check_local_file(url: sa.URL, label: str) -> None:
    if url.database in (None, "", ":memory:"):
        raise UserError(f"storage: {label}: an in-memory database dies with its process; use sqlite:///FILE")
    folder = Path(url.database or "").resolve().parent
    if not folder.is_dir():
        raise UserError(f"storage: {label}: the folder {folder} does not exist; create it first")
    kind = disk_kind(folder)
    if kind in NETWORK_DISKS:
        raise UserError(
            f"storage: {label} lies on a network disk ({kind}), where SQLite's locks are not safe; "
            "use a local disk, or a PostgreSQL, such as that of: python -m search db start --dir FOLDER"
        )


def _not_opened(label: str, error: Exception) -> UserError:
    if errors.passes(error):
        text = f"storage: {label} does not answer: {errors.words(error)}; is the server up, is the URL right?"
        return errors.DatabaseAway(text, error)
    return UserError(f"storage: {label} cannot be used: {errors.words(error)}; see that URL and rights are right")


@contextlib.contextmanager
def patient(what: str) -> Iterator[None]:
    """Calls that stand outside the worker's loop: a database that is away is the user's to mend, in one line."""
    try:
        yield
    except errors.DATABASE as error:
        if errors.passes(error):
            text = f"the database does not answer ({errors.words(error)}); check the URL and the server, then repeat"
            raise errors.DatabaseAway(f"{what}: {text}", error) from None
        if errors.refused(error):
            raise UserError(
                f"{what}: the database refuses this ({errors.words(error)}); see that URL and rights are right"
            ) from None
        raise
