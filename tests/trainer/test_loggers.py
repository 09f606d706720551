"""`--log`: copies of every epoch's figures for other tools, which no training waits for or fails by."""

import csv
import json
import sys
import threading
import time
import types
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
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
from trainer.loggers import Loggers
from trainer.loggers.mirror import Origin
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


def test_a_trial_that_is_left_holds_no_file_and_no_thread(tmp_path: Path) -> None:
    """A worker trains hundreds of trials, and a writer of TensorBoard is a thread and a file each."""
    pytest.importorskip("tensorboard")
    before = threading.active_count()
    with Loggers(["tensorboard"], tmp_path, "s") as log_to:
        for trial in range(6):
            log_to.tell(f"kd-{trial}", report(1))
            log_to.leave(f"kd-{trial}")
        log_to.tell("kd-6", report(1))
        until(lambda: (tmp_path / "s" / "kd-6").is_dir())
        assert threading.active_count() <= before + 2  # the mirror's own, and one writer's
    assert len(list((tmp_path / "s").iterdir())) == 7


def until(done: Callable[[], bool]) -> None:
    for _ in range(200):
        if done():
            return
        time.sleep(0.02)
    raise AssertionError("not within 4 s")


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


def tell_elsewhere(kind: str, folder: Path) -> None:
    """A worker pauses the trial, another one trains it and loses it again, and the first gets it back: all of AGAIN
    where both processes live all the time."""

    def tell(log: Loggers, part: list[tuple[int, float]]) -> None:
        for epoch, loss in part:
            log.tell("kd-7", EpochReport(epoch, epoch - 1, None, {"ce": loss}, {}, False))
        log.leave("kd-7")
        log.tell("kd-0", report(1))  # another trial of that worker

    first, second, third = AGAIN
    with Loggers([kind], folder, "s", uuid="5ea4c4") as one:
        tell(one, first)
        until(lambda: (folder / "s" / "kd-0").exists() or (folder / "s" / "kd-0.csv").exists())
        with Loggers([kind], folder, "s", uuid="5ea4c4") as other:
            tell(other, second)
        tell(one, third)


def test_csv_has_epochs_once_where_a_trial_comes_back_to_a_worker(tmp_path: Path) -> None:
    tell_elsewhere("csv", tmp_path)
    assert [(int(epoch), float(value)) for epoch, _, value in rows(tmp_path / "s" / "kd-7.csv")[1:]] == CURVE


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


