"""What a trial keeps that goes from hand to hand: its checkpoint, its costs, its devices, and who is charged."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.commands.status import lines, look
from search.execution.checkpoint_writer import on_hand
from search.execution.held_trials import HeldTrials
from search.execution.messages import CheckpointWritten, EpochDone, StartTrial, TrialFailed
from search.execution.simulated_students import Curves, SimulatedStudents
from search.spec.arms import Arm
from search.spec.space import Scalar
from search.storage.leases import LeaseHandle, LeaseRow
from search.storage.schema import attempts, orphans
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.progress import RejectedCheckpoint, read_progress
from trainer.config import RunConfig
from trainer.reports import EpochReport, Failure, FailureKind, Saved

ME, OTHER, THIRD = Owner("me", "here"), Owner("other", "there"), Owner("third", "there")

Join = Callable[..., StudyAdapter]
Make = Callable[..., Any]


@pytest.fixture
def join(sqlite_url: str, open_again: Join, small_study: Make) -> Join:
    """Open the one search of the test once more, as another process would, with other values or tables in its file."""
    return lambda *changes, **values: open_again(sqlite_url, "handed", small_study(**values), *changes)


def seen(search: StudyAdapter, held: LeaseHandle) -> LeaseRow:
    return next(row for row in search.leases.of_studies([held.study_id]) if row.trial_id == held.trial_id)


def row_of(search: StudyAdapter, held: LeaseHandle) -> Any:
    row = search.leases.row(held.trial_id)
    assert row is not None
    return row


def test_a_checkpoint_is_judged_once(join: Join, tmp_path: Path, settings: Make) -> None:
    """What is kept of a trial and where its training goes on come from the same look at its file."""
    search = join()
    members = HeldTrials(search, settings())
    claim = search.claim(ME, on_hand, ())
    members.begin(claim)
    report = EpochReport(1, 0, {"dice": 0.5}, {}, {"student": 1.0}, final=False)
    saved = Saved(tmp_path / "one.pt", "0" * 64, 7)
    members.store(EpochDone(claim.held.trial_id, 1, report))
    members.store(CheckpointWritten(claim.held.trial_id, 1, 1, saved, ((1, 0),)))
    looks: list[LeaseRow] = []

    def vanishes_behind(row: LeaseRow) -> int:
        looks.append(row)
        return row.epoch

    (again,) = search.reacquire(ME, vanishes_behind)
    assert (len(looks), again.resume_epoch) == (1, 1)
    others = HeldTrials(search, settings())
    others.begin(again)
    begin = others.inbox.get_nowait()
    assert begin.resume.checkpoint == saved.path  # it is not there: the failure to read it is told, not passed over
    row = search.leases.row(claim.held.trial_id)
    assert row is not None
    assert (row.epoch, row.checkpoint) == (1, str(saved.path))


def test_a_disk_that_fails_is_no_reason_to_begin_anew(
    join: Join, tmp_path: Path, log: list[str], settings: Make
) -> None:
    """Reading where no process has memory fails as a broken disk does (EIO), and the file is no less there."""
    search = join()
    members = HeldTrials(search, settings())
    claim = search.claim(ME, on_hand, ())
    members.begin(claim)
    broken = tmp_path / "broken.pt"
    broken.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error"):
        broken.read_bytes()
    report = EpochReport(1, 0, {"dice": 0.5}, {}, {"student": 1.0}, final=False)
    members.store(EpochDone(claim.held.trial_id, 1, report))
    members.store(CheckpointWritten(claim.held.trial_id, 1, 1, Saved(broken, "0" * 64, 7), ((1, 0),)))
    (row,) = search.leases.of_studies(list(search.arms))
    assert on_hand(row) == 1
    assert any("Input/output error" in line for line in log)
    broken.unlink()
    assert on_hand(row) == 0


def test_a_trial_that_goes_on_elsewhere_is_of_mixed_devices_and_keeps_its_costs(
    join: Join, tmp_path: Path, settings: Make, member: Make
) -> None:
    """Also where it comes back to the first device later."""
    search = join()
    cpu, gpu = {"device": "cpu", "torch": "1"}, {"device": "cuda", "torch": "1"}
    students = SimulatedStudents(Curves(), slots=1, metric="dice", epoch_seconds=0.0, fail_share=0.0)
    one = member(search, settings(environment=cpu))
    key = one.claim.held.trial_id
    students.admit(key, one.members.held[key].run)
    (report,) = students.epoch().values()
    assert isinstance(report, EpochReport)
    report = EpochReport(1, 0, report.scores, {}, {"student": 3.0, "data": 1.0}, final=False)
    saved = students.snapshot(key)(tmp_path / "epoch-1.pt")
    one.members.store(EpochDone(key, 1, report))
    one.members.store(CheckpointWritten(key, 1, 1, saved, students.replay(key)))
    assert json.loads(row_of(search, one.claim.held).environment) == cpu
    one.members.give_back("preempted")
    for environment, owner in ((gpu, OTHER), (cpu, ME)):
        next_one = member(search, settings(environment=environment, owner=owner, ranks=2))
        assert next_one.claim.held.trial_id == key
        begin = next_one.members.inbox.get()
        assert isinstance(begin, StartTrial)
        assert begin.resume is not None
        assert begin.resume.checkpoint == saved.path
        row = row_of(search, next_one.claim.held)
        assert json.loads(row.environment) == {**cpu, "device": "mixed"}
        next_one.members.give_back("preempted")
    last = member(search, settings(environment=gpu, ranks=2))
    last.tell(2)
    row = row_of(search, last.claim.held)
    assert json.loads(row.seconds) == {"data": 1.0, "student": 4.0}
    assert row.gpu_seconds == 6.0  # 4 s of one rank, then 1 s of two
    assert json.loads(row.environment)["device"] == "mixed"


def test_a_trial_that_starts_again_is_of_its_new_device_and_keeps_its_costs(
    join: Join, settings: Make, member: Make
) -> None:
    """Nothing of the first device's epochs is left in its result, but their time was spent."""
    search = join()
    cpu, gpu = {"device": "cpu"}, {"device": "cuda"}
    one = member(search, settings(environment=cpu))
    for epoch in (1, 2, 3):
        one.tell(epoch)
    one.members.give_back("preempted")
    two = member(search, settings(environment=gpu, owner=OTHER))  # no file that it can go on from
    assert two.claim.held.trial_id == one.claim.held.trial_id
    begin = two.members.inbox.get()
    assert isinstance(begin, StartTrial)
    assert begin.resume is None
    row = row_of(search, two.claim.held)
    assert json.loads(row.environment) == gpu
    assert (row.epoch, row.best_epoch, row.gpu_seconds) == (0, None, 3.0)
    two.tell(1)
    row = row_of(search, two.claim.held)
    assert (row.epoch, row.best_epoch, row.best_score) == (1, 1, pytest.approx(0.51))
    assert (json.loads(row.seconds), row.gpu_seconds) == ({"student": 4.0}, 4.0)


