"""A wish to stop, by a real signal or from the database: checkpoints stand, leases are given back, the end is near."""

import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_while_it_computes_gives_everything_back(herd: Any, tools: SimpleNamespace, number: int) -> None:
    """Uncharged, with the last epoch's checkpoint, long before any time-to-live, and with exit code 0."""
    worker = herd.start(epoch=0.8, ttl=600)
    tools.until(lambda: len([row for row in herd.held_by(worker) if row.epoch]) == 2, 60)
    began = time.monotonic()
    worker.send(number)
    assert worker.wait(20) == 0
    assert time.monotonic() - began < 20
    assert worker.lines("asked to stop") == 1
    rows = herd.rows()
    assert {row.state for row in rows} == {"free"}
    assert all(row.checkpoint is not None and row.lost == 0 for row in rows)
    assert {attempt.why for attempt in herd.attempts() if attempt.ended} <= {"preempted", "finished"}


@pytest.mark.slow
def test_a_signal_while_the_database_hangs_ends_the_worker_all_the_same(
    herd: Any, proxy: Any, tools: SimpleNamespace
) -> None:
    """It cannot give anything back; its leases run out and another worker adopts the trials."""
    away = proxy(herd.url)
    worker = herd.start(away.url, epoch=0.8)
    tools.until(lambda: len([row for row in herd.held_by(worker) if row.epoch]) == 2, 60)
    away.hang()
    tools.until(lambda: away.swallowed)
    began = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.wait(25) == 0
    assert time.monotonic() - began < 20
    assert worker.lines("leases run out by themselves") == 1
    left = {row.trial_id for row in herd.rows() if row.state == "held"}
    assert left
    herd.start(slots=4)
    herd.finish()
    ends = herd.check()
    assert ends == {"finished": tools.TRIALS, "lost": len(left)}


def test_a_trial_may_be_preempted_any_number_of_times(join: Any, tmp_path: Any, tools: SimpleNamespace) -> None:
    """It is never charged for it, and its curve has no gap."""
    search = join("budget.trials=2")
    for _ in range(6):
        worker = tools.InProcess(search, tmp_path)
        worker.at = {1: worker.group.ask_to_stop}
        worker.run()
        if not search.leases.of_studies(list(search.arms)):
            break
    tools.InProcess(search, tmp_path).run()
    ends = tools.checked(search, 2)
    assert ends["preempted"] >= 4
    assert set(ends) == {"preempted", "finished"}
    assert all(row.lost == 0 for row in search.leases.details(list(search.arms)))


@pytest.mark.slow
def test_a_wish_in_the_database_to_stop_now_ends_workers_everywhere(herd: Any, tools: SimpleNamespace) -> None:
    workers = [herd.start(epoch=0.8) for _ in range(2)]
    tools.until(lambda: all(herd.held_by(worker) for worker in workers), 60)
    search = herd.look()
    search.searches.ask_to_stop(search.search_id, "now")
    herd.finish()
    assert {row.state for row in search.leases.details(list(search.arms))} <= {"finished", "free"}
    assert all(worker.lines("asked to stop: the search was asked to stop (now)") == 1 for worker in workers)
    assert {attempt.why for attempt in herd.attempts()} <= {"finished", "preempted"}
    assert all(attempt.ended is not None for attempt in herd.attempts())
