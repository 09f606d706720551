"""Each class of failure has its rule: who is charged, who retries, what is kept, and when a worker ends."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from search.execution.group import GroupEnd
from search.exit_codes import EndReason
from search.study.adapter import StudyAdapter
from trainer.reports import EpochReport, Failure, FailureKind

Join = Callable[..., StudyAdapter]
Told = dict[int, EpochReport | Failure]


def _fails_once(kind: FailureKind, message: str = "as the ranks agreed") -> Callable[[int, Told], Told]:
    """The first member that trains a second epoch fails in it; `failed` counts."""

    def spoil(epoch: int, told: Told) -> Told:
        key = next(iter(told))
        if epoch == 2:
            return {**told, key: Failure(kind, message, 2, "Traceback\nValueError: here")}
        return told

    return spoil


@pytest.mark.parametrize("kind", [FailureKind.OUT_OF_MEMORY, FailureKind.NOT_FINITE, FailureKind.BUG])
def test_what_would_fail_again_is_not_tried_again(
    join: Join, tmp_path: Path, tools: SimpleNamespace, kind: FailureKind
) -> None:
    """The trial fails with its words and its traceback, the others go on, and another one takes its room."""
    search = join("budget.trials=3")
    tools.InProcess(search, tmp_path, spoil=_fails_once(kind)).run()
    counts = search.counts()["kd"]
    assert (counts.complete, counts.failed, counts.running) == (3, 1, 0)
    (failed,) = [row for row in search.leases.details(list(search.arms)) if row.failure]
    assert (failed.failure, failed.token, failed.checkpoint) == (kind.value, 1, None)
    assert "as the ranks agreed" in failed.message
    assert failed.message.endswith("ValueError: here")
    # Its last checkpoint is removed, too.
    assert not list(tmp_path.rglob("*epoch-*"))


def test_a_bad_file_of_the_data_ends_the_worker_and_fails_no_trial(
    join: Join, tmp_path: Path, log: list[str], tools: SimpleNamespace
) -> None:
    search = join("budget.trials=3")
    spoil = _fails_once(FailureKind.BAD_DATA, "train/0017.png: cut short")
    end = tools.InProcess(search, tmp_path, spoil=spoil).run()
    assert end == GroupEnd(EndReason.BAD_DATA, "bad data: train/0017.png: cut short")
    counts = search.counts()["kd"]
    assert (counts.failed, counts.running) == (0, 2)
    assert {row.state for row in search.leases.of_studies(list(search.arms))} == {"free"}
    assert {attempt.why for attempt in search.leases.attempts_of(list(search.arms))} == {"bad_data"}
    tools.InProcess(search, tmp_path).run()  # mended
    assert tools.checked(search, 3) == {"bad_data": 2, "finished": 3}


def test_a_checkpoint_that_cannot_be_read_is_waited_for(
    join: Join, tmp_path: Path, log: list[str], tools: SimpleNamespace
) -> None:
    """The trial is given back and this worker takes nothing for a while; the third time it fails by that name."""
    search = join("budget.trials=1")
    worker = tools.InProcess(
        search, tmp_path, ttl=0.6, spoil=_fails_once(FailureKind.STORAGE, "epoch-1.pt: cannot be read")
    )
    began = time.monotonic()
    worker.run()
    assert time.monotonic() - began >= 0.6
    assert tools.checked(search, 1) == {"storage": 1, "finished": 1}
    assert any("given back, this worker begins nothing for a while" in line for line in log)

    search = join("budget.trials=2")

    def always(_epoch: int, told: Told) -> Told:
        return {key: Failure(FailureKind.STORAGE, "epoch-1.pt: cannot be read", 1) for key in told}

    worker = tools.InProcess(search, tmp_path, ttl=0.3, slots=1, spoil=always)
    worker.at = {2: lambda: search.searches.ask_to_stop(search.search_id, "drain")}
    worker.run()
    ends = [attempt.why for attempt in search.leases.attempts_of(list(search.arms))]
    assert ends.count("storage") == 4  # one of the first trial, three of the second, the last for good
    (failed,) = [row for row in search.leases.details(list(search.arms)) if row.failure]
    assert failed.failure == "storage"


def test_too_many_failures_end_the_study(join: Join, tmp_path: Path, tools: SimpleNamespace) -> None:
    """`max_failed` closes it; the worker's exit code 3 follows from the reason."""
    search = join("budget.max_failed=2")

    def all_fail(_epoch: int, told: Told) -> Told:
        return {key: Failure(FailureKind.NOT_FINITE, "not finite", 1) for key in told}

    end = tools.InProcess(search, tmp_path, spoil=all_fail).run()
    assert end == GroupEnd(EndReason.MAX_FAILED, "max_failed: 2 trials failed")
    counts = search.counts()["kd"]
    assert counts.failed <= 2 + 2  # what was in flight already
    assert counts.running == 0


