"""Full and read-only disks under checkpoints and under the database: what stands stays, and trials wait for room."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.study.adapter import StudyAdapter
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
