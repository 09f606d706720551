"""The database thread where answers are lost, a report is refused, or a trial changes hands meanwhile."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError

from search.execution.database_thread import DatabaseThread
from search.execution.messages import CheckpointWritten, EpochDone, WorkerSettings
from search.storage.schema import attempts, leases, orphans
from search.storage.statements import Owner, Refused
from search.study.adapter import StudyAdapter
from trainer.reports import EpochReport, Saved

ME, OTHER = Owner("me", "here"), Owner("other", "there")

Join = Callable[..., StudyAdapter]
Make = Callable[..., Any]


@pytest.fixture
def join(database_url: str, open_again: Join, small_study: Make) -> Join:
    return partial(open_again, database_url, "answers", small_study())


@pytest.fixture
def thread(join: Join, tmp_path: Path) -> DatabaseThread:
    """A database thread that holds one trial; it is not started, its passes are the test's."""
    values: dict[str, Any] = dict(owner=ME, slots=1, runs=tmp_path, ranks=1, environment={}, breach=lambda _: None)
    thread = DatabaseThread(join(), WorkerSettings(**values))
    thread._claim()
    return thread


def messages_of(thread: DatabaseThread, folder: Path, epoch: int) -> tuple[EpochDone, CheckpointWritten]:
    """A report of the trial that it holds, and its checkpoint on disk."""
    ((key, member),) = thread._held.held.items()
    path = folder / f"epoch-{epoch}.pt"
    path.write_text("weights")
    report = EpochReport(epoch, epoch - 1, {"dice": 0.5}, {}, {"student": 1.0}, False)
    token = member.lease.token
    return EpochDone(key, token, report), CheckpointWritten(key, token, epoch, Saved(path, "0" * 64, 7), ((1, 0),))


def steal(search: StudyAdapter) -> None:
    """Another worker takes the trial."""
    (row,) = search.leases.of_studies(list(search.arms))
    assert search.leases.acquire(row, OTHER, resume_epoch=row.epoch, lost=True) is not None


def test_reports_that_waited_for_the_database_are_kept_when_the_trial_was_adopted_meanwhile(thread, join, tmp_path):
    for item in messages_of(thread, tmp_path, 1):
        thread.put(item)
    steal(join())
    thread._on_unavailable(sa.exc.OperationalError("SELECT", None, Exception("gone")))
    thread._flush()
    with thread.search.opened.engine.connect() as connection:
        assert [row.epoch for row in connection.execute(sa.select(orphans))] == [1]
    assert thread._held.held == {}


def test_a_file_that_the_row_names_stays_though_its_member_is_gone(thread, join, tmp_path):
    """The report's answer was lost: the adopter resumes from the very file."""
    report, item = messages_of(thread, tmp_path, 1)
    thread.put(report)
    thread.put(item)
    thread._flush()
    steal(join())
    thread._held.forget(item.key, "lost")
    thread.put(item)
    thread._flush()
    assert item.saved.path.exists()
    with thread.search.opened.engine.connect() as connection:
        assert connection.execute(sa.select(leases.c.checkpoint)).scalar_one() == str(item.saved.path)


def test_a_worker_stays_when_the_last_trial_in_flight_ends_right_after_it_was_refused(join, tmp_path, monkeypatch):
    others = join("budget.in_flight=1")
    held = others.claim(OTHER, lambda _: 0, ()).held
    values: dict[str, Any] = dict(owner=ME, slots=1, runs=tmp_path, ranks=1, environment={}, breach=lambda _: None)
    thread = DatabaseThread(join("budget.in_flight=1"), WorkerSettings(**values))
    real = thread.search.claim

    def claim(*arguments: Any) -> Any:
        try:
            return real(*arguments)
        except Refused:
            others.complete(held, 0.5, {})
            raise

    monkeypatch.setattr(thread.search, "claim", claim)
    thread._claim()
    assert thread.ended is None
    thread._claim()
    assert len(thread._held.held) == 1


def test_a_report_that_the_database_never_takes_costs_its_trial_alone(thread, tmp_path, monkeypatch, log):
    """It was waited for as if the database were away, for ever, and everything behind it, too."""
    ((key, _),) = thread._held.held.items()
    for item in messages_of(thread, tmp_path, 1):
        thread.put(item)

    def refuse(*_: object) -> None:
        raise StorageInternalError("An exception is raised during the commit.") from sa.exc.DataError(
            "INSERT", None, ValueError("too long")
        )

    monkeypatch.setattr(thread.search, "report", refuse)
    thread._cycle()
    assert thread._unavailable_since is None
    (row,) = thread.search.leases.details(list(thread.search.arms))[:1]
    assert (row.trial_id, row.failure) == (key, "bug")
    assert "too long" in row.message
    assert any("does not take its report" in line for line in log)
    assert key not in thread._held.held
    assert len(thread._held.held) == 1  # the free slot was filled in the same pass


class LosesClaim:
    """The first claim reaches the database, its answer does not come back; then the database is away if `stays`."""

    def __init__(self, engine: sa.Engine, *, stays: bool) -> None:
        self.away = False
        self.lost = 0
        self._armed = False
        self._stays = stays
        sa.event.listen(engine, "before_cursor_execute", self._watch)
        sa.event.listen(engine, "commit", self._commit)

    def _watch(self, _conn: object, _cursor: object, statement: str, *_: object) -> None:
        if self.away:
            raise sa.exc.OperationalError(statement, None, Exception("server closed the connection unexpectedly"))
        if self.lost == 0 and statement.startswith("INSERT INTO kd_lease"):
            self._armed = True

    def _commit(self, connection: sa.Connection) -> None:
        if self._armed:
            self._armed, self.lost, self.away = False, self.lost + 1, self._stays
            connection.connection.commit()
            raise sa.exc.OperationalError("COMMIT", None, Exception("connection reset by peer"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("stays", [True, False], ids=["away", "back at once"])
def test_a_claim_whose_answer_was_lost_is_taken_back_uncharged(
    join: Join,
    stays: bool,
    log: list[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: Make,
    until: Make,
    all_of: Make,
    worker_of: Make,
) -> None:
    """By the same worker, long before anybody could take it for abandoned; all trials are trained."""
    search = join()
    database = LosesClaim(search.opened.engine, stays=stays)
    monkeypatch.setattr("random.random", lambda: 0.05)  # Optuna waits twice as long, in seconds, between its tries
    # The time to live is longer than the test: whatever is taken here is not taken as abandoned.
    worker = worker_of(search, settings())

    def returns() -> None:
        until(lambda: database.lost == 1 and (not stays or worker.thread._unavailable_since is not None))
        database.away = False

    back = threading.Thread(target=returns)
    back.start()
    worker.run()
    back.join()
    assert database.lost == 1
    assert search.counts()["kd"].complete == 4
    rows = search.leases.details(list(search.arms))
    assert [(row.state, row.lost) for row in rows] == [("finished", 0)] * 4
    assert sorted(row.token for row in rows) == [1, 1, 1, 2]
    assert sorted(str(attempt.why) for attempt in all_of(search, attempts)) == [*["finished"] * 4, "restarted"]
    assert len([line for line in log if "database away" in line]) == int(stays)
