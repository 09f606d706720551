"""Who answers a signal: one rank for all, and the one that was asked where the lead was not."""

import signal
import time

import pytest

RANK = """
import time
from trainer.distributed import signals
asked = []
signals.obey_signals(lambda: asked.append(None), "asked to stop: done soon")
print("ready", flush=True)
while not asked:
    time.sleep(0.02)
time.sleep(1.5)
"""


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ([1], ["rank 1: asked to stop: done soon"]),
        ([0], ["asked to stop: done soon"]),
        ([1, 0], ["asked to stop: done soon"]),
        ([2, 1], ["rank 2: asked to stop: done soon"]),
    ],
)
def test_one_rank_answers_for_all_that_were_asked(fork, asked, lines):
    where = {"TORCHELASTIC_RESTART_COUNT": str(len(asked) + 10 * asked[0])}  # others of these tests have other names
    children = [fork(RANK, RANK=str(rank), **where) for rank in asked]
    for child in children:
        while "ready" not in child.log:
            assert child.poll() is None, child.log
            time.sleep(0.02)
    for number, child in enumerate(children):
        if number and asked[0]:
            time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
    assert [child.wait(30) for child in children] == [0] * len(children)
    spoken = [line.partition(" ")[2] for child in children for line in child.log.splitlines() if "asked" in line]
    assert spoken == lines
