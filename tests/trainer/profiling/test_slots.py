"""`--slots auto`: the rule, its forecast, and what is measured for it."""

import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.planning import slots as measured
from search.planning import slots as slots_module
from search.spec.load import load
from trainer.distributed.ranks import Ranks
from trainer.engine.resources import SharedResources
from trainer.errors import UserError
from trainer.profiling import quick_timing
from trainer.profiling.slots import MOST, SHARED, StepTimings, choose, epoch_seconds, forecast, share
from trainer.profiling.step_timing import measure

FOUND = StepTimings(
    data=0.005,
    teacher=0.045,
    student=(0.1, 0.2),
    validation=(0.5, 1.0),
    member_bytes=(10**6, 10**7),
    step_bytes=10**8,
    free_bytes=10**10,
    checkpoint_bytes=(10**6, 2 * 10**7),
    steps=100,
)


def test_the_smallest_number_that_leaves_a_tenth_to_teacher_and_data() -> None:
    """50 ms shared beside students of 150 ms: three of them make it a tenth, two do not."""
    chosen = choose(FOUND, in_flight=24)
    assert (chosen.slots, chosen.because) == (3, "teacher and data are then 10% of a step")
    assert share(FOUND, 3) == pytest.approx(0.1)
    assert share(FOUND, 2) > SHARED


@pytest.mark.parametrize(
    ("change", "in_flight", "slots", "because"),
    [
        ({"teacher": 0.0, "data": 0.0}, 24, 1, "teacher and data"),
        ({"teacher": 0.4}, 5, 5, "no more trials may be in flight"),
        ({"teacher": 4.0}, 99, MOST, "never more than 16"),
        ({"teacher": 0.4, "free_bytes": 2 * 10**8}, 24, 6, "more do not fit into memory"),
        ({"free_bytes": 10**6}, 24, 1, "more do not fit into memory"),
    ],
)
def test_memory_trials_in_flight_and_a_most_bound_it(change, in_flight, slots, because) -> None:
    chosen = choose(replace(FOUND, **change), in_flight=in_flight)
    assert chosen.slots == slots
    assert chosen.because.startswith(because)


seconds = st.floats(1e-4, 10.0)


@given(st.tuples(seconds, seconds, seconds, seconds), st.integers(0, 10**11), st.integers(1, 50))
def test_whatever_was_found_the_number_is_at_least_one_and_within_its_bounds(times, free, in_flight) -> None:
    data, teacher, *student = times
    found = replace(FOUND, data=data, teacher=teacher, student=tuple(sorted(student)), free_bytes=free)
    slots = choose(found, in_flight=in_flight).slots
    assert 1 <= slots <= min(MOST, in_flight)
    if slots > 1:
        assert slots * found.member_bytes[1] + found.step_bytes <= free
        assert share(found, slots - 1) > SHARED


def test_the_forecast_counts_each_step_once_and_shares_it() -> None:
    """100 steps of 50 ms + 3 x 100 ms and 3 validations of 0.5 s; a trial pays a third of that an epoch."""
    assert epoch_seconds(FOUND, 3) == pytest.approx((36.5, 68.0))
    lines = forecast(FOUND, 3, epochs=60, trials=40, ranks=2)
    assert lines == [
        "a step: data 5.0 ms, teacher 45.0 ms, student 100 to 200 ms; validation 0.5 to 1 s a student",
        "3 at a time: an epoch of 100 steps takes 36.5 to 68 s, of which teacher and data 10% of the steps; "
        "16.2 to 30.2 device-hours for 40 trials without pruning; checkpoints 3 to 60 MB",
    ]


STUDY = """
[objective]
maximize = "dice"
[run]
epochs = 2
batch_size = 4
[run.data]
name = "blobs"
size = 32
train = 8
validation = 3
[run.student]
name = "unet"
[run.losses]
ce = {}
[space]
"student.width" = { choices = [4, 16] }
[budget]
trials = 4
in_flight = 3
"""


