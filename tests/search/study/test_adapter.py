"""What the adapter writes of a failure, and which pruner it makes of a study from before."""

from collections.abc import Callable
from functools import partial

import pytest
import sqlalchemy as sa

from search.storage.ownership import BRACKETS
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter

ME = Owner("me", "here")

Join = Callable[..., StudyAdapter]


@pytest.fixture
def join(database_url: str, open_again: Join, small_study: Callable[..., str]) -> Join:
    return partial(open_again, database_url, "failing", small_study())


def test_a_long_failure_keeps_what_failed_and_the_error_that_ends_its_traceback(join: Join) -> None:
    """A traceback names its error last, so a cut that kept the beginning alone would lose it."""
    search = join()
    held = search.claim(ME, lambda _row: 0, ()).held
    search.fail(held, "bug", "epoch 2: it broke\n" + "a line of the stack\n" * 1000 + "ValueError: the reason")
    row = search.leases.row(held.trial_id)
    assert row is not None
    assert row.message.startswith("epoch 2: it broke")
    assert row.message.endswith("ValueError: the reason")
    assert len(row.message) < 5000


def test_a_message_that_no_database_holds_as_text_ends_its_trial_all_the_same(join: Join) -> None:
    search = join()
    held = search.claim(ME, lambda _row: 0, ()).held
    search.fail(held, "bug", "a\x00b\udc80c")
    row = search.leases.row(held.trial_id)
    assert row is not None
    assert (row.failure, row.message) == ("bug", "a?b?c")


@pytest.mark.parametrize(("marked", "brackets"), [(True, 6), (False, 5)])
def test_a_study_from_before_brackets_were_exact_keeps_their_number(
    sqlite_url: str, open_again: Join, small_study: Callable[..., str], marked: bool, brackets: int
) -> None:
    """Another number would move its trials to other brackets, and compare scores of different epochs."""
    text = small_study(epochs=243, more='[pruner]\nname = "hyperband"\n')
    search = open_again(sqlite_url, "patient", text)
    if not marked:
        with search.opened.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM study_system_attributes WHERE key = :key"), {"key": BRACKETS})
        search = open_again(sqlite_url, "patient", text)
    held = search.claim(ME, lambda _row: 0, ()).held
    search.report(held, 1, 0.5, {})
    search.pruned(held)
    assert len(search._pruner_of["kd"]._pruners) == brackets
