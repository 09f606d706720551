"""A group of ranks and its database thread, in one process: outages, lost leases, lost answers, bugs and limits."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search import pruners
from search.execution.database_thread import DatabaseThread, end_of
from search.execution.epoch_loop import EpochOverhead, run_group
from search.execution.group import ASKED_TO_STOP, GroupEnd, SingleProcess
from search.execution.held_trials import CLEANUP, HeldTrials, Outcome
from search.execution.messages import CheckpointWritten, EpochDone, WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents
from search.exit_codes import CODE_OF_END, EXIT_CODES, EndReason
from search.storage.schema import leases, orphans
from search.storage.searches import Closed, ClosedKind
from search.storage.statements import Owner
from search.study.adapter import Claim, StudyAdapter
from trainer.config import RunConfig
from trainer.reports import EpochReport, Failure, FailureKind, Resume, Saved

STUDY = (Path(__file__).parents[2] / "small.toml").read_text()
ME, OTHER = Owner("me", "here"), Owner("other", "there")

Join = Callable[..., StudyAdapter]


@pytest.fixture
def join(database_url: str, open_again: Join) -> Join:
    """Open the one search of the test once more, as another process would."""
    return partial(open_again, database_url, "database_thread", STUDY)


def settings(tmp_path: Path, **changes: Any) -> WorkerSettings:
    values: dict[str, Any] = dict(owner=ME, slots=2, runs=tmp_path, ranks=1, environment={}, ttl=600.0)
    return WorkerSettings(**{**values, "breach": lambda _: None, **changes})


@dataclass
class Worker:
    """A whole worker but for its process; `at(n, f)` calls f before the n-th epoch of the group."""

    search: StudyAdapter
    settings: WorkerSettings
    seconds: float = 0.02
    at: Mapping[int, Callable[[], None]] = field(default_factory=dict)
    group: SingleProcess = field(default_factory=SingleProcess)
    reported: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database_thread = DatabaseThread(self.search, self.settings)

    def run(self) -> GroupEnd:
        students = SimulatedStudents(
            Curves(), slots=self.settings.slots, metric="dice", epoch_seconds=self.seconds, fail_share=0.0
        )
        train = students.epoch

        def epoch() -> dict[int, EpochReport | Failure]:
            self.at.get(len(self.epochs), lambda: None)()
            reports = train()
            self.epochs.append(len(reports))
            return reports

        self.epochs: list[int] = []
        students.epoch = epoch  # type: ignore[method-assign]
        return run_group(self.group, students, self.database_thread)


class Outage:
    """The database is away for one engine: every statement fails as it does when the server is gone."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.away = False
        self.refused = 0
        sa.event.listen(engine, "before_cursor_execute", self._fail)

    def begin(self) -> None:
        self.away = True

    def end(self) -> None:
        self.away = False

    def _fail(self, _conn: object, _cursor: object, statement: str, *_: object) -> None:
        if self.away:
            self.refused += 1
            raise sa.exc.OperationalError(statement, None, Exception("server closed the connection unexpectedly"))


