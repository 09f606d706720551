"""A study as an object: its file, its database, and everything that commands do with it."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.api import frames
from search.api.commands import Job, Line, command_output, run_command
from search.commands.export import exported
from search.report.content.build import report as built
from search.report.content.document import Study as StudyReport
from search.report.content.worst_cases import Wanted
from search.report.files import Places, write_report
from search.report.tables import tables
from search.spec.file import find
from search.spec.load import StudySpec, load
from search.storage.database import Database, open_storage
from search.storage.lookup import stored
from search.storage.url import storage_url
from search.study.progress import SearchProgress, read_progress
from search.study.snapshot import SearchSnapshot, read
from trainer.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """A study: made by `load` from its file, or by `open` from a database alone.

    Figures are read from the database when they are asked for. All methods raise UserError in one line for what the
    user can mend; those that train or measure raise CommandError where a command failed.
    """

    name: str
    """In the database."""
    storage: str
    """The database's URL."""
    file: Path | None = None
    """The study file; None where the study was opened by its name."""
    overrides: tuple[str, ...] = ()
    """`PATH=VALUE`, as --set takes them."""
    runs: Path = field(default=Path("runs"))
    """The folder of checkpoints, shared by all hosts."""
    cache: Path = field(default=Path("cache"))
    """The folder of decoded data, one a host."""

    @classmethod
    def load(
        cls,
        study: str | Path,
        *,
        storage: str | None = None,
        name: str | None = None,
        overrides: Sequence[str] = (),
        runs: str | Path = "runs",
        cache: str | Path = "cache",
    ) -> "Study":
        """A study by its file, or by the name of a file in `studies/`; the file is checked, data are not opened.

        storage: the database's URL; None: as the commands, $OPTUNA_STORAGE, else a file in `runs`. name: another name
        than the file's.
        """
        file = find(str(study))
        known = load(file, overrides, name=name)
        return cls(known.name, storage_url(storage), file, tuple(overrides), Path(runs), Path(cache))

    @classmethod
    def open(cls, name: str, *, storage: str | None = None, cache: str | Path = "cache") -> "Study":
        """A study of a database, to be read: it cannot be worked on without its file."""
        study = cls(name, storage_url(storage), cache=Path(cache))
        study.snapshot()
        return study

    @cached_property
    def spec(self) -> StudySpec:
        """The typed content of the study file."""
        return load(self._file, self.overrides, name=self.name)

    def validate(self, *, data: bool = True) -> str:
        """What `search validate` says of file, data and teacher. data: whether they are opened."""
        arguments = ["validate", str(self._file), *self._changes(), "--cache", str(self.cache)]
        return command_output("search", [*arguments, *([] if data else ["--no-data"])])

    def teach(self, *, line: Line | None = print) -> None:
        """Train the teacher of the file's [teach] table, where it is not there yet."""
        of_teacher = [each for each in self._sets() if each.startswith(("--set=run.", "--set=teach."))]
        run_command("trainer", ["teach", str(self._file), *of_teacher, "--cache", str(self.cache)], line)

    def work(self, *, ranks: int | str = "auto", slots: int | str | None = None, line: Line | None = print) -> None:
        """Work on the search until nothing is left. Interrupted, it saves its trials and can be called again.

        ranks: processes, as --ranks. slots: students side by side, as --slots. line: gets each line of the log.
        """
        run_command("search", self._work(ranks, slots), line)

    def start(self, *, ranks: int | str = "auto", slots: int | str | None = None, log: Path | None = None) -> Job:
        """A worker beside the caller, as `work`; any number of them share the search."""
        return Job("search", self._work(ranks, slots), log)

    @property
    def begun(self) -> bool:
        """Whether the database has the search: a worker that starts takes a few seconds to put it there."""
        there = stored(self.storage, self.name)
        return there is not None and there.record is not None

    def progress(self) -> SearchProgress:
        """Trials by state, the best, pace and ETA."""
        return read_progress(self._database, self.name)

    def watch(self, every: float = 5.0) -> Iterator[SearchProgress]:
        """The progress every so many seconds, until the search has ended."""
        while True:
            progress = self.progress()
            yield progress
            if progress.ended:
                return
            time.sleep(every)

    def snapshot(self) -> SearchSnapshot:
        """All rows of the search as one consistent reading."""
        return read(self._database, self.name)

    def trials(self) -> "pd.DataFrame":
        """One row a trial: `arm`, `trial` (number), `state` (complete, pruned, failed, running, waiting), `score` and
        `epoch` of its best epoch, `params_m` (millions), `device_seconds`, `failure`, `scores` (all of the best epoch
        by name), then a column for each sampled parameter."""
        return frames.trial_frame(self.snapshot())

    def epochs(self) -> "pd.DataFrame":
        """The learning curves: a row for each epoch that was reported, with `arm`, `trial`, `epoch` and `score`."""
        return frames.epoch_frame(self.snapshot())

    def confirm(
        self, *, ranks: int | str = "auto", anyway: bool = False, plan: bool = False, line: Line | None = print
    ) -> None:
        """Train winners and controls on fresh seeds, and open the test rows once; then see `tables`.

        anyway: although the search has not ended or nothing could be shown. plan: only say what would be trained.
        """
        arguments = [
            "confirm",
            self.name,
            "--storage",
            self.storage,
            "--runs",
            str(self.runs),
            "--cache",
            str(self.cache),
        ]
        flags = [flag for flag, wanted in (("--anyway", anyway), ("--plan", plan)) if wanted]
        run_command("search", [*arguments, "--ranks", str(ranks), *flags], line)

    def report(self, output: str | Path, *, pictures: bool = False) -> Places:
        """Write page, JSON, tables and figures; says where they are."""
        return write_report(built(self._database, [self.name], wanted=Wanted(pictures, self.cache)), Path(output))

    def findings(self) -> StudyReport:
        """The report's content as a typed document: answer, verdict, search and confirmation."""
        (study,) = built(self._database, [self.name]).studies
        return study

    def tables(self) -> "Mapping[str, pd.DataFrame]":
        """Every table of the report by name: `arms`, `front` and more; once confirmed also `networks` and `claims`."""
        return {table.name: frames.table_frame(table) for table in tables(self.findings())}

    def export(self, top: int = 5) -> dict[str, Any]:
        """The best configurations, as `search export` writes them."""
        return exported(self._database, self.name, top)

    def package(self, folder: str | Path, *, configuration: str | None = None, line: Line | None = print) -> None:
        """Pack the confirmed student into a folder that is not there yet.

        configuration: this one, such as "kd-1", whatever the rule of [confirm] says.
        """
        arguments = ["export", self.name, "--storage", self.storage, "--cache", str(self.cache)]
        chosen = [] if configuration is None else ["--configuration", configuration]
        run_command("search", [*arguments, "--confirmed", "--package", str(folder), *chosen], line)

    def grid(self, picture: str | Path, *, line: Line | None = print) -> None:
        """Write a PNG of validation cases beside their truth and what the best configuration says of them, worst and
        random ones; its weights must still be in `runs`."""
        with tempfile.TemporaryDirectory(prefix="kd-search-") as folder:
            best = Path(folder) / "best.json"
            best.write_text(json.dumps(self.export(top=1), allow_nan=False))
            run_command(
                "trainer", ["predict", str(best), "--grid", "--cache", str(self.cache), "-o", str(picture)], line
            )

    @cached_property
    def _database(self) -> Database:
        return open_storage(self.storage, create=False)

    @property
    def _file(self) -> Path:
        if self.file is None:
            raise UserError(f"study {self.name!r}: was opened by its name; Study.load(FILE) to work on it")
        return self.file

    def _work(self, ranks: int | str, slots: int | str | None) -> list[str]:
        more = [] if slots is None else ["--slots", str(slots)]
        return ["work", str(self._file), *self._changes(), "--ranks", str(ranks), *self._places(), *more]

    def _places(self) -> list[str]:
        return ["--storage", self.storage, "--runs", str(self.runs), "--cache", str(self.cache)]

    def _changes(self) -> list[str]:
        return [*self._sets(), "--name", self.name]

    def _sets(self) -> list[str]:
        return [f"--set={each}" for each in self.overrides]


def predict(package: str | Path, images: str | Path, folder: str | Path, *, line: Line | None = print) -> None:
    """Segment the pictures, or volumes, of a folder by a packed student: writes `folder`/masks, and of pictures
    `folder`/overlays."""
    run_command("trainer", ["predict", str(package), str(images), "-o", str(folder)], line)