def shown(folder: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of a run's folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return [(each.step, each.value) for each in accumulator.EventAccumulator(str(folder)).Reload().Scalars(tag)]


@pytest.mark.parametrize("one_process", [True, False, None])
def test_tensorboard_shows_epochs_that_are_trained_again_once(tmp_path: Path, one_process: bool | None) -> None:
    if one_process is None:
        tell_elsewhere("tensorboard", tmp_path)
    else:
        tell_again("tensorboard", tmp_path, one_process=one_process)
    points = shown(tmp_path / "s" / "kd-7", "loss/ce")
    assert points == [(step, pytest.approx(loss)) for step, loss in CURVE]


class Server:
    """What a server of Weights & Biases keeps, as far as its documentation goes: a run an id, a step once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.made: list[Any] = []
        self.open: set[str] = set()
        stand_in = types.ModuleType("wandb")
        stand_in.init = self.init  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "wandb", stand_in)

    def init(self, **options: Any) -> Any:
        offline = options["mode"] == "offline"
        known = options["id"] or f"drawn{len(self.made)}"
        assert known not in self.open, "two processes write one run"
        self.open.add(known)
        folder = Path(options["dir"], "wandb", f"{'offline-' * offline}run-{len(self.made)}-{known}", "files")
        folder.mkdir(parents=True)
        curve = [] if offline else self.kept.setdefault(known, [])
        assert offline or options["resume"] == "allow"
        run = types.SimpleNamespace(dir=str(folder), options=options, logged=curve, id=known)
        run.step = curve[-1][0] + 1 if curve else 0
        run.finish = lambda: self.open.discard(known)

        def log(values: dict[str, float], step: int) -> None:
            assert step >= run.step, "a server refuses a step that it has"
            run.step = step
            curve.append((step, values))

        run.log = log
        self.made.append(run)
        return run


@pytest.mark.parametrize("one_process", [True, False])
def test_wandb_has_one_run_with_the_whole_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_process: bool
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    server = Server(monkeypatch)
    tell_again("wandb", tmp_path, one_process=one_process)
    assert [(step, values["loss/ce"]) for step, values in server.made[-1].logged] == CURVE
    assert len({run.id for run in server.made}) == 1  # a single run goes on as itself, too
    assert [Path(run.dir).exists() for run in server.made] == [False] * (len(server.made) - 1) + [True]
    assert not server.open


def kept_offline(file: Path) -> tuple[str, list[tuple[int, float]]]:
    """Id and losses by step in what wandb keeps for a later `wandb sync`: LevelDB's log of protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""  # behind a head of 7 bytes
    known, curve = "", []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (2, 3):  # the first or a middle part
            continue
        record, whole = Record.FromString(whole), b""
        if record.WhichOneof("record_type") == "run":
            known = record.run.run_id
        elif record.WhichOneof("record_type") == "history":
            values = {
                "/".join(each.nested_key) or each.key: json.loads(each.value_json) for each in record.history.item
            }
            curve.append((int(values["_step"]), values["loss/ce"]))
    return known, curve


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed: the extra `wandb` has it")
def test_wandb_itself_keeps_one_run_a_trial_with_each_epoch_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for part in AGAIN:
        with Loggers(["wandb"], tmp_path, "s", uuid="5ea4c4") as log_to:
            for epoch, loss in part:
                log_to.tell("kd-7", EpochReport(epoch, epoch - 1, None, {"ce": loss}, {}, False))
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    until = time.monotonic() + 30  # its own process may write the last of it after the run is finished
    while kept_offline(file)[1] != CURVE and time.monotonic() < until:
        time.sleep(0.1)
    assert kept_offline(file) == (file.stem.removeprefix("run-"), CURVE)


def test_wandb_that_sends_has_one_run_a_trial_and_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers on machines that share no folder, one of which is killed before it sent its last epochs."""
    monkeypatch.setenv("WANDB_MODE", "online")
    server = Server(monkeypatch)
    for number, part in enumerate(AGAIN):
        with Loggers(["wandb"], tmp_path / str(number), "s", uuid="5ea4c4") as log_to:
            for epoch, loss in part:
                log_to.tell("kd-7", EpochReport(epoch, epoch - 1, None, {"ce": loss}, {}, False))
            log_to.tell("kd-8", report(1))
    kept = {run.options["name"]: server.kept[run.id] for run in server.made}
    assert len(server.kept) == 2
    assert [(step, values["loss/ce"]) for step, values in kept["kd-7"]] == AGAIN[0]
    with Loggers(["wandb"], tmp_path, "s", uuid="another search of this name") as log_to:
        log_to.tell("kd-7", report(1))
    assert len(server.kept) == 3


def test_wandb_that_sends_is_shown_what_a_killed_worker_did_not_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    server = Server(monkeypatch)
    tell_again("wandb", tmp_path, one_process=False)
    (curve,) = server.kept.values()
    del curve[4:]
    with Loggers(["wandb"], tmp_path, "s") as log_to:
        log_to.tell("kd-7", EpochReport(7, 6, None, {"ce": 0.4}, {}, False))
    assert [(step, values["loss/ce"]) for step, values in curve] == [*AGAIN[0][:4], *CURVE[4:6], (7, 0.4)]


def test_a_mirror_that_fails_is_one_warning_and_the_others_go_on(tmp_path, monkeypatch, log):
    class Broken:
        def __init__(self, origin: Origin) -> None: ...

        def begin(self, trial: str, epoch: int) -> None: ...

        def write(self, trial: str, report: EpochReport) -> None:
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
        def __init__(self, origin: Origin) -> None:
            go.wait(30)

        def begin(self, trial: str, epoch: int) -> None: ...

        def write(self, trial: str, report: EpochReport) -> None: ...

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
    needed = {"tensorboard": "tensorboard", "wandb": "wandb", "prometheus": "prometheus_client"}
    for kind, package in needed.items():
        with pytest.raises(UserError, match=rf'--log {kind}: needs the package \'{package}\'.*pip install "\.\[\w+\]"'):
            loggers.check_loggers([kind])


def test_wandb_stays_offline_with_a_run_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    server = Server(monkeypatch)
    with Loggers(["wandb"], tmp_path, "polyp-kd") as log:
        log.tell("kd-1", report(1))
        log.tell("kd-2", report(2))
        log.tell("kd-1", report(2))
    assert [(run.options["project"], run.options["name"], run.options["mode"]) for run in server.made] == [
        ("polyp-kd", "kd-1", "offline"),
        ("polyp-kd", "kd-2", "offline"),
    ]
    assert [step for step, _ in server.made[0].logged] == [1, 2]
    assert not server.open


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


def test_a_trial_that_is_given_back_or_paused_keeps_its_run(
    tmp_path: Path, sqlite_url: str, open_again: Callable[..., Any]
) -> None:
    """Two workers after one another, on a search that pauses trials and goes on with the best of them."""
    text = SEARCH.replace('"none"', '"promote"').replace("epochs = 3", "epochs = 9").replace("trials = 3", "trials = 6")
    left: list[str] = []
    for number, stops_at in enumerate((14, 10_000)):
        search = open_again(sqlite_url, "mirrored", text)
        settings = WorkerSettings(Owner(f"worker-{number}", "here"), 2, tmp_path, 1, {}, breach=lambda _: None)
        students = SimulatedStudents(Curves(), slots=2, metric="dice", epoch_seconds=0.0, fail_share=0.0)
        group, reports = SingleProcess(), count(1)
        with Loggers(["csv", "tensorboard"], tmp_path / "logs", "mirrored", uuid=search.folder) as log:

            def on_report(trial: str, each: EpochReport) -> None:
                log.tell(trial, each)
                if next(reports) == stops_at:  # noqa: B023
                    group.ask_to_stop()  # noqa: B023

            def on_leave(trial: str) -> None:
                log.leave(trial)
                left.append(trial)

            run_group(group, students, DatabaseThread(search, settings), on_report, on_leave)
    folders = [path for path in (tmp_path / "logs" / "mirrored").iterdir() if path.is_dir()]
    assert sorted(path.name for path in folders) == [f"kd-{number}" for number in range(6)]
    assert len(left) > len(set(left)) == 6  # some came back after a pause
    for folder in folders:
        steps = [step for step, _ in shown(folder, "score/dice")]
        assert steps == list(range(1, len(steps) + 1))
        rows_of_it = rows(folder.with_name(f"{folder.name}.csv"))
        assert [int(row[0]) for row in rows_of_it if row[1] == "score/dice"] == steps
    assert any(len(shown(folder, "score/dice")) == 9 for folder in folders)
    assert any(len(list(folder.iterdir())) > 1 for folder in folders)


def test_torchrun_leaves_the_words_to_the_program():
    """Its parser takes `--log` for several of its own options, wherever it stands."""
    from torch.distributed.run import get_args_parser

    worker = CommandLine()
    add_flags(worker)
    said = worker.parse_args(["--log", "csv", "--log=tensorboard", "--log-dir", "there"])
    given = get_args_parser().parse_args(["--standalone", "script.py", *flags(said)])
    assert given.training_script_args == flags(said)
    assert worker.parse_args(flags(said)).mirror == ["csv", "tensorboard"]
    assert vars(worker.parse_args(flags(said)))["mirror_dir"] == Path("there")
