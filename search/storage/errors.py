"""Which errors of a database are transient: it is unavailable, full or read-only; and how long it is waited for then.
Others need mending.

The innermost error counts, which the driver raised: Optuna and SQLAlchemy wrap it in errors of their own, which say
nothing of its kind. PostgreSQL names its errors by SQLSTATE, SQLite by its result codes.

The text of a message counts only for a connection that is refused. The server sends a SQLSTATE then, too, but libpq
gives no access to it before there is a connection; and no client can ask for English there, as options are read after
authentication and `lc_messages` is a superuser's. The refusal of a server that speaks another language is therefore
taken for an unavailable database: a worker that starts waits and shows what the server says, and nothing is lost.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import sqlalchemy as sa
from loguru import logger
from optuna.exceptions import StorageInternalError

from trainer.cli.durations import format_limit
from trainer.errors import UserError, on_stderr, one_line

T = TypeVar("T")

DATABASE = (StorageInternalError, sa.exc.DBAPIError, sa.exc.TimeoutError)
"""What a call raises where the database cannot do it."""
_TRANSIENT_CLASSES = ("08", "40", "53", "55", "57", "58")
"""Connection, serialization and deadlock, resources (disk full, memory, connections), locks, operator, disks."""
_TRANSIENT_STATES = {"25006", "25P02", "25P03"}
"""Read-only as after a failover; a transaction that has failed or timed out before."""
_PERMANENT_STATES = {"57P04"}
"""The database was dropped."""
_TRANSIENT_SQLITE = frozenset({5, 6, 7, 8, 9, 10, 13, 14, 15, 17})
"""Busy, locked, no memory, read-only, interrupted, disk error, full, cannot open, protocol, tables just changed."""
_DENIALS = (
    "password authentication failed",
    "authentication failed for user",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "is not permitted to log in",
    "permission denied for database",
    "invalid port number",
    "certificate verify failed",
    "does not support SSL",
    "no encryption",
    "unsupported startup parameter",  # a pooler that is not set up for options
)
"""Texts with which a server, or the client itself, refuses a connection that will never be accepted."""
_ABSENT = ('role "', 'database "', "no such user", "no such database")
"""What such a refusal names where it ends with `does not exist`; poolers have their own texts."""
_UNKNOWN_HOST = ("could not translate host name", "Name or service not known", "nodename nor servname")


class DatabaseUnavailable(UserError):
    """The database does not answer now; later it may."""

    def __init__(self, text: str, error: BaseException) -> None:
        super().__init__(text)
        self.why = driver_message(error)
        self.unknown_host = not is_transient(error, unknown_host=False)
        """Whether the reason is a host name that cannot be resolved."""


def is_transient(error: BaseException, *, unknown_host: bool = True) -> bool:
    """Whether an error says that the database is unavailable for now, so that the same call may succeed later.

    unknown_host: whether a host name that cannot be resolved counts as such: a name that was once resolved may come
    back, one that never was is a mistake. A name server that is itself unavailable always counts.
    """
    cause = innermost(error)
    if cause is None:
        return False
    code = getattr(cause, "pgcode", None)
    if code is not None:
        return code not in _PERMANENT_STATES and (code in _TRANSIENT_STATES or code[:2] in _TRANSIENT_CLASSES)
    result = getattr(cause, "sqlite_errorcode", None)
    if result is not None:
        return (result & 0xFF) in _TRANSIENT_SQLITE
    if isinstance(cause, sa.exc.TimeoutError | sa.exc.InterfaceError | StorageInternalError):
        return True
    if not _about_connection(cause):
        return False
    message = str(cause)
    if any(text in message for text in _UNKNOWN_HOST) and "Temporary failure" not in message:
        return unknown_host
    absent = "does not exist" in message and any(name in message for name in _ABSENT)
    return not absent and not any(text in message for text in _DENIALS)


def is_denied(error: BaseException) -> bool:
    """Whether an error that is not transient is for the database's administrator to mend: rights, addresses, a missing
    database. All others are mistakes of this program."""
    cause = innermost(error)
    code = getattr(cause, "pgcode", None)
    if code is not None:
        return code[:2] in ("28", "3D") or code in ("42501", "57P04", "42P01")
    return cause is not None and getattr(cause, "sqlite_errorcode", None) is None and _about_connection(cause)


def refusal(label: str, error: BaseException) -> UserError:
    """A database that will not be usable by waiting, in one line. label: its URL as it may be shown."""
    return UserError(
        f"storage: {label} cannot be used: {driver_message(error)}; check the URL and the rights of its user"
    )


def is_no_database(error: BaseException) -> bool:
    """Whether SQLite says of a file that it is none of its own, or is damaged."""
    result = getattr(innermost(error), "sqlite_errorcode", None)
    return result is not None and (result & 0xFF) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def innermost(error: BaseException) -> BaseException | None:
    """The driver's own error, the first cause of all; None where no database has a part in it."""
    cause = None
    for each in _chain(error):
        if isinstance(each, DATABASE) or type(each).__module__.split(".")[0] in ("psycopg2", "sqlite3"):
            cause = each
    return cause


