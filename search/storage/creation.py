"""The lock under which tables and studies are created, by one process at a time over all machines."""

import contextlib
from collections.abc import Iterator

import filelock
import sqlalchemy as sa

from trainer.errors import UserError

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
