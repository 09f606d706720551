"""Where else an epoch's figures go: CSV, TensorBoard, Weights & Biases or Prometheus, beside what the program keeps.

A mirror is a copy for people's own tools. It is written by a thread of its own, and what goes wrong with it is one
warning and the end of that mirror: nothing that trains waits for it or fails by it.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Full, SimpleQueue
from threading import Semaphore, Thread
from typing import Self

from loguru import logger

from trainer.cli.parser import Flags
from trainer.errors import UserError, nearest
from trainer.loggers.csv_files import CsvFiles
from trainer.loggers.mirror import Mirror, Origin
from trainer.loggers.prometheus import PrometheusFile
from trainer.loggers.tensorboard import TensorBoard
from trainer.loggers.weights_and_biases import WeightsAndBiases
from trainer.reports import EpochReport

WAITING = 10_000
"""Epochs that may wait for a mirror; more than that, and it is given up."""
BEAT_SECONDS = 15.0
"""How long a mirror hears nothing at most."""
CLOSE_SECONDS = 10.0
"""Seconds that the end of the program waits for what is still to be written."""

KINDS: Mapping[str, Callable[[Origin], Mirror]] = {
    "csv": CsvFiles,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "prometheus": PrometheusFile,
}
"""What `--log` may name -> how it is made of whose figures it copies."""
_PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "prometheus": ("prometheus_client", "metrics"),
}
"""Kind -> the package that it needs, and the extra of this program that brings it."""


def add_flags(flags: Flags, *, under_torchrun: bool = False) -> None:
    """`--log` and `--log-dir`, also as `--mirror` and `--mirror-dir`: torchrun takes `--log` for an abbreviation of its
    own options, even behind the name of the script. under_torchrun: the help shows the second names in place of the
    first."""
    log, mirror = _LOG if not under_torchrun else argparse.SUPPRESS, _LOG if under_torchrun else argparse.SUPPRESS
    for flag, text in (("--log", log), ("--mirror", mirror)):
        flags.add_argument(flag, dest="mirror", action="append", default=[], metavar="KIND", help=text)
    for flag, text in (("--log-dir", log), ("--mirror-dir", mirror)):
        shown = text if text is argparse.SUPPRESS else _LOG_DIR.format(flag[:-4])
        flags.add_argument(flag, dest="mirror_dir", type=Path, default=Path("logs"), metavar="DIR", help=shown)


_LOG = f"also write every epoch's scores, losses and seconds: {', '.join(KINDS)}; may be repeated"
_LOG_DIR = "folder of {}, shared by all machines as --runs is (default: %(default)s)"


def check_loggers(kinds: Sequence[str]) -> None:
    """Raise UserError in one line for a mirror that does not exist, or whose package is not installed."""
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--log {kind}: no such mirror{nearest(kind, KINDS)}")
        package, extra = _PACKAGES.get(kind, (None, None))
        if package is not None and find_spec(package) is None:
            raise UserError(
                f'--log {kind}: needs the package {package!r}, which is not installed; pip install ".[{extra}]"'
            )


@dataclass(frozen=True)
class _Left:
    """What is put among reports where a trial is trained here no more."""


class Loggers:
    """Several mirrors, each written by a thread of its own. Made of no kinds, it does nothing."""

    def __init__(self, kinds: Sequence[str], folder: Path, name: str, *, uuid: str | None = None) -> None:
        """name: of the study or file. uuid: of the search in its database, where there is one."""
        origin = Origin(folder, name, uuid)
        self._pipes = [_Pipe(kind, KINDS[kind], origin) for kind in dict.fromkeys(kinds)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, trial: str, report: EpochReport) -> None:
        """One epoch of one trial; returns at once and never raises."""
        for pipe in self._pipes:
            pipe.put((trial, report))

    def leave(self, trial: str) -> None:
        """The trial is trained here no more; it may come back. Returns at once and never raises."""
        for pipe in self._pipes:
            pipe.put((trial, _Left()))

    def close(self) -> None:
        """Wait a little for what is still to be written."""
        for pipe in self._pipes:
            pipe.close()


class _Pipe:
    """One mirror and its thread."""

    def __init__(self, kind: str, made: Callable[[Origin], Mirror], origin: Origin) -> None:
        self._kind, self._made, self._origin = kind, made, origin
        self._queue: SimpleQueue[tuple[str, EpochReport | _Left] | None] = SimpleQueue()
        self._room = Semaphore(WAITING)
        self._newest: dict[str, int] = {}
        """The last epoch of each trial that is trained here."""
        self._broken = False
        # A daemon: a disk that hangs must not keep the process.
        self._thread = Thread(target=self._work, name=f"mirror-{kind}", daemon=True)
        self._thread.start()

    def put(self, what: tuple[str, EpochReport | _Left]) -> None:
        """Hand over what happened to a trial, unless the mirror was given up."""
        if self._broken:
            return
        if self._room.acquire(blocking=False):
            self._queue.put(what)
        else:
            self._give_up(Full(f"{WAITING} epochs wait to be written"))

    def close(self) -> None:
        """End the thread once all is written; say so where that takes too long."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._give_up(TimeoutError(f"not written within {CLOSE_SECONDS:g} s"))

    def _work(self) -> None:
        mirror: Mirror | None = None
        try:
            mirror = self._made(self._origin)
            while True:
                try:
                    what = self._queue.get(timeout=BEAT_SECONDS)
                except Empty:
                    mirror.beat()
                    continue
                if what is None:
                    break
                self._room.release()
                self._pass_on(mirror, *what)
            mirror.close()
        except Exception as error:  # noqa: BLE001 - a copy of figures is worth no trial; whatever its library raises
            self._give_up(error)

    def _pass_on(self, mirror: Mirror, trial: str, what: EpochReport | _Left) -> None:
        if isinstance(what, _Left):
            if self._newest.pop(trial, None) is not None:
                mirror.leave(trial)
            return
        if what.epoch <= self._newest.get(trial, what.epoch):
            mirror.begin(trial, what.epoch)
        self._newest[trial] = what.epoch
        mirror.write(trial, what)

    def _give_up(self, error: Exception) -> None:
        if self._broken:
            return
        self._broken = True
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        logger.warning("--log {}: {}; nothing more is written there, training goes on", self._kind, reason)
