"""Which checkpoint a row names, and which files go when their trial ended, was lost or has no row."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from search.execution.checkpoint_writer import on_hand
from search.execution.database_thread import DatabaseThread
from search.execution.held_trials import HeldTrials
from search.execution.messages import CheckpointWritten, EpochDone, WorkerSettings
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from trainer.reports import EpochReport, Saved

OTHER = Owner("other", "there")
EPOCHS = 4


@pytest.fixture
def search(sqlite_url: str, open_again: Callable[..., StudyAdapter], small_study: Callable[..., str]) -> StudyAdapter:
    return open_again(sqlite_url, "writers", small_study(), "budget.trials=1")


def row(search: StudyAdapter) -> Any:
    (seen,) = search.leases.of_studies(list(search.arms), finished=True)
    return seen


def files(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.rglob("*epoch-*"))


@dataclass
class ReportedTrial:
    """A trial whose first epoch was reported, and the checkpoint of it that is on disk and not named yet."""

    held_trials: HeldTrials
    key: int
    written: CheckpointWritten


@pytest.fixture
def reported(search: StudyAdapter, tmp_path: Path) -> ReportedTrial:
    settings = WorkerSettings(Owner("me", "here"), 1, tmp_path, 1, {}, breach=lambda _: None, ttl=600.0)
    members = HeldTrials(search, settings)
    claim = search.claim(settings.owner, on_hand, [])
    members.begin(claim)
    key, token = claim.held.trial_id, claim.held.token
    members.store(EpochDone(key, token, EpochReport(1, 0, {"dice": 0.5}, {}, {}, False)))
    path = tmp_path / "epoch-1.pt"
    path.write_bytes(b"state")
    return ReportedTrial(members, key, CheckpointWritten(key, token, 1, Saved(path, "0" * 64, 5), ((1, 0),)))


def test_a_checkpoint_is_named_with_the_figures_of_its_epoch(search: StudyAdapter, reported: ReportedTrial):
    assert (row(search).epoch, row(search).checkpoint) == (0, None)
    reported.held_trials.store(reported.written)
    whole = search.leases.row(reported.key)
    assert (whole.epoch, whole.best_epoch, whole.best_score) == (1, 1, 0.5)
    assert whole.checkpoint == str(reported.written.saved.path)
    reported.held_trials.store(reported.written)  # the answer was lost: once more
    assert reported.written.saved.path.is_file()


def test_a_checkpoint_that_comes_after_the_next_report_is_not_named(search: StudyAdapter, reported: ReportedTrial):
    """Who stops does not wait for a disk that hangs: the row would have the best of an epoch that is not there."""
    token = reported.held_trials.held[reported.key].lease.token
    reported.held_trials.store(EpochDone(reported.key, token, EpochReport(2, 1, {"dice": 0.9}, {}, {}, False)))
    reported.held_trials.store(reported.written)
    whole = search.leases.row(reported.key)
    assert (whole.epoch, whole.checkpoint, whole.best_score) == (0, None, None)
    assert not reported.written.saved.path.exists()


def test_the_checkpoint_of_a_trial_that_ended_meanwhile_is_removed(search: StudyAdapter, reported: ReportedTrial):
    reported.held_trials.search.prune(reported.held_trials.held[reported.key].lease, {})
    reported.held_trials.forget(reported.key, "lost")
    reported.held_trials.store(reported.written)
    assert not reported.written.saved.path.exists()


def test_the_checkpoint_of_a_trial_that_was_lost_meanwhile_is_removed(search: StudyAdapter, reported: ReportedTrial):
    assert search.leases.acquire(row(search), OTHER, resume_epoch=0, lost=True) is not None
    reported.held_trials.store(reported.written)
    assert not reported.written.saved.path.exists()
    assert reported.key in reported.held_trials.held  # what it reports next is kept aside


def test_a_checkpoint_that_the_new_holder_goes_on_from_is_not_removed(search: StudyAdapter, reported: ReportedTrial):
    """The row was changed, the answer to it was lost, and before the next try another worker took the trial."""
    reported.held_trials.store(reported.written)
    assert search.leases.acquire(row(search), OTHER, resume_epoch=1, lost=True) is not None
    reported.held_trials.store(reported.written)
    assert reported.written.saved.path.is_file()


@pytest.mark.parametrize("own", [True, False], ids=["own", "another holder's"])
def test_whole_files_that_no_row_came_to_name_go_with_their_trial(
    search: StudyAdapter, reported: ReportedTrial, own: bool
):
    """The folder could not be brought to disk after the rename, or the database did not take the row."""
    member = reported.held_trials.held[reported.key]
    place = reported.held_trials.settings.runs / search.folder / "kd" / str(member.lease.number)
    folder = place / str(member.lease.token if own else member.lease.token + 1)
    folder.mkdir(parents=True)
    names = ("epoch-1.pt", "epoch-2.pt", ".epoch-3.pt.77.part", "best.safetensors")
    for name in names:
        (folder / name).write_bytes(b"state")
    reported.held_trials.fail_unstorable(reported.written, ValueError("of the database"))
    # What this worker is still writing is not its to remove before it is whole.
    assert {path.name for path in folder.iterdir()} == (set(names[2:]) if own else set())


def test_the_files_of_a_trial_whose_workers_vanish_go_with_it(search: StudyAdapter, tmp_path: Path):
    """Each of three was killed while it wrote, so each left a part of a file that no row names."""
    for token in range(1, 5):
        settings = WorkerSettings(Owner(f"w{token}", "there"), 1, tmp_path, 1, {}, breach=lambda _: None, ttl=600.0)
        members = HeldTrials(search, settings)
        claim = search.claim(settings.owner, on_hand, [row(search)] if token > 1 else [])
        part = tmp_path / search.folder / "kd" / str(claim.held.number) / str(token) / ".epoch-2.pt.77.part"
        if token < 4:
            part.parent.mkdir(parents=True)
            part.write_bytes(b"half")
        members.begin(claim)
    assert (row(search).state, files(tmp_path)) == ("finished", [])


def test_the_weights_of_a_trial_that_was_lost_meanwhile_are_removed(search: StudyAdapter, reported: ReportedTrial):
    path = reported.written.saved.path.with_name("best.safetensors")
    path.write_bytes(b"weights")
    assert search.leases.acquire(row(search), OTHER, resume_epoch=0, lost=True) is not None
    token = reported.held_trials.held[reported.key].lease.token
    report = EpochReport(EPOCHS, 0, {"dice": 0.5}, {}, {}, True)
    reported.held_trials.store(EpochDone(reported.key, token, report, Saved(path, "0" * 64, 7)))
    assert not path.exists()


def test_a_row_at_its_last_epoch_begins_anew(search: StudyAdapter, reported: ReportedTrial):
    """No worker leaves one; who finds it must not train empty epochs for ever."""
    reported.held_trials.store(reported.written)
    content = reported.written.saved.path.read_bytes()
    changes = {"epoch": EPOCHS, "checkpoint_sha256": hashlib.sha256(content).hexdigest()}
    search.leases.change(reported.held_trials.held[reported.key].lease, changes)
    assert on_hand(row(search)) == 0
    search.leases.change(reported.held_trials.held[reported.key].lease, {"epoch": EPOCHS - 1})
    assert on_hand(row(search)) == EPOCHS - 1


def test_a_checkpoint_is_named_as_soon_as_it_is_told(
    search: StudyAdapter, reported: ReportedTrial, until: Callable[..., None]
):
    """Also where the database thread was not yet waiting when it was reported."""
    database_thread = DatabaseThread(search, reported.held_trials.settings)
    database_thread._held.held = reported.held_trials.held
    flush, wait, passes, waited = database_thread._flush, database_thread._condition.wait, [0], list[int]()

    def late() -> None:
        flush()
        passes[0] += 1
        if passes == [1]:
            database_thread.put(reported.written)  # past the flush, before the wait

    def waits(seconds: float | None = None) -> bool:
        waited.append(passes[0])
        return wait(seconds)

    database_thread._flush, database_thread._condition.wait = late, waits  # type: ignore[method-assign]
    database_thread.start()
    until(lambda: row(search).checkpoint is not None)
    assert 1 not in waited
    database_thread.close("the test is over")
