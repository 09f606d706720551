"""The line of a run that trains: its rate and the time left are those of the last few epochs."""

import pytest

from trainer.cli import progress
from trainer.cli.progress import RECENT, Progress
from trainer.reports import EpochReport


def report(epoch: int) -> EpochReport:
    return EpochReport(epoch, epoch - 1, None, {"ce": 1.0}, {}, final=False)


@pytest.fixture
def clock(monkeypatch):
    times = {"now": 100.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: times["now"])
    return times


def test_a_slow_beginning_is_forgotten(clock):
    line = Progress(20)
    for epoch in range(1, 11):
        clock["now"] += 60.0 if epoch == 1 else 2.0
        line.hear(report(epoch))
        if epoch == 1:
            assert "60 s/epoch  ETA 19 min" in line.line(report(epoch))
    assert RECENT < 9
    assert "2 s/epoch  ETA 20 s" in line.line(report(10))
