"""Budgets change on purpose alone: the newest file that somebody gave holds; who is started again undoes nothing."""

from collections.abc import Callable

import pytest

from search.storage.statements import Owner
from search.study.adapter import StudyAdapter

ME = Owner("me", "here")


@pytest.fixture
def study(small_study: Callable[..., str]) -> str:
    return small_study(trials=1)


@pytest.fixture
def more(small_study: Callable[..., str]) -> str:
    """The same with more trials."""
    return small_study(trials=2, more="max_failed = 7\n")


@pytest.fixture
def join(open_again: Callable[..., StudyAdapter], sqlite_url: str) -> Callable[..., StudyAdapter]:
    return lambda text, *changes: open_again(sqlite_url, "some", text, *changes)


def budget(search: StudyAdapter) -> tuple[int, int]:
    row = search.searches.search("some")
    assert row is not None
    return search.searches.arms_of(search.search_id)[0].trials, row.max_failed


def test_who_is_started_again_with_an_older_file_says_so_and_changes_nothing(
    join: Callable[..., StudyAdapter], study: str, more: str, log: list[str]
) -> None:
    first = budget(join(study))
    raised = join(more)
    assert budget(raised) == (2, 7) != first
    again = join(study)
    assert budget(again) == (2, 7)
    (line,) = [line for line in log if "older file" in line]
    assert "budget.trials: 2 -> 1" in line
    assert "\n" not in line
    # It works by the database's budget, too.
    assert [again.claim(ME, lambda _: 0, ()).held.number for _ in range(2)] == [0, 1]


def test_one_may_go_back_on_purpose(join: Callable[..., StudyAdapter], study: str, more: str) -> None:
    join(study)
    join(more)
    assert budget(join(study + "# as it was before\n"))[0] == 1
    assert budget(join(more))[0] == 1  # the copy that held in between is the older one now
    assert budget(join(study, "budget.trials=5"))[0] == 5
    assert budget(join(study))[0] == 5


def test_a_worker_that_joined_before_a_budget_was_raised_takes_part(
    join: Callable[..., StudyAdapter], study: str, more: str
) -> None:
    early = join(study)
    early.claim(ME, lambda _: 0, ())
    join(more)
    assert early.claim(ME, lambda _: 0, ()).held.number == 1
