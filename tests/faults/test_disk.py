"""Full and read-only disks under checkpoints and under the database: what stands stays, and trials wait for room."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.commands.status import full_disk, lines, look
from search.execution.database_thread import DatabaseThread
from search.execution.disk_waits import spare_folders, usable
from search.execution.messages import WorkerSettings
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.progress import read_progress
from trainer import checkpoint

Join = Callable[..., StudyAdapter]
Disk = Callable[..., Path]


def _fill(disk: Path) -> Path:
    """Write until the disk says that it is full; the proof is its own answer."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:

        def write_on() -> None:
            while file.write(b"\0" * 4096):
                pass

        with pytest.raises(OSError, match="No space left on device"):
            write_on()
    return filler


def test_a_checkpoint_on_a_full_disk_leaves_the_one_before(tiny_disk: Disk) -> None:
    disk = tiny_disk(256)
    path = disk / "epoch.pt"
    checkpoint.write(path, b"whole")
    _fill(disk)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.write(path, b"larger than what was there" * 4096)
    assert path.read_bytes() == b"whole"
    assert sorted(each.name for each in disk.iterdir()) == ["epoch.pt", "filler"]


def test_a_state_of_tensors_on_a_full_disk_is_refused_by_the_disk(tiny_disk: Disk) -> None:
    """Torch hides the disk's answer behind an error of its own, which would be taken for a bug."""
    import torch

    disk = tiny_disk(256)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(disk / "epoch.pt", {"weights": torch.zeros(1_000_000)})
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_trials_go_on_while_no_checkpoint_can_be_written(
    join: Join, tmp_path: Path, tiny_disk: Disk, log: list[str], tools: SimpleNamespace, fault: str
) -> None:
    """The last ones stay, no trial fails, and one that is at its end waits until its weights can be written."""
    disk = tiny_disk(256)
    search = join("budget.trials=2")
    worker = tools.InProcess(search, disk)
    found: dict[str, Any] = {}

    def strike() -> None:
        tools.until(lambda: all(row.epoch == 2 for row in search.leases.of_studies(list(search.arms))))
        tools.until(lambda: len(list(disk.rglob("*epoch-*"))) == 2)  # what stood before them is removed
        found["before"] = {Path(row.checkpoint): row.epoch for row in search.leases.of_studies(list(search.arms))}
        if fault == "full":
            found["filler"] = _fill(disk)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    def heal() -> None:
        tools.until(lambda: len(unsaved()) == 2)
        rows = search.leases.of_studies(list(search.arms))
        found["rows"] = [(row.state, row.epoch) for row in rows]
        found["kept"] = all(path.is_file() for path in found["before"])
        if fault == "full":
            found["filler"].unlink()
        else:
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)

    def unsaved() -> dict[int, Any]:
        return leads[0]._unsaved_exports if leads else {}

    leads: list[Any] = []
    import search.execution.epoch_loop as module

    class Seen(module.Leader):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            leads.append(self)

    worker.at = {2: strike}
    healer = threading.Thread(target=heal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Leader", Seen)
        healer.start()
        worker.run()
    healer.join()
    assert found["rows"] == [("held", 2)] * 2  # the rows name what is on the disk
    assert found["kept"]
    assert tools.checked(search, 2) == {"finished": 2}
    assert len([line for line in log if "no checkpoints can be written" in line]) == 1
    word = "No space left on device" if fault == "full" else "Read-only file system"
    assert any(word in line for line in log)
    assert any("weights are written again" in line for line in log)


def test_a_worker_that_dies_while_the_disk_is_full_goes_on_from_the_checkpoint_that_stood(
    join: Join, tmp_path: Path, tiny_disk: Disk, tools: SimpleNamespace
) -> None:
    """Reports above it are forgotten, so that the curve is of the epochs that count."""
    disk = tiny_disk(256)
    search = join("budget.trials=2")
    worker = tools.InProcess(search, disk)
    filler: list[Path] = []

    def strike() -> None:
        tools.until(lambda: all(row.epoch == 2 for row in search.leases.of_studies(list(search.arms))))
        filler.append(_fill(disk))

    worker.at = {2: strike, 4: worker.group.ask_to_stop}
    worker.run()
    assert [(row.state, row.epoch) for row in search.leases.of_studies(list(search.arms))] == [("free", 2)] * 2
    filler[0].unlink()
    tools.InProcess(search, disk).run()
    assert tools.checked(search, 2) == {"preempted": 2, "finished": 2}
    assert {a.first_epoch for a in search.leases.attempts_of(list(search.arms)) if a.token == 2} == {3}


def test_what_was_trained_on_a_full_disk_is_kept_in_a_spare_folder_after_a_stop(
    join: Join, tmp_path: Path, tiny_disk: Disk, log: list[str], tools: SimpleNamespace
) -> None:
    """One trial is stopped on its way, one at its end; neither trains an epoch twice, and the wait is shown."""
    disk = tiny_disk(256)
    spare = tmp_path / "spare"
    search = join("budget.trials=2")
    studies = list(search.arms)
    full = tmp_path / "is-no-folder"
    full.write_text("")
    worker = tools.InProcess(search, disk, spare=(full, spare))
    shown: list[str | None] = []

    def strike() -> None:
        tools.until(lambda: all(row.epoch == 2 for row in search.leases.of_studies(studies)))
        _fill(disk)

    def look_and_stop() -> None:
        tools.until(lambda: shown_waits(search) == 2)
        shown.extend(line for line in lines(look(search.opened, "faults")) if line.startswith("running"))
        worker.group.ask_to_stop()

    worker.at = {2: strike, 3: look_and_stop}
    worker.run()
    assert all("epoch 3 of 5" in line and "No space left on device" in line and " since " in line for line in shown)
    assert len(shown) == 2
    rows = search.leases.of_studies(studies)
    assert [(row.state, row.epoch) for row in rows] == [("free", 4)] * 2
    assert all(Path(str(row.checkpoint)).is_relative_to(spare) for row in rows)
    assert len([line for line in log if "what --runs did not take is in" in line]) == 2
    assert not any("written again" in line for line in log)
    assert shown_waits(search) == 0
    _fill(disk)  # the files that those in the spare folder replaced were removed
    again = tools.InProcess(search, disk, spare=(spare,))
    again.at = {0: lambda: threading.Timer(1.0, again.group.ask_to_stop).start()}
    again.run()
    assert {a.first_epoch for a in search.leases.attempts_of(studies) if a.token == 2} == {5}
    assert tools.checked(search, 2) == {"preempted": 2, "finished": 2}
    weights = [Path(row.weights) for row in search.leases.details(studies) if row.weights is not None]
    assert len(weights) == 2
    assert all(path.is_file() and path.is_relative_to(spare) for path in weights)
    assert not list(spare.rglob("*epoch-*"))


def shown_waits(search: StudyAdapter) -> int:
    """How many trials say that they wait for the disk."""
    return sum(each.waits is not None for each in read_progress(search.opened, "faults").running)


def test_a_wait_is_said_again(join: Join, tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.execution.database_thread.REPEAT_SECONDS", 0.05)
    thread = DatabaseThread(join(), WorkerSettings(Owner("me", "here"), 1, tmp_path, 1, {}, breach=lambda _: None))
    refusal = "no checkpoints can be written to /runs (No space left on device) since 12:00"
    for _ in range(3):
        thread._repeat_waits(refusal)
        time.sleep(0.06)
    thread._unavailable_since = time.monotonic() - 7
    thread._repeat_waits(None)
    assert [line for line in log if "disk: still no checkpoints" in line]
    assert any("database still away after 7 s" in line for line in log)
    before = len(log)
    thread._unavailable_since = None
    thread._repeat_waits(None)
    thread._repeat_waits(refusal)
    assert len(log) == before, "a new wait has its own first line"


def test_what_is_kept_back_lets_a_stop_store_the_last_reports_in_a_local_database(
    open_again: Join, tmp_path: Path, tiny_disk: Disk, tools: SimpleNamespace
) -> None:
    """Database and runs lie on one disk, as by default; nobody makes room before the worker is asked to stop."""
    disk = tiny_disk(16384)
    search = open_again(f"sqlite:///{disk / 'study.db'}", "faults", tools.STUDY, "budget.trials=2")
    worker = tools.InProcess(search, disk / "runs", spare=(tmp_path / "spare",))

    def strike() -> None:
        tools.until(lambda: all(row.epoch == 2 for row in search.leases.of_studies(list(search.arms))))
        _fill(disk)
        assert "KiB left" in str(full_disk(search.opened))

    worker.at = {2: strike, 3: worker.group.ask_to_stop}
    worker.run()
    assert [(row.state, row.epoch) for row in search.leases.of_studies(list(search.arms))] == [("free", 4)] * 2


def test_a_spare_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder,) = spare_folders(tmp_path / "given", tmp_path)
    assert usable(folder)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("search.execution.disk_waits.disk_kind", lambda _: "nfs")
    assert spare_folders(None, tmp_path) == ()
    own = tmp_path / f"kd-spare-{os.getuid()}"
    assert usable(own)
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o770)
    assert not usable(own)
    own.rmdir()
    own.symlink_to(tmp_path / "given")
    assert not usable(own)