def until(what: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def whole_curves(search: StudyAdapter) -> bool:
    trials = search.trials(search.spec.main)
    return all(list(trial.intermediate_values) == [1, 2, 3, 4] for trial in trials)


def orphan_rows(search: StudyAdapter) -> list[Any]:
    with search.opened.engine.begin() as connection:
        return list(connection.execute(sa.select(orphans)))


# ---- a day without trouble


def test_a_worker_trains_the_budget_and_leaves_only_the_best_weights(
    join: Join, tmp_path: Path, log: list[str]
) -> None:
    search = join()
    worker = Worker(search, settings(tmp_path), seconds=0.01)
    assert worker.run() == worker.database_thread.ended
    assert search.counts()["kd"].complete == 4
    assert whole_curves(search)
    for row in search.leases.details(list(search.arms)):
        assert Path(row.weights).is_file()
        assert row.checkpoint is None
        assert row.gpu_seconds == pytest.approx(0.04)
        assert json.loads(row.seconds).keys() == {"student", "checkpoint", "database", "idle"}
    assert not list(tmp_path.rglob("epoch-*"))
    assert not [line for line in log if line.startswith(("WARNING", "ERROR"))]


def test_time_between_two_epochs_is_shared_by_those_who_train_next() -> None:
    """The wait for the database is no idle time, and time without anybody to train belongs to no trial."""
    overhead = EpochOverhead()
    time.sleep(0.05)
    began = time.monotonic()
    overhead.reset()
    time.sleep(0.05)
    overhead.add_database(0.01)
    overhead.epoch_begins()
    passed = time.monotonic() - began
    time.sleep(0.05)
    shares = overhead.shares(0.5, 2)
    assert (shares["checkpoint"], shares["database"]) == (0.25, 0.005)
    assert 0.02 <= shares["idle"] <= (passed - 0.01) / 2


# ---- the database away


def test_an_outage_fails_no_trial_and_every_report_arrives(join: Join, tmp_path: Path, log: list[str]) -> None:
    """Training goes on meanwhile, no trial begins, and the log has one line for the going and one for the coming."""
    search = join()
    outage = Outage(search.opened.engine)

    def comes() -> None:
        until(lambda: outage.refused > 0)
        time.sleep(1.5)
        outage.end()

    back = threading.Thread(target=comes)

    def goes() -> None:
        outage.begin()
        back.start()

    worker = Worker(search, settings(tmp_path), at={1: goes})
    worker.run()
    back.join()
    assert outage.refused > 0
    counts = search.counts()["kd"]
    assert (counts.complete, counts.failed) == (4, 0)
    assert whole_curves(search)
    rows = search.leases.details(list(search.arms))
    assert all((row.token, row.lost) == (1, 0) for row in rows)
    # Each epoch is counted once, however often its report was tried.
    assert [row.gpu_seconds for row in rows] == pytest.approx([4 * worker.seconds] * 4)
    assert len([line for line in log if "database away" in line]) == 1
    assert len([line for line in log if "database back" in line]) == 1
    assert not [line for line in log if line.startswith("ERROR")]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_connections_that_a_server_ends_again_and_again_fail_no_trial(
    join: Join, tmp_path: Path, postgres_admin: sa.Engine, log: list[str]
) -> None:
    """As a server does that restarts: the connections die in the middle of whatever they do."""
    search = join("budget.trials=8")
    name = search.opened.engine.url.database
    text = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = :name"
    done = threading.Event()
    ended = 0

    def strike() -> None:
        nonlocal ended
        while not done.wait(0.02):
            with postgres_admin.connect() as connection:
                ended += connection.execute(sa.text(text), {"name": name}).scalar_one()
            if ended >= 12:
                return

    striker = threading.Thread(target=strike)
    worker = Worker(search, settings(tmp_path), at={1: striker.start, 3: lambda: until(lambda: ended >= 3)})
    worker.run()
    done.set()
    striker.join()
    assert ended >= 3
    counts = search.counts()["kd"]
    assert (counts.complete, counts.failed) == (8, 0)
    assert whole_curves(search)
    away = len([line for line in log if "database away" in line])
    assert away == len([line for line in log if "database back" in line])
    assert orphan_rows(search) == []


def test_a_worker_that_is_asked_to_stop_while_the_database_is_away_ends_all_the_same(
    join: Join, tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = join()
    outage = Outage(search.opened.engine)
    worker = Worker(search, settings(tmp_path))

    def goes() -> None:
        outage.begin()
        worker.group.ask_to_stop()

    worker.at = {1: goes}
    close = worker.database_thread.close
    monkeypatch.setattr(worker.database_thread, "close", lambda why, _: close(why, seconds=1.0))
    began = time.monotonic()
    worker.run()
    assert time.monotonic() - began < 15
    assert any("leases run out by themselves" in line for line in log)
    outage.end()
    until(lambda: not worker.database_thread._thread.is_alive())
    assert {row.state for row in search.leases.of_studies(list(search.arms))} == {"free"}


# ---- the end of a trial


def test_every_outcome_says_what_follows_from_it() -> None:
    assert set(CLEANUP) == set(Outcome)


# ---- leases that are lost


def test_a_lost_lease_drops_its_member_and_keeps_an_orphan_record(join: Join, tmp_path: Path, log: list[str]) -> None:
    search, others = join("budget.trials=2"), join("budget.trials=2")
    taken: list[int] = []

    def steal() -> None:
        until(lambda: others.leases.of_studies(list(others.arms))[0].epoch == 2)
        row = others.leases.of_studies(list(others.arms))[0]
        held = others.leases.acquire(row, OTHER, resume_epoch=row.epoch, lost=True)
        assert held is not None
        taken.append(held.trial_id)
        others.fail(held, "bug", "as the other found")

    worker = Worker(search, settings(tmp_path), at={2: steal})
    worker.run()
    (orphan,) = orphan_rows(search)
    assert orphan.trial_id == taken[0]
    assert (orphan.token, orphan.epoch) == (1, 3)
    assert '"dice": ' in orphan.record
    assert len([line for line in log if "lost to another worker" in line]) == 1
    row = search.leases.row(taken[0])
    assert row is not None
    assert (row.message, row.token, row.epoch) == ("as the other found", 2, 2)
    counts = search.counts()["kd"]
    assert (counts.complete, counts.failed) == (2, 1)  # the other member went on, and a third took the room
    assert worker.database_thread._held.held == {}


@dataclass
class Member:
    """One member on its way through `HeldTrials`, without a group."""

    members: HeldTrials
    claim: Claim

    def tell(self, epoch: int, *, final: bool = False) -> None:
        key = self.claim.held.trial_id
        token = self.claim.held.token
        folder = self.members.settings.runs / str(key) / str(token)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"epoch-{epoch}.pt"
        path.write_text("weights")
        report = EpochReport(epoch, epoch - 1, {"dice": 0.5 + epoch / 100}, {}, {"student": 1.0}, final)
        saved = Saved(path, "0" * 64, 7)
        self.members.store(EpochDone(key, token, report, saved if final else None))
        if not final:
            self.members.store(CheckpointWritten(key, token, epoch, saved, ((1, 0),)))


def member(search: StudyAdapter, tmp_path: Path) -> Member:
    members = HeldTrials(search, settings(tmp_path))
    claim = search.claim(ME, lambda _: 0, ())
    members.begin(claim)
    return Member(members, claim)


class LosesAnswers:
    """The n-th commit reaches the database, its answer is lost on the way back."""

    def __init__(self, engine: sa.Engine, statement: str) -> None:
        self._due = statement
        self._armed = False
        self.lost = 0
        sa.event.listen(engine, "before_cursor_execute", self._watch)
        sa.event.listen(engine, "commit", self._commit)

    def _watch(self, _conn: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if self.lost == 0 and statement.startswith("UPDATE kd_lease") and self._due in statement:
            self._armed = True

    def _commit(self, connection: sa.Connection) -> None:
        if self._armed:
            self._armed, self.lost = False, self.lost + 1
            connection.connection.commit()
            raise sa.exc.OperationalError("COMMIT", None, Exception("connection reset by peer"))


@pytest.mark.parametrize("when", ["report", "finish"])
def test_a_write_whose_answer_was_lost_is_repeated_without_harm(join: Join, tmp_path: Path, when: str) -> None:
    """No orphan, no failure, and the epoch's seconds count once."""
    search = join()
    one = member(search, tmp_path)
    for epoch in (1, 2, 3):
        one.tell(epoch)
    answers = LosesAnswers(search.opened.engine, "weights" if when == "finish" else "gpu_seconds")
    with pytest.raises(Exception, match=r"commit|reset"):
        one.tell(4, final=True)
    assert answers.lost == 1
    one.tell(4, final=True)
    assert orphan_rows(search) == []
    row = search.leases.row(one.claim.held.trial_id)
    assert row is not None
    assert (row.state, row.failure, row.epoch) == ("finished", None, 4)
    assert row.gpu_seconds == 4.0
    assert search.counts()["kd"].complete == 1
    assert one.members.held == {}


def test_a_finish_that_never_came_is_repeated_and_the_epoch_counts_once(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report was stored, the finish failed before it was sent: the retry begins with the report again."""
    search = join()
    one = member(search, tmp_path)
    for epoch in (1, 2, 3):
        one.tell(epoch)
    outage = Outage(search.opened.engine)
    real = search.complete

    def away(*arguments: Any) -> None:
        outage.begin()
        real(*arguments)

    monkeypatch.setattr(search, "complete", away)
    with pytest.raises(Exception, match="commit"):
        one.tell(4, final=True)
    outage.end()
    monkeypatch.undo()
    one.tell(4, final=True)
    row = search.leases.row(one.claim.held.trial_id)
    assert row is not None
    assert (row.state, row.gpu_seconds) == ("finished", 4.0)
    assert '"student": 4.0' in row.seconds


# ---- the exit code


def test_every_reason_to_end_has_a_documented_exit_code() -> None:
    assert set(CODE_OF_END) == set(EndReason)
    assert set(CODE_OF_END.values()) <= set(EXIT_CODES)


@pytest.mark.parametrize("kind", ClosedKind)
def test_the_exit_code_follows_from_the_kind_and_never_from_the_text(kind: ClosedKind) -> None:
    end = end_of(Closed(kind, "max_failed, in words that somebody may change"))
    assert CODE_OF_END[end.reason] == (3 if kind is ClosedKind.MAX_FAILED else 0)


# ---- bugs and limits


def test_a_run_that_memory_cannot_hold_fails_as_such_whatever_the_error_says(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error's type and the spellings of `trainer.failures` count."""
    search = join("budget.trials=1", "budget.max_failed=1")

    def full(_students: object, _key: int, _run: RunConfig, _resume: Resume | None = None) -> None:
        raise MemoryError

    monkeypatch.setattr(SimulatedStudents, "admit", full)
    assert Worker(search, settings(tmp_path)).run().reason is EndReason.MAX_FAILED
    (row,) = search.leases.details(list(search.arms))
    assert row.failure == FailureKind.OUT_OF_MEMORY.value
    assert "fewer students side by side" in row.message


def test_a_bug_of_the_sampler_fails_one_trial_and_the_worker_goes_on(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    search = join("budget.max_failed=5")
    real, calls = search.suggest, []

    def breaks_once(claim: Claim) -> dict[str, Any]:
        calls.append(claim)
        if len(calls) == 2:
            raise ZeroDivisionError("in the sampler")
        return real(claim)

    monkeypatch.setattr(search, "suggest", breaks_once)
    Worker(search, settings(tmp_path)).run()
    counts = search.counts()["kd"]
    assert (counts.complete, counts.failed, counts.running) == (4, 1, 0)
    (failed,) = [row for row in search.leases.details(list(search.arms)) if row.failure]
    assert failed.failure == "bug"
    assert "ZeroDivisionError: in the sampler" in failed.message
    assert "Traceback" in failed.message
    assert len([line for line in log if "failed before training" in line]) == 1


def test_a_bug_of_the_pruner_ends_no_trial_and_is_said(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    search = join("budget.trials=1", 'pruner.name="median"', "pruner.startup=1")

    def breaks(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the pruner")

    monkeypatch.setattr(pruners, "judge", breaks)
    Worker(search, settings(tmp_path)).run()
    assert search.counts()["kd"].complete == 1
    assert any("the pruner raised" in line for line in log)


def test_a_run_that_breaks_a_limit_is_pruned_with_its_reason_and_never_trained(join: Join, tmp_path: Path) -> None:
    search = join()
    broken: list[RunConfig] = []

    def breach(run: RunConfig) -> str | None:
        if not broken:
            broken.append(run)
            return "9.0 M parameters of at most 1 M"
        return None

    Worker(search, settings(tmp_path, breach=breach)).run()
    counts = search.counts()["kd"]
    assert (counts.complete, counts.pruned, counts.failed) == (3, 1, 0)
    (trial,) = [t for t in search.trials(search.spec.main) if t.state.name == "PRUNED"]
    assert trial.user_attrs["limit"] == "9.0 M parameters of at most 1 M"
    assert trial.params["optim.lr"] == broken[0].optim.lr
    assert trial.intermediate_values == {}
    row = search.leases.row(trial._trial_id)
    assert row is not None
    assert (row.run, row.epoch, row.message) == (None, 0, "9.0 M parameters of at most 1 M")


def test_stop_now_from_the_database_gives_trials_back(join: Join, tmp_path: Path) -> None:
    search, person = join(), join()

    def asks() -> None:
        person.searches.ask_to_stop(person.search_id, "now")
        with person.opened.engine.begin() as connection:  # room for a claim, which sees the wish
            connection.execute(sa.select(leases))

    worker = Worker(search, settings(tmp_path, slots=3), seconds=0.05, at={1: asks})
    assert worker.run() == ASKED_TO_STOP
    rows = search.leases.of_studies(list(search.arms))
    assert {row.state for row in rows} <= {"free"}
    assert search.counts()["kd"].failed == 0
