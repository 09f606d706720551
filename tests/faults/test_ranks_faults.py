"""Real ranks that are killed, stopped, out of memory, out of step or stuck: agreed failures cost one member, all else
ends the ranks in time, and the worker that starts them anew has its own trials back at once."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations  # noqa: F401 - here once, and not in each rank
import pytest

from search.storage.database import open_storage
from search.storage.leases import LeaseRow

STUDY = """
[objective]
maximize = "dice"
[run]
method = "none"
epochs = 400
batch_size = 16
data = { name = "blobs", size = 32, train = 32, validation = 8 }
student = { name = "unet", width = 2 }
losses = { ce = {} }
optim = { lr = 1e-3 }
[space]
"optim.lr" = { low = 1e-4, high = 1e-2, log = true }
[sampler]
name = "random"
[budget]
trials = 2
"""
HEAD = """
import json, os, time
from pathlib import Path
import torch
from trainer.engine.cohort import Cohort
from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks, RanksLost

out = Path({out!r})

def make(**changes):
    data = {{"name": "blobs", "size": changes.pop("size", 32), "train": 16, "validation": 4}}
    plain = {{"epochs": 3, "batch_size": 4, "data": data, "student": {{"name": "unet", "width": 4}},
             "losses": {{"ce": {{}}}}, "optim": {{"lr": 0.01}}}}
    return RunConfig.model_validate(plain | changes)

def cohort_of(ranks, *runs):
    cohort = Cohort(ranks, slots=4, cache=out / "cache")
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    return cohort

def told(reports):
    words = lambda report: getattr(report, "kind", "trained") + " " + getattr(report, "message", "")
    return {{key: words(report) for key, report in reports.items()}}
"""
ALONE = """
import resource
ranks = Ranks.join(stall=8, device="cpu")
cohort = cohort_of(ranks, make(), make(size=256, batch_size=16, student={"name": "unet", "width": 64}))
size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (size + 512 * 2**20, resource.RLIM_INFINITY))
found = [told(cohort.epoch())]
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
found.append(told(cohort.epoch()))

def stuck(*_):
    (out / "stuck").write_text(str(time.time()))
    while True:
        pass

cohort._members[0].trained.network.register_forward_pre_hook(stuck)
(out / "found.json").write_text(json.dumps(found))
cohort.epoch()
"""
TOGETHER = """
ranks = Ranks.join(2, stall=15, grace=1, device="cpu")
cohort = cohort_of(ranks, make(), make())
if ranks.rank == 1:
    cohort._members[0].trained.network.register_forward_hook(
        lambda module, given, output: output._replace(logits=output.logits * float("nan")))
found = [told(cohort.epoch()), told(cohort.epoch())]
(out / f"found-{ranks.rank}.json").write_text(json.dumps(found))
started = time.monotonic()
try:
    if ranks.rank == 0:
        ranks.broadcast({"a": 1})
    else:
        ranks.all_reduce(torch.ones(1000))
        ranks.all_reduce(torch.ones(7))
    ranks.all_gather(1)
finally:
    (out / f"ended-{ranks.rank}").write_text(str(time.monotonic() - started))
    os._exit(1)
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def play(tmp_path: Path, fork: Callable[..., Any]) -> Callable[..., Any]:
    """Start a script as one process, with variables of its own."""
    return lambda body, **variables: fork(HEAD.format(out=str(tmp_path)) + body, **variables)


def test_memory_that_runs_out_costs_one_member_and_a_rank_that_is_stuck_alone_ends_itself(
    tmp_path: Path, play: Callable[..., Any]
) -> None:
    """The address space of the process is limited for real; the loop without end is met by the watch on progress."""
    process = play(ALONE)
    process.wait(200)
    err = process.log
    assert (tmp_path / "found.json").exists(), err
    first, second = json.loads((tmp_path / "found.json").read_text())
    assert first["1"].startswith("out_of_memory out of memory: unet of width 64, batch_size 16, size 256"), first
    assert "try batch_size 8" in first["1"]
    assert first["0"].startswith("trained")
    assert second.keys() == {"0"}
    assert process.returncode == 1
    assert time.time() - float((tmp_path / "stuck").read_text()) < 60
    assert "Timeout (0:00:" in err
    assert "in stuck" in err