def driver_message(error: BaseException) -> str:
    """The first line of the driver's own message."""
    cause = innermost(error) or error
    lines = str(cause).strip().splitlines()
    return one_line(lines[0]) if lines else type(cause).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, outermost first."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, getattr(each, "orig", None)]


def _about_connection(error: BaseException) -> bool:
    """Whether it is of the kinds that drivers raise where a connection breaks or cannot be opened."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    # psycopg2 knows no better than "DatabaseError" where a connection ends in the middle of an answer.
    return kinds[0] == "DatabaseError" or not {"OperationalError", "InterfaceError", "InternalError"}.isdisjoint(kinds)


UNAVAILABLE = (
    StorageInternalError,
    sa.exc.OperationalError,
    sa.exc.TimeoutError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
)
"""What a call raises while the database is unavailable, full or (the last one) read-only."""


@contextlib.contextmanager
def patient(what: str) -> Iterator[None]:
    """A database that is unavailable or refuses a command's calls becomes a UserError of one line."""
    try:
        yield
    except DATABASE as error:
        if is_transient(error):
            text = f"the database does not answer ({driver_message(error)}); check the URL and the server, then repeat"
            raise DatabaseUnavailable(f"{what}: {text}", error) from None
        if is_denied(error):
            raise UserError(
                f"{what}: the database refuses this ({driver_message(error)}); check the URL and the rights of its user"
            ) from None
        raise


RETRY_SECONDS = 1.0
"""Time between two tries of a database that is away."""


def is_away(error: BaseException | None) -> bool:
    """Whether a worker that begins waits for what an error names.

    That the database's host has no address is a mistake, unless these ranks were started again: then it had one before.
    """
    known = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return isinstance(error, DatabaseUnavailable) and (known or not error.unknown_host)


class Patience:
    """A wait for a database that is away: bounded, and with one line where it begins and one where it ends."""

    def __init__(self, place: str, seconds: float) -> None:
        """place: the database as it may be shown. seconds: how long it may be away; 0: not at all."""
        self._place, self._seconds = place, seconds
        self._since: float | None = None

    @property
    def over(self) -> bool:
        """Whether it has been away for too long."""
        return self._seconds == 0 or (self._since is not None and time.monotonic() - self._since >= self._seconds)

    def wait_on(self, reason: str, *, over: bool) -> None:
        """Take note that it is away. Raises UserError where that is `over` for somebody."""
        limit = format_limit(self._seconds)
        if over:
            waited = f" for {limit}" if self._seconds else ""
            raise UserError(
                f"storage: {self._place} does not answer{waited}: {reason}; is the server up, is the URL right?"
            )
        if self._since is None:
            self._since = time.monotonic()
            logger.warning("database away: {} ({}): waiting up to {}; Ctrl-C or TERM ends", self._place, reason, limit)

    def end(self) -> None:
        """Take note that it answers."""
        if self._since is not None:
            logger.info("database back after {:.0f} s", time.monotonic() - self._since)


def repeated(work: Callable[[], T], *, place: str, patience: float) -> T:
    """What `work` returns, tried again while the database is away; place and patience: as in `Patience`.

    Raises UserError where that is too long, and what `work` raises where it is no matter of time.
    """
    wait = Patience(place, patience)
    while True:
        try:
            value = work()
        except DatabaseUnavailable as error:
            if not is_away(error):
                raise
            wait.wait_on(error.why, over=wait.over)
            time.sleep(RETRY_SECONDS)
        else:
            wait.end()
            return value


def look_again(look: Callable[[], T]) -> T | None:
    """What `look` returns; None, and a line on stderr, where the database is unavailable: a command that watches keeps
    what it saw last and looks again."""
    try:
        return look()
    except UNAVAILABLE as error:
        on_stderr(f"the database does not answer, looking again: {one_line(error)[:100]}")
        return None
