"""`--log wandb`: a run of Weights & Biases a trial, on this machine until somebody sends it."""

import hashlib
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from trainer.loggers.csv_files import CsvFiles
from trainer.loggers.mirror import Mirror, Origin, epoch_values
from trainer.reports import EpochReport

OFFLINE = "offline"
ID_LENGTH = 16


class WeightsAndBiases(Mirror):
    """Runs of the project NAME, below `FOLDER/wandb`. WANDB_MODE says whether they are sent; unset, they are not.

    A trial has one run, whoever trains it: its id comes from the search and the trial, so that every worker that goes
    on with it gives the same one.

    Not sent: a run cannot be opened again, and of two with one id `wandb sync` keeps what came last. So a trial that
    goes on begins its run anew with the whole curve, which `FOLDER/wandb/curves` holds for that; what lies here of the
    older one goes, unless it was sent. Sent: the server has the run, and takes no step a second time; it is shown what
    it lacks.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._place = origin.folder / "wandb"
        self._curves = CsvFiles(Origin(self._place / "curves", origin.name))
        self._init: Callable[..., Any] = import_module("wandb").init
        self._mode = os.environ.get("WANDB_MODE", OFFLINE)
        self._runs: dict[str, Any] = {}

    def begin(self, trial: str, epoch: int) -> None:
        """The trial's run, with the epochs before this one."""
        self.leave(trial)
        note = self._place / "curves" / self._origin.name / f"{trial}.run"
        before = Path(note.read_text(encoding="utf-8")) if note.exists() else None
        if before is not None:
            self._remove(before)
        run = self._init(
            project=self._origin.name,
            id=self._id(trial, epoch, before),
            name=trial,
            dir=str(self._origin.folder),
            mode=self._mode,
            resume=None if self._mode == OFFLINE else "allow",
            reinit="create_new",
            settings={"silent": True},  # a dozen lines a trial, among those of the worker
        )
        note.write_text(str(Path(run.dir).parent.resolve()), encoding="utf-8")
        self._runs[trial] = run
        self._curves.begin(trial, epoch)
        for step, rows in groupby(self._curves.curve(trial), key=lambda row: row[0]):
            self._log(trial, step, {figure: float(value) for _, figure, value in rows})

    def _id(self, trial: str, epoch: int, before: Path | None) -> str | None:
        """What names the run for ever; None where a single run begins, for which wandb draws one."""
        if self._origin.uuid is not None:
            return hashlib.sha256(f"{self._origin.uuid} {trial}".encode()).hexdigest()[:ID_LENGTH]
        # Folders of runs end with their id.
        return before.name.rpartition("-")[2] if before is not None and epoch > 1 else None

    def _remove(self, run: Path) -> None:
        """A run's folder, where it is one of ours and was not sent: `wandb sync` leaves a file beside what it sent."""
        ours = run.is_relative_to(self._place.resolve()) and run.name.startswith("offline-run-")
        if ours and not list(run.glob("*.synced")):
            shutil.rmtree(run, ignore_errors=True)

    def _log(self, trial: str, step: int, values: dict[str, float]) -> None:
        run = self._runs[trial]
        if step >= run.step:  # a server that has the step would refuse it with a warning
            run.log(values, step=step)

    def write(self, trial: str, report: EpochReport) -> None:
        """The figures, with the epoch for their step."""
        self._curves.write(trial, report)
        self._log(trial, report.epoch, dict(epoch_values(report)))

    def leave(self, trial: str) -> None:
        """Finish the trial's run: another worker may open it now."""
        if trial in self._runs:
            self._runs.pop(trial).finish()

    def beat(self) -> None:
        """wandb has a process of its own for that."""

    def close(self) -> None:
        """Finish all runs."""
        for trial in list(self._runs):
            self.leave(trial)
