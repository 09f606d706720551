"""One line of a terminal that is written over, and lines that stay above it."""

import os
import pty
import subprocess
import sys

import pytest

LINES = """
from trainer.cli.live_line import LiveLine
line = LiveLine()
line.show("epoch 1")
line.log("a trial ended\\n")
line.show("epoch 2" + "." * 500)
line.clear()
"""


@pytest.fixture
def on_terminal(repository):
    """What a script writes to a terminal of 40 columns."""

    def run(script: str) -> str:
        ours, theirs = pty.openpty()
        words = [sys.executable, "-c", script]
        subprocess.run(words, cwd=repository, stderr=theirs, env={**os.environ, "COLUMNS": "40"}, check=True)
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 4096):
                parts.append(part)
        except OSError:  # what a terminal says at its end
            pass
        os.close(ours)
        return b"".join(parts).decode()

    return run


def test_a_line_that_stays_goes_above_the_live_one(on_terminal):
    clear = "\r\x1b[K"
    expected = ["", "epoch 1", "a trial ended\r\nepoch 1", "epoch 2" + "." * 32, ""]
    assert on_terminal(LINES).split(clear) == expected


def test_a_log_has_plain_lines_alone(repository):
    words = [sys.executable, "-c", LINES]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=True)
    assert done.stderr == "a trial ended\n"
