"""A watch on this process: where its work hangs it is ended, with a traceback of where."""

import faulthandler
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


class Watchdog:
    """Ends the process where `beat` is not called for `limit` seconds inside `watching`; an infinite limit never does.

    Ranks notice each other in their waits, but a rank alone has no siblings, and its lease would be kept alive for
    ever. The watching thread is no thread of Python's, so it also ends what hangs inside a library.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self._armed: float | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch work whose every part calls `beat` in time. Inside of other such work it is a part of that."""
        if self._armed is not None:
            self.beat()
            yield
            return
        self._arm()
        try:
            yield
        finally:
            self._disarm()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """A wait inside of watched work that may take any time, such as one for something to do."""
        if self._armed is None:
            yield
            return
        self._disarm()
        try:
            yield
        finally:
            self._arm()

    def beat(self) -> None:
        """The work goes on."""
        # Arming costs a thread, so it is done ten times a limit at most; what hangs is ended at most that much earlier.
        if self._armed is not None and self.limit < math.inf and time.monotonic() - self._armed > self.limit / 10:
            self._armed = time.monotonic()
            faulthandler.dump_traceback_later(self.limit * 1.1, exit=True, file=sys.__stderr__ or sys.stderr)

    def end(self, why: str) -> NoReturn:
        """End the process at once, with a traceback of all threads: the caller found that another one hangs."""
        file = sys.__stderr__ or sys.stderr
        with suppress(OSError):  # whoever read this may be gone
            print(why, file=file, flush=True)
        faulthandler.dump_traceback(file)
        os._exit(1)

    def _arm(self) -> None:
        self._armed = -math.inf
        self.beat()

    def _disarm(self) -> None:
        self._armed = None
        if self.limit < math.inf:
            faulthandler.cancel_dump_traceback_later()
