"""Checkpoints are written while the next epoch is trained: what waits for them, and what does not."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from search.execution import epoch_loop as module
from search.execution.checkpoint_writer import CheckpointWriter, on_hand
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import GroupEnd, SingleProcess
from search.execution.held_trials import HeldTrials
from search.execution.messages import WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from trainer.distributed.watchdog import Watchdog
from trainer.reports import EpochReport, Failure, Saved, Write

OTHER = Owner("other", "there")
EPOCHS = 4


@pytest.fixture
def search(sqlite_url: str, open_again: Callable[..., StudyAdapter], small_study: Callable[..., str]) -> StudyAdapter:
    return open_again(sqlite_url, "writers", small_study(), "budget.trials=1")


class Disk:
    """Takes the checkpoint of an epoch only when it is told to, where `slow` names the epoch."""

    def __init__(self, *slow: int) -> None:
        self.slow = slow
        self.asked: list[int] = []
        self.on = threading.Event()

    def through(self, write: Write) -> Write:
        def wait(path: Path) -> Saved:
            epoch = int(path.stem.partition("-")[2])
            self.asked.append(epoch)
            if epoch in self.slow:
                assert self.on.wait(60)
            return write(path)

        return wait


@dataclass
class Worker:
    """A worker but for its process; `before[n]` is called before the group's n-th epoch, from 1."""

    search: StudyAdapter
    runs: Path
    disk: Disk
    before: Mapping[int, Callable[[], None]] = field(default_factory=dict)
    group: SingleProcess = field(default_factory=SingleProcess)

    def run(self) -> GroupEnd:
        settings = WorkerSettings(Owner("me", "here"), 1, self.runs, 1, {}, breach=lambda _: None, ttl=600.0)
        self.database_thread = DatabaseThread(self.search, settings)
        students = SimulatedStudents(Curves(), slots=1, metric="dice", epoch_seconds=0.0, fail_share=0.0)
        train, snapshot = students.epoch, students.snapshot
        trained = 0

        def epoch() -> dict[int, EpochReport | Failure]:
            nonlocal trained
            trained += 1
            self.before.get(trained, lambda: None)()
            return train()

        students.epoch = epoch  # type: ignore[method-assign]
        students.snapshot = lambda key: self.disk.through(snapshot(key))  # type: ignore[method-assign]
        self.students = students
        return run_group(self.group, students, self.database_thread)


def row(search: StudyAdapter) -> Any:
    (seen,) = search.leases.of_studies(list(search.arms), finished=True)
    return seen


def reports(search: StudyAdapter) -> list[int]:
    (trial,) = search.trials(search.spec.main)
    return list(trial.intermediate_values)


def files(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.rglob("*epoch-*"))


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_epoch_is_reported_and_the_next_one_trained_while_a_checkpoint_is_written(
    search: StudyAdapter, tmp_path: Path
):
    disk, seen = Disk(2), []

    def look() -> None:
        until(lambda: row(search).epoch == 1 and disk.asked == [1, 2])
        seen.append((row(search).epoch, reports(search), files(tmp_path)))
        disk.on.set()

    Worker(search, tmp_path, disk, {3: look}).run()
    # The row names what is on disk; the report of the epoch after it is there all the same.
    assert seen == [(1, [1, 2], ["epoch-1.pt"])]
    assert (row(search).state, reports(search)) == ("finished", [1, 2, 3, 4])
    assert files(tmp_path) == []


def test_no_report_stands_more_than_one_epoch_above_its_checkpoint(search: StudyAdapter, tmp_path: Path):
    disk = Disk(1)
    release = threading.Timer(0.4, disk.on.set)
    seen: list[Any] = []

    def third() -> None:
        on = disk.on.is_set()
        until(lambda: len(disk.asked) > 1)
        seen.append((on, disk.asked[:]))

    Worker(search, tmp_path, disk, {2: release.start, 3: third}).run()
    assert seen[0][0], "the third epoch began while the first one's checkpoint was not on disk"
    assert seen[0][1][:2] == [1, 2]


def test_who_is_asked_to_stop_waits_for_what_is_being_written(search: StudyAdapter, tmp_path: Path):
    disk = Disk(2)

    def stop() -> None:
        worker.group.ask_to_stop()
        threading.Timer(0.3, disk.on.set).start()

    worker = Worker(search, tmp_path, disk, {3: stop})
    worker.run()
    # The group of this test trains its third epoch, too: real ranks look at each step.
    assert (row(search).state, row(search).epoch) == ("free", 3)
    assert on_hand(row(search)) == 3


