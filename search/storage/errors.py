"""Which errors of a database pass by themselves: it is away, full or read-only. All others are there to be mended.

What counts is the innermost error, that which the driver raised: Optuna and SQLAlchemy wrap it in errors of their own
which say nothing of its kind. PostgreSQL names its errors by SQLSTATE, SQLite by its result codes.

Words count only for a connection that is refused: the server sends a SQLSTATE then, too, but libpq gives no access to
it before there is a connection; and no client can ask for English there, as options are read after authentication and
`lc_messages` is a superuser's. A server that speaks another language is one that is away: who begins waits, shown what
the server says, and nothing is lost.
"""

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError

from search.storage import errors
from trainer.errors import UserError, one_line

DATABASE = (StorageInternalError, sa.exc.DBAPIError, sa.exc.TimeoutError)
"""What a call raises where the database does not do what it was asked to."""
_PASSING_CLASSES = ("08", "40", "53", "55", "57", "58")
"""Connection, serialization and deadlock, resources (disk full, memory, connections), locks, operator, disks."""
_PASSING = {"25006", "25P02", "25P03"}
"""Read-only as after a failover; what is left of a transaction that ended before."""
_LASTING = {"57P04"}
"""The database was dropped."""
_SQLITE_PASSING = frozenset({5, 6, 7, 8, 9, 10, 13, 14, 15, 17})
"""Busy, locked, no memory, read-only, interrupted, disk error, full, cannot open, protocol, tables just changed."""
_REFUSED = (
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
"""Words with which a server, or the client itself, turns away who asks wrongly, and always will."""
_ABSENT = ('role "', 'database "', "no such user", "no such database")
"""What such a refusal names where it ends with `does not exist`; poolers have words of their own."""
_UNKNOWN_HOST = ("could not translate host name", "Name or service not known", "nodename nor servname")


class DatabaseAway(UserError):
    """The database does not answer now; later it may."""

    def __init__(self, text: str, error: BaseException) -> None:
        super().__init__(text)
        self.why = words(error)
        self.unknown_host = not passes(error, unknown_host=False)
        """Whether that is because nobody knows a host of that name."""


def passes(error: BaseException, *, unknown_host: bool = True) -> bool:
    """Whether an error says that the database is away for now, so that the same call may succeed later.

    unknown_host: whether a host name that nobody knows counts as such: a name that was once resolved may come back, one
    that never was is a mistake. A name server that is away itself always counts.
    """
    found = innermost(error)
    if found is None:
        return False
    code = getattr(found, "pgcode", None)
    if code is not None:
        return code not in _LASTING and (code in _PASSING or code[:2] in _PASSING_CLASSES)
    result = getattr(found, "sqlite_errorcode", None)
    if result is not None:
        return (result & 0xFF) in _SQLITE_PASSING
    if isinstance(found, sa.exc.TimeoutError | sa.exc.InterfaceError | StorageInternalError):
        return True
    if not _about_connection(found):
        return False
    words = str(found)
    if any(said in words for said in _UNKNOWN_HOST) and "Temporary failure" not in words:
        return unknown_host
    absent = "does not exist" in words and any(name in words for name in _ABSENT)
    return not absent and not any(said in words for said in _REFUSED)


def refused(error: BaseException) -> bool:
    """Whether an error that does not pass is for whoever runs the database to mend: rights, addresses, what is not
    there. Others are this program's."""
    found = innermost(error)
    code = getattr(found, "pgcode", None)
    if code is not None:
        return code[:2] in ("28", "3D") or code in ("42501", "57P04", "42P01")
    return found is not None and getattr(found, "sqlite_errorcode", None) is None and _about_connection(found)


def innermost(error: BaseException) -> BaseException | None:
    """The driver's own error, the first cause of all; None where no database has a part in it."""
    found = None
    for each in _chain(error):
        if isinstance(each, DATABASE) or type(each).__module__.split(".")[0] in ("psycopg2", "sqlite3"):
            found = each
    return found


def words(error: BaseException) -> str:
    """What the driver said, its first line."""
    found = innermost(error) or error
    lines = str(found).strip().splitlines()
    return one_line(lines[0]) if lines else type(found).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from, outermost first."""
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
    """Whether it is of the kinds that drivers raise where a connection breaks or does not come about."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    # psycopg2 knows no better than "DatabaseError" where a connection ends in the middle of an answer.
    return kinds[0] == "DatabaseError" or not {"OperationalError", "InterfaceError", "InternalError"}.isdisjoint(kinds)


AWAY = (
    StorageInternalError,
    sa.exc.OperationalError,
    sa.exc.TimeoutError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
)
"""What a call raises while the database is away, full or (the last one) read-only."""


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
