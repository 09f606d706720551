"""Processes whose parent is killed end by themselves, from their first line on: nobody is left to end them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


def children(pid: int) -> list[int]:
    """The processes that a process started, and those that these did."""
    direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return direct + [other for child in direct for other in children(child)]


def is_rank(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return any(word.endswith("search/worker.py") for word in words) or "--outcome" in words


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("search", "work", "small.toml", "--ranks", "1", "--storage", "sqlite:///kd.db"),
        ("trainer", "fit", "small.toml", "--ranks", "2"),
    ],
    ids=["search work", "trainer fit"],
)
def test_ranks_end_within_seconds_where_the_command_is_killed_while_they_start(
    tmp_path: Path, repository: Path, small_study, tools, words: tuple[str, ...]
) -> None:
    until = tools.until
    (tmp_path / "small.toml").write_text(small_study(epochs=1000))
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("wb") as log:
        words = [sys.executable, "-m", *words]
        command = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: any(is_rank(pid) for pid in children(command.pid)), 60)
            started = children(command.pid)
        finally:
            command.kill()
            command.wait()
    killed = time.monotonic()
    until(lambda: not any(map(is_there, started)), 20)
    assert time.monotonic() - killed < 15