@pytest.mark.parametrize("where", ["limit", "resolve"])
def test_a_bug_before_training_ends_its_trial_alone(
    join: Join, where: str, monkeypatch: pytest.MonkeyPatch, log: list[str], settings: Make, worker_of: Make
) -> None:
    """In the check of limits, or where parameters become a run."""
    search = join()
    calls: list[str] = []

    def second_fails() -> None:
        calls.append(where)
        if len(calls) == 2:
            raise ZeroDivisionError("before training")

    def breach(_run: RunConfig) -> str | None:
        if where == "limit":
            second_fails()
        return None

    def resolves(arm: Arm, params: Mapping[str, Scalar]) -> RunConfig:
        second_fails()
        return resolve(arm, params)

    resolve = Arm.resolve
    if where == "resolve":
        monkeypatch.setattr(Arm, "resolve", resolves)
    worker_of(search, settings(breach=breach)).run()
    counts = search.counts()["kd"]
    assert (counts.complete, counts.failed, counts.running) == (4, 1, 0)
    (failed,) = [row for row in search.leases.details(list(search.arms)) if row.failure]
    assert (failed.failure, failed.run) == ("bug", None)
    assert "ZeroDivisionError: before training" in failed.message
    assert len([line for line in log if "failed before training" in line]) == 1


def test_a_restart_of_the_ranks_is_never_charged(join: Join, settings: Make, member: Make, all_of: Make) -> None:
    """A trial that was lost twice goes on after any number of them; one real loss more, and it fails."""
    search = join()
    mine, theirs = settings(), settings(owner=OTHER)
    last = member(search, mine)
    for owner, given in ((OTHER, theirs), (ME, mine)):
        taken = search.claim(owner, on_hand, (seen(search, last.claim.held),))
        last = member(search, given, taken)
        assert taken.lost
        assert len(last.members.held) == 1
    for _ in range(4):
        (again,) = search.reacquire(ME, on_hand)
        last = member(search, mine, again)
        assert len(last.members.held) == 1
    row = row_of(search, last.claim.held)
    assert (row.state, row.lost, row.token) == ("held", 2, 7)
    taken = search.claim(THIRD, on_hand, (seen(search, last.claim.held),))
    assert member(search, settings(owner=THIRD), taken).members.held == {}
    row = row_of(search, taken.held)
    assert (row.state, row.failure, row.lost) == ("finished", "lost", 3)
    assert "vanished 3 times" in row.message
    why = [attempt.why for attempt in all_of(search, attempts)]
    assert why == ["lost", "lost", *["restarted"] * 4, "lost", "lost"]


