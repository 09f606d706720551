"""`python -m search work`: the ranks' own words and exit code, for mistakes, deaths and signals; no report around."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from search.__main__ import parser
from search.commands import work
from search.storage.schema import FREE, attempts, leases
from trainer.distributed import agent

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import os, pathlib, signal, sys, time
sys.path[:0] = ["{root}"]
from trainer.distributed import supervisor
from search import worker
from trainer.errors import UserError
rank = int(os.environ["RANK"])
start = pathlib.Path("start-%s" % os.environ["RANK"])
start.write_text(start.read_text() + "x" if start.exists() else "x")
def main():
{body}
worker.run(main)
"""


Supervised = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def supervised(tmp_path: Path, fork: Callable[..., Any]) -> Supervised:
    """Two ranks that do what a text says, under the supervisor in a process of its own: `supervised(body)`."""

    def run(body: str, *, restarts: int = 0) -> "subprocess.CompletedProcess[str]":
        script, out, err = (tmp_path / name for name in ("rank.py", "out", "err"))
        script.write_text(SCRIPT.format(root=ROOT, body="\n".join(f"    {line}" for line in body.splitlines())))
        code = (
            "import sys; from pathlib import Path; from trainer.distributed.supervisor import supervise\n"
            f"sys.exit(supervise(Path({str(script)!r}), [], ranks='2', restarts={restarts}, stop_seconds=5))"
        )
        ended = fork(code, log=out, errors=err, cwd=tmp_path, PYTHONPATH=str(ROOT)).wait(200)
        return subprocess.CompletedProcess([], ended, out.read_text(), err.read_text())

    return run


def test_a_mistake_of_all_ranks_is_said_once_and_ends_with_2_without_another_start(
    tmp_path: Path, supervised: Supervised
) -> None:
    done = supervised('raise UserError("weight = -1: below 0")', restarts=3)
    assert (done.returncode, done.stderr, done.stdout) == (2, "error: weight = -1: below 0\n", "")
    assert (tmp_path / "start-0").read_text() == "x"


def test_a_mistake_on_one_rank_is_the_outcome_though_the_other_lost_it(tmp_path: Path, supervised: Supervised) -> None:
    """Which notices that its sibling is gone, and ends with the code that says what its sibling said."""
    body = """if rank == 1:
    raise UserError("only here")
while supervisor.exit_code_after_loss():
    time.sleep(0.05)
os._exit(supervisor.exit_code_after_loss())"""
    done = supervised(body, restarts=3)
    assert (done.returncode, done.stderr) == (2, "error: only here\n")
    assert (tmp_path / "start-0").read_text() == "x"


def test_ranks_that_die_are_started_again_and_in_the_end_the_code_is_1(tmp_path: Path, supervised: Supervised) -> None:
    done = supervised("os._exit(supervisor.exit_code_after_loss()) if rank else time.sleep(30)", restarts=1)
    assert done.returncode == 1
    assert (tmp_path / "start-1").read_text() == "xx"
    lines = done.stderr.strip().splitlines()
    assert "died 2 times and are not started again" in lines[-1]
    assert 2 <= len(lines) <= 4, done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_of_one_rank_starts_all_of_them_again_with_its_traceback(tmp_path: Path, supervised: Supervised) -> None:
    body = """if rank == 1:
    mark, starts = pathlib.Path("start-0"), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    while not mark.exists() or len(mark.read_text()) <= starts:
        time.sleep(0.02)
    raise RuntimeError("a bug")
time.sleep(60)"""
    done = supervised(body, restarts=2)
    assert done.returncode == 1
    assert (tmp_path / "start-0").read_text() == "xxx"
    assert done.stderr.count("RuntimeError: a bug") == 3


def test_the_code_of_max_failed_comes_through(tmp_path: Path, supervised: Supervised) -> None:
    assert supervised("return 3", restarts=3).returncode == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nope"], "study nope"),
        (["demo", "--ranks", "two"], "--ranks two: expected a number of processes, gpu or auto"),
        (["demo", "--restarts", "-1"], "argument --restarts: '-1': expected a whole number of 0"),
        (["demo", "--log", "nonsense"], "--log nonsense: no such mirror"),
        (["demo", "--set", "run.epoch=2"], "epochs"),
    ],
)
def test_a_mistake_in_the_words_is_one_line_before_any_rank_begins(
    words: list[str], expected: str, module: Supervised
) -> None:
    done = module("search", "work", *words, code=2)
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_only_a_file_that_has_the_word_is_read_as_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "one.toml").write_text("[run]\n")
    (tmp_path / "studies" / "many.toml").write_text("[series]\n")
    os.mkfifo(tmp_path / "pipe.toml")  # nobody writes to it: reading would wait for ever
    named = ("one", "many", "studies/many.toml", "none", "none.toml", "pipe.toml", "studies/one.toml")
    assert [name for name in named if work._may_be_series(name)] == ["many", "studies/many.toml"]