def test_a_local_database_on_a_full_disk_is_one_that_is_away(
    open_again: Join, tmp_path: Path, tiny_disk: Disk, log: list[str], tools: SimpleNamespace
) -> None:
    disk = tiny_disk(2048)
    search = open_again(f"sqlite:///{disk / 'study.db'}", "faults", tools.STUDY)
    worker = tools.InProcess(search, tmp_path)
    filler: list[Path] = []

    def heal() -> None:
        tools.until(lambda: worker.database_thread._unavailable_since is not None)
        filler[0].unlink()

    def strike() -> None:
        filler.append(_fill(disk))
        threading.Thread(target=heal).start()

    worker.at = {3: strike}
    worker.run()
    assert tools.checked(search, tools.TRIALS) == {"finished": tools.TRIALS}
    assert any("disk is full" in line for line in log if "database away" in line), log
    assert any("database back" in line for line in log)


def test_an_export_to_a_full_disk_leaves_the_one_before(tiny_disk: Disk) -> None:
    import torch

    disk = tiny_disk(256)
    path = disk / "best.safetensors"
    checkpoint.export(path, {"w": torch.zeros(4)}, {"epoch": 1})
    before = path.read_bytes()
    _fill(disk)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.export(path, {"w": torch.zeros(40_000)}, {"epoch": 2})
    assert path.read_bytes() == before
    assert os.listdir(disk).count("best.safetensors") == 1
