"""Checkpoints go to disk beside the training: copied between two epochs, written by threads during the next one."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from loguru import logger

from search.execution.messages import WEIGHTS
from trainer.reports import Saved, Write

AT_ONCE = 4
"""Checkpoints that are written at the same time."""
NAME = "checkpoint"
"""Of the threads."""
SLICE = 0.1
"""Seconds between looks whether somebody is in a hurry: a signal handler cannot notify."""

Until = Callable[[], float | None]
"""When, on the monotonic clock, waiting has to end; None while nobody is in a hurry."""


class CheckpointWriter:
    """The lead's. A disk that is full or read-only costs no trial: what stood stands, and each epoch tries again."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Write, Path, Callable[[Saved], None]]] = {}
        self._under_way: dict[Future[Saved], Path] = {}
        self._turns = threading.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        """Kinds of files that the disk refused last, such as `.pt`: a disk may be too full for checkpoints alone."""
        self._taken: set[str] = set()
        self._refused: set[str] = set()
        """Kinds that it took and refused since files were last waited for."""

    def start(self, write: Write, path: Path, named: Callable[[Saved], None] = lambda _: None) -> Future[Saved]:
        """Write in a thread of its own, then call `named` there. `finish` or `saved` hears of what went wrong."""
        future: Future[Saved] = Future()
        # A daemon: a disk that hangs must not keep this process from ending.
        threading.Thread(target=self._run, args=(future, write, path, named), name=NAME, daemon=True).start()
        return future

    def later(self, key: int, write: Write, path: Path, named: Callable[[Saved], None]) -> None:
        """Like `start`, once `go` is called, and for `finish` to wait for. key: of the member."""
        self._waiting[key] = (write, path, named)

    def forget(self, key: int) -> None:
        """Nobody needs what was to be written later of a member."""
        self._waiting.pop(key, None)

    def go(self) -> None:
        """Begin what was to be written later."""
        while self._waiting:
            write, path, named = self._waiting.pop(next(iter(self._waiting)))
            self._under_way[self.start(write, path, named)] = path

    def finish(self, beat: Callable[[], None], until: Until) -> list[Path]:
        """Wait until all that was to be written is on disk or refused; returns what is not, where that had to end.

        Raises what is no matter of the disk, once nothing else is waited for.
        """
        self.go()
        self.wait(self._under_way, beat, until)
        done = [future for future in self._under_way if future.done()]
        bugs = [error for future in done if (error := future.exception()) and not isinstance(error, OSError)]
        for future in done:
            del self._under_way[future]
        if bugs:
            raise bugs[0]
        return list(self._under_way.values())

    def wait(self, futures: Iterable["Future[Saved]"], beat: Callable[[], None], until: Until) -> None:
        """Wait for files that are being written, with a beat for each that is done, while `until` allows it."""
        pending = {future for future in futures if not future.done()}
        while pending:
            done, pending = wait(pending, SLICE, FIRST_COMPLETED)
            for _ in done:
                beat()
            end = until()
            if end is not None and time.monotonic() >= end:
                return
        with self._lock:
            for kind in sorted(self._failing & (self._taken - self._refused)):
                self._failing.remove(kind)
                logger.info("disk: {} are written again", _named(kind))
            self._taken, self._refused = set(), set()

    def _run(self, future: "Future[Saved]", write: Write, path: Path, named: Callable[[Saved], None]) -> None:
        try:
            with self._turns:
                saved = write(path)
            named(saved)
        except BaseException as error:  # noqa: BLE001 - handed to the lead, which raises it
            if isinstance(error, OSError):
                self._refuse(error, path)
            future.set_exception(error)
        else:
            with self._lock:
                self._taken.add(path.suffix)
            future.set_result(saved)

    def _refuse(self, error: OSError, path: Path) -> None:
        """Say it at once, and once, until the disk takes such files again."""
        with self._lock:
            said = path.suffix in self._failing
            self._failing.add(path.suffix)
            self._refused.add(path.suffix)
        if not said:
            logger.warning(
                "disk: no {} can be written to {} ({}): training goes on, what is there stays; make room",
                _named(path.suffix),
                path.parent,
                error.strerror or error,
            )


def _named(kind: str) -> str:
    return "weights" if kind == Path(WEIGHTS).suffix else "checkpoints"


def saved(future: "Future[Saved]") -> Saved | None:
    """What was written; None where it is not on disk, now or ever. Raises what is no matter of the disk."""
    if not future.done() or isinstance(future.exception(), OSError):
        return None
    return future.result()


def hold_up() -> bool:
    """Whether threads of this process still write."""
    return any(thread.name == NAME for thread in threading.enumerate())
