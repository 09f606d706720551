"""Checkpoints go to disk beside the training: copied between two epochs, written by threads during the next one."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path

from loguru import logger

from trainer.reports import Saved, Write

AT_ONCE = 4
"""Checkpoints that are written at the same time."""


class Writers:
    """The lead's. A disk that is full or read-only costs no trial: what stood stands, and each epoch tries again."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Write, Path, Callable[[Saved], None]]] = {}
        self._under_way: list[tuple[Path, Future[Saved]]] = []
        self._turns = threading.Semaphore(AT_ONCE)
        self._refused = False

    def start(self, write: Write, path: Path, named: Callable[[Saved], None] = lambda _: None) -> Future[Saved]:
        """Write in a thread of its own, then call `named` there. `finish` or `saved` hears of what went wrong."""
        future: Future[Saved] = Future()
        # A daemon: a disk that hangs must not keep this process from ending.
        threading.Thread(
            target=self._run, args=(future, partial(write, path), named), name="checkpoint", daemon=True
        ).start()
        return future

    def later(self, key: int, write: Write, path: Path, named: Callable[[Saved], None]) -> None:
        """Like `start`, once `go` is called, and for `finish` to wait for. key: of the member."""
        self._waiting[key] = (write, path, named)

    def forget(self, key: int) -> None:
        """Nobody needs what was to be written later of a member."""
        self._waiting.pop(key, None)

    def go(self) -> None:
        """Begin what was to be written later."""
        for write, path, named in self._waiting.values():
            self._under_way.append((path, self.start(write, path, named)))
        self._waiting.clear()

    def finish(self, beat: Callable[[], None], patience: float | None = None) -> None:
        """Wait until all that was to be written is on disk or refused, for at most `patience` seconds.

        Raises what is no matter of the disk.
        """
        self.go()
        end = None if patience is None else time.monotonic() + patience
        while self._under_way:
            path, future = self._under_way[0]
            wait([future], None if end is None else max(end - time.monotonic(), 0.0))
            if not future.done():
                logger.warning("disk: {} is still being written: its trial goes on from the one before", path)
                return
            self._under_way.pop(0)
            self.saved(future, path)
            beat()

    def saved(self, future: "Future[Saved]", path: Path) -> Saved | None:
        """What was written, once it is; None where the disk refused it. Raises what is no matter of the disk."""
        try:
            found = future.result()
        except OSError as error:
            self.refused(error, path.parent)
            return None
        self.took()
        return found

    def refused(self, error: OSError, folder: Path) -> None:
        """Say it once, until the disk takes something again."""
        if not self._refused:
            self._refused = True
            logger.warning(
                "disk: no checkpoint can be written to {} ({}): training goes on, the last ones stay; make room",
                folder,
                error.strerror or error,
            )

    def took(self) -> None:
        """The disk took something."""
        if self._refused:
            self._refused = False
            logger.info("disk: checkpoints are written again")

    def _run(self, future: "Future[Saved]", write: Callable[[], Saved], named: Callable[[Saved], None]) -> None:
        try:
            with self._turns:
                saved = write()
            named(saved)
        except BaseException as error:  # noqa: BLE001 - handed to the lead, which raises it
            future.set_exception(error)
        else:
            future.set_result(saved)


def remove(path: Path | None) -> None:
    """Remove a file that nobody needs; a disk that refuses keeps it."""
    try:
        if path is not None:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("{} stays on disk: {}", path, error.strerror)
