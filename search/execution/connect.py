"""The groups of one torchrun open their search together: all of them or none, and they wait for a database.

A mistake that one of them makes is that of all: they have the same study file and the same database, so no group is
left to train while the devices of another stand idle.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from search.storage.errors import RETRY_SECONDS, DatabaseUnavailable, Patience, is_away
from trainer.errors import UserError

T = TypeVar("T")
_SYNC_SECONDS = 0.5
"""Time after which the groups tell each other how far they are."""


class AskedToStopError(Exception):
    """Somebody asked to stop before the search was opened."""


@dataclass(frozen=True)
class _Progress:
    """How far one rank is."""

    mistake: str | None = None
    gone: str | None = None
    """Why the database is away; None where it is not."""
    busy: bool = False
    over: bool = False
    """It has been away for too long."""
    stop: bool = False


class Together(Protocol):
    """The ranks of all groups: `trainer.distributed.ranks.Ranks`, and `search.execution.group.SingleProcess`."""

    @property
    def stop_asked(self) -> bool:
        """Whether this rank wishes to stop."""

    def all_gather_world(self, value: _Progress) -> list[_Progress]:
        """Every rank's value, on every rank of all groups."""


def connect(ranks: Together, opens: Callable[[], T] | None, *, place: str, patience: float) -> T | None:
    """What `opens` returns, once it did so in every group; None on ranks without one.

    place, patience: as in `search.storage.errors.Patience`, whose rule this is for ranks that wait for each other.
    Raises UserError on all ranks with the first mistake of any, AskedToStopError where one wishes to stop.
    """
    attempt = None if opens is None else _Attempt(opens)
    wait = Patience(place, patience)
    while True:
        everyone = ranks.all_gather_world(_progress(ranks, attempt, over=wait.over))
        mistake = next((each.mistake for each in everyone if each.mistake is not None), None)
        gone = next((each.gone for each in everyone if each.gone is not None), None)
        if mistake is not None:
            raise UserError(mistake)
        if any(each.stop for each in everyone):
            raise AskedToStopError
        if gone is not None:
            wait.wait_on(gone, over=any(each.over for each in everyone))
        elif not any(each.busy for each in everyone):
            wait.end()
            return None if attempt is None else attempt.result()


def _progress(ranks: Together, attempt: "_Attempt[T] | None", *, over: bool) -> _Progress:
    if attempt is None:
        return _Progress(over=over, stop=ranks.stop_asked)
    error = attempt.wait_a_little(lambda: ranks.stop_asked)
    away = is_away(error)
    return _Progress(
        mistake=str(error) if error is not None and not away else None,
        gone=error.why if isinstance(error, DatabaseUnavailable) and away else None,
        busy=error is None and not attempt.done,
        over=over,
        stop=ranks.stop_asked,
    )


class _Attempt(Generic[T]):
    """A call that is repeated in a thread while the database is away: one that hangs keeps nobody from stopping."""

    def __init__(self, opens: Callable[[], T]) -> None:
        self._opens = opens
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._next = 0.0

    @property
    def done(self) -> bool:
        return bool(self._results)

    def result(self) -> T:
        return self._results[0]

    def wait_a_little(self, hurried: Callable[[], bool]) -> UserError | None:
        """Wait a little for the present try; return the error of the last one that ended, or None without one.

        Raises what is no mistake of the user.
        """
        end = time.monotonic() + _SYNC_SECONDS
        while not self.done and not hurried() and time.monotonic() < end:
            if self._thread is None and time.monotonic() >= self._next:
                self._thread = threading.Thread(target=self._try, name="opening", daemon=True)
                self._thread.start()
            if self._thread is None:
                time.sleep(0.05)
                continue
            self._thread.join(0.05)
            if not self._thread.is_alive():
                self._thread, self._next = None, time.monotonic() + RETRY_SECONDS
                if self._error is not None:
                    break
        if self._error is not None and not isinstance(self._error, UserError):
            raise self._error
        return self._error

    def _try(self) -> None:
        try:
            self._results.append(self._opens())
            self._error = None
        except BaseException as error:  # noqa: BLE001 - raised by `wait_a_little`
            self._error = error
