"""What bounds all members of a series together is checked where a trial is admitted, over all of their searches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.storage.database import Database, creation_lock
from search.storage.schema import leases, searches
from search.storage.searches import CLOSE, STOP, ClosedKind, SearchClosed
from search.storage.statements import Owner
from search.study.adapter import Claim, StudyAdapter
from search.study.settings import series_wish
from trainer.errors import UserError

ME = Owner("me", "here")
Text = Callable[..., str]


def claim(search: StudyAdapter) -> Claim:
    return search.claim(ME, lambda _row: 0, ())


def test_device_hours_of_one_member_end_all_of_them(join: Callable[..., StudyAdapter], series_text: Text) -> None:
    first = join("kd.1", series_text(limits="gpu_hours = 2.0"))
    second = join("kd.2")
    held = claim(first).held
    assert claim(second).held
    first.leases.change(held, {"gpu_seconds": 7100.0})
    assert claim(second).held
    first.leases.change(held, {"gpu_seconds": 7200.0})
    for search in (first, second):
        with pytest.raises(SearchClosed, match=r"gpu_hours of the series kd: 2\.0 are used") as refused:
            claim(search)
        assert refused.value.closed.kind is ClosedKind.GPU_HOURS
    later = join("kd.3")
    with pytest.raises(SearchClosed):
        claim(later)


def test_the_time_counts_from_the_first_trial_of_any_member(
    opened: Database, join: Callable[..., StudyAdapter], series_text: Text
) -> None:
    first, second = join("kd.1", series_text(limits='wall = "1h"')), join("kd.2")
    claim(first)
    claim(second)
    with opened.engine.begin() as connection:
        began = connection.execute(sa.select(searches.c.began).where(searches.c.name == "kd.1")).scalar_one()
        connection.execute(searches.update().where(searches.c.name == "kd.1").values(began=began - 3600.0))
    with pytest.raises(SearchClosed, match=r"wall of the series kd: 1\.00 h are over"):
        claim(second)
    closed, _ = opened.searches.closed(second.search_id)
    assert closed is not None
    assert closed.kind is ClosedKind.WALL


def test_a_member_without_limits_of_its_series_and_a_study_beside_it_are_not_bound(
    opened: Database, join: Callable[..., StudyAdapter], series_text: Text, small_study: Text
) -> None:
    first = join("kd.1", series_text(limits="gpu_hours = 1.0"))
    held = claim(first).held
    first.leases.change(held, {"gpu_seconds": 9e9})
    assert claim(join("other", small_study())).held
    assert claim(join("free.1", series_text())).held
    with opened.engine.begin() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(leases)).scalar_one() == 3


def test_a_raised_limit_holds_once_a_worker_with_the_new_file_joined(
    join: Callable[..., StudyAdapter], series_text: Text, log: list[str]
) -> None:
    first = join("kd.1", series_text(limits="gpu_hours = 1.0"))
    first.leases.change(claim(first).held, {"gpu_seconds": 5000.0})
    with pytest.raises(SearchClosed):
        claim(first)
    again = join("kd.1", series_text(limits="gpu_hours = 3.0"))
    assert claim(again).held
    assert any("series.gpu_hours: 1.0 -> 3.0" in line for line in log)


def test_a_study_and_a_series_cannot_have_one_name_in_a_database(
    join: Callable[..., StudyAdapter], series_text: Text, small_study: Text, tmp_path: Path
) -> None:
    join("kd", small_study())
    with pytest.raises(UserError, match=r"series 'kd': a study in .* has that name"):
        join("kd.1", series_text())
    join("other.1", series_text())
    (tmp_path / "other.toml").write_text(small_study())
    with pytest.raises(UserError, match=r"study 'other': a series in .* has that name"):
        join("other")


def test_a_wish_of_the_whole_series_is_kept_by_its_members_and_closing_is_for_good(
    opened: Database, database_url: str, join: Callable[..., StudyAdapter], series_text: Text
) -> None:
    text = series_text()
    join("kd.1", text)
    with creation_lock(database_url):
        opened.searches.wish_of_series("kd", STOP)
    join("kd.1", text + "\n# another file\n")
    (row,) = opened.searches.members("kd")
    assert series_wish(row.settings) == STOP
    with creation_lock(database_url):
        opened.searches.wish_of_series("kd", CLOSE)
        opened.searches.wish_of_series("kd", None)
    (row,) = opened.searches.members("kd")
    assert series_wish(row.settings) == CLOSE
    join("kd.1")
    with pytest.raises(UserError, match=r"series 'kd': is closed for good, and kd\.2 was never begun"):
        join("kd.2")
