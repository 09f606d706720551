"""`--log csv`: a table a trial, for people and their own programs."""

import csv

from trainer.loggers.mirror import Mirror, Origin, epoch_values
from trainer.reports import EpochReport

_HEAD = ("epoch", "figure", "value")


class CsvFiles(Mirror):
    """`FOLDER/NAME/TRIAL.csv` with the columns epoch, figure, value; a trial that goes on elsewhere goes on in its
    file.

    Epochs that are trained again, after a crash or by another worker, stand there once: the former rows go.
    """

    def __init__(self, origin: Origin) -> None:
        self._folder = origin.folder / origin.name
        self._folder.mkdir(parents=True, exist_ok=True)

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

    def write(self, trial: str, report: EpochReport) -> None:
        """Append a row for each figure."""
        path = self._folder / f"{trial}.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(_HEAD)
            rows.writerows((report.epoch, figure, repr(value)) for figure, value in epoch_values(report).items())

    def curve(self, trial: str) -> list[tuple[int, str, str]]:
        """The rows of a trial; one that a crash left unfinished is none."""
        path = self._folder / f"{trial}.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(_HEAD) and row[0].isdecimal()]
        return [(int(epoch), figure, value) for epoch, figure, value in rows]

    def leave(self, trial: str) -> None:
        """Every epoch closed its file."""

    def beat(self) -> None:
        """A table says nothing of the process that writes it."""

    def close(self) -> None:
        """Every epoch closed its file."""
