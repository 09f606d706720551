"""kill -9 at every kind of statement, of all workers at once, and SIGSTOP: nothing is lost or counted twice."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from search.study.adapter import StudyAdapter

MOMENTS = {
    "ask": ["INSERT INTO kd_lease", "INSERT INTO kd_attempt", "INSERT INTO trial_params"],
    "begin": ["UPDATE kd_lease SET run"],
    "report": ["INSERT INTO trial_intermediate_values"],
    "checkpoint": ["UPDATE kd_lease SET beat=(kd_lease.beat + %(beat_1)s), replay"],
    "finish": ["UPDATE trials SET state", "INSERT INTO trial_values", "UPDATE kd_attempt SET ended"],
    "take back": ["UPDATE kd_lease SET state=%(state)s, owner", "DELETE FROM trial_intermediate_values"],
}
"""Phase of a trial -> beginnings of its statements."""


def _child(search: StudyAdapter, runs: Path, tools: SimpleNamespace, moment: str, place: str) -> None:
    """A whole worker that kills itself before a statement, or once the transaction that holds it was committed."""
    search.opened.engine.dispose(close=False)  # the parent keeps its connections
    armed = []

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def before(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if _is(statement, moment):
            armed.append(statement)
            if place == "before":
                die()

    def begun(*_: object) -> None:
        if armed and place == "committed":
            die()

    engine = search.opened.engine
    sa.event.listen(engine, "before_cursor_execute", before)
    sa.event.listen(engine, "begin", begun)  # the next transaction: the last one was committed
    tools.InProcess(search, runs, seconds=0.0).run()


def _is(statement: str, moment: str) -> bool:
    return moment != "" and " ".join(statement.split()).startswith(moment)


def _fork(search: StudyAdapter, runs: Path, tools: SimpleNamespace, moment: str, place: str) -> int:
    """Returns the status that the kernel tells."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _child(search, runs, tools, moment, place)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def test_a_worker_killed_at_any_statement_goes_on_where_it_was(
    join: Callable[..., StudyAdapter], tmp_path: Path, tools: SimpleNamespace
) -> None:
    """One worker after the other under one owner's name, as torchrun restarts its ranks, each killed elsewhere.

    Exactly the budget, numbers unique, every attempt recorded, and each killed attempt resumes at most one epoch back.
    """
    search, killed = join(), Counter[str]()
    for phase, moments in MOMENTS.items():
        for moment in moments:
            for place in ("before", "committed"):
                status = _fork(search, tmp_path, tools, moment, place)
                if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                    killed[phase] += 1
    assert _fork(search, tmp_path, tools, "", "") == 0
    assert min(killed[phase] for phase in MOMENTS) >= 1, killed
    assert killed.total() >= 12, killed
    ends = tools.checked(search, tools.TRIALS)
    assert ends["finished"] == tools.TRIALS
    assert set(ends) <= {"finished", "restarted"}


@pytest.mark.slow
def test_all_workers_gone_and_one_new_one_takes_everything_over(herd: Any, tools: SimpleNamespace) -> None:
    """A node that dies with its whole process tree; the next worker adopts within two times-to-live."""
    ttl = 5.0
    workers = [herd.start(epoch=1.0, ttl=ttl) for _ in range(2)]
    tools.until(lambda: sum(row.epoch > 0 for row in herd.rows()) >= 3)
    for worker in workers:
        worker.send(signal.SIGKILL)
    assert [worker.popen.wait() for worker in workers] == [-signal.SIGKILL] * 2
    tools.until(lambda: not herd.busy())  # a commit that was on its way
    left = {row.trial_id: row for row in herd.rows()}
    assert {row.state for row in left.values()} == {"held"}
    new = herd.start(slots=4, epoch=0.1, ttl=ttl)
    herd.finish()
    ends = herd.check()
    assert ends == {"finished": tools.TRIALS, "lost": len(left)}
    first = min(attempt.began for attempt in herd.attempts() if new.owner in attempt.owner)
    for attempt in herd.attempts():
        if attempt.token == 2:
            assert attempt.began - first < 4 * ttl  # two where nothing else runs on the machine
            assert attempt.first_epoch == left[attempt.trial_id].epoch + 1
            assert new.owner in attempt.owner
    assert herd.orphans() == []


SIMULATION = """
import sys, warnings
warnings.simplefilter("ignore")
from search.__main__ import main
main({words!r})
"""


def test_workers_whose_starter_is_killed_give_their_trials_back_and_end(herd: Any, tools: SimpleNamespace) -> None:
    """They would go on for nobody; no time-to-live has to pass until others may take their trials."""
    herd.study.write_text(tools.STUDY.replace(f"epochs = {tools.EPOCHS}", "epochs = 1000"))
    words = ["simulate", str(herd.study), "--shared", "--runs", str(herd.folder / "runs"), "--workers", "1"]
    words += ["--slots", "2", "--epoch-seconds", "0.3", "--ttl", "600"]
    starter = herd.fork(SIMULATION.format(words=words), OPTUNA_STORAGE=herd.url)
    tools.until(lambda: sum(row.epoch > 0 for row in herd.rows()) == 2)
    workers = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
    assert len(workers) == 1
    starter.kill()
    assert starter.wait() == -signal.SIGKILL
    tools.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 60)
    assert {row.state for row in herd.rows()} == {"free"}
    assert {attempt.why for attempt in herd.attempts()} == {"preempted"}
    assert starter.log.count(f"the process that started this worker ({starter.pid}) is gone") == 1


def _stop_between_calls(worker: Any, herd: Any) -> None:
    """Not within a transaction, whose locks others would have to wait for."""
    worker.stop()
    while herd.busy():
        worker.send(signal.SIGCONT)
        time.sleep(0.05)
        worker.stop()


@pytest.mark.slow
def test_a_stopped_worker_that_wakes_up_counts_for_nothing(herd: Any, tools: SimpleNamespace) -> None:
    """Its trials were adopted and finished meanwhile: what it writes is refused, and it takes new work or ends."""
    zombie = herd.start(epoch=0.5)
    tools.until(lambda: len([row for row in herd.held_by(zombie) if row.epoch]) == 2)
    _stop_between_calls(zombie, herd)
    mine = {row.trial_id for row in herd.held_by(zombie)}
    other = herd.start(slots=4)
    search = herd.look()

    def rows() -> dict[int, Any]:
        return {row.trial_id: row for row in search.leases.details(list(search.arms)) if row.state == "finished"}

    tools.until(lambda: len(rows()) == tools.TRIALS, 150)
    assert zombie.state() == "T"
    before = rows()
    zombie.send(signal.SIGCONT)
    herd.finish()
    ends = herd.check()
    assert ends == {"finished": tools.TRIALS, "lost": 2}
    assert all(rows()[key] == before[key] for key in mine)
    assert zombie.lines("lost to another worker") == 2, zombie.log
    assert other.lines("complete") >= 2
