"""Who joins a search: which changes of its file are refused or taken, and that its own trials are queued once."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from search.execution.checkpoint_writer import on_hand
from search.spec.arms import Arm
from search.spec.space import Scalar
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from trainer.errors import UserError

ME = Owner("me", "here")
WIDE = """
[[arms]]
name = "wide"
set = { "student.width" = 6 }
trials = 3
"""
QUEUE = """
[[enqueue]]
"optim.lr" = 0.01
[[enqueue]]
"optim.lr" = 0.02
"""
WIDE_QUEUE = """
[[enqueue]]
arm = "wide"
"optim.lr" = 0.03
"""

Join = Callable[..., StudyAdapter]
Make = Callable[..., Any]


@pytest.fixture
def join(sqlite_url: str, open_again: Join, small_study: Make) -> Join:
    """Open the one search of the test once more, as another process would, with other values or tables in its file."""
    return lambda *changes, **values: open_again(sqlite_url, "handed", small_study(**values), *changes)


@pytest.mark.parametrize(
    "arm",
    [WIDE.replace("= 6", "= 8"), WIDE.replace('"student.width" = 6', '"student.width" = 6, "optim.lr" = 1e-2')],
    ids=["run", "space"],
)
def test_a_control_arm_that_changed_under_its_name_is_refused(join: Join, arm: str) -> None:
    """Its numbers would mix with those of another run or space; nothing is stored of the try."""
    first = join(more=WIDE)
    before = first.searches.arms_of(first.search_id)
    with pytest.raises(UserError, match=r"its arm 'wide' exists with another run or space; give the arm another name"):
        join("budget.trials=9", more=arm)
    assert first.searches.arms_of(first.search_id) == before
    assert join(more=WIDE).arms.keys() == first.arms.keys()


def test_budgets_of_arms_may_change_and_arms_may_come_and_go(join: Join) -> None:
    first = join(more=WIDE)
    second = join("budget.trials=9", more=WIDE.replace("trials = 3", "trials = 5\nin_flight = 1"))
    assert second.arms.keys() == first.arms.keys()
    stored = {row.name: (row.trials, row.in_flight) for row in second.searches.arms_of(second.search_id)}
    assert stored == {"kd": (9, 4), "wide": (5, 1)}
    assert list(join().arms) == [study_id for study_id, arm in first.arms.items() if arm.name == "kd"]
    other = WIDE.replace("wide", "wider").replace("= 6", "= 8")
    assert [arm.name for arm in join(more=WIDE + other).arms.values()] == ["kd", "wide", "wider"]


def test_a_changed_budget_or_pruner_is_taken_and_said_once(join: Join, log: list[str]) -> None:
    """What may change while a study goes on changes for all workers, and the log of who brings it says what."""
    join()
    join("budget.trials=6")
    said = [line for line in log if "changed since the last worker joined" in line]
    assert [line.rpartition(": changed since the last worker joined: ")[2] for line in said] == [
        "arms.kd.trials: 4 -> 6",
        "budget.trials: 4 -> 6",
    ]
    log.clear()
    again = join("budget.trials=6")
    assert not [line for line in log if "changed since" in line]
    assert again.searches.arms_of(again.search_id)[0].trials == 6


class Died(BaseException):
    """The process ends here."""


def queued(search: StudyAdapter, name: str = "kd") -> list[float]:
    return [trial.system_attrs["fixed_params"]["optim.lr"] for trial in search.trials(search.spec.arm(name))]


@pytest.mark.parametrize("done", [0, 1])
def test_trials_of_the_file_are_queued_once_though_their_process_died(
    join: Join, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """Between the creation of the search and its queue, or between two entries."""
    real = StudyAdapter.enqueue
    calls: list[Mapping[str, Scalar]] = []

    def dies(search: StudyAdapter, arm: Arm, params: Mapping[str, Scalar]) -> None:
        if len(calls) == done:
            raise Died
        calls.append(params)
        real(search, arm, params)

    monkeypatch.setattr(StudyAdapter, "enqueue", dies)
    with pytest.raises(Died):
        join(more=QUEUE)
    monkeypatch.undo()
    for _ in range(3):
        search = join(more=QUEUE)
        assert queued(search) == [0.01, 0.02]
    claimed = [search.claim(ME, on_hand, ()) for _ in range(3)]
    assert [search.suggest(claim)["optim.lr"] for claim in claimed[:2]] == [0.01, 0.02]
    assert search.suggest(claimed[2])["optim.lr"] not in (0.01, 0.02)
    assert len(join(more=QUEUE).trials(search.spec.main)) == 3


def test_trials_of_an_arm_that_comes_later_are_queued_once(join: Join) -> None:
    join(more=QUEUE)
    for _ in range(2):
        search = join(more=WIDE + QUEUE + WIDE_QUEUE)
        assert (queued(search), queued(search, "wide")) == ([0.01, 0.02], [0.03])
