"""The line of a run that trains: its rate and the time left are those of the last few epochs."""

import pytest

from trainer.cli import progress
from trainer.cli.progress import RECENT, InsideEpoch, Progress, counted_calls, counted_items
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


def test_a_slow_epoch_says_every_few_seconds_how_far_it_is_and_a_fast_one_nothing(clock):
    lines: list[str] = []
    inside = InsideEpoch(lines.append, about=lambda: "epoch 3/9", best=lambda: "(best 0.812 @ 2)")
    for epoch, seconds in enumerate((0.1, 2.0, 0.1)):
        clock["now"] += 60.0  # between two epochs, such as for want of work
        inside("training step", 0, 10)
        for step in range(1, 11):
            clock["now"] += seconds
            inside("training step", step, 10)
        inside("validation, image", 0, 4)
        for image in range(1, 5):
            clock["now"] += seconds
            inside("validation, image", image, 4)
        inside.epoch_ended()
        assert len(lines) == (0, 4, 4)[epoch]
    assert lines == [
        "epoch 3/9: training step 3/10  0.5 a second  ETA 14 s  (best 0.812 @ 2)",
        "epoch 3/9: training step 6/10  0.5 a second  ETA 8 s  (best 0.812 @ 2)",
        "epoch 3/9: training step 9/10  0.5 a second  ETA 2 s  (best 0.812 @ 2)",
        "epoch 3/9: validation, image 2/4  0.5 a second  ETA 4 s  (best 0.812 @ 2)",
    ]


def test_the_lines_of_an_epoch_leave_those_of_whole_ones_as_they_are(clock, log):
    line = Progress(3)
    for epoch in range(1, 3):
        line.inside("training step", 0, 2)
        for step in range(1, 3):
            clock["now"] += 6.0
            line.inside("training step", step, 2)
        line.hear(report(epoch))
    texts = [text.removeprefix("INFO ") for text in log]
    assert [text.partition("  ")[0] for text in texts] == [
        "epoch 1/3: training step 1/2", "epoch 1/3: training step 2/2", "epoch 1/3",
        "epoch 2/3: training step 1/2", "epoch 2/3: training step 2/2", "epoch 2/3",
    ]  # fmt: skip
