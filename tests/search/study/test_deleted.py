"""Studies that were deleted, as the dashboard does it: what begins anew, what goes on, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.execution.checkpoint_writer import on_hand
from search.execution.database_thread import DatabaseThread
from search.execution.messages import CheckpointWritten, EpochDone
from search.storage.schema import arms, attempts, leases, orphans, searches
from search.storage.statements import LeaseLost, Owner, Refused
from search.study.adapter import StudyAdapter
from trainer.reports import EpochReport, Saved

ME, OTHER = Owner("me", "here"), Owner("other", "there")

WIDE = """
[[arms]]
name = "wide"
set = { "student.width" = 6 }
trials = 3
"""

Join = Callable[..., StudyAdapter]
Make = Callable[..., Any]


@pytest.fixture
def opened(database_url: str, open_again: Join, small_study: Make) -> Join:
    """One of several searches in a database: `opened("first")`."""
    return lambda name, **values: open_again(database_url, name, small_study(**values))


@pytest.fixture
def join(sqlite_url: str, open_again: Join, small_study: Make) -> Join:
    """Open the one search of the test once more, as another process would, with other values or tables in its file."""
    return lambda *changes, **values: open_again(sqlite_url, "handed", small_study(**values), *changes)


def delete(search: StudyAdapter) -> None:
    """As the dashboard does: Optuna's rows go, ours stay."""
    optuna.delete_study(study_name=search.spec.name, storage=search.opened.storage)


def uuid_of(search: StudyAdapter) -> str:
    row = search.searches.search("handed")
    assert row is not None
    return str(row.uuid)


def both(search: StudyAdapter) -> tuple[Any, Any]:
    return search.counts().values(), search.arms.values()


def test_a_search_goes_on_after_another_one_was_deleted(database_url: str, opened: Join) -> None:
    """A new trial may get the id of one that was deleted: its old lease does not stand in the way."""
    first, second = opened("first"), opened("second")
    first.claim(ME, on_hand, ())
    old = second.claim(OTHER, on_hand, ())
    delete(second)
    new = first.claim(ME, on_hand, ())
    if database_url.startswith("sqlite"):
        assert new.held.trial_id == old.held.trial_id
    row = first.leases.row(new.held.trial_id)
    assert row is not None
    assert (row.study_id, row.number, row.owner, row.token) == (new.held.study_id, 1, "me", 1)
    assert [a.owner for a in first.leases.attempts_of([new.held.study_id])] == ["me", "me"]


def test_a_study_that_gets_a_deleted_one_s_id_is_its_own(database_url: str, opened: Join, all_of: Make) -> None:
    """Nothing of the deleted one is left, whichever search comes next, and the others keep theirs."""
    first, second = opened("first"), opened("second")
    kept = first.claim(ME, on_hand, ()).held
    second.claim(OTHER, on_hand, ())
    delete(second)
    third = opened("third", epochs=5)
    if database_url.startswith("sqlite"):
        assert list(third.arms) == list(second.arms)
    assert [arm.study_id for arm in third.searches.arms_of(third.search_id)] == list(third.arms)
    assert third.searches.names() == ["first", "third"]
    assert [row.trial_id for row in all_of(third, leases)] == [kept.trial_id]
    assert [row.trial_id for row in all_of(third, attempts)] == [kept.trial_id]
    claim = third.claim(ME, on_hand, ())
    assert (claim.held.study_id, claim.held.number, claim.seen) == (*third.arms, 0, None)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_arm_s_row_under_another_search_s_id_is_taken_over(opened: Join) -> None:
    """Even where an old row stands under the id of a new study, the study belongs to the search that opened it."""
    first, second = opened("first"), opened("second")
    (study_id,) = second.arms
    with first.opened.engine.begin() as connection:
        connection.execute(arms.update().where(arms.c.study_id == study_id).values(search_id=first.search_id))
    again = opened("second")
    assert [arm.study_id for arm in again.searches.arms_of(again.search_id)] == [study_id]
    assert [arm.study_id for arm in again.searches.arms_of(first.search_id)] == list(first.arms)


def test_a_claim_from_a_deleted_study_is_refused_for_good(opened: Join) -> None:
    search = opened("first")
    delete(opened("first"))
    with pytest.raises(Refused, match="the study was deleted") as refused:
        search._ask(*search.arms, ME)
    assert refused.value.final


