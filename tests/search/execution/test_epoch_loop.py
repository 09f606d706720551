"""Members that go, or come and go, while a group trains an epoch."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import Leader
from search.execution.group import SingleProcess
from search.execution.messages import DropTrial, StartTrial
from search.execution.simulated_students import Curves, SimulatedStudents
from search.storage.leases import LeaseHandle
from search.storage.schema import orphans
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter

ME, OTHER = Owner("me", "here"), Owner("other", "there")

Join = Callable[..., StudyAdapter]
Make = Callable[..., Any]


@pytest.fixture
def join(sqlite_url: str, open_again: Join, small_study: Make) -> Join:
    """Open the one search of the test once more, as another process would, with other values or tables in its file."""
    return lambda *changes, **values: open_again(sqlite_url, "handed", small_study(**values), *changes)


def row_of(search: StudyAdapter, held: LeaseHandle) -> Any:
    row = search.leases.row(held.trial_id)
    assert row is not None
    return row


def test_a_member_that_is_lost_while_it_trains_leaves_no_trace_and_the_others_go_on(
    join: Join, tmp_path: Path, log: list[str], settings: Make, until: Make, all_of: Make, worker_of: Make
) -> None:
    """The database thread knows before the epoch ends: its report is ignored, its file removed."""
    search, others = join("budget.trials=3"), join("budget.trials=3")
    worker = worker_of(search, settings(ttl=3.0))
    stolen: list[LeaseHandle] = []

    def taken() -> bool:
        """Not where the holder's heart beats between the look and the taking."""
        row = others.leases.of_studies(list(others.arms))[0]
        held = others.leases.acquire(row, OTHER, resume_epoch=row.epoch, lost=True)
        stolen.extend([held] if held else [])
        return held is not None

    def steal() -> None:
        until(lambda: others.leases.of_studies(list(others.arms))[0].epoch == 1)
        until(taken)
        (held,) = stolen
        others.fail(held, "bug", "as the other found")
        until(lambda: held.trial_id not in worker.thread._held.held)

    worker.at = {1: steal}
    worker.run()
    counts = search.counts()["kd"]
    assert (counts.complete, counts.failed, counts.running) == (3, 1, 0)
    assert len([line for line in log if "lost to another worker" in line]) == 1
    row = row_of(search, stolen[0])
    assert (row.message, row.token, row.epoch) == ("as the other found", 2, 1)
    assert all_of(search, orphans) == []
    # What the other may go on from stays; the file of the epoch that nobody counted is gone.
    assert [path.name for path in tmp_path.rglob("epoch-*")] == ["epoch-1.pt"]


def test_a_member_that_is_pruned_while_its_next_epoch_trains_leaves_no_file_and_the_others_go_on(
    join: Join,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Make,
    until: Make,
    all_of: Make,
    worker_of: Make,
) -> None:
    """As it is where the database answers more slowly than an epoch boundary waits."""
    search = join()
    worker = worker_of(search, settings())
    trains = threading.Event()
    judged: list[LeaseHandle] = []

    def pruned(held: LeaseHandle) -> bool:
        if not judged:
            judged.append(held)
            assert trains.wait(20)
            return True
        return False

    def second_epoch() -> None:
        trains.set()
        until(lambda: bool(judged) and judged[0].trial_id not in worker.thread._held.held)

    monkeypatch.setattr(search, "pruned", pruned)
    monkeypatch.setattr("search.execution.epoch_loop.SYNC_SECONDS", 0.5)
    worker.at = {1: second_epoch}
    worker.run()
    counts = search.counts()["kd"]
    assert (counts.complete, counts.pruned, counts.failed, counts.running) == (3, 1, 0, 0)
    row = row_of(search, judged[0])
    assert (row.state, row.epoch, row.failure) == ("finished", 1, None)
    assert all_of(search, orphans) == []
    assert not list(tmp_path.rglob("epoch-*"))


def test_a_member_that_comes_and_goes_within_one_epoch_is_dismissed_once_and_not_begun(
    join: Join, tmp_path: Path, settings: Make
) -> None:
    search = join()
    lead = Leader(
        DatabaseThread(search, settings()),
        SimulatedStudents(Curves(), slots=2, metric="dice", epoch_seconds=0.0, fail_share=0.0),
        SingleProcess(),
    )
    begin = StartTrial(7, search.spec.run, None, "kd #7", 1, tmp_path)
    lead.database_thread.sync = lambda *_: None  # type: ignore[method-assign]  # its thread does not run here
    lead.database_thread.inbox.put(begin)
    assert lead.next_plan().begin == (begin,)
    for event in (DropTrial(7), begin, DropTrial(7)):
        lead.database_thread.inbox.put(event)
    plan = lead.next_plan()
    assert (plan.dismiss, plan.begin, plan.members) == ((7,), (), 0)
