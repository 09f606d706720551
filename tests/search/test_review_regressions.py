"""What holds in databases from which studies were deleted, for owners in containers, and for ranks started again."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from search.execution.database_thread import DatabaseThread
from search.execution.held_trials import HeldTrials, on_hand
from search.execution.messages import CheckpointWritten, EpochDone, WorkerSettings
from search.execution.owner import owner_of
from search.storage.leases import LeaseRow
from search.storage.schema import arms, attempts, leases
from search.storage.statements import LeaseLost, Owner, Refused
from search.study.adapter import StudyAdapter
from trainer.distributed import supervisor
from trainer.reports import EpochReport, Saved

STUDY = (Path(__file__).parents[1] / "small.toml").read_text()
ME, OTHER = Owner("me", "here"), Owner("other", "there")
ROOT = Path(__file__).resolve().parents[2]

Open = Callable[..., StudyAdapter]


def settings(tmp_path: Path, owner: Owner = ME) -> WorkerSettings:
    return WorkerSettings(owner, 2, tmp_path, 1, {}, breach=lambda _: None, ttl=600.0)


def delete(search: StudyAdapter) -> None:
    """As the dashboard does: Optuna's rows go, ours stay."""
    optuna.delete_study(study_name=search.spec.name, storage=search.opened.storage)


def all_of(search: StudyAdapter, table: sa.Table) -> list[Any]:
    with search.opened.engine.begin() as connection:
        return list(connection.execute(sa.select(table)))


# ---- deleted studies


def test_a_search_goes_on_after_another_one_was_deleted(database_url: str, open_again: Open) -> None:
    """A new trial may get the id of one that was deleted: its old lease does not stand in the way."""
    first, second = open_again(database_url, "first", STUDY), open_again(database_url, "second", STUDY)
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


def test_a_study_that_gets_a_deleted_one_s_id_is_its_own(database_url: str, open_again: Open) -> None:
    """Nothing of the deleted one is left, whichever search comes next, and the others keep theirs."""
    first, second = open_again(database_url, "first", STUDY), open_again(database_url, "second", STUDY)
    kept = first.claim(ME, on_hand, ()).held
    second.claim(OTHER, on_hand, ())
    delete(second)
    third = open_again(database_url, "third", STUDY.replace("epochs = 4", "epochs = 5"))
    if database_url.startswith("sqlite"):
        assert list(third.arms) == list(second.arms)
    assert [arm.study_id for arm in third.searches.arms_of(third.search_id)] == list(third.arms)
    assert third.searches.names() == ["first", "third"]
    assert [row.trial_id for row in all_of(third, leases)] == [kept.trial_id]
    assert [row.trial_id for row in all_of(third, attempts)] == [kept.trial_id]
    claim = third.claim(ME, on_hand, ())
    assert (claim.held.study_id, claim.held.number, claim.seen) == (*third.arms, 0, None)


def test_an_arm_s_row_under_another_search_s_id_is_taken_over(sqlite_url: str, open_again: Open) -> None:
    """Even where an old row stands under the id of a new study, the study belongs to the search that opened it."""
    first, second = open_again(sqlite_url, "first", STUDY), open_again(sqlite_url, "second", STUDY)
    (study_id,) = second.arms
    with first.opened.engine.begin() as connection:
        connection.execute(arms.update().where(arms.c.study_id == study_id).values(search_id=first.search_id))
    again = open_again(sqlite_url, "second", STUDY)
    assert [arm.study_id for arm in again.searches.arms_of(again.search_id)] == [study_id]
    assert [arm.study_id for arm in again.searches.arms_of(first.search_id)] == list(first.arms)


def test_a_claim_from_a_deleted_study_is_refused_for_good(database_url: str, open_again: Open) -> None:
    search = open_again(database_url, "first", STUDY)
    delete(open_again(database_url, "first", STUDY))
    with pytest.raises(Refused, match="the study was deleted") as refused:
        search._ask(*search.arms, ME)
    assert refused.value.final


def test_a_trial_of_a_deleted_study_is_lost_to_who_prunes_it(database_url: str, open_again: Open) -> None:
    search = open_again(database_url, "first", STUDY)
    held = search.claim(ME, on_hand, ()).held
    delete(open_again(database_url, "first", STUDY))
    with pytest.raises(LeaseLost):
        search.prune(held, {})


# ---- checkpoints


