"""The parts of the database thread alone: the barrier of its cycles, and its periodic tasks."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from search.execution import database_thread
from search.execution.database_thread import Periodic, SyncBarrier


@pytest.fixture
def barrier() -> SyncBarrier:
    return SyncBarrier(threading.Condition())


@pytest.fixture
def waiter(barrier: SyncBarrier) -> Iterator[threading.Thread]:
    """A thread that waits for a cycle."""
    before = barrier.newest()
    thread = threading.Thread(target=barrier.wait, args=(20.0, never, never))
    thread.start()
    end = time.monotonic() + 20
    while barrier.newest() == before:
        assert time.monotonic() < end
    yield thread
    barrier.complete(barrier.newest())
    thread.join(20)


def never() -> bool:
    return False


def seconds_of(act: Callable[[], None]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def test_a_cycle_that_began_before_the_request_does_not_end_the_wait(
    barrier: SyncBarrier, waiter: threading.Thread
) -> None:
    barrier.complete(barrier.newest() - 1)
    waiter.join(0.3)
    assert waiter.is_alive()
    barrier.complete(barrier.newest())
    waiter.join(20)
    assert not waiter.is_alive()


def test_the_end_of_an_older_cycle_takes_no_newer_one_back(barrier: SyncBarrier) -> None:
    barrier.complete(1)
    barrier.complete(0)
    assert seconds_of(lambda: barrier.wait(20.0, never, never)) < 10


def test_a_wait_ends_by_itself_where_nobody_completes_a_cycle(barrier: SyncBarrier) -> None:
    assert 0.2 <= seconds_of(lambda: barrier.wait(0.2, never, never)) < 10


def test_who_gives_up_or_is_in_a_hurry_does_not_wait(barrier: SyncBarrier) -> None:
    assert seconds_of(lambda: barrier.wait(20.0, lambda: True, never)) < 10
    assert seconds_of(lambda: barrier.wait(20.0, never, lambda: True)) < 10


def test_a_periodic_task_runs_once_a_period_and_again_at_once_where_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ran, broken = [100.0], list[float](), [True]
    monkeypatch.setattr(database_thread.time, "monotonic", lambda: now[0])

    def task() -> None:
        ran.append(now[0])
        if broken[0]:
            raise ZeroDivisionError

    periodic = Periodic(10.0, task)
    with pytest.raises(ZeroDivisionError):
        periodic.run_if_due()
    broken[0] = False
    for now[0] in (101.0, 105.0, 110.9, 111.0, 112.0):
        periodic.run_if_due()
    assert ran == [100.0, 101.0, 111.0]
    periodic.make_due()
    periodic.run_if_due()
    assert ran == [100.0, 101.0, 111.0, 112.0]