def test_a_number_that_is_none_on_one_rank_fails_that_member_on_both_and_ranks_out_of_step_end(
    tmp_path: Path, play: Callable[..., Any]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [play(TOGETHER, RANK=str(rank), **where) for rank in range(2)]
    for process in both:
        assert process.wait(200) != 0, process.log
    found = [json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    first, second = found[0]
    assert first["0"].startswith("not_finite loss or gradient not finite in epoch 1")
    assert first["1"].startswith("trained")
    assert second.keys() == {"1"}
    ended = [float(path.read_text()) for path in tmp_path.glob("ended-*")]
    assert ended
    assert max(ended) < 60


@pytest.fixture
def worker(tmp_path: Path, postgres_url: str, repository: Path) -> Iterator["subprocess.Popen[bytes]"]:
    study = tmp_path / "hurt.toml"
    study.write_text(STUDY)
    command = [sys.executable, "-m", "search", "work", str(study), "--ranks", "2", "--restarts", "2"]
    command += ["--stall", "15", "--ttl", "600"]
    command += ["--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache"), "--ranks-per-trial", "2"]
    environment = os.environ | {"OPTUNA_STORAGE": postgres_url, "PYTHONPATH": str(repository)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    yield process
    ranks = _ranks(process)
    process.kill()  # first, as it would start others in their place
    process.wait()
    for pid in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ranks(process: "subprocess.Popen[bytes]") -> list[int]:
    """The pids of the ranks, by rank."""
    words = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
    pids = map(int, subprocess.run(words, capture_output=True, text=True, check=False).stdout.split())
    ranks = {}
    for pid in pids:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        found = [word for word in variables if word.startswith(b"RANK=")]
        if found:
            ranks[int(found[0][5:])] = pid
    return [ranks[rank] for rank in sorted(ranks)]


def test_a_killed_rank_is_started_anew_with_its_trials_and_a_signal_is_obeyed_while_a_sibling_is_stopped(
    worker: "subprocess.Popen[bytes]",
    tmp_path: Path,
    postgres_url: str,
    tools: SimpleNamespace,
    listening: dict[int, set[str]],
) -> None:
    """kill -9 of one rank, then SIGSTOP of the other with SIGTERM for the lead; the time-to-live is ten minutes.

    Neither the ranks nor those that are started in their place listen beyond the machine."""
    opened: list[Any] = []

    def rows() -> list[LeaseRow]:
        assert worker.poll() is None, (tmp_path / "log").read_text()
        if not opened:
            opened.append(open_storage(postgres_url))
        row = opened[0].searches.search("hurt")
        if row is None:
            return []
        return opened[0].leases.of_studies([opened[0].searches.arms_of(row.search_id)[0].study_id])

    tools.until(lambda: len(rows()) == 2 and all(row.epoch >= 1 for row in rows()), 150)
    before = {row.trial_id: row for row in rows()}
    killed = _ranks(worker)[1]
    os.kill(killed, signal.SIGKILL)
    tools.until(lambda: all(r.token == 2 and r.epoch > before[r.trial_id].epoch for r in rows()), 150)
    assert not Path(f"/proc/{killed}").exists()
    after = {row.trial_id: row for row in rows()}
    assert after.keys() == before.keys()
    assert [row.owner for row in after.values()] == [row.owner for row in before.values()]
    assert {row.lost for row in after.values()} == {0}
    attempts = opened[0].leases.attempts_of([row.study_id for row in before.values()])
    assert {a.why for a in attempts if a.token == 1} <= {"restarted", "preempted"}  # the agent also ends the lead
    # Lost: the epoch that was being trained, and no more.
    for attempt in attempts:
        if attempt.token == 2:
            assert attempt.first_epoch >= before[attempt.trial_id].epoch + 1

    lead, follower = _ranks(worker)
    os.kill(follower, signal.SIGSTOP)
    tools.until(lambda: Path(f"/proc/{follower}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    time.sleep(1.0)
    began = time.monotonic()
    os.kill(lead, signal.SIGTERM)
    tools.until(lambda: {row.state for row in rows()} == {"free"}, 60)
    assert time.monotonic() - began < 20
    attempts = opened[0].leases.attempts_of([row.study_id for row in before.values()])
    assert {a.why for a in attempts if a.token == 2} == {"preempted"}
    opened[0].engine.dispose()