def test_a_checkpoint_is_judged_once(sqlite_url: str, open_again: Open, tmp_path: Path) -> None:
    """What is kept of a trial and where its training goes on come from the same look at its file."""
    search = open_again(sqlite_url, "first", STUDY)
    members = HeldTrials(search, settings(tmp_path))
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

    (again,) = search.retake(ME, vanishes_behind)
    assert (len(looks), again.resume_epoch) == (1, 1)
    others = HeldTrials(search, settings(tmp_path))
    others.begin(again)
    begin = others.inbox.get_nowait()
    assert begin.resume.checkpoint == saved.path  # it is not there: the failure to read it is told, not passed over
    row = search.leases.row(claim.held.trial_id)
    assert row is not None
    assert (row.epoch, row.checkpoint) == (1, str(saved.path))


# ---- who a worker is


def test_an_owner_has_one_name_inside_and_outside_and_another_in_another_pid_namespace() -> None:
    code = "import os; from search.execution.owner import this_owner; print(this_owner(3).name, flush=True); input()"
    environment = {k: v for k, v in os.environ.items() if k != "TORCHELASTIC_RUN_ID"}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdin=-1, stdout=-1, text=True
    ) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        name = inside.stdout.readline().strip()
        assert name == owner_of(inside.pid, 3).name
        inside.stdin.write("\n")
    namespace = os.stat("/proc/self/ns/pid").st_ino
    assert name.split(":")[1] == str(namespace)
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may make no pid namespaces")
    done = subprocess.run(
        [*apart, sys.executable, "-c", code], cwd=ROOT, env=environment, input="\n", capture_output=True, text=True
    )
    assert done.stdout.split(":")[2] == "1"
    assert done.stdout.split(":")[1] != str(namespace)


# ---- ranks that are started again


@pytest.fixture
def outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], Path]:
    """Be rank `rank` in the `start`-th start of the ranks."""

    def at(start: int, rank: int) -> Path:
        monkeypatch.setenv("KD_OUTCOMES", str(tmp_path))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(start))
        monkeypatch.setenv("RANK", str(rank))
        return tmp_path

    return at


def test_a_code_of_an_earlier_start_ends_no_later_one(outcomes: Callable[[int, int], Path]) -> None:
    folder = outcomes(0, 0)
    assert supervisor.record_exit_code(2) == 0
    outcomes(0, 1)
    assert supervisor.exit_code_after_loss() == 0  # its sibling knows better
    outcomes(1, 1)
    assert supervisor.exit_code_after_loss() == 1
    outcomes(10, 0)
    assert supervisor.record_exit_code(0) == 0
    assert (supervisor._codes(folder, None), supervisor._codes(folder, 0), supervisor._codes(folder, 5)) == (
        [0],
        [2],
        [],
    )


@pytest.mark.parametrize("code", [0, 2])
def test_a_code_that_cannot_be_kept_is_the_rank_s_own(
    outcomes: Callable[[int, int], Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    """A finished search stays one where the folder of outcomes takes no file."""
    monkeypatch.setenv("KD_OUTCOMES", str(outcomes(0, 0) / "gone"))
    assert supervisor.record_exit_code(code) == code
    supervisor.say_once("the last words")
    assert "the last words" in capfd.readouterr().err


def test_a_disk_that_fails_is_no_reason_to_begin_anew(sqlite_url: str, open_again: Open, tmp_path: Path, log) -> None:
    """Reading where no process has memory fails as a broken disk does (EIO), and the file is no less there."""
    search = open_again(sqlite_url, "first", STUDY)
    members = HeldTrials(search, settings(tmp_path))
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


def test_who_works_for_a_deleted_study_writes_nothing_into_its_successor(
    sqlite_url: str, open_again: Open, tmp_path: Path
) -> None:
    """SQLite gives out ids of studies and trials again; a report under them would be another trial's."""
    old = open_again(sqlite_url, "first", STUDY)
    desk = DatabaseThread(old, settings(tmp_path))
    desk._claim()
    ((key, member),) = [*desk._members.held.items()][:1]
    delete(open_again(sqlite_url, "first", STUDY))
    new = open_again(sqlite_url, "first", STUDY)
    held = new.claim(OTHER, on_hand, ()).held
    assert (held.trial_id, held.token, list(new.arms)) == (key, member.lease.token, list(old.arms))  # the same ids
    assert new.search_id != old.search_id
    report = EpochReport(1, 0, {"dice": 0.5}, {}, {"student": 1.0}, final=False)
    desk.tell(EpochDone(key, member.lease.token, report))
    desk.tell(CheckpointWritten(key, member.lease.token, 1, Saved(tmp_path / "one.pt", "0" * 64, 7), ((1, 0),)))
    desk._flush()
    row = new.leases.row(held.trial_id)
    assert row is not None
    assert (row.epoch, row.owner) == (0, OTHER.name)
    assert desk._members.held == {}
    with pytest.raises(Refused, match="deleted"):
        old._ask(*old.arms, ME)
