"""`--log prometheus` and `metrics --workers`: what workers spend, from files that never collide and go with them."""

import os
import socket
import subprocess
import time
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from search.dashboard.worker_files import STALE_SECONDS, WorkerFiles
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents
from search.storage.statements import Owner
from trainer import loggers
from trainer.loggers import Loggers, prometheus
from trainer.loggers.mirror import Origin
from trainer.loggers.prometheus import FAMILIES, GONE_SECONDS, LABELS, PARTS, PrometheusFile
from trainer.reports import EpochReport

client = pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")
OWN = {*PARTS, "reserved", "peak"}


def report(epoch: int, **seconds: float) -> EpochReport:
    return EpochReport(epoch, epoch - 1, None, {}, seconds, False, passes=0.25)


def read(folder: Path) -> dict[tuple[str, ...], float]:
    """The page that Prometheus sees: name, study, host, worker, and a family's own label -> value."""
    page = {}
    for family in WorkerFiles(folder).collect():
        for name, labels, value, *_ in family.samples:
            page[name, *(labels[label] for label in LABELS), *sorted(OWN & {*labels.values()})] = value
    return page


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes the file of a worker with a host and a process id of its own."""

    def made(host: str, pid: int, study: str = "mine") -> PrometheusFile:
        monkeypatch.setattr(socket, "gethostname", lambda: host)
        monkeypatch.setattr(os, "getpid", lambda: pid)
        return PrometheusFile(Origin(tmp_path, study))

    return made


def test_a_worker_s_sums_and_the_end_of_its_file(worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "WRITE_SECONDS", 0.0)
    one = worker("gpu1", 17)
    one.begin("kd-1", 1)
    one.begin("kd-2", 1)
    one.write("kd-1", report(1, student=3.0, teacher=1.0))
    one.write("kd-2", report(1, student=2.0, idle=0.5))
    one.leave("kd-2")
    one.beat()
    page = read(tmp_path)
    own = ("mine", "gpu1", "17")
    assert page["kd_worker_epochs_total", *own] == 2
    spent = {part: page["kd_worker_seconds_total", *own, part] for part in PARTS}
    assert spent == {**dict.fromkeys(PARTS, 0.0), "student": 5.0, "teacher": 1.0, "idle": 0.5}
    assert page["kd_worker_teacher_passes_per_step", *own] == 0.25
    assert page["kd_worker_trials", *own] == 1
    assert 2**20 < page["kd_worker_memory_bytes", *own] < 2**40
    assert 0 < page["kd_worker_cpu_seconds_total", *own] <= time.process_time()
    one.close()
    assert list((tmp_path / "prometheus").iterdir()) == []
    assert read(tmp_path) == {}


def test_workers_of_one_machine_and_of_many_are_one_page_that_promtool_takes(worker: Any, tmp_path: Path) -> None:
    for host, pid, study in (("gpu1", 17, "mine"), ("gpu1", 18, "mine"), ("gpu2", 17, "mine"), ("gpu2", 17, "other")):
        worker(host, pid, study).write("kd-1", report(1, student=1.0))
    page = read(tmp_path)
    assert len([key for key in page if key[0] == "kd_worker_epochs_total"]) == 4
    registry = client.CollectorRegistry()
    registry.register(WorkerFiles(tmp_path))
    text = client.generate_latest(registry).decode()
    for name in FAMILIES:  # each file has its own, the page one
        assert text.count(f"# HELP {name}") == 1
    if promtool := which("promtool"):
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_killed_worker_leaves_is_not_shown_and_goes_with_the_next_one(
    worker: Any, tmp_path: Path, log: list[str]
) -> None:
    worker("gpu1", 17)
    (left,) = (tmp_path / "prometheus").iterdir()
    half = left.with_name(f"{left.name}.17.140")
    half.write_text("kd_wor")
    foreign = left.with_name("another-program.prom")
    foreign.write_text("others 1\n")
    assert {key[2] for key in read(tmp_path)} == {"gpu1"}
    for file in (left, half, foreign):
        os.utime(file, (time.time() - GONE_SECONDS - 60,) * 2)
    assert read(tmp_path) == {}
    assert STALE_SECONDS < GONE_SECONDS
    worker("gpu2", 17)
    assert sorted(file.name for file in (tmp_path / "prometheus").iterdir()) == [
        foreign.name,
        "kd-search.mine.gpu2.17.prom",
    ]
    (tmp_path / "prometheus" / "kd-search.mine.gpu3.1.prom").write_text("kd_worker_epochs_total{ 1\n")
    files = WorkerFiles(tmp_path)
    for _ in range(3):
        shown = [sample.labels["host"] for family in files.collect() for sample in family.samples]
        assert set(shown) == {"gpu2"}
    assert len([line for line in log if "gpu3" in line]) == 1


def test_a_worker_that_waits_for_its_epoch_gives_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "BEAT_SECONDS", 0.02)
    with Loggers(["prometheus"], tmp_path, "mine"):
        wait(lambda: list(tmp_path.glob("prometheus/*.prom")))
        (file,) = tmp_path.glob("prometheus/*.prom")
        os.utime(file, (0, 0))
        wait(lambda: file.stat().st_mtime > 0)
    assert not file.exists()


def wait(done: Any) -> None:
    for _ in range(200):
        if done():
            return
        time.sleep(0.02)
    raise AssertionError("not within 4 s")


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


def test_the_parts_of_an_epoch_hold_what_came_between_epochs(tmp_path: Path, sqlite_url: str, open_again: Any) -> None:
    search = open_again(sqlite_url, "seen", SEARCH)
    settings = WorkerSettings(Owner("me", "here"), 2, tmp_path, 1, {}, breach=lambda _: None)
    students = SimulatedStudents(Curves(), slots=2, metric="dice", epoch_seconds=0.01, fail_share=0.0)
    reports: list[tuple[str, EpochReport]] = []
    left: list[str] = []
    run_group(
        SingleProcess(),
        students,
        DatabaseThread(search, settings),
        lambda trial, each: reports.append((trial, each)),
        left.append,
    )
    assert sorted(left) == ["kd-0", "kd-1", "kd-2"]
    assert len(reports) == 9
    assert all({"student", "checkpoint", "database", "idle"} <= set(each.seconds) for _, each in reports)
    assert sum(each.seconds["database"] for _, each in reports) > 0
    assert set(reports[0][1].seconds) <= set(PARTS)
