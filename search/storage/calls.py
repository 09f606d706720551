"""Every call to PostgreSQL ends: the client keeps the limit that it asks the server to keep.

Where the server hangs, or something between keeps the connection open and answers nothing, the server's own
`statement_timeout` never comes; so the same limit, and a little more, is kept on this side. A connection without one,
such as that which waits for the creation lock, is not limited.
"""

import re
import select
import time
from typing import Any

from psycopg2 import OperationalError, extensions  # type: ignore[import-untyped]  # it has no stubs

GRACE_SECONDS = 2.0
"""How much later than the server the client gives up: where the server still answers, its words are better."""
CONNECT_SECONDS = 12.0
"""For a server that takes a connection and then says nothing."""
_LIMIT = re.compile(r"statement_timeout=(\d+)s")


def bound() -> None:
    """From now on this process waits for PostgreSQL no longer than each connection's own `statement_timeout`."""
    extensions.set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    """Wait for an answer, or to be connected. Raises OperationalError at the limit; psycopg2 then closes the call's
    connection."""
    found = _LIMIT.search(connection.dsn)
    seconds = None if found is None else int(found[1]) + GRACE_SECONDS
    if seconds is None and connection.status == extensions.STATUS_SETUP:
        seconds = CONNECT_SECONDS  # libpq's own connect_timeout does not count when we wait ourselves
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
        waiting.poll(None if left is None else left * 1000)
