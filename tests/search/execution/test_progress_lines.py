"""What a worker says while it trains: the rate over all workers, the time left, and the newest epoch of each trial."""

import pytest

from search.execution.progress_lines import RATE_SECONDS, ArmBudget, EpochLine, SearchRate, epochs_left
from search.storage.leases import EpochCount
from trainer.reports import EpochReport

ARM = {1: ArmBudget(trials=10, epochs=20)}


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rate(clock):
    return SearchRate(clock)


def counted(rate: SearchRate, clock: Clock, seconds: float, count: EpochCount) -> str:
    clock.now = seconds
    rate.add({1: count})
    return rate.text({1: count}, ARM)


def test_nothing_is_said_before_an_epoch_came_in(rate, clock):
    assert counted(rate, clock, 0, EpochCount(unfinished=4)) == ""
    assert counted(rate, clock, 10, EpochCount(unfinished=4)) == ""
    # 10 epochs in 20 s; 200 of all trials are 190 to go, at half an epoch a second.
    text = counted(rate, clock, 20, EpochCount(unfinished=4, unfinished_epochs=10))
    assert text == "30 epochs/min  ETA 6 min"


def test_a_rate_is_that_of_the_newest_epochs(rate, clock):
    counted(rate, clock, 0, EpochCount(unfinished=4))
    counted(rate, clock, 1000, EpochCount(unfinished=4, unfinished_epochs=10))
    slow = rate.epochs_a_second
    counted(rate, clock, 1000 + RATE_SECONDS, EpochCount(unfinished=4, unfinished_epochs=70))
    assert slow == pytest.approx(0.01)
    assert rate.epochs_a_second == pytest.approx(60 / RATE_SECONDS)


def test_a_trial_that_begins_again_begins_the_rate_again(rate, clock):
    counted(rate, clock, 0, EpochCount(unfinished=1))
    counted(rate, clock, 10, EpochCount(unfinished=1, unfinished_epochs=9))
    assert counted(rate, clock, 20, EpochCount(unfinished=1, unfinished_epochs=0)) == ""


@pytest.mark.parametrize(
    ("count", "left"),
    [
        (EpochCount(), 200),
        (EpochCount(unfinished=10, unfinished_epochs=50), 150),
        # Three were pruned after 8 epochs on average: the seven others are taken to end like them.
        (EpochCount(finished=3, finished_epochs=24), 56),
        (EpochCount(finished=3, finished_epochs=24, unfinished=2, unfinished_epochs=6), 5 * 8 + 10),
        (EpochCount(finished=10, finished_epochs=80), 0),
        # Longer than any before: what it still needs is unknown, not negative.
        (EpochCount(finished=9, finished_epochs=72, unfinished=1, unfinished_epochs=15), 0),
    ],
)
def test_what_is_left_follows_from_how_trials_ended(count, left):
    assert epochs_left(count, ARM[1]) == left


def report(epoch: int, dice: float | None) -> EpochReport:
    return EpochReport(epoch, epoch - 1, None if dice is None else {"dice": dice}, {}, {}, final=False)


def test_the_line_has_the_newest_epoch_of_each_trial_and_drops_those_that_went():
    lines: list[str] = []
    line = EpochLine({"kd": 20, "control": 10}, "dice", lines.append)
    line.add("kd-3", report(1, None))
    line.add("control-0", report(4, 0.81234))
    line.add("kd-10", report(7, 0.25))
    assert lines[-1] == "dice:  control #0 4/10 0.812  kd #3 1/20  #10 7/20 0.250"
    line.add("kd-3", report(2, 0.5))
    line.add("kd-3", report(3, 0.6))
    assert lines[-1] == "dice:  kd #3 3/20 0.600"