def test_a_study_is_measured_and_its_largest_student_costs_more(
    tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this thread's own time of the processor: what else runs on the machine is not measured."""
    monkeypatch.setattr("trainer.profiling.step_timing.time", SimpleNamespace(perf_counter=time.thread_time))
    path = tmp_path / "measured.toml"
    path.write_text(STUDY)
    spec = load(path)
    found = measure(
        *(spec.run.model_copy(update={"student": spec.run.student.model_copy(update={"width": w})}) for w in (4, 16)),
        None,
        SharedResources(Ranks("cpu"), tmp_path),
    )
    assert found.teacher == 0.0
    assert found.student[0] < found.student[1]
    assert found.steps == 2
    assert found.data > 0
    # Weights, gradients and two moments of Adam; on a CPU also the copy of which a checkpoint is written.
    assert found.member_bytes[1] > 10 * found.member_bytes[0]
    assert 1.8 * found.checkpoint_bytes[1] < found.member_bytes[1] < 2.5 * found.checkpoint_bytes[1]
    assert found.free_bytes > 2**20
    slots = measured.choose_slots(spec, SharedResources(Ranks("cpu"), tmp_path))
    assert 1 <= slots.count <= 3
    assert slots.forecast is not None
    assert 0 < slots.forecast[0] < slots.forecast[1]
    assert any("forecast: a step: data" in line for line in log)


def test_what_cannot_be_measured_is_said_and_ends_in_a_number(tmp_path: Path, log: list[str], monkeypatch) -> None:
    path = tmp_path / "measured.toml"
    path.write_text(STUDY)

    def full(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("trainer.profiling.step_timing.measure", full)
    resources = SharedResources(Ranks("cpu"), tmp_path)
    assert measured.choose_slots(load(path), resources) == measured.Slots(measured.USUAL)
    assert any("WARNING --slots auto: not measured (MemoryError: no room); 4 students at a time" in x for x in log)


def test_what_happened_stands_beside_the_forecast_of_those_who_made_one() -> None:
    """Three at a time in 36 to 72 s, on two ranks: 12 to 24 s for one trial's epoch, and twice that of devices."""

    def lease(environment: dict[str, object], epoch: int, gpu_seconds: float) -> SimpleNamespace:
        return SimpleNamespace(environment=json.dumps(environment), epoch=epoch, gpu_seconds=gpu_seconds)

    auto = {"ranks": 2, slots_module.FORECAST: slots_module.kept(36.0, 72.0, 3)}
    others = [lease({"ranks": 2}, 50, 9.0), lease(auto, 0, 0.0), SimpleNamespace(environment=None, epoch=0)]
    found = slots_module.compared([lease(auto, 10, 300.0), lease(auto, 20, 780.0), *others])
    assert found is not None
    assert found.epochs == 30
    assert found.epoch_seconds == pytest.approx((12.0, 24.0, 18.0))
    assert found.device_hours == pytest.approx((0.2, 0.4, 0.3))
    assert found.as_json() == {
        "epochs": 30,
        "epoch_seconds": {"forecast": pytest.approx([12.0, 24.0]), "took": pytest.approx(18.0)},
        "device_hours": {"forecast": pytest.approx([0.2, 0.4]), "took": pytest.approx(0.3)},
    }
    assert slots_module.line(found) == (
        "forecast of --slots auto for 30 epochs: 12 to 24 s a trial's epoch, 0.2 to 0.4 device hours; "
        "took 18 s, 0.3 device hours"
    )
    assert slots_module.compared(others) is None
    assert slots_module.without(auto) == {"ranks": 2}


def test_threads_that_are_no_number_are_named(monkeypatch):
    for text, threads in (("4", 4), ("4,2", 4), ("abc", None), ("0", None), ("", None)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        with nullcontext() if threads else pytest.raises(UserError, match=f"OMP_NUM_THREADS = '{text}'"):
            assert quick_timing._chosen_threads() == threads
