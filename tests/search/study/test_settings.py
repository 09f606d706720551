"""Budgets change on purpose alone: the newest file that somebody gave holds; who is started again undoes nothing."""

from collections.abc import Callable

import pytest

from search.storage.statements import Owner
from search.study.adapter import StudyAdapter

STUDY = """
[objective]
maximize = "dice"
[run]
method = "none"
epochs = 3
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4 }
student = { name = "unet", width = 4 }
losses = { ce = {} }
optim = { lr = 1e-3 }
[space]
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
[sampler]
name = "random"
[budget]
trials = 1
"""
MORE = STUDY.replace("trials = 1", "trials = 2\nmax_failed = 7")
ME = Owner("me", "here")


@pytest.fixture
def join(open_again: Callable[..., StudyAdapter], sqlite_url: str) -> Callable[..., StudyAdapter]:
    return lambda text, *changes: open_again(sqlite_url, "some", text, *changes)


def budget(search: StudyAdapter) -> tuple[int, int]:
    row = search.searches.search("some")
    assert row is not None
    return search.searches.arms_of(search.search_id)[0].trials, row.max_failed


def test_who_is_started_again_with_an_older_file_says_so_and_changes_nothing(
    join: Callable[..., StudyAdapter], log: list[str]
) -> None:
    first = budget(join(STUDY))
    raised = join(MORE)
    assert budget(raised) == (2, 7) != first
    again = join(STUDY)
    assert budget(again) == (2, 7)
    (line,) = [line for line in log if "older file" in line]
    assert "budget.trials: 2 -> 1" in line
    assert "\n" not in line
    # It works by the database's budget, too.
    assert [again.claim(ME, lambda _: 0, ()).held.number for _ in range(2)] == [0, 1]


def test_one_may_go_back_on_purpose(join: Callable[..., StudyAdapter]) -> None:
    join(STUDY)
    join(MORE)
    assert budget(join(STUDY + "# as it was before\n"))[0] == 1
    assert budget(join(MORE))[0] == 1  # the copy that held in between is the older one now
    assert budget(join(STUDY, "budget.trials=5"))[0] == 5
    assert budget(join(STUDY))[0] == 5


def test_a_worker_that_joined_before_a_budget_was_raised_takes_part(join: Callable[..., StudyAdapter]) -> None:
    early = join(STUDY)
    early.claim(ME, lambda _: 0, ())
    join(MORE)
    assert early.claim(ME, lambda _: 0, ()).held.number == 1
