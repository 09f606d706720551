"""`--log`: copies of every epoch's figures for other tools, which no training waits for or fails by."""

import csv
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from search.commands.work import flags
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents
from search.storage.statements import Owner
from search.worker import add_flags
from trainer import loggers
from trainer.__main__ import main
from trainer.cli.parser import CommandLine
from trainer.errors import UserError
from trainer.loggers import Loggers, past_torchrun
from trainer.reports import EpochReport

STUDY = """
[run]
epochs = 2
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 2, augment = "none" }
student = { name = "unet", width = 2 }
losses = { ce = {} }
"""

SEARCH = """
[objective]
maximize = "dice"
[run]
epochs = 3
data = { name = "blobs" }
losses = { ce = {} }
[space]
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
[pruner]
name = "none"
[sampler]
name = "random"
[budget]
trials = 3
"""


def report(epoch: int) -> EpochReport:
    scores = {"dice": 0.5 + epoch / 100} if epoch > 1 else None
    return EpochReport(epoch, epoch - 1, scores, {"ce": 1 / 3}, {"student": 0.25}, False)


def rows(path: Path) -> list[tuple[str, ...]]:
    with path.open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_csv_has_a_row_a_figure_in_full_precision_and_goes_on_after_a_restart(tmp_path):
    for epoch in (1, 2):
        with Loggers(["csv"], tmp_path, "polyp-kd") as log:
            log.tell("kd-7", report(epoch))
    found = rows(tmp_path / "polyp-kd" / "kd-7.csv")
    assert found == [
        ("epoch", "figure", "value"),
        ("1", "loss/ce", repr(1 / 3)),
        ("1", "seconds/student", "0.25"),
        ("2", "score/dice", "0.52"),
        ("2", "loss/ce", repr(1 / 3)),
        ("2", "seconds/student", "0.25"),
    ]


