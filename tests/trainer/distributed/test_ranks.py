"""Ranks talk in real processes: values agree, waits end, a broken sibling is noticed, a signal is obeyed."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from trainer.distributed.ranks import Ranks, RanksLost, ranks_per_trial


@pytest.mark.parametrize(
    ("world", "batch", "expected"),
    [(1, 16, 1), (2, 16, 2), (4, 16, 2), (8, 64, 8), (8, 63, 4), (6, 24, 3), (8, 4, 1), (5, 16, 1), (5, 40, 5)],
)
def test_a_trial_takes_as_many_ranks_as_leave_each_eight_images(world, batch, expected):
    assert ranks_per_trial(world, batch) == expected


def test_one_process_alone_needs_no_sibling():
    ranks = Ranks("cpu")
    assert (ranks.rank, ranks.world, ranks.leads, ranks.groups) == (0, 1, True, 1)
    assert ranks.broadcast([1]) == [1]
    assert ranks.all_gather("a") == ["a"]
    assert ranks.all_reduce(torch.ones(2)).tolist() == [1, 1]
    assert ranks.to_host(torch.tensor([[1.5, 2.0]])).get() == [1.5, 2.0]
    ranks.leave()


def test_a_value_on_its_way_is_the_one_at_the_time():
    tensor = torch.zeros(1)
    later = Ranks("cpu").to_host(tensor)
    tensor += 1
    assert later.get() == [0.0]


def test_without_torchrun_join_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.join(stall=5, device="cpu").world == 1


def test_ranks_that_do_not_divide_the_world_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"--ranks-per-trial: 4 does not divide the 6 ranks; known: 1, 2, 3, 6"):
        Ranks.join(4, stall=5, device="cpu")


def test_more_ranks_than_devices_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"--nproc-per-node: 4 ranks but 2 devices"):
        Ranks.join(2, stall=5)


def test_work_that_fails_alone_is_told_in_words_and_work_that_succeeds_returns():
    ranks = Ranks("cpu")
    assert ranks.attempt(lambda inner: inner.all_reduce(torch.ones(1)).item(), str) == 1.0
    assert ranks.attempt(lambda inner: 1 // 0, str) == "integer division or modulo by zero"


SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
from trainer.distributed.ranks import Ranks, RanksLost
torch.set_num_threads(1)
index, out = int(os.environ["RANK"]), Path({out!r})

def tell(value):
    (out / f"{{index}}.part").write_text(json.dumps(value))
    (out / f"{{index}}.part").rename(out / f"{{index}}.json")

"""


def script(tmp_path: Path, repository: Path, body: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(root=str(repository), out=str(tmp_path)) + textwrap.dedent(body))
    return path


def told(tmp_path: Path, rank: int, timeout: float = 60.0):
    deadline = time.monotonic() + timeout
    path = tmp_path / f"{rank}.json"
    while not path.exists():
        assert time.monotonic() < deadline, f"rank {rank} told nothing"
        time.sleep(0.02)
    return json.loads(path.read_text())


@pytest.mark.slow
def test_values_agree_on_two_ranks_and_joining_works_again(tmp_path, repository, command):
    body = """
    said = []
    for _ in range(2):
        ranks = Ranks.join(2, stall=30, device="cpu")
        single = torch.full((3,), 0.1) * (index + 1)
        def broken(inner):
            if index == 1:
                raise ValueError("only here")
            return inner.all_reduce(torch.ones(1)).item()
        said.append({
            "where": [ranks.rank, ranks.world, ranks.leads, ranks.group, ranks.groups],
            "share": ranks.broadcast({"from": index}),
            "gather": ranks.all_gather("x" * (1000 * index + 1)),
            "sum": ranks.all_reduce(single).tolist(),
            "works": ranks.attempt(lambda inner: inner.all_reduce(torch.ones(1)).item(), str),
            "broken": ranks.attempt(broken, str),
            "after": ranks.all_reduce(torch.ones(1)).item(),
        })
        ranks.leave()
    ranks = Ranks.join(1, stall=30, device="cpu")
    said.append({"where": [ranks.rank, ranks.world, ranks.leads, ranks.group, ranks.groups],
                 "sum": ranks.all_reduce(torch.ones(1)).item(), "share": ranks.broadcast(index)})
    ranks.leave()
    tell(said)
    """
    path = script(tmp_path, repository, body)
    command("torchrun", "--standalone", "--nproc-per-node=2", str(path))
    both = [told(tmp_path, rank) for rank in range(2)]
    for rank, (first, second, apart) in enumerate(both):
        assert first == second
        assert first.pop("where") == [rank, 2, rank == 0, 0, 1]
        assert apart == {"where": [0, 1, True, rank, 2], "sum": 1.0, "share": rank}
    assert both[0][0] == both[1][0]
    assert both[0][0]["share"] == {"from": 0}
    assert both[0][0]["gather"] == ["x", "x" * 1001]
    assert both[0][0]["sum"] == pytest.approx([0.3] * 3)
    assert (both[0][0]["works"], both[0][0]["broken"], both[0][0]["after"]) == (2.0, "only here", 2.0)


@pytest.fixture
def pair(tmp_path, repository):
    """Start two ranks that no torchrun watches, so that one goes on after the other is gone."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(body: str) -> list[subprocess.Popen[bytes]]:
        path = script(tmp_path, repository, body)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for rank in range(2):
            where = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            processes.append(subprocess.Popen([sys.executable, str(path)], env=os.environ | where))
        return processes

    yield start
    for process in processes:
        process.kill()
        process.wait()


WAIT = """
ranks = Ranks.join(2, stall=60, grace=60, device="cpu")
heard = []
def handler(*_):
    heard.append(time.monotonic() - start)
    ranks.ask_to_stop()
signal.signal(signal.SIGTERM, handler)
ranks.all_reduce(torch.ones(1))
ranks._stall, ranks._grace = {stall}, 1
start = time.monotonic()
if index == 1:
    {sibling}
(out / "waiting").touch()
try:
    ranks.all_reduce(torch.ones(1))
except RanksLost as error:
    tell([str(error), time.monotonic() - start, heard])
    os._exit(0)
"""


@pytest.mark.slow
def test_a_killed_sibling_is_noticed_at_once(tmp_path, pair):
    pair(WAIT.format(stall=60, sibling="time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)"))
    message, seconds, _ = told(tmp_path, 0)
    assert message.startswith("all_reduce: ")
    assert seconds < 30


@pytest.mark.slow
def test_a_hanging_sibling_is_noticed_after_the_stall_limit(tmp_path, pair):
    pair(WAIT.format(stall=2, sibling="time.sleep(60)"))
    message, seconds, _ = told(tmp_path, 0)
    assert "a sibling hangs" in message
    assert 2 <= seconds < 30


@pytest.mark.slow
def test_a_signal_is_obeyed_while_waiting_for_a_sibling(tmp_path, pair):
    lead, _ = pair(WAIT.format(stall=60, sibling="time.sleep(60)"))
    while not (tmp_path / "waiting").exists():
        assert lead.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    lead.send_signal(signal.SIGTERM)
    message, seconds, heard = told(tmp_path, 0)
    assert "asked to stop" in message
    assert 1 <= seconds - heard[0] < 30


def test_a_wait_that_never_ends_is_given_up():
    ranks = Ranks("cpu")
    ranks._stall = 0.05
    with pytest.raises(RanksLost, match="for a sign"):
        ranks.poll(lambda: False, "a sign")
