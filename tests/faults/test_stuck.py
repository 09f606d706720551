"""A rank alone that hangs is ended wherever it hangs: there is no sibling to notice it, and its beat would go on."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.execution import database_thread, epoch_loop
from search.study.adapter import StudyAdapter
from trainer.distributed.watchdog import Watchdog

LIMIT = 4.0
"""Seconds without a sign of work; a busy machine may hold a process up for one or two of them."""
HANGS = ("admit", "snapshot", "write", "export", "replay", "epoch")
"""What the lead asks of its students."""


def test_a_hang_ends_the_process_whatever_the_students_were_asked_for(
    open_again: Callable[..., StudyAdapter], tmp_path: Path, tools: SimpleNamespace
) -> None:
    pids = {}
    for where in HANGS:
        pids[where] = os.fork()
        if pids[where] == 0:
            hang(open_again, f"sqlite:///{tmp_path}/{where}.db", tmp_path, tools, where)
    codes = {where: _ended(pid) for where, pid in pids.items()}
    for where in HANGS:
        said = (tmp_path / where).read_text()
        assert codes[where] == 1, f"{where}: {said}"
        assert f"in {where}_that_hangs" in said


def _ended(pid: int) -> int:
    """The exit code of a process that is killed if it does not end within 60 s."""
    end = time.monotonic() + 60
    while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, 9)
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(found[1])


def hang(open_again: Callable[..., StudyAdapter], url: str, folder: Path, tools: SimpleNamespace, where: str) -> None:
    """In a process of its own: one of the calls sleeps; before it, waits for work do not count."""
    os.dup2(os.open(folder / where, os.O_WRONLY | os.O_CREAT), 2)
    worker = tools.InProcess(open_again(url, where, tools.STUDY), folder)
    worker.group.watchdog = Watchdog(LIMIT)
    names = {}
    exec(f"def {where}_that_hangs(*_):\n    import time; time.sleep(60)", names)  # noqa: S102 - a name for the traceback
    hangs = names[f"{where}_that_hangs"]
    if where == "write":  # what a snapshot returns
        worker.students.snapshot = lambda _: hangs
    else:
        setattr(worker.students, where, hangs)
    worker.run()
    os._exit(7)


def test_a_database_thread_that_hangs_in_a_disk_ends_the_process_though_the_lead_gets_on(
    open_again: Callable[..., StudyAdapter], sqlite_url: str, tmp_path: Path, tools: SimpleNamespace, monkeypatch: Any
) -> None:
    """A checkpoint that is a pipe without a writer: whoever opens it waits in the kernel, as at a disk that is gone."""
    first = tools.InProcess(open_again(sqlite_url, "pipe", tools.STUDY, "budget.trials=1"), tmp_path, slots=1)
    first.at = {2: first.group.ask_to_stop}
    first.run()
    (row,) = first.search.leases.of_studies(list(first.search.arms))
    assert row.state == "free"
    assert 0 < row.epoch < tools.EPOCHS
    Path(row.checkpoint).unlink()
    os.mkfifo(row.checkpoint)
    monkeypatch.setattr(database_thread, "CALL_SECONDS", LIMIT)
    monkeypatch.setattr(epoch_loop, "SYNC_SECONDS", LIMIT)
    first.search.opened.engine.dispose()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(tmp_path / "said", os.O_WRONLY | os.O_CREAT), 2)
        second = tools.InProcess(open_again(sqlite_url, "pipe", tools.STUDY, "budget.trials=1"), tmp_path, slots=1)
        second.group.watchdog = Watchdog(LIMIT)
        second.run()
        os._exit(7)
    assert _ended(pid) == 1
    said = (tmp_path / "said").read_text()
    assert "the database thread hangs, and not in a call to the database" in said
    assert "in on_hand" in said
    assert first.search.leases.of_studies(list(first.search.arms)) == [row]


def test_waits_that_are_declared_may_take_any_time_and_the_watch_goes_on_behind_them() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        watchdog = Watchdog(1.0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with watchdog.watching():
            with watchdog.suspended():
                time.sleep(1.5)
            os.write(writer, b"waited")
            with watchdog.watching():
                watchdog.beat()
            time.sleep(60)
        os._exit(7)
    os.close(writer)
    assert _ended(pid) == 1
    assert os.read(reader, 6) == b"waited"
    os.close(reader)


def test_without_a_limit_nothing_is_watched() -> None:
    watchdog = Watchdog()
    with pytest.raises(ZeroDivisionError), watchdog.watching(), watchdog.suspended():
        _ = 1 // 0
