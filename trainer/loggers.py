"""Where else an epoch's figures go: CSV, TensorBoard or Weights & Biases, offline, beside what the program keeps.

A mirror is a copy for people's own tools. It is written by a thread of its own, and what goes wrong with it is one
warning and the end of that mirror: nothing that trains waits for it or fails by it.
"""

import argparse
import csv
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from queue import Full, SimpleQueue
from threading import Semaphore, Thread
from typing import Any, Protocol, Self

from loguru import logger

from trainer.cli.parser import Flags
from trainer.errors import UserError, nearest
from trainer.reports import EpochReport

WAITING = 10_000
"""Epochs that may wait for a mirror; more than that, and it is given up."""
CLOSE_SECONDS = 10.0
"""Seconds that the end of the program waits for what is still to be written."""


class Mirror(Protocol):
    """One place where figures go. All may raise anything."""

    def begin(self, trial: str, epoch: int) -> None:
        """A trial begins, or goes on, with this epoch: what is there of it and of later ones is trained again."""

    def write(self, trial: str, epoch: int, values: Mapping[str, float]) -> None:
        """One epoch of one trial."""

    def close(self) -> None:
        """Nothing more comes."""


class CsvFiles:
    """`FOLDER/TRIAL.csv` with the columns epoch, figure, value; a trial that goes on elsewhere goes on in its file.

    Epochs that are trained again, after a crash or by another worker, stand there once: the former rows go.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir(parents=True, exist_ok=True)

    def write(self, trial: str, epoch: int, values: Mapping[str, float]) -> None:
        """Append a row for each figure."""
        path = self._folder / f"{trial}.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(_HEAD)
            rows.writerows((epoch, figure, repr(value)) for figure, value in values.items())

    def begin(self, trial: str, epoch: int) -> None:
        """The rows of this epoch and of later ones go, and a row that a crash left unfinished."""
        path = self._folder / f"{trial}.csv"
        if not path.exists():
            return
        before = self.curve(trial)
        part = path.with_name(f"{path.name}.part")
        with part.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(_HEAD)
            rows.writerows(row for row in before if row[0] < epoch)
        part.replace(path)

    def curve(self, trial: str) -> list[tuple[int, str, str]]:
        """The rows of a trial; one that a crash left unfinished is none."""
        path = self._folder / f"{trial}.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(_HEAD) and row[0].isdecimal()]
        return [(int(epoch), figure, value) for epoch, figure, value in rows]

    def close(self) -> None:
        """Every epoch closed its file."""


_HEAD = ("epoch", "figure", "value")


class TensorBoard:
    """Event files below `FOLDER/NAME`, a run a trial, for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._kind: Callable[..., Any] = import_module("torch.utils.tensorboard").SummaryWriter
        self._writers: dict[str, Any] = {}

    def begin(self, trial: str, epoch: int) -> None:
        """A new event file, whose head tells readers to leave out this epoch and later ones of older files."""
        if trial in self._writers:
            self._writers[trial].close()
        self._writers[trial] = self._kind(log_dir=str(self._folder / trial), purge_step=epoch)

    def write(self, trial: str, epoch: int, values: Mapping[str, float]) -> None:
        """A scalar for each figure at this step, on disk at once."""
        for figure, value in values.items():
            self._writers[trial].add_scalar(figure, value, epoch)
        self._writers[trial].flush()

    def close(self) -> None:
        """Close the files of all trials."""
        for writer in self._writers.values():
            writer.close()


class WandB:
    """Runs of Weights & Biases, one a trial, of the project NAME, below `FOLDER/wandb`.

    They stay on this machine (`wandb sync` sends them) unless WANDB_MODE says otherwise. A past cannot be changed:
    a trial that trains epochs again gets a new run with its whole curve, which is kept in `FOLDER/wandb/curves` for
    that, and the older run is removed where it lies here and was not sent yet.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self._init: Callable[..., Any] = import_module("wandb").init
        self._runs: dict[str, Any] = {}
        self._curves = CsvFiles(folder / "wandb" / "curves", name)

    def begin(self, trial: str, epoch: int) -> None:
        """A run with the epochs before this one."""
        place = self._folder / "wandb" / "curves" / self._name / f"{trial}.run"
        if trial in self._runs:
            self._runs.pop(trial).finish()
        if place.exists():
            self._remove(Path(place.read_text(encoding="utf-8")))
        mode = os.environ.get("WANDB_MODE", "offline")
        run = self._init(
            project=self._name, name=trial, group=trial, dir=str(self._folder), mode=mode, reinit="create_new"
        )
        place.write_text(str(Path(run.dir).parent.resolve()), encoding="utf-8")
        self._runs[trial] = run
        self._curves.begin(trial, epoch)
        for step, rows in groupby(self._curves.curve(trial), key=lambda row: row[0]):
            run.log({figure: float(value) for _, figure, value in rows}, step=step)

    def _remove(self, run: Path) -> None:
        """A run's folder, where it is one of ours and was not sent: `wandb sync` leaves a file beside what it sent."""
        ours = run.is_relative_to((self._folder / "wandb").resolve()) and run.name.startswith("offline-run-")
        if ours and not list(run.glob("*.synced")):
            shutil.rmtree(run, ignore_errors=True)

    def write(self, trial: str, epoch: int, values: Mapping[str, float]) -> None:
        """The figures at this step."""
        self._curves.write(trial, epoch, values)
        self._runs[trial].log(dict(values), step=epoch)

    def close(self) -> None:
        """Finish all runs."""
        for run in self._runs.values():
            run.finish()


