"""A worker of the search without its process: simulated students, a group of one, and the real database thread."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.execution.checkpoint_writer import on_hand
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.held_trials import HeldTrials
from search.execution.messages import CheckpointWritten, EpochDone, WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents
from search.storage.statements import Owner
from search.study.adapter import Claim, StudyAdapter
from trainer.reports import EpochReport, Failure, Saved

ME = Owner("me", "here")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., WorkerSettings]:
    """What the worker "me" knows about itself: `settings(ttl=3.0)`."""

    def changed(**changes: Any) -> WorkerSettings:
        values: dict[str, Any] = dict(owner=ME, slots=2, runs=tmp_path, ranks=1, environment={}, ttl=600.0)
        return WorkerSettings(**{**values, "breach": lambda _: None, **changes})

    return changed


@dataclass
class Worker:
    """A whole worker but for its process; `at(n, f)` calls f before the n-th epoch of the group."""

    search: StudyAdapter
    settings: WorkerSettings
    at: Mapping[int, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.thread = DatabaseThread(self.search, self.settings)

    def run(self) -> str:
        metric = self.search.spec.objective.metric
        students = SimulatedStudents(
            Curves(), slots=self.settings.slots, metric=metric, epoch_seconds=0.02, fail_share=0.0
        )
        train, done = students.epoch, 0

        def epoch() -> dict[int, EpochReport | Failure]:
            nonlocal done
            self.at.get(done, lambda: None)()
            done += 1
            return train()

        students.epoch = epoch  # type: ignore[method-assign]
        return run_group(SingleProcess(), students, self.thread)


@pytest.fixture
def worker_of() -> type[Worker]:
    """Make a worker: `worker_of(search, settings(), {1: called_before_the_second_epoch}).run()`."""
    return Worker


@dataclass
class Member:
    """One member on its way through `HeldTrials`, without a group."""

    members: HeldTrials
    claim: Claim

    def tell(self, epoch: int, *, written: bool = True) -> Path:
        held = self.claim.held
        path = self.members.settings.runs / f"{held.trial_id}-{held.token}-{epoch}.pt"
        path.write_text("weights")
        report = EpochReport(epoch, epoch - 1, {"dice": 0.5 + epoch / 100}, {}, {"student": 1.0}, final=False)
        digest = "9cba9e5ab0b1b0c4d1ee8f2a2d4e5e20"  # of other bytes: nobody can go on from this file
        self.members.store(EpochDone(held.trial_id, held.token, report))
        if not written:
            return path
        self.members.store(CheckpointWritten(held.trial_id, held.token, epoch, Saved(path, digest, 7), ((1, 0),)))
        return path


@pytest.fixture
def member() -> Callable[..., Member]:
    """Begin a trial: `member(search, settings())` claims one, `member(search, settings(), claim)` has one."""

    def begun(search: StudyAdapter, given: WorkerSettings, claim: Claim | None = None) -> Member:
        members = HeldTrials(search, given)
        claim = search.claim(given.owner, on_hand, ()) if claim is None else claim
        members.begin(claim)
        return Member(members, claim)

    return begun


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for something, at most some seconds: `until(lambda: thing.is_there)`."""

    def wait(what: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end
            time.sleep(0.02)

    return wait


@pytest.fixture
def all_of() -> Callable[[StudyAdapter, sa.Table], list[Any]]:
    """All rows of a table: `all_of(search, orphans)`."""

    def rows(search: StudyAdapter, table: sa.Table) -> list[Any]:
        with search.opened.engine.begin() as connection:
            return list(connection.execute(sa.select(table)))

    return rows