def test_the_worker_s_flags_are_handed_on_as_they_were_given() -> None:
    words = ["work", "demo", "--ranks", "2", "--set", "run.epochs=3", "--set", "budget.trials=2", "--slots", "auto"]
    args = parser(words).parse_args([*words, "--note-every", "0", "--runs", "a b"])
    handed = ["--set=run.epochs=3", "--set=budget.trials=2", "--runs=a b", "--note-every=0.0", "--slots=auto"]
    assert sorted(work.flags(args)) == sorted(handed)


@pytest.mark.parametrize("times", [[0.0], [0.0, 0.2, 0.2], [0.0, 3.5, 0.2]], ids=["once", "echoes", "a second wish"])
def test_signals_are_one_wish_or_two_and_never_more(times: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([sum(times[: n + 1]) for n in range(len(times))])
    monkeypatch.setattr(agent, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    stops = agent.Stops()
    stops.ends_here = False
    assert stops.wish() is None
    for _ in times:
        stops._on_signal(signal.SIGINT, None)
    assert (stops.code, stops.wish()) == (130, signal.SIGKILL if max(times) > 3 else signal.SIGTERM)


@pytest.fixture
def worker(tmp_path: Path, sqlite_url: str, small_study: Callable[..., str]) -> Iterator["subprocess.Popen[str]"]:
    """A worker on a small study, with two ranks, in a process group of its own as on a terminal."""
    text = small_study(epochs=2000, student={"name": "unet", "width": 2}, more='\n[pruner]\nname = "none"\n')
    (tmp_path / "small.toml").write_text(text)
    words = [
        "work",
        "small.toml",
        "--ranks",
        "2",
        "--ranks-per-trial",
        "2",
        "--storage",
        sqlite_url,
        "--note-every",
        "0",
        "--stop-seconds",
        "30",
    ]
    started = subprocess.Popen(
        [sys.executable, "-m", "search", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    yield started
    if started.poll() is None:
        started.terminate()
    started.communicate(timeout=60)


@pytest.mark.slow
def test_a_rank_that_died_is_counted_out_and_ctrl_c_then_gives_trials_back_without_a_traceback(
    worker: "subprocess.Popen[str]", sqlite_url: str
) -> None:
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    limit = time.monotonic() + 200
    while len(ranks := children.read_text().split()) < 2:
        assert time.monotonic() < limit, "no rank began"
        time.sleep(0.2)
    time.sleep(1.0)
    os.kill(int(ranks[1]), signal.SIGKILL)
    engine = sa.create_engine(sqlite_url, poolclass=sa.NullPool)
    while not _checkpoints(engine):  # of the second start
        assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < limit, "no trial came to its first checkpoint"
        time.sleep(0.2)
    os.killpg(worker.pid, signal.SIGINT)
    out, _ = worker.communicate(timeout=120)
    assert worker.returncode == 130, out
    assert out.count("a rank died: all of them start again (1 of 3)") == 1, out
    assert "Traceback" not in out
    assert out.count("asked to stop: writing checkpoints, giving the trials back") == 1
    *_, last, after = out.splitlines()
    assert last.endswith("small ends: asked to stop")
    assert after.endswith("the same command goes on with its trials")
    with engine.connect() as connection:
        assert set(connection.execute(sa.select(leases.c.state)).scalars()) == {FREE}


@pytest.mark.slow
def test_ranks_whose_supervisor_is_killed_give_their_trials_back_and_end(
    worker: "subprocess.Popen[str]", sqlite_url: str
) -> None:
    """kill -9 is passed on by nobody: the ranks see for themselves that they are alone."""
    engine = sa.create_engine(sqlite_url, poolclass=sa.NullPool)
    limit = time.monotonic() + 200
    while not _checkpoints(engine):
        assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < limit, "no trial came to its first checkpoint"
        time.sleep(0.2)
    ranks = [int(pid) for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]
    assert len(ranks) == 2
    worker.kill()
    out, _ = worker.communicate(timeout=120)  # their output, too, is closed when they have ended
    assert worker.returncode == -signal.SIGKILL
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in ranks)
    assert "Traceback" not in out
    assert out.count(f"the process that started this worker ({worker.pid}) is gone") == 1
    assert out.count("small ends: asked to stop") == 1
    with engine.connect() as connection:
        assert set(connection.execute(sa.select(leases.c.state)).scalars()) == {FREE}
        assert set(connection.execute(sa.select(attempts.c.why)).scalars()) == {"preempted"}


def _checkpoints(engine: sa.Engine) -> bool:
    if not Path(engine.url.database or "").is_file() or not sa.inspect(engine).has_table(leases.name):
        return False
    with engine.connect() as connection:
        epochs = connection.execute(sa.select(leases.c.epoch)).scalars().all()
    return bool(epochs) and min(epochs) >= 1