def test_a_study_that_is_deleted_under_its_workers_ends_them_with_the_reason(
    join: Join, tmp_path: Path, log: list[str], tools: SimpleNamespace
) -> None:
    search = join()
    worker = tools.InProcess(search, tmp_path, ttl=1.2)
    worker.at = {2: lambda: optuna.delete_study(study_name="faults", storage=join().opened.storage)}
    worker.run()
    assert worker.database_thread.error is None
    assert any("asked to stop: the study faults was deleted" in line for line in log)
    assert not [line for line in log if "Traceback" in line]
    again = join()
    tools.InProcess(again, tmp_path).run()
    assert tools.checked(again, tools.TRIALS) == {"finished": tools.TRIALS}


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.FAIL], ids=lambda state: state.name)
def test_a_trial_that_somebody_ends_in_the_dashboard_is_dropped_and_the_others_go_on(
    join: Join, tmp_path: Path, tools: SimpleNamespace, state: TrialState
) -> None:
    """What they said stands; the worker's later reports are orphan records, and nobody waits for it."""
    search = join("budget.trials=4")
    told: list[int] = []

    def tell() -> None:
        trial = search.trials(search.spec.main)[0]
        told.append(trial._trial_id)
        values = [0.5] if state is TrialState.COMPLETE else None
        join("budget.trials=4").opened.storage.set_trial_state_values(trial._trial_id, state, values)

    worker = tools.InProcess(search, tmp_path, at={2: tell}, ttl=1.2)
    worker.run()
    trials = {trial._trial_id: trial for trial in search.trials(search.spec.main)}
    assert trials[told[0]].state is state
    assert sum(trial.state is TrialState.COMPLETE for trial in trials.values()) == 4
    assert all(trial.state.is_finished() for trial in trials.values())
    row = search.leases.row(told[0])
    assert row is not None
    assert (row.state, row.failure) == ("finished", None)
    assert "told" in {attempt.why for attempt in search.leases.attempts_of(list(search.arms))}


def test_a_clock_that_jumps_changes_nothing(
    join: Join, tmp_path: Path, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour ahead and an hour back in the middle of trials: nobody loses one, and `wall` is of the database."""
    search = join()
    real, seen = time.time, [0.0]
    shift = [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])

    def jump(seconds: float) -> None:
        shift[0] = seconds
        seen.append(round(time.time() - real(), -1))

    worker = tools.InProcess(search, tmp_path, ttl=1.2, seconds=0.1)
    worker.at = {2: lambda: jump(3600.0), 5: lambda: jump(-3600.0)}
    worker.run()
    assert seen == [0.0, 3600.0, -3600.0]
    assert tools.checked(search, tools.TRIALS) == {"finished": tools.TRIALS}


def test_a_claim_beyond_the_slots_is_freed_at_once(join: Join, tmp_path: Path, tools: SimpleNamespace) -> None:
    """A claim that Optuna repeated, as its answer was lost: nobody beats for the second trial."""
    search, other = join(), join()
    worker = tools.InProcess(search, tmp_path, ttl=1.2, seconds=0.3)
    extra: list[int] = []

    def claim() -> None:
        extra.append(other.claim(worker.owner, lambda _: 0, ()).held.trial_id)
        tools.until(lambda: search.leases.row(extra[0]).state == "free")

    worker.at = {1: claim}
    worker.run()
    ends = tools.checked(search, tools.TRIALS)
    assert ends == {"finished": tools.TRIALS, "restarted": 2}
    assert all(row.lost == 0 for row in search.leases.details(list(search.arms)))
