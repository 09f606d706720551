"""Ranks that are small scripts: what they are told, how they end, and when they are started again."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loguru import logger

from trainer.distributed.agent import Agent

Ran = Callable[..., bool]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Two ranks that do what a text says: `ran(text, wish)`; whether they died."""
    monkeypatch.chdir(tmp_path)

    def run(
        text: str,
        wish: Callable[[], signal.Signals | None] = lambda: None,
        *,
        restarts: int = 0,
        stop_seconds: float = 20.0,
    ) -> bool:
        script = tmp_path / "rank.py"
        script.write_text(f"import json, os, signal, subprocess, sys, time, pathlib\nrank = os.environ['RANK']\n{text}")
        agent = Agent(
            [str(script), "a word"],
            ranks=2,
            restarts=restarts,
            stop_seconds=stop_seconds,
            folder=tmp_path,
            variables={"OMP_NUM_THREADS": "7"},
        )
        return agent.run(wish)

    return run


def test_ranks_are_told_their_place_as_torchrun_tells_it(tmp_path: Path, ran: Ran) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    names += ("KD_TEMPORARY", "KD_PARENT", "OMP_NUM_THREADS")
    names += ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID", "KD_MEETING_FOLDER")
    assert not ran(
        f"found = {{name: os.environ[name] for name in {names}}}\n"
        "found |= {'words': sys.argv[1:], 'mode': os.stat(found['KD_MEETING_FOLDER']).st_mode & 0o777}\n"
        "pathlib.Path(rank).write_text(json.dumps(found))",
        restarts=3,
    )
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert (second.pop("RANK"), second.pop("LOCAL_RANK"), first.pop("RANK"), first.pop("LOCAL_RANK")) == (*"11", *"00")
    assert first == second
    assert Path(first.pop("KD_MEETING_FOLDER")).parent == Path(first.pop("KD_TEMPORARY")) == tmp_path
    assert int(first.pop("KD_PARENT")) == os.getpid()
    assert list(first.values()) == ["2", "2", "127.0.0.1", "0", "7", "0", "3", "none", ["a word"], 0o700]


def test_where_a_rank_dies_the_others_are_asked_to_end_and_all_start_again(tmp_path: Path, ran: Ran) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    died = ran(
        "start = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        "if rank == '1':\n"
        "    while not pathlib.Path('waits-' + start).exists(): time.sleep(0.01)\n"
        "    sys.exit(7) if start == '0' else os.kill(os.getpid(), signal.SIGABRT) if start == '1' else None\n"
        "else:\n"
        "    signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path('asked-' + start).touch()))\n"
        "    pathlib.Path('waits-' + start).touch()\n"
        "    time.sleep(60 if start < '2' else 0)",
        restarts=2,
    )
    logger.remove(sink)
    assert not died
    assert sorted(path.name for path in tmp_path.glob("asked-*")) == ["asked-0", "asked-1"]
    assert [line.strip() for line in lines] == ["rank 1 ended with exit code 7", "rank 1 was ended by SIGABRT"]


def test_a_stop_is_handed_on_and_who_does_not_end_is_killed_with_all_that_it_started(tmp_path: Path, ran: Ran) -> None:
    """Rank 0 ends as it is asked to; rank 1 and its child do not listen."""
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    died = ran(
        "if rank == '1':\n"
        "    signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "    pathlib.Path('child').write_text(str(child.pid))\n"
        "else:\n"
        "    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(pathlib.Path('asked').touch()))\n"
        "pathlib.Path('ready-' + rank).touch()\n"
        "time.sleep(60)",
        lambda: signal.SIGUSR1 if len(list(tmp_path.glob("ready-*"))) == 2 else None,
        restarts=3,
        stop_seconds=1.0,
    )
    logger.remove(sink)
    assert not died
    assert (tmp_path / "asked").exists()
    assert [line.strip() for line in lines] == ["rank 1: not ended 1 s after it was asked to: killed"]
    assert _is_gone(int((tmp_path / "child").read_text()))


def test_a_second_wish_waits_for_nobody(tmp_path: Path, ran: Ran) -> None:
    begun: list[float] = []

    def wish() -> signal.Signals | None:
        if len(list(tmp_path.glob("ready-*"))) < 2:
            return None
        begun.append(time.monotonic())
        return signal.SIGTERM if begun[-1] - begun[0] < 0.5 else signal.SIGKILL

    assert not ran(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\npathlib.Path('ready-' + rank).touch()\ntime.sleep(60)", wish
    )
    assert time.monotonic() - begun[0] < 15.0


def _is_gone(pid: int) -> bool:
    """A killed process of nobody's may be there for a moment, until it is waited for."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if "Z (zombie)" in Path(f"/proc/{pid}/status").read_text():
            return True
        time.sleep(0.05)
    return False