def test_a_disk_that_hangs_holds_nobody_up_who_ends(
    search: StudyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
):
    monkeypatch.setattr(module, "CLOSING_SECONDS", module.DATABASE_SECONDS + 0.2)
    disk = Disk(3)

    def stop() -> None:
        until(lambda: row(search).epoch == 2)
        worker.group.ask_to_stop()

    worker = Worker(search, tmp_path, disk, {3: stop})
    worker.run()
    until(lambda: row(search).state == "free")
    assert (row(search).epoch, on_hand(row(search))) == (2, 2)
    assert [line for line in log if "epoch-3.pt is still being written" in line]
    disk.on.set()


def test_a_disk_that_hangs_since_the_epoch_before_holds_nobody_up_who_is_asked_to_stop(
    search: StudyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
):
    """Nothing is copied then, as the copy before it is still being read; the trial goes on from what is on disk."""
    monkeypatch.setattr(module, "CLOSING_SECONDS", module.DATABASE_SECONDS + 0.2)
    disk = Disk(2)
    worker = Worker(search, tmp_path, disk, {3: lambda: worker.group.ask_to_stop()})
    began = time.monotonic()
    worker.run()
    assert time.monotonic() - began < 30
    until(lambda: row(search).state == "free")
    assert (row(search).epoch, disk.asked) == (1, [1, 2])
    assert reports(search) == [1, 2, 3]
    disk.on.set()


def test_weights_that_a_hanging_disk_keeps_hold_nobody_up_who_is_asked_to_stop(
    search: StudyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "CLOSING_SECONDS", module.DATABASE_SECONDS + 0.2)
    disk, export = Disk(), SimulatedStudents.export

    def slowly(students: SimulatedStudents, key: int, path: Path) -> Saved:
        assert disk.on.wait(60)
        return export(students, key, path)

    monkeypatch.setattr(SimulatedStudents, "export", slowly)

    def stop() -> None:
        until(lambda: row(search).epoch == 3)
        worker.group.ask_to_stop()

    worker = Worker(search, tmp_path, disk, {4: stop})
    worker.run()
    until(lambda: row(search).state == "free")
    assert (row(search).epoch, reports(search)) == (3, [1, 2, 3])
    disk.on.set()