def test_a_trial_of_a_deleted_study_is_lost_to_who_prunes_it(opened: Join) -> None:
    search = opened("first")
    held = search.claim(ME, on_hand, ()).held
    delete(opened("first"))
    with pytest.raises(LeaseLost):
        search.prune(held, {})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_who_works_for_a_deleted_study_writes_nothing_into_its_successor(
    opened: Join, tmp_path: Path, settings: Make
) -> None:
    """SQLite gives out ids of studies and trials again; a report under them would be another trial's."""
    old = opened("first")
    desk = DatabaseThread(old, settings())
    desk._claim()
    ((key, member),) = [*desk._held.held.items()][:1]
    delete(opened("first"))
    new = opened("first")
    held = new.claim(OTHER, on_hand, ()).held
    assert (held.trial_id, held.token, list(new.arms)) == (key, member.lease.token, list(old.arms))  # the same ids
    assert new.search_id != old.search_id
    report = EpochReport(1, 0, {"dice": 0.5}, {}, {"student": 1.0}, final=False)
    desk.put(EpochDone(key, member.lease.token, report))
    desk.put(CheckpointWritten(key, member.lease.token, 1, Saved(tmp_path / "one.pt", "0" * 64, 7), ((1, 0),)))
    desk._flush()
    row = new.leases.row(held.trial_id)
    assert row is not None
    assert (row.epoch, row.owner) == (0, OTHER.name)
    assert desk._held.held == {}
    with pytest.raises(Refused, match="deleted"):
        old._ask(*old.arms, ME)


@pytest.fixture
def finish_all(worker_of: Make, settings: Make, tmp_path: Path) -> Make:
    """Train all that a search has left."""

    def finish(search: StudyAdapter) -> None:
        worker_of(search, settings(runs=tmp_path / "runs")).run()
        assert all(counts.complete == arm.trials for counts, arm in zip(*both(search), strict=True))

    return finish


@pytest.mark.parametrize("arms", ["", WIDE], ids=["alone", "with an arm"])
def test_a_study_that_was_deleted_begins_anew(join: Join, finish_all: Make, arms: str, all_of: Make) -> None:
    """With another folder, nothing of the old trials, and its whole budget, for every arm."""
    old = join(more=arms)
    finish_all(old)
    uuid, ids = uuid_of(old), [row.trial_id for row in old.leases.details(list(old.arms))]
    assert len(ids) == sum(arm.trials for arm in old.arms.values())
    optuna.delete_study(study_name="handed", storage=old.opened.storage)
    new = join(more=arms)
    assert uuid_of(new) == new.folder != uuid
    assert len(all_of(new, searches)) == 1
    assert new.leases.details([*old.arms, *new.arms]) == []
    assert (all_of(new, attempts), all_of(new, orphans)) == ([], [])
    assert all(not new.trials(arm) for arm in new.arms.values())
    if arms:  # of the arm, which nobody deleted, the values stay, under a name that nobody takes
        aside = optuna.load_study(study_name=f"handed.wide.{uuid[:8]}", storage=new.opened.storage)
        assert [trial.state.name for trial in aside.trials] == ["COMPLETE"] * 3
    finish_all(new)
    assert [row.token for row in new.leases.details(list(new.arms))] == [1] * len(ids)


def test_a_deleted_study_may_come_back_as_another(join: Join) -> None:
    """What is gone binds nobody: the new one may have another run."""
    old = join()
    optuna.delete_study(study_name="handed", storage=old.opened.storage)
    assert uuid_of(join(epochs=5)) != old.folder


def test_an_arm_that_was_deleted_alone_begins_anew(join: Join, finish_all: Make, all_of: Make) -> None:
    """The search goes on under its folder, and the main search keeps its trials."""
    old = join(more=WIDE)
    finish_all(old)
    main, _ = old.arms
    kept = old.leases.details([main])
    optuna.delete_study(study_name="handed.wide", storage=old.opened.storage)
    new = join(more=WIDE.replace("= 6", "= 8"))
    assert uuid_of(new) == old.folder
    assert new.leases.details(list(new.arms)) == kept
    assert {row.trial_id for row in all_of(new, attempts)} == {row.trial_id for row in kept}
    assert (new.counts()["kd"].complete, new.counts()["wide"].admitted) == (4, 0)
    finish_all(new)
    assert new.leases.details([main]) == kept