def test_a_report_is_a_sign_of_life(join: Join, settings: Make, member: Make) -> None:
    """Whoever saw a trial before its holder's report cannot take it, also while its checkpoint is being written."""
    search = join()
    one = member(search, settings())
    before = seen(search, one.claim.held)
    one.tell(1, written=False)
    after = seen(search, one.claim.held)
    assert (after.token, after.epoch) == (before.token, 0)
    assert search.leases.acquire(before, OTHER, resume_epoch=0, lost=True) is None
    assert search.claim(OTHER, on_hand, (before,)).held.trial_id != one.claim.held.trial_id
    row = row_of(search, one.claim.held)
    assert (row.owner, row.token, row.lost, row.epoch) == ("me", 1, 0, 0)
    assert search.leases.acquire(after, OTHER, resume_epoch=0, lost=True) is not None


def test_a_stored_run_is_a_sign_of_life(join: Join, settings: Make, member: Make) -> None:
    search = join()
    claim = search.claim(ME, on_hand, ())
    before = seen(search, claim.held)
    member(search, settings(), claim)
    assert search.leases.acquire(before, OTHER, resume_epoch=0, lost=True) is None


def test_what_is_told_under_an_older_token_is_not_stored(
    join: Join, settings: Make, member: Make, all_of: Make
) -> None:
    """The trial went and came back while an epoch was trained: that epoch belongs to no one, and its file goes."""
    search = join()
    one = member(search, settings())
    first = one.tell(1)
    (again,) = search.reacquire(ME, on_hand)
    one.members.held.clear()
    one.members.begin(again)
    old = row_of(search, again.held)
    assert old.token == 2
    late = one.tell(2)  # under token 1
    one.members.store(TrialFailed(again.held.trial_id, 1, Failure(FailureKind.NOT_FINITE, "not finite", 2)))
    assert row_of(search, again.held) == old
    assert search.trials(search.spec.main)[0].intermediate_values == {}
    assert (first.is_file(), late.is_file()) == (True, False)
    assert one.members.held[again.held.trial_id].lease.token == 2
    assert all_of(search, orphans) == []
    now = replace(one, claim=again).tell(1)
    assert row_of(search, again.held).checkpoint == str(now)


@pytest.mark.parametrize("missing", [False, True])
def test_a_checkpoint_that_is_damaged_or_gone_is_said_in_the_log_in_status_and_on_the_trial(
    join: Join, tmp_path: Path, log: list[str], settings: Make, missing: bool
) -> None:
    """The trial begins again at epoch 1; whoever looks at its curve sees why."""
    search = join()
    members = HeldTrials(search, settings())
    claim = search.claim(ME, on_hand, ())
    members.begin(claim)
    path = tmp_path / "one.pt"
    path.write_bytes(b"whole")
    key, digest = claim.held.trial_id, hashlib.sha256(b"whole").hexdigest()
    members.store(EpochDone(key, 1, EpochReport(1, 0, {"dice": 0.5}, {}, {"student": 1.0}, final=False)))
    members.store(CheckpointWritten(key, 1, 1, Saved(path, digest, 5), ((1, 0),)))
    members.give_back("preempted")
    assert read_progress(search.opened, "handed").rejected == []
    path.unlink() if missing else path.write_bytes(b"whale")
    others = HeldTrials(search, settings(owner=OTHER))
    others.begin(search.claim(OTHER, on_hand, ()))
    assert others.inbox.get_nowait().resume is None
    why = f"its checkpoint of epoch 1 is {'not there' if missing else 'not what was written (another sha256)'}: {path}"
    assert [line for line in log if "begins again" in line] == [f"WARNING kd #0 begins again at epoch 1: {why}"]
    assert search.opened.storage.get_trial(key).user_attrs["checkpoint.rejected"] == why
    assert read_progress(search.opened, "handed").rejected == [RejectedCheckpoint("kd", 0, why)]
    assert f"began again kd #0: {why}" in lines(look(search.opened, "handed"))
