"""The forecast of time: what follows from timed steps, and that timing takes seconds and reads no weights."""

import time

import pytest

from search.planning.network_costs import costs
from search.planning.time_forecast import describe_time, scaled, time_forecast
from search.spec.load import load
from trainer.data import open_data
from trainer.profiling.quick_timing import QuickTimings
from trainer.profiling.slots import USUAL

CONTROL = """
[[arms]]
name = "no-kd"
set = { method = "none" }
trials = 2
"""


@pytest.fixture
def spec(small_study, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(small_study(more=CONTROL))
    return load(path)


def timings(**changes: object) -> QuickTimings:
    values = dict(
        device="this CPU, 1 thread",
        steps=10,
        validation_images=5,
        data=0.4,
        teacher=0.8,
        student=(0.1, 0.2),
        scored=(0.01, 0.02),
    )
    return QuickTimings(**{**values, **changes})


def test_teacher_and_data_are_shared_by_the_students_of_a_worker():
    alone, together = timings().epoch_seconds(1), timings().epoch_seconds(4)
    assert alone == pytest.approx((10 * (1.2 + 0.1) + 0.05, 10 * (1.2 + 0.2) + 0.1))
    assert together == pytest.approx((10 * (0.3 + 0.1) + 0.05, 10 * (0.3 + 0.2) + 0.1))


def test_an_arm_without_a_teacher_does_not_wait_for_one(spec):
    taught = spec.run.model_copy(update={"method": "kl"})
    main, control = spec.arms
    forecast = scaled(spec, taught, timings(), None)
    each = timings().epoch_seconds(USUAL)[0], timings(teacher=0.0).epoch_seconds(USUAL)[0]
    listens = bool(main.base.methods())
    expected = main.trials * main.epochs * each[0 if listens else 1] + control.trials * control.epochs * each[1]
    assert forecast.search_seconds[0] == pytest.approx(expected)
    assert forecast.trials == main.trials + control.trials


def test_a_forecast_is_measured_in_its_time_and_names_the_device(spec, tmp_path):
    data = open_data(spec.run.data, cache=tmp_path / "cache")
    began = time.monotonic()
    forecast = time_forecast(spec, costs(spec), data, trainings=6, seconds=0.3)
    assert time.monotonic() - began < 30
    low, high = forecast.search_seconds
    assert 0 < low <= high
    assert forecast.confirm_seconds is not None
    first, second = describe_time(forecast)
    assert f"{forecast.trials} trials about " in first
    assert "confirmation of 6 trainings" in first
    assert "thread" in second
