"""Where a search stands: its pace, and the names under which `status --json` prints it."""

from dataclasses import replace
from typing import Any

import pytest

from search.answer.summary import ConfirmationSummary, ConfirmedResult, NetworkScore
from search.commands.status import Status, lines
from search.dashboard.note_text import note_body
from search.planning.slots import ForecastCheck, Took
from search.study.outcomes import Tie
from search.study.progress import (
    FEWEST,
    ArmProgress,
    BestTrial,
    FailedTrial,
    FrontLine,
    RejectedCheckpoint,
    RunningTrial,
    SearchProgress,
    pace_of,
)


def test_a_pace_is_unknown_until_enough_has_ended_and_nights_do_not_count() -> None:
    attempts: list[tuple[float, float | None]] = [(60.0 * i, 60.0 * (i + 1)) for i in range(10)]
    ended = [end for _, end in attempts if end is not None]
    few = pace_of(ended[: FEWEST - 1], attempts, 240.0, held=1, left=3)
    assert (few.trials_an_hour, few.eta_seconds) == (None, None)
    assert few.unknown == "4 of 5 finished trials that a rate needs"
    steady = pace_of(ended, attempts, 600.0, held=1, left=5)
    assert steady.trials_an_hour == pytest.approx(60.0)
    assert steady.eta_seconds == pytest.approx(300.0)
    night = 36_000.0
    later = [(begin + night, (end or 0.0) + night) for begin, end in attempts]
    again = pace_of([*ended, *(end for _, end in later)], [*attempts, *later], night + 600, held=1, left=5)
    assert again.trials_an_hour == pytest.approx(60.0)
    idle = pace_of(ended, attempts, 600.0, held=0, left=5)
    assert (idle.eta_seconds, idle.unknown) == (None, "no worker holds a trial")
    assert pace_of(ended, attempts, 600.0, held=0, left=0).eta_seconds == 0.0


WHOLE = SearchProgress(
    study="tiny",
    identity="0123",
    metric="dice",
    closed=None,
    ended=False,
    arms={
        "kd": ArmProgress(1, 0, 1, 0, {"bug": 1}, 4, BestTrial(0.9, 0)),
        "wide": ArmProgress(0, 0, 0, 0, {}, 2, None),
    },
    along="student.width",
    front=[FrontLine(4, 0.5, 1, {"kd": 0.9})],
    teacher=0.95,
    teacher_passes=0.25,
    forecast=None,
    versions={"abc": 2},
    seconds={"student": 3.0},
    gpu_hours=0.5,
    gpu_hours_of=None,
    trials_an_hour=None,
    eta_seconds=None,
    eta_unknown="1 of 5 finished trials that a rate needs",
    workers={"here/1": {"finished": 1, "running": 1}},
    holding={"here": 1},
    running=[RunningTrial("kd", 1, "held", "here", 1, 2, 4, 0.8, 7.0)],
    failures=[FailedTrial("kd", 2, "bug", "a bug")],
    confirms=None,
    rejected=[RejectedCheckpoint("kd", 1, "its checkpoint of epoch 1 is not there: x")],
)


def test_trials_that_cannot_be_told_apart_are_said_in_status_and_note() -> None:
    arms = {"kd": ArmProgress(4, 0, 0, 0, {}, 4, BestTrial(0.9, 0)), "wide": WHOLE.arms["wide"]}
    tied = replace(WHOLE, arms=arms, tie=Tie(3, 0.125, "iou_at_best_threshold"))
    sentence = (
        "3 of 4 complete trials have one score, 0.1250: at threshold 0.5 their masks are alike, empty as a rule; a new "
        'study with maximize = "iou_at_best_threshold" tells them apart'
    )
    assert sentence in lines(Status("sqlite:///x.db", tied, None))
    note = {"arm": "kd", "studies": {"kd": 1, "wide": 2}, "pictures": {}, "without": None, "now": 0.0}
    assert f"\n\n{sentence}.\n\n" in note_body(tied, None, {}, **note)
    assert "have one score" not in note_body(WHOLE, None, {}, **note)


