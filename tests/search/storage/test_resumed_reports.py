"""A trial that goes on from an earlier epoch is judged on what it reaches then, and rivals are too."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.execution.checkpoint_writer import on_hand
from search.execution.held_trials import HeldTrials
from search.execution.messages import EpochDone, WorkerSettings
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from trainer.reports import EpochReport

STUDY = (Path(__file__).parents[2] / "small.toml").read_text().replace("epochs = 4", "epochs = 9")
HALVING = ("pruner.name=halving", "pruner.min_epochs=2", "pruner.reduction=2", "pruner.warmup_epochs=0")


class Worker:
    """Holds trials and tells their epochs."""

    def __init__(self, search: StudyAdapter, name: str, runs: Path) -> None:
        self.search = search
        settings = WorkerSettings(Owner(name, "here"), 4, runs, 1, {}, breach=lambda _: None, ttl=600.0)
        self.members = HeldTrials(search, settings)

    def begin(self, *stale: Any) -> int:
        claim = self.search.claim(self.members.settings.owner, on_hand, stale)
        self.members.begin(claim)
        return claim.held.trial_id

    def tell(self, trial_id: int, epoch: int, dice: float) -> None:
        token = self.members.held[trial_id].lease.token
        self.members.store(EpochDone(trial_id, token, EpochReport(epoch, epoch - 1, {"dice": dice}, {}, {}, False)))


@pytest.fixture
def search(database_url: str, open_again: Callable[..., StudyAdapter]) -> StudyAdapter:
    return open_again(database_url, "again", STUDY, "budget.trials=4", "budget.in_flight=4", *HALVING)


def rungs(search: StudyAdapter, trial_id: int) -> dict[str, Any]:
    attributes = search.opened.storage.get_trial(trial_id).system_attrs
    return {key: value for key, value in attributes.items() if key.startswith("completed_rung")}


def test_an_epoch_with_a_rung_that_comes_out_otherwise_is_judged_anew(search: StudyAdapter, tmp_path: Path) -> None:
    own, theirs = Worker(search, "me", tmp_path), Worker(search, "other", tmp_path)
    first, *rivals = [own.begin() for _ in range(4)]
    for trial_id, dice in zip(rivals, (0.80, 0.81, 0.82), strict=True):
        own.tell(trial_id, 2, dice)
    own.tell(first, 1, 0.5)
    own.tell(first, 2, 0.9)  # the best, so it goes on; its worker dies before the epoch's checkpoint is on disk
    assert rungs(search, first) == {"completed_rung_0": 0.9}
    stale = next(row for row in search.leases.of_studies(list(search.arms)) if row.trial_id == first)
    taken = search.leases.acquire(stale, Owner("third", "there"), resume_epoch=1, lost=True)
    assert taken is not None
    assert search.opened.storage.get_trial(first).intermediate_values == {1: 0.5}
    assert rungs(search, first) == {}
    search.leases.give_back(taken)
    free = next(row for row in search.leases.of_studies(list(search.arms)) if row.trial_id == first)
    assert theirs.begin(free) == first
    theirs.tell(first, 2, 0.1)
    assert search.opened.storage.get_trial(first).state.name == "PRUNED"
    assert rungs(search, first) == {"completed_rung_0": 0.1}


@pytest.mark.parametrize("last", [0.6, 0.5, 0.7], ids=["another", "that of rung 0", "that of rung 1"])
def test_rungs_of_epochs_that_stay_are_kept(search: StudyAdapter, tmp_path: Path, last: float) -> None:
    """Also where an epoch that goes had the very score of one that stays, as a student has that learns nothing."""
    own = Worker(search, "me", tmp_path)
    trial_id = own.begin()
    for epoch, dice in ((2, 0.5), (3, 0.6), (4, 0.7), (5, last)):
        own.tell(trial_id, epoch, dice)
    assert rungs(search, trial_id) == {"completed_rung_0": 0.5, "completed_rung_1": 0.7}
    (row,) = search.leases.of_studies(list(search.arms))
    taken = search.leases.acquire(row, Owner("other", "there"), resume_epoch=4, lost=True)
    assert taken is not None
    assert rungs(search, trial_id) == {"completed_rung_0": 0.5, "completed_rung_1": 0.7}


def at_a_rung(search: StudyAdapter, own: Worker) -> int:
    """A trial whose report at the first rung is stored and not judged yet: worse than its three rivals."""
    first, *rivals = [own.begin() for _ in range(4)]
    for trial_id, dice in zip(rivals, (0.80, 0.81, 0.82), strict=True):
        own.tell(trial_id, 2, dice)
    search.report(own.members.held[first].lease, 2, 0.5, {})
    return first


@pytest.mark.parametrize("name", ["halving", "hyperband"])
def test_a_rung_s_verdict_is_the_same_whoever_asks_again(
    database_url: str, open_again: Callable[..., StudyAdapter], tmp_path: Path, name: str
) -> None:
    """Optuna itself answers prune at first, and then not, as it takes the rung for passed."""
    changes = ("budget.trials=4", "budget.in_flight=4", *HALVING, f"pruner.name={name}", "pruner.reduction=8")
    search = open_again(database_url, "again", STUDY, *changes)
    own = Worker(search, "me", tmp_path)
    trial_id = at_a_rung(search, own)
    held = own.members.held[trial_id].lease
    assert [search.pruned(held) for _ in range(3)] == [True] * 3
    assert rungs(search, trial_id) == {"completed_rung_0": 0.5}
    best = next(key for key in own.members.held if key != trial_id)
    search.report(own.members.held[best].lease, 3, 0.9, {})
    assert [search.pruned(own.members.held[best].lease) for _ in range(2)] == [False] * 2


def test_a_verdict_whose_end_was_lost_on_the_way_ends_the_trial_at_the_next_try(
    search: StudyAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Worker(search, "me", tmp_path)
    trial_id = at_a_rung(search, own)

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(search, "prune", broken)
    with pytest.raises(ConnectionError):
        own.tell(trial_id, 2, 0.5)
    monkeypatch.undo()
    own.tell(trial_id, 2, 0.5)
    assert search.opened.storage.get_trial(trial_id).state.name == "PRUNED"


def test_a_student_that_learns_nothing_is_judged_at_the_rung_that_it_trains_again(
    search: StudyAdapter, tmp_path: Path
) -> None:
    """Its score is the same in each epoch, so the rung's note does not tell of which one it is; its epoch is kept."""
    own = Worker(search, "me", tmp_path)
    dead, *rivals = [own.begin() for _ in range(4)]
    for epoch in (2, 4):
        for trial_id, dice in zip(rivals, (0.80, 0.81, 0.82), strict=True):
            if trial_id in own.members.held:
                own.tell(trial_id, epoch, dice)
    search.report(own.members.held[dead].lease, 1, 0.1, {})
    search.report(own.members.held[dead].lease, 2, 0.1, {})
    assert search.pruned(own.members.held[dead].lease)
    (row,) = [row for row in search.leases.of_studies(list(search.arms)) if row.trial_id == dead]
    taken = search.leases.acquire(row, Owner("other", "there"), resume_epoch=1, lost=True)
    assert taken is not None
    assert rungs(search, dead) == {}
    search.report(taken, 2, 0.1, {})
    assert [search.pruned(taken) for _ in range(2)] == [True, True]


@pytest.mark.parametrize("resumed", [1, 2])
def test_a_worker_that_takes_a_judged_trial_over_ends_it_unless_it_trains_the_rung_again(
    search: StudyAdapter, tmp_path: Path, resumed: int
) -> None:
    own, theirs = Worker(search, "me", tmp_path), Worker(search, "other", tmp_path)
    trial_id = at_a_rung(search, own)
    held = own.members.held[trial_id].lease
    checkpoint = tmp_path / "two.pt"
    checkpoint.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    search.leases.change(held, {"epoch": resumed, "checkpoint": str(checkpoint), "checkpoint_sha256": digest})
    assert search.pruned(held)
    search.leases.give_back(held)
    assert theirs.begin() == trial_id
    trial = search.opened.storage.get_trial(trial_id)
    if resumed == 2:
        assert (trial.state.name, trial.value, theirs.members.inbox.empty()) == ("PRUNED", 0.5, True)
        return
    assert theirs.members.inbox.get_nowait().resume is not None
    assert trial.intermediate_values == {}
    theirs.tell(trial_id, 2, 0.9)
    assert not rungs(search, trial_id).keys() - {"completed_rung_0"}
    assert search.opened.storage.get_trial(trial_id).state.name == "RUNNING"