KINDS: Mapping[str, Callable[[Path, str], Mirror]] = {"csv": CsvFiles, "tensorboard": TensorBoard, "wandb": WandB}
"""What `--log` may name -> how it is made of a folder and the name of the study or file."""
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def add_flags(flags: Flags, *, under_torchrun: bool = False) -> None:
    """`--log` and `--log-dir`, also as `--mirror` and `--mirror-dir`: torchrun takes `--log` for an abbreviation of its
    own options, even behind the name of the script. under_torchrun: the help shows the second names in place of the
    first."""
    log, mirror = _LOG if not under_torchrun else argparse.SUPPRESS, _LOG if under_torchrun else argparse.SUPPRESS
    for flag, text in (("--log", log), ("--mirror", mirror)):
        flags.add_argument(flag, dest="mirror", action="append", default=[], metavar="KIND", help=text)
    for flag, text in (("--log-dir", log), ("--mirror-dir", mirror)):
        shown = text if text is argparse.SUPPRESS else f"folder of {flag[:-4]} (default: %(default)s)"
        flags.add_argument(flag, dest="mirror_dir", type=Path, default=Path("logs"), metavar="DIR", help=shown)


_LOG = f"also write every epoch's scores, losses and seconds: {', '.join(KINDS)}; may be repeated"


def past_torchrun(arguments: Sequence[str]) -> list[str]:
    """A command's words with `--log` written so that torchrun leaves it alone."""
    return ["--mirror" + word[5:] if word == "--log" or word.startswith("--log=") else word for word in arguments]


def check_loggers(kinds: Sequence[str]) -> None:
    """Raise UserError in one line for a mirror that does not exist, or whose package is not installed."""
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--log {kind}: no such mirror{nearest(kind, KINDS)}")
        package = _PACKAGES.get(kind)
        if package is not None and find_spec(package) is None:
            raise UserError(
                f'--log {kind}: needs the package {package!r}, which is not installed; pip install ".[{kind}]"'
            )


def epoch_values(report: EpochReport) -> dict[str, float]:
    """An epoch's figures by name: `score/dice`, `loss/kl`, `seconds/teacher`, ..."""
    groups = {"score": report.scores or {}, "loss": report.losses, "seconds": report.seconds}
    return {f"{group}/{name}": float(value) for group, values in groups.items() for name, value in values.items()}


class Loggers:
    """Several mirrors, each written by a thread of its own. Made of no kinds, it does nothing."""

    def __init__(self, kinds: Sequence[str], folder: Path, name: str) -> None:
        self._pipes = [_Pipe(kind, KINDS[kind], folder, name) for kind in dict.fromkeys(kinds)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, trial: str, report: EpochReport) -> None:
        """One epoch of one trial; returns at once and never raises."""
        for pipe in self._pipes:
            pipe.put((trial, report.epoch, epoch_values(report)))

    def close(self) -> None:
        """Wait a little for what is still to be written."""
        for pipe in self._pipes:
            pipe.close()


class _Pipe:
    """One mirror and its thread."""

    def __init__(self, kind: str, made: Callable[[Path, str], Mirror], folder: Path, name: str) -> None:
        self._kind, self._made, self._folder, self._name = kind, made, folder, name
        self._queue: SimpleQueue[tuple[str, int, dict[str, float]] | None] = SimpleQueue()
        self._room = Semaphore(WAITING)
        self._broken = False
        # A daemon: a disk that hangs must not keep the process.
        self._thread = Thread(target=self._work, name=f"mirror-{kind}", daemon=True)
        self._thread.start()

    def put(self, epoch: tuple[str, int, dict[str, float]]) -> None:
        """Hand over an epoch, unless the mirror was given up."""
        if self._broken:
            return
        if self._room.acquire(blocking=False):
            self._queue.put(epoch)
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
            mirror = self._made(self._folder, self._name)
            newest: dict[str, int] = {}
            while (epoch := self._queue.get()) is not None:
                self._room.release()
                trial, number, _ = epoch
                if number <= newest.get(trial, number):
                    mirror.begin(trial, number)
                newest[trial] = number
                mirror.write(*epoch)
            mirror.close()
        except Exception as error:  # noqa: BLE001 - a copy of figures is worth no trial; whatever its library raises
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._broken:
            return
        self._broken = True
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        logger.warning("--log {}: {}; nothing more is written there, training goes on", self._kind, reason)