def test_tensorboard_reads_what_was_written(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    with Loggers(["tensorboard"], tmp_path, "polyp-kd") as log:
        for epoch in (1, 2):
            log.tell("kd-7", report(epoch))
    (file,) = (tmp_path / "polyp-kd" / "kd-7").iterdir()
    found = {
        (event.step, value.tag): value.tensor.float_val[0]
        for event in loader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert found[2, "score/dice"] == pytest.approx(0.52)
    assert found[1, "loss/ce"] == pytest.approx(1 / 3)
    assert (1, "score/dice") not in found


AGAIN = [(epoch, 0.1) for epoch in range(1, 8)], [(5, 0.2), (6, 0.2)], [(6, 0.3), (7, 0.3)]
"""What three workers tell of a trial, in turn: epoch and loss."""
CURVE = [(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.1), (5, 0.2), (6, 0.3), (7, 0.3)]


def tell_again(kind: str, folder: Path, *, one_process: bool) -> None:
    """By three workers, or by one that took the trial back twice."""
    parts = [[point for part in AGAIN for point in part]] if one_process else AGAIN
    for part in parts:
        with Loggers([kind], folder, "s") as log:
            for epoch, loss in part:
                log.tell("kd-7", EpochReport(epoch, epoch - 1, None, {"ce": loss}, {}, False))


@pytest.mark.parametrize("one_process", [True, False])
def test_csv_has_epochs_that_are_trained_again_once(tmp_path: Path, one_process: bool) -> None:
    tell_again("csv", tmp_path, one_process=one_process)
    (path,) = (tmp_path / "s").iterdir()
    assert [(int(epoch), float(value)) for epoch, _, value in rows(path)[1:]] == CURVE


@pytest.mark.parametrize("epoch", [7, 8])
def test_csv_drops_a_row_that_a_crash_cut(tmp_path: Path, epoch: int) -> None:
    tell_again("csv", tmp_path, one_process=False)
    path = tmp_path / "s" / "kd-7.csv"
    path.write_text(path.read_text() + "8,loss/c")
    with Loggers(["csv"], tmp_path, "s") as log:
        log.tell("kd-7", EpochReport(epoch, epoch - 1, None, {"ce": 0.4}, {}, False))
    assert [(int(row[0]), float(row[2])) for row in rows(path)[1:]] == [*CURVE[: epoch - 1], (epoch, 0.4)]


@pytest.mark.parametrize("one_process", [True, False])
def test_tensorboard_shows_epochs_that_are_trained_again_once(tmp_path: Path, one_process: bool) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tell_again("tensorboard", tmp_path, one_process=one_process)
    read = accumulator.EventAccumulator(str(tmp_path / "s" / "kd-7")).Reload()
    points = [(event.step, event.value) for event in read.Scalars("loss/ce")]
    assert points == [(step, pytest.approx(loss)) for step, loss in CURVE]


@pytest.mark.parametrize("one_process", [True, False])
def test_wandb_has_one_run_with_the_whole_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_process: bool
) -> None:
    made: list[Any] = []

    class Run:
        def __init__(self, **options: Any) -> None:
            self.dir = str(Path(options["dir"], "wandb", f"offline-run-{len(made)}", "files"))
            Path(self.dir).mkdir(parents=True)
            self.logged: list[tuple[int, float]] = []
            made.append(self)

        def log(self, values: dict[str, float], step: int) -> None:
            self.logged.append((step, values["loss/ce"]))

        def finish(self) -> None: ...

    stand_in = types.ModuleType("wandb")
    stand_in.init = Run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    tell_again("wandb", tmp_path, one_process=one_process)
    assert made[-1].logged == CURVE
    assert [Path(run.dir).exists() for run in made] == [False] * (len(made) - 1) + [True]


def test_a_mirror_that_fails_is_one_warning_and_the_others_go_on(tmp_path, monkeypatch, log):
    class Broken:
        def __init__(self, folder: Path, name: str) -> None: ...

        def begin(self, trial: str, epoch: int) -> None: ...

        def write(self, trial: str, epoch: int, figures: object) -> None:
            raise OSError("no space\nleft")

        def close(self) -> None: ...

    monkeypatch.setattr(loggers, "KINDS", {**loggers.KINDS, "broken": Broken})
    with Loggers(["broken", "csv"], tmp_path, "s") as log_to:
        for epoch in range(1, 6):
            log_to.tell("kd-0", report(epoch))
    assert len([line for line in log if "--log broken" in line]) == 1
    assert {row[0] for row in rows(tmp_path / "s" / "kd-0.csv")[1:]} == {"1", "2", "3", "4", "5"}


def test_a_mirror_that_hangs_keeps_nobody_waiting(tmp_path, monkeypatch, log):
    go = threading.Event()

    class Hangs:
        def __init__(self, folder: Path, name: str) -> None:
            go.wait(30)

        def begin(self, trial: str, epoch: int) -> None: ...

        def write(self, trial: str, epoch: int, figures: object) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(loggers, "KINDS", {"hangs": Hangs})
    monkeypatch.setattr(loggers, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(loggers, "WAITING", 3)
    with Loggers(["hangs"], tmp_path, "s") as log_to:
        for epoch in range(1, 10):
            log_to.tell("kd-0", report(epoch))
    go.set()
    assert len([line for line in log if "--log hangs" in line]) == 1


def test_unknown_mirrors_and_missing_packages_are_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"^--log tensorbord: no such mirror; known: .*nearest: tensorboard$"):
        loggers.check_loggers(["tensorbord"])
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    loggers.check_loggers(["csv"])
    for kind in ("tensorboard", "wandb"):
        with pytest.raises(UserError, match=rf'needs the package \'{kind}\'.*pip install "\.\[{kind}\]"'):
            loggers.check_loggers([kind])


def test_wandb_stays_offline_with_a_run_a_trial(tmp_path, monkeypatch):
    """Against a stand-in with the signatures that its documentation gives: the package is no part of the tests."""
    made = []

    class Run:
        def __init__(self, **options: object) -> None:
            self.options, self.logged, self.done = options, [], False
            self.dir = str(tmp_path / "wandb" / "offline-run-1" / "files")
            made.append(self)

        def log(self, data: dict[str, float], step: int) -> None:
            self.logged.append((step, data))

        def finish(self) -> None:
            self.done = True

    stand_in = types.ModuleType("wandb")
    stand_in.init = Run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with Loggers(["wandb"], tmp_path, "polyp-kd") as log:
        log.tell("kd-1", report(1))
        log.tell("kd-2", report(2))
        log.tell("kd-1", report(2))
    assert [(run.options["project"], run.options["name"], run.options["mode"]) for run in made] == [
        ("polyp-kd", "kd-1", "offline"),
        ("polyp-kd", "kd-2", "offline"),
    ]
    assert [step for step, _ in made[0].logged] == [1, 2]
    assert all(run.done for run in made)


def test_fit_writes_each_epoch(tmp_path):
    (tmp_path / "mine.toml").write_text(STUDY)
    words = ["fit", str(tmp_path / "mine.toml"), "--cache", str(tmp_path), "--device", "cpu"]
    assert main([*words, "--log", "csv", "--log-dir", str(tmp_path / "logs")]) == 0
    found = rows(tmp_path / "logs" / "mine" / "fit.csv")
    assert {(epoch, figure) for epoch, figure, _ in found} >= {("1", "score/dice"), ("2", "loss/ce")}


def test_a_worker_writes_a_file_a_trial_of_its_own(tmp_path, sqlite_url, open_again):
    search = open_again(sqlite_url, "mirrored", SEARCH)
    settings = WorkerSettings(Owner("me", "here"), 2, tmp_path, 1, {}, breach=lambda _: None)
    students = SimulatedStudents(Curves(), slots=2, metric="dice", epoch_seconds=0.0, fail_share=0.0)
    with Loggers(["csv"], tmp_path / "logs", "mirrored") as log:
        run_group(SingleProcess(), students, DatabaseThread(search, settings), log.tell)
    files = sorted((tmp_path / "logs" / "mirrored").iterdir())
    assert [file.name for file in files] == ["kd-0.csv", "kd-1.csv", "kd-2.csv"]
    for file in files:
        assert {row[0] for row in rows(file)[1:]} == {"1", "2", "3"}


def test_torchrun_leaves_the_words_to_the_program():
    """Its parser takes `--log` for several of its own options, wherever it stands."""
    from torch.distributed.run import get_args_parser

    worker = CommandLine()
    add_flags(worker)
    said = worker.parse_args(["--log", "csv", "--log=tensorboard", "--log-dir", "there"])
    for words in (
        flags(said),
        past_torchrun(["fit", "mine.toml", "--log", "csv", "--log=wandb", "--log-dir", "there"]),
    ):
        given = get_args_parser().parse_args(["--standalone", "script.py", *words])
        assert given.training_script_args == words
    assert worker.parse_args(flags(said)).mirror == ["csv", "tensorboard"]
    assert vars(worker.parse_args(flags(said)))["mirror_dir"] == Path("there")