def keys(value: Any) -> Any:
    """The names in a document, in their order and at their depth; leaves are None."""
    if isinstance(value, dict):
        return [(name, keys(each)) for name, each in value.items()]
    return [keys(each) for each in value] if isinstance(value, list) else None


def leaves(*names: str) -> list[tuple[str, None]]:
    return [(name, None) for name in names]


PACE = leaves("epoch", "epochs", "score", "seconds", "waits")
"""What `status --json` says of how far a running trial is."""


def test_status_as_json_keeps_its_names_and_their_order() -> None:
    """Scripts read these names: a renamed field of a dataclass must not rename one of them."""
    arm = leaves("complete", "pruned", "running", "waiting")
    assert keys(Status("sqlite:///x.db", WHOLE, None).as_json()) == [
        *leaves("storage", "study", "identity", "metric", "closed", "ended"),
        (
            "arms",
            [
                ("kd", [*arm, ("failed", leaves("bug")), ("of", None), ("best", leaves("score", "trial"))]),
                ("wide", [*arm, ("failed", []), ("of", None), ("best", None)]),
            ],
        ),
        ("along", None),
        ("front", [[*leaves("choice", "params_m", "complete"), ("best", leaves("kd"))]]),
        *leaves("teacher", "teacher_passes", "forecast"),
        ("versions", leaves("abc")),
        ("seconds", leaves("student")),
        *leaves("gpu_hours", "gpu_hours_of", "trials_an_hour", "eta_seconds", "eta_unknown"),
        ("workers", [("here/1", leaves("finished", "running"))]),
        ("holding", leaves("here")),
        ("running", [[*leaves("arm", "trial", "state", "host", "attempt"), *PACE]]),
        ("failures", [leaves("arm", "trial", "class", "message")]),
        *leaves("confirms"),
        ("rejected", [leaves("arm", "trial", "why")]),
        *leaves("confirmation", "disk"),
    ]


def test_status_as_json_keeps_its_values() -> None:
    document = WHOLE.as_json()
    assert document["arms"]["kd"]["best"] == {"score": 0.9, "trial": 0}
    assert document["front"] == [{"choice": 4, "params_m": 0.5, "complete": 1, "best": {"kd": 0.9}}]
    assert document["failures"] == [{"arm": "kd", "trial": 2, "class": "bug", "message": "a bug"}]


def test_a_confirmation_and_a_forecast_keep_their_names_in_status_as_json() -> None:
    """They are rows with types here, and documents of the same names there."""
    score = NetworkScore(score=0.91, low=0.9, high=0.92, seeds=2, thresholds=[0.5, 0.55])
    result = ConfirmedResult("dice", "kd-1", "width 4", True, "shown", {"kd-1": score}, ["x"])
    begun = ConfirmationSummary("tiny", "tiny.confirm", 3, 4, 5, 1, True, result, "python -m search report tiny")
    forecast = ForecastCheck(30, Took(12.0, 24.0, 18.0), Took(0.2, 0.4, 0.3))
    status = Status("sqlite:///x.db", replace(WHOLE, forecast=forecast), begun)
    document = status.as_json()
    assert document["confirmation"] == {
        "study": "tiny", "name": "tiny.confirm", "study_id": 3, "finished": 4, "trials": 5, "failed": 1, "ended": True,
        "result": {
            "metric": "dice", "network": "kd-1", "what": "width 4", "ship": True, "distillation": "shown",
            "networks": {"kd-1": {"score": 0.91, "low": 0.9, "high": 0.92, "seeds": 2, "thresholds": [0.5, 0.55]}},
            "missing": ["x"],
        },
        "report": "python -m search report tiny",
    }  # fmt: skip
    assert document["forecast"] == {
        "epochs": 30,
        "epoch_seconds": {"forecast": [12.0, 24.0], "took": 18.0},
        "device_hours": {"forecast": [0.2, 0.4], "took": 0.3},
    }
    assert (
        "confirmed by tiny.confirm (4 of 5 trials finished, 1 failed): to ship is kd-1 (width 4), test dice 0.9100 "
        "[0.9000, 0.9200], mean over 2 seeds at thresholds 0.5 to 0.55; distillation: shown"
    ) in lines(status)
