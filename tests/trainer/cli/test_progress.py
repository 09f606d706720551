"""The line of a run that trains: its rate and the time left are those of the last few epochs."""

import pytest

from trainer.cli import progress
from trainer.cli.progress import RECENT, Progress, counted_calls, counted_items
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


def test_items_and_calls_are_counted_with_rate_and_time_left(clock, capsys):
    for _ in counted_items("comparing", range(3), 3):
        clock["now"] += 6.0
    kept: list[tuple[int, str]] = []
    call = counted_calls("scoring", lambda index, value: kept.append((index, value)), 4)
    for index in (2, 0, 1):
        clock["now"] += 3.0
        call(index, "logits")
    assert kept == [(2, "logits"), (0, "logits"), (1, "logits")]
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "comparing 1/3  0.167 a second  ETA 12 s"
    assert last == "scoring 2/4  0.333 a second  ETA 6 s"