def test_who_ends_without_a_signal_waits_for_a_slow_disk(
    search: StudyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`search stop --now`: nobody kills this worker, so no epoch is lost, however long the disk takes."""
    monkeypatch.setattr(module, "CLOSING_SECONDS", module.DATABASE_SECONDS)
    disk = Disk(2)

    def stop() -> None:
        worker.database_thread.preempt.set()
        threading.Timer(0.5, disk.on.set).start()

    worker = Worker(search, tmp_path, disk, {2: stop})
    worker.run()
    until(lambda: row(search).state == "free")
    assert (row(search).epoch, on_hand(row(search))) == (2, 2)


def test_a_disk_that_hangs_holds_no_trial_back_from_a_search_that_is_stopped(
    search: StudyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "CLOSING_SECONDS", module.DATABASE_SECONDS)
    disk = Disk(2)
    worker = Worker(search, tmp_path, disk, {2: lambda: worker.database_thread.preempt.set()})
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *_, **__: None)
    worker.group.watchdog = Watchdog(4.0)  # by which such a process would end itself, with its trials
    worker.run()
    until(lambda: row(search).state == "free")
    assert (row(search).epoch, on_hand(row(search))) == (1, 1)
    disk.on.set()


def test_a_trial_whose_worker_dies_meanwhile_goes_on_from_the_checkpoint_before(search: StudyAdapter, tmp_path: Path):
    class DeadError(Exception):
        pass

    def die() -> None:
        until(lambda: reports(search) == [1, 2])
        raise DeadError

    worker = Worker(search, tmp_path, Disk(2), {3: die})
    with pytest.raises(DeadError):
        worker.run()
    assert (row(search).epoch, reports(search)) == (1, [1, 2])
    taken = search.leases.acquire(row(search), OTHER, resume_epoch=on_hand(row(search)), lost=True)
    assert taken is not None
    assert reports(search) == [1]
    worker.disk.on.set()
    worker.database_thread.close("the test is over")


def test_no_checkpoint_is_written_of_a_trial_that_its_report_ends(
    search: StudyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search, "pruned", lambda held: reports(search) == [1, 2])
    disk = Disk()
    Worker(search, tmp_path, disk).run()
    assert (row(search).state, disk.asked, files(tmp_path)) == ("finished", [1], [])


def test_the_checkpoint_of_a_trial_that_is_pruned_while_it_is_written_is_removed(
    search: StudyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
):
    """The verdict came late, so that the next epoch had begun."""
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.0)
    disk = Disk(2)
    seen: list[str] = []

    def late(_: Any) -> bool:
        if reports(search) != [1, 2]:
            return False
        until(lambda: disk.asked == [1, 2])
        return True

    monkeypatch.setattr(search, "pruned", late)

    def wait(path: Path) -> None:
        seen.extend(files(path))
        disk.on.set()

    sweep = HeldTrials.remove_files

    def swept(members: HeldTrials, *trial: Any) -> None:
        sweep(members, *trial)
        threading.Timer(0.2, wait, (tmp_path,)).start()

    monkeypatch.setattr(HeldTrials, "remove_files", swept)
    Worker(search, tmp_path, disk).run()
    assert row(search).state == "finished"
    assert (seen, files(tmp_path)) == ([], [])
    assert disk.asked[:2] == [1, 2]
    assert [line for line in log if line.startswith("disk:")] == []


def never() -> float | None:
    """Nobody is in a hurry."""
    return None


def test_an_error_that_is_no_matter_of_the_disk_is_raised_when_the_others_are_written(tmp_path: Path):
    def broken(_: Path) -> Saved:
        raise RuntimeError("a bug in what writes")

    def slow(path: Path) -> Saved:
        time.sleep(0.2)
        return Saved(path, "", 0)

    writers, named = CheckpointWriter(), list[Path]()
    writers.later(1, broken, tmp_path / "1.pt", lambda file: named.append(file.path))
    writers.later(2, slow, tmp_path / "2.pt", lambda file: named.append(file.path))
    with pytest.raises(RuntimeError, match="a bug in what writes"):
        writers.finish(lambda: None, never)
    assert named == [tmp_path / "2.pt"]


def test_trials_are_given_back_though_a_writer_raised(search: StudyAdapter, tmp_path: Path):
    disk = Disk()

    def broken(_: Path) -> Saved:
        raise RuntimeError("a bug in what writes")

    def stop() -> None:
        worker.students.snapshot = lambda key: broken  # type: ignore[method-assign]
        worker.group.ask_to_stop()

    worker = Worker(search, tmp_path, disk, {2: stop})
    with pytest.raises(RuntimeError, match="a bug in what writes"):
        worker.run()
    assert (row(search).state, row(search).epoch, row(search).owner) == ("free", 1, None)


def test_a_refusal_is_said_at_once_and_its_end_when_all_was_taken(tmp_path: Path, log: list[str]):
    full, took = threading.Event(), CheckpointWriter()
    full.set()

    def write(path: Path) -> Saved:
        if full.is_set() and path.name == "1.pt":
            raise OSError(28, "No space left on device")
        return Saved(path, "", 0)

    def epoch() -> None:
        for key in (1, 2):
            took.later(key, write, tmp_path / f"{key}.pt", lambda _: None)
        took.go()

    def logged() -> list[str]:
        return [line for line in log if "checkpoint" in line]

    epoch()
    until(lambda: len(logged()) == 1)
    assert "No space left on device" in logged()[0]
    assert took.finish(lambda: None, never) == []
    epoch()
    assert took.finish(lambda: None, never) == []
    assert len(logged()) == 1, "half of the files is not the end of it"
    full.clear()
    epoch()
    assert took.finish(lambda: None, never) == []
    assert len(logged()) == 2
    assert "written again" in logged()[1]


def test_a_disk_with_room_for_weights_alone_is_no_disk_that_takes_checkpoints(tmp_path: Path, log: list[str]):
    def full(path: Path) -> Saved:
        raise OSError(28, "No space left on device")

    writers = CheckpointWriter()
    for _ in range(3):
        writers.later(1, full, tmp_path / "1.pt", lambda _: None)
        assert writers.finish(lambda: None, never) == []
        weights = writers.start(lambda path: Saved(path, "", 0), tmp_path / "best.safetensors")
        writers.wait([weights], lambda: None, never)
    assert len([line for line in log if "checkpoint" in line]) == 1


CHILD = """
import os, sys, tempfile, threading
from pathlib import Path
import torch
from search.worker import run
from search.execution.checkpoint_writer import CheckpointWriter
from trainer import checkpoint

path = Path(sys.argv[1])
part = path.with_name(f".{path.name}.{os.getpid()}.part")
os.mkfifo(part)
reader = os.open(part, os.O_RDWR)  # takes what a pipe holds, and then nothing: a disk that hangs
writers = CheckpointWriter()
state = {f"w{i}": torch.zeros(20000) for i in range(100)}
writers.later(1, lambda to: checkpoint.save(to, state), path, lambda _: None)
writers.go()
until = __import__("time").monotonic() + 0.5
assert writers.finish(lambda: None, lambda: until) == [path]
os.close(reader)  # and answers again just when the interpreter clears up
run(lambda: 0)
"""


def test_a_process_ends_with_its_code_while_a_checkpoint_is_written(tmp_path: Path):
    """A thread that comes out of torch while Python clears up would crash it."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "epoch-1.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
