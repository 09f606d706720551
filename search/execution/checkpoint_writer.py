"""Checkpoints go to disk beside the training: copied between two epochs, written by threads during the next one.

Files of a trial that nobody needs any more are removed here, too, and those that are there are judged.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from loguru import logger

from search.execution.messages import PICTURE, WEIGHTS
from search.storage.leases import LeaseRow
from trainer.errors import refusal_text
from trainer.reports import Resume, Saved, Write

WRITING_THREADS = 4
"""Checkpoints that are written at the same time."""
THREAD_NAME = "checkpoint"
"""The name of the threads that write."""
HURRY_SECONDS = 0.1
"""The time between looks whether somebody is in a hurry: a signal handler cannot notify."""

_Later = tuple[Write, Path, Callable[[Saved], None]]
"""How a checkpoint is written, where, and what is called once it is there."""
Deadline = Callable[[], float | None]
"""When, on the monotonic clock, waiting has to end; None while nobody is in a hurry."""


class CheckpointWriter:
    """Used by the leader. A disk that is full or read-only costs no trial: old files stay, each epoch tries again."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Later] = {}
        self._running: dict[Future[Saved], tuple[int, _Later]] = {}
        self._unwritten: dict[int, _Later] = {}
        """The newest checkpoint of each trial that the disk refused: memory alone has it."""
        self._slots = threading.Semaphore(WRITING_THREADS)
        self._lock = threading.Lock()
        self._failing: dict[str, str] = {}
        """Kinds of files that the disk refused last, by suffix, and how it is shown: a disk may be too full for
        checkpoints alone."""
        self._accepted: set[str] = set()
        self._refused: set[str] = set()
        """Kinds that the disk accepted and refused since files were last waited for."""

    def start(
        self, write: Write, path: Path, on_disk: Callable[[Saved], None] = lambda _: None, *, counts: bool = True
    ) -> Future[Saved]:
        """Write in a thread of its own, then call `on_disk` there. `finish` or `saved` raise what went wrong.

        counts: whether the outcome says something of the disk of the runs.
        """
        future: Future[Saved] = Future()
        # A daemon: a disk that hangs must not keep this process from ending.
        threading.Thread(
            target=self._run, args=(future, write, path, on_disk, counts), name=THREAD_NAME, daemon=True
        ).start()
        return future

    def later(self, key: int, write: Write, path: Path, on_disk: Callable[[Saved], None]) -> None:
        """Like `start`, once `go` is called, and for `finish` to wait for. key: the trial's."""
        self._waiting[key] = (write, path, on_disk)
        self._unwritten.pop(key, None)  # the newer state is copied to where that one was

    def forget(self, key: int) -> None:
        """Write nothing later of this trial."""
        self._waiting.pop(key, None)
        self._unwritten.pop(key, None)

    @property
    def refusal(self) -> str | None:
        """What the disk refuses and since when, as it may be shown; None while it takes all. Any thread may ask."""
        with self._lock:
            return "; ".join(text for _, text in sorted(self._failing.items())) or None

    def go(self) -> None:
        """Begin what was to be written later."""
        while self._waiting:
            key = next(iter(self._waiting))
            write, path, on_disk = later = self._waiting.pop(key)
            self._running[self.start(write, path, on_disk)] = key, later

    def finish(self, beat: Callable[[], None], deadline: Deadline) -> list[Path]:
        """Wait until all that was to be written is on disk or refused; returns what is not, where that had to end.

        Raises an error that is not the disk's, once nothing else is waited for.
        """
        self.go()
        self.wait(self._running, beat, deadline)
        done = [future for future in self._running if future.done()]
        bugs = [error for future in done if (error := future.exception()) and not isinstance(error, OSError)]
        for future in done:
            key, later = self._running.pop(future)
            if future.exception() is not None:
                self._unwritten[key] = later
        if bugs:
            raise bugs[0]
        return [path for _, (_, path, _) in self._running.values()]

    def elsewhere(
        self, place: Callable[[Path], Path], exports: Mapping[int, tuple[Write, Path]]
    ) -> tuple[dict[int, "Future[Saved]"], dict[int, "Future[Saved]"]]:
        """Begin to write what the disk refused to other files, for the caller to wait for; by trial: checkpoints, and
        the weights in `exports`.

        place: the file in place of one that the disk refused. That other disk says nothing of the one that refused.
        """
        kept = {key: (write, place(path), on_disk) for key, (write, path, on_disk) in self._unwritten.items()}
        return (
            {key: self.start(*later, counts=False) for key, later in kept.items()},
            {key: self.start(write, place(path), counts=False) for key, (write, path) in exports.items()},
        )

    def wait(self, futures: Iterable["Future[Saved]"], beat: Callable[[], None], deadline: Deadline) -> None:
        """Wait for files that are being written, with a beat for each that is done, until the deadline."""
        pending = {future for future in futures if not future.done()}
        while pending:
            done, pending = wait(pending, HURRY_SECONDS, FIRST_COMPLETED)
            for _ in done:
                beat()
            end = deadline()
            if end is not None and time.monotonic() >= end:
                return
        with self._lock:
            for kind in sorted(self._failing.keys() & (self._accepted - self._refused)):
                del self._failing[kind]
                logger.info("disk: {} are written again", _plural(kind))
            self._accepted, self._refused = set(), set()

    def _run(
        self, future: "Future[Saved]", write: Write, path: Path, on_disk: Callable[[Saved], None], counts: bool
    ) -> None:
        try:
            with self._slots:
                saved = write(path)
            on_disk(saved)
        except BaseException as error:  # noqa: BLE001 - handed to the leader, which raises it
            if isinstance(error, OSError) and counts:
                self._refuse(error, path)
            future.set_exception(error)
        else:
            if counts:
                with self._lock:
                    self._accepted.add(path.suffix)
            future.set_result(saved)

    def _refuse(self, error: OSError, path: Path) -> None:
        """Log it at once, and once, until the disk accepts such files again; the database thread repeats it."""
        text = f"no {_plural(path.suffix)} can be written to {path.parent} ({refusal_text(error)})"
        with self._lock:
            known = path.suffix in self._failing
            if not known:
                self._failing[path.suffix] = f"{text} since {time.strftime('%H:%M')}"
            self._refused.add(path.suffix)
        if not known:
            logger.warning("disk: {}: training goes on, what is there stays; make room", text)


