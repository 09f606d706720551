"""What a review of the database thread found: outages, refusals that pass, messages that no database holds."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError

from search.execution.database_thread import DatabaseThread
from search.execution.messages import CheckpointWritten, EpochDone, WorkerSettings
from search.execution.note_process import NoteProcess
from search.storage.database import creation_lock
from search.storage.schema import leases, orphans
from search.storage.statements import Owner, Refused
from search.study.adapter import StudyAdapter
from trainer.reports import EpochReport, Saved

STUDY = (Path(__file__).parents[2] / "small.toml").read_text()
ME, OTHER = Owner("me", "here"), Owner("other", "there")

Join = Callable[..., StudyAdapter]


@pytest.fixture
def join(database_url: str, open_again: Join) -> Join:
    return partial(open_again, database_url, "desk", STUDY)


@pytest.fixture
def desk(join: Join, tmp_path: Path) -> DatabaseThread:
    """A desk that holds one trial; its thread is not started, its passes are the test's."""
    values: dict[str, Any] = dict(owner=ME, slots=1, runs=tmp_path, ranks=1, environment={}, breach=lambda _: None)
    desk = DatabaseThread(join(), WorkerSettings(**values))
    desk._claim()
    return desk


def told(desk: DatabaseThread, folder: Path, epoch: int) -> tuple[EpochDone, CheckpointWritten]:
    """A report of the trial that the desk holds, and its checkpoint on disk."""
    ((key, member),) = desk._members.held.items()
    path = folder / f"epoch-{epoch}.pt"
    path.write_text("weights")
    report = EpochReport(epoch, epoch - 1, {"dice": 0.5}, {}, {"student": 1.0}, False)
    token = member.lease.token
    return EpochDone(key, token, report), CheckpointWritten(key, token, epoch, Saved(path, "0" * 64, 7), ((1, 0),))


def steal(search: StudyAdapter) -> None:
    """Another worker takes the trial."""
    (row,) = search.leases.of_studies(list(search.arms))
    assert search.leases.take(row, OTHER, resume_epoch=row.epoch, lost=True) is not None


def test_reports_that_waited_for_the_database_are_kept_when_the_trial_was_adopted_meanwhile(desk, join, tmp_path):
    for item in told(desk, tmp_path, 1):
        desk.tell(item)
    steal(join())
    desk._away(sa.exc.OperationalError("SELECT", None, Exception("gone")))
    desk._flush()
    with desk.search.opened.engine.connect() as connection:
        assert [row.epoch for row in connection.execute(sa.select(orphans))] == [1]
    assert desk._members.held == {}


def test_a_file_that_the_row_names_stays_though_its_member_is_gone(desk, join, tmp_path):
    """The report's answer was lost: the adopter resumes from the very file."""
    report, item = told(desk, tmp_path, 1)
    desk.tell(report)
    desk.tell(item)
    desk._flush()
    steal(join())
    desk._members.forget(item.key, "lost")
    desk.tell(item)
    desk._flush()
    assert item.saved.path.exists()
    with desk.search.opened.engine.connect() as connection:
        assert connection.execute(sa.select(leases.c.checkpoint)).scalar_one() == str(item.saved.path)


def test_a_worker_stays_when_the_last_trial_in_flight_ends_right_after_it_was_refused(join, tmp_path, monkeypatch):
    others = join("budget.in_flight=1")
    held = others.claim(OTHER, lambda _: 0, ()).held
    values: dict[str, Any] = dict(owner=ME, slots=1, runs=tmp_path, ranks=1, environment={}, breach=lambda _: None)
    desk = DatabaseThread(join("budget.in_flight=1"), WorkerSettings(**values))
    real = desk.search.claim

    def claim(*arguments: Any) -> Any:
        try:
            return real(*arguments)
        except Refused:
            others.complete(held, 0.5, {})
            raise

    monkeypatch.setattr(desk.search, "claim", claim)
    desk._claim()
    assert desk.ended is None
    desk._claim()
    assert len(desk._members.held) == 1


def test_notes_are_written_where_a_file_names_the_database(desk, tmp_path, monkeypatch, log, database_url):
    """The child gets the URL itself, and would refuse to be given both."""
    file = tmp_path / "url"
    file.write_text(database_url)
    file.chmod(0o600)
    monkeypatch.setenv("OPTUNA_STORAGE_FILE", str(file))
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    scribe = NoteProcess(desk.search, 0.001, None)
    scribe.look()
    assert scribe.children
    scribe.wait(120)
    assert not scribe.children
    assert [line for line in log if "not written" in line] == []


def test_a_message_that_no_database_holds_as_text_ends_its_trial_all_the_same(desk):
    (member,) = desk._members.held.values()
    desk.search.fail(member.lease, "bug", "a\x00b\udc80c")
    row = desk.search.leases.row(member.lease.trial_id)
    assert row is not None
    assert (row.failure, row.message) == ("bug", "a?b?c")


def test_what_fails_under_the_creation_lock_is_not_taken_for_the_lock(database_url):
    with pytest.raises(sa.exc.OperationalError, match="lock timeout"), creation_lock(database_url):
        raise sa.exc.OperationalError("UPDATE", None, Exception("canceling statement due to lock timeout"))


def test_a_report_that_the_database_never_takes_costs_its_trial_alone(desk, tmp_path, monkeypatch, log):
    """It was waited for as if the database were away, for ever, and everything behind it, too."""
    ((key, _),) = desk._members.held.items()
    for item in told(desk, tmp_path, 1):
        desk.tell(item)

    def refuse(*_: object) -> None:
        raise StorageInternalError("An exception is raised during the commit.") from sa.exc.DataError(
            "INSERT", None, ValueError("too long")
        )

    monkeypatch.setattr(desk.search, "report", refuse)
    desk._pass()
    assert desk._away_since is None
    (row,) = desk.search.leases.details(list(desk.search.arms))[:1]
    assert (row.trial_id, row.failure) == (key, "bug")
    assert "too long" in row.message
    assert any("does not take its report" in line for line in log)
    assert key not in desk._members.held
    assert len(desk._members.held) == 1  # the free slot was filled in the same pass
