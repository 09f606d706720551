"""`--log tensorboard`: a run a trial, for `tensorboard --logdir FOLDER`."""

import re
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from trainer.loggers.mirror import Mirror, Origin, epoch_values
from trainer.reports import EpochReport

CLOCK_SECONDS = 5.0
"""Clocks of machines that share a folder differ by less; where they differ by more, no pause would help."""
_SECOND = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class TensorBoard(Mirror):
    """Event files in `FOLDER/NAME/TRIAL`: TensorBoard shows all files of one folder as one run.

    Files are only added to. A trial that goes on, here or with another worker, gets a further one, which says from
    which epoch on the older ones count no more.
    """

    def __init__(self, origin: Origin) -> None:
        self._folder = origin.folder / origin.name
        self._kind: Callable[..., Any] = import_module("torch.utils.tensorboard").SummaryWriter
        self._writers: dict[str, Any] = {}

    def begin(self, trial: str, epoch: int) -> None:
        """A new event file, whose head tells readers to leave out this epoch and later ones of older files."""
        self.leave(trial)
        _wait_for_later_name(self._folder / trial)
        self._writers[trial] = self._kind(log_dir=str(self._folder / trial), purge_step=epoch)

    def write(self, trial: str, report: EpochReport) -> None:
        """A scalar for each figure, with the epoch for its step, on disk at once."""
        for figure, value in epoch_values(report).items():
            self._writers[trial].add_scalar(figure, value, report.epoch)
        self._writers[trial].flush()

    def leave(self, trial: str) -> None:
        """Close the trial's file, and with it the thread that writes it."""
        if trial in self._writers:
            self._writers.pop(trial).close()

    def beat(self) -> None:
        """An event file says nothing of the process that writes it."""

    def close(self) -> None:
        """Close the files of all trials."""
        for trial in list(self._writers):
            self.leave(trial)


def _wait_for_later_name(folder: Path) -> None:
    """Readers take a run's files in the order of their names, which begin with the second: no two may have the same."""
    seconds = [int(match[1]) for file in folder.glob("events.*") if (match := _SECOND.match(file.name))]
    ahead = max(seconds, default=0) + 1 - time.time()
    if 0 < ahead <= CLOCK_SECONDS:
        time.sleep(ahead)