def _plural(kind: str) -> str:
    return "weights" if kind == Path(WEIGHTS).suffix else "checkpoints"


def saved(future: "Future[Saved]") -> Saved | None:
    """The file that was written; None where it is not on disk, now or ever. Raises an error that is not the disk's."""
    if not future.done() or isinstance(future.exception(), OSError):
        return None
    return future.result()


def is_writing() -> bool:
    """Whether threads of this process still write."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())


def remove(path: Path | None) -> None:
    """Remove a file that nobody needs; a disk that refuses keeps it."""
    try:
        if path is not None:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("{} stays on disk: {}", path, refusal_text(error))


def remove_all(folder: Path, token: int) -> None:
    """Remove checkpoints and pictures of a trial that is over, whoever wrote them, and weights of others than `token`.

    folder: the trial's, which has one for each holder.
    """
    for path in folder.glob("*/*"):
        own = path.parent.name == str(token)
        checkpoint = "epoch-" in path.name and not (own and path.name.startswith("."))  # that is still being written
        if checkpoint or PICTURE in path.name or (WEIGHTS in path.name and not own):
            remove(path)


def on_hand(row: LeaseRow) -> int:
    """The epoch that this host can resume a lease from: its checkpoint's, where the file is here and whole, else 0.

    A checkpoint of the last epoch, which no worker writes, has nothing to go on to: 0 as well.

    A file that is here and cannot be read counts as whole: a disk with an error is no reason to begin anew. The worker
    then fails to build the trial, gives it back, and rests; another host may be able to read the file.
    """
    if row.checkpoint is None or row.checkpoint_sha256 is None:
        return 0
    if row.run is not None and row.epoch >= json.loads(row.run)["epochs"]:
        return 0
    try:
        with Path(row.checkpoint).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return 0  # another host's disk, or the file is gone: the trial starts again, visibly
    except OSError as error:
        logger.warning("disk: #{}: {} cannot be read ({})", row.number, row.checkpoint, error.strerror or error)
        return row.epoch
    return row.epoch if digest == row.checkpoint_sha256 else 0


def resume_of(row: LeaseRow, epoch: int) -> Resume | None:
    """Where a taken trial goes on, its checkpoint having been judged good for `epoch`; None: from the beginning."""
    if epoch == 0 or row.checkpoint is None:
        return None
    replay = tuple((own, stream) for own, stream in json.loads(row.replay or "[]"))
    return Resume(Path(row.checkpoint), replay)
