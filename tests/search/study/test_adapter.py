"""What the adapter writes of a failure."""

from collections.abc import Callable
from functools import partial

import pytest

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
