"""Who runs which trial: taking, watching, giving up, closing, and what a study that changed may do."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.execution.held_trials import HeldTrials
from search.execution.messages import WorkerSettings
from search.storage import schema
from search.storage.leases import AttemptRow, EpochCount, LeaseDetails, LeaseHandle, LeaseRow, StaleLeases
from search.storage.schema import attempts, leases, searches
from search.storage.searches import ArmRow, SearchRow
from search.storage.statements import Owner, Refused
from search.study.adapter import Claim, StudyAdapter
from trainer.errors import UserError

BUDGET = """max_failed = 2
wall = "1h"
gpu_hours = 2.0
[pruner]
name = "halving"
"""
ARMS = """
[[arms]]
name = "wide"
set = { "student.width" = 6 }
trials = 4
"""
ME, OTHER = Owner("me", "here"), Owner("other", "there")

Join = Callable[..., StudyAdapter]


@pytest.fixture
def study(small_study: Callable[..., str]) -> str:
    return small_study(epochs=9, trials=8, in_flight=8, more=BUDGET)


@pytest.fixture
def join(database_url: str, study: str, open_again: Join) -> Join:
    """Open the one search of the test once more, as another process would."""
    return lambda *changes, text=study: open_again(database_url, "leased", text, *changes)


def nothing_on_hand(_row: LeaseRow) -> int:
    return 0


def claim(search: StudyAdapter, owner: Owner = ME, stale: tuple[LeaseRow, ...] = ()) -> Claim:
    return search.claim(owner, nothing_on_hand, stale)


def seen(search: StudyAdapter, held: LeaseHandle) -> LeaseRow:
    return next(row for row in search.leases.of_studies([held.study_id]) if row.trial_id == held.trial_id)


def trained(search: StudyAdapter, epochs: int, owner: Owner = ME) -> LeaseHandle:
    """A held trial with reports up to an epoch, a rung at each report, and a checkpoint's name."""
    claimed = claim(search, owner)
    search.suggest(claimed)
    search.commit(claimed, "{}", "{}")
    for epoch in range(1, epochs + 1):
        changes = {"epoch": epoch, "checkpoint": f"epoch-{epoch}.pt", "checkpoint_sha256": "0" * 64, "best_score": 0.5}
        search.report(claimed.held, epoch, epoch / 10, changes)
        search.pruned(claimed.held)
    return claimed.held


def search_row(search: StudyAdapter) -> Any:
    row = search.searches.search("leased")
    assert row is not None
    return row


def rungs(search: StudyAdapter, number: int) -> list[str]:
    return [key for key in search.trials(search.spec.main)[number].system_attrs if key.startswith("completed_rung")]


def test_epochs_are_counted_by_study_without_those_of_failed_trials(join: Join) -> None:
    search = join()
    done, bad, _ = trained(search, 4), trained(search, 3), trained(search, 2)
    search.complete(done, 0.5, {})
    search.fail(bad, "bug", "a test's")
    assert search.leases.epoch_counts([done.study_id, -1]) == {done.study_id: EpochCount(1, 1, 4, 2)}


# ---- taking


def test_a_take_raises_the_token_and_forgets_what_is_trained_again(join: Join) -> None:
    search = join()
    held = trained(search, 4)
    assert rungs(search, held.number)
    before = rungs(search, held.number)
    taken = search.leases.acquire(seen(search, held), OTHER, resume_epoch=4, lost=True)
    assert taken == replace(held, token=2)
    trial = search.trials(search.spec.main)[0]
    assert (list(trial.intermediate_values), rungs(search, 0)) == ([1, 2, 3, 4], before)

    assert taken is not None
    again = search.leases.acquire(seen(search, taken), ME, resume_epoch=0, lost=True)
    assert again == replace(held, token=3)
    trial = search.trials(search.spec.main)[0]
    assert (trial.intermediate_values, rungs(search, 0)) == ({}, [])
    row = search.leases.row(held.trial_id)
    assert row is not None
    assert (row.epoch, row.checkpoint, row.best_score, row.owner, row.lost) == (0, None, None, "me", 2)
    tries = search.leases.attempts_of([held.study_id])
    assert [(t.token, t.owner, t.first_epoch, t.why) for t in tries] == [
        (1, "me", 1, "lost"),
        (2, "other", 5, "lost"),
        (3, "me", 1, None),
    ]
    assert all((t.ended is None) == (t.why is None) for t in tries)


def test_a_take_that_fails_half_way_changes_nothing(join: Join) -> None:
    """The token, the reports and the attempts change together."""
    search = join()
    held = trained(search, 3)
    row, trial = search.leases.row(held.trial_id), search.trials(search.spec.main)[0]
    with search.opened.engine.begin() as connection:
        blocked = dict(trial_id=held.trial_id, token=2, owner="x", host="x", first_epoch=1, began=0.0)
        connection.execute(attempts.insert().values(**blocked))
    with pytest.raises(Refused, match="attempt 2 already"):
        search.leases.acquire(seen(search, held), OTHER, resume_epoch=0, lost=True)
    assert search.leases.row(held.trial_id) == row
    assert search.trials(search.spec.main)[0].intermediate_values == trial.intermediate_values
    assert [t.why for t in search.leases.attempts_of([held.study_id])] == [None, None]


def test_a_lease_is_taken_only_as_it_was_seen(join: Join) -> None:
    search = join()
    held = trained(search, 1)
    row = seen(search, held)
    assert search.leases.heartbeat([held]) == set()
    assert search.leases.acquire(row, OTHER, resume_epoch=1, lost=True) is None  # it lives
    search.leases.give_back(held)
    free = seen(search, held)
    assert search.leases.acquire(row, OTHER, resume_epoch=1, lost=True) is None
    taken = search.leases.acquire(free, OTHER, resume_epoch=1, lost=False)
    assert taken is not None
    assert search.leases.acquire(free, ME, resume_epoch=1, lost=False) is None  # somebody was quicker
    search.complete(taken, 0.5, {})
    assert search.leases.acquire(replace(free, token=2, state="held"), ME, resume_epoch=1, lost=True) is None


def test_free_goes_before_waiting_before_new(join: Join) -> None:
    search = join()
    given = trained(search, 1)
    search.leases.give_back(given)
    search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    order = [claim(search) for _ in range(3)]
    assert [c.held.number for c in order] == [0, 1, 2]
    assert (order[0].held.token, order[0].seen is not None) == (2, True)
    assert [search.suggest(c)["optim.lr"] == 1e-2 for c in order[1:]] == [True, False]


def test_an_owner_takes_its_own_trials_back_at_once_and_nobody_elses(join: Join) -> None:
    search, restarted = join(), join()
    own, others = trained(search, 2), trained(search, 1, OTHER)
    claims = restarted.reacquire(ME, lambda row: row.epoch)
    assert [c.held for c in claims] == [replace(own, token=2)]
    row = search.leases.row(own.trial_id)
    assert row is not None
    assert (row.lost, row.epoch, row.owner) == (0, 2, "me")  # a restart is not charged
    assert search.leases.attempts_of([own.study_id])[0].why == "restarted"
    assert search.leases.heartbeat([own, others]) == {own.trial_id}  # the rank that still lives is a zombie now


# ---- watching


def row_of(number: int, *, beat: int = 0, token: int = 1, state: str = "held") -> LeaseRow:
    return LeaseRow(number, 1, number, state, "w", token, beat, 0, 0, None, None, None, None)


def test_nothing_is_stale_before_a_whole_time_to_live_of_contact() -> None:
    watch = StaleLeases(60.0)
    for now in range(0, 60, 5):
        assert watch.stale([row_of(1)], 1000.0 + now) == []
    assert watch.stale([row_of(1)], 1060.0) == [row_of(1)]


def test_a_beat_or_another_token_begins_anew() -> None:
    watch = StaleLeases(60.0)
    for now in range(0, 55, 5):
        watch.stale([row_of(1), row_of(2), row_of(3)], float(now))
    assert watch.stale([row_of(1, beat=1), row_of(2, token=2), row_of(3)], 55.0) == []
    assert watch.stale([row_of(1, beat=1), row_of(2, token=2), row_of(3)], 60.0) == [row_of(3)]
    for now in range(65, 115, 5):
        watch.stale([row_of(1, beat=1), row_of(2, token=2)], float(now))
    assert watch.stale([row_of(1, beat=1), row_of(2, token=2)], 115.0) == [row_of(1, beat=1), row_of(2, token=2)]


@pytest.mark.parametrize("noticed", [True, False], ids=["errors", "a pause of the watcher"])
def test_an_outage_proves_nothing(noticed: bool) -> None:
    """Neither where calls failed nor where the watcher itself stood still (suspended, swapped out)."""
    watch = StaleLeases(60.0)
    for now in range(0, 55, 5):
        watch.stale([row_of(1)], float(now))
    if noticed:
        watch.interrupt()
    back = 400.0
    for now in range(0, 60, 5):
        assert watch.stale([row_of(1)], back + now) == []
    assert watch.stale([row_of(1)], back + 60.0) == [row_of(1)]


def test_free_trials_are_never_stale() -> None:
    watch = StaleLeases(60.0)
    for now in range(0, 200, 10):
        assert watch.stale([row_of(1, state="free")], float(now)) == []


# ---- closing


def test_a_trial_whose_worker_vanished_three_times_fails(join: Join, tmp_path: Path) -> None:
    """Told by whoever takes it; giving back is not charged."""
    search = join()
    members = HeldTrials(search, WorkerSettings(OTHER, 1, tmp_path, 1, {}, breach=lambda _: None))
    held = claim(search).held
    for _ in range(5):
        search.leases.give_back(held)
        held = claim(search).held
    for lost in (1, 2):
        taken = claim(search, OTHER, (seen(search, held),))
        members.begin(taken)
        assert members.held.pop(held.trial_id).lease == taken.held
        row = search.leases.row(held.trial_id)
        assert row is not None
        assert (row.lost, row.state) == (lost, "held")
        held = taken.held
    members.begin(claim(search, OTHER, (seen(search, held),)))
    assert members.held == {}
    row = search.leases.row(held.trial_id)
    assert row is not None
    assert (row.state, row.failure, row.lost) == ("finished", "lost", 3)
    assert search.counts()["kd"].failed == 1
    assert search.leases.attempts_of([held.study_id])[-1].why == "lost"


def age(search: StudyAdapter, **values: float) -> None:
    with search.opened.engine.begin() as connection:
        connection.execute(searches.update().values(**values))


def fail_two(search: StudyAdapter) -> None:
    for _ in range(2):
        search.fail(claim(search).held, "bug", "broken")


def use_up(search: StudyAdapter) -> None:
    with search.opened.engine.begin() as connection:
        connection.execute(leases.update().values(gpu_seconds=7200.0))


CLOSINGS: dict[str, tuple[Callable[[StudyAdapter], None], str]] = {
    "max_failed": (fail_two, "max_failed: 2 trials failed"),
    "wall": (lambda s: age(s, began=1.0), "wall: 1.00 h are over"),
    "gpu_hours": (use_up, "gpu_hours: 2.0 are used"),
    "stop": (lambda s: s.searches.ask_to_stop(s.search_id, "drain"), r"the search was asked to stop \(running"),
}


@pytest.mark.parametrize("kind", CLOSINGS)
def test_a_closed_search_admits_nothing_new_but_lets_free_trials_end(join: Join, kind: str) -> None:
    search = join()
    close, expected = CLOSINGS[kind]
    free = claim(search).held
    search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    assert search.searches.closed(search.search_id) == (None, None)
    search.leases.give_back(free)
    if kind == "max_failed":
        taken = claim(search)
        close(search)  # two others fail
        search.leases.give_back(taken.held)
        search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    else:
        close(search)
    taken = claim(search, OTHER)
    assert taken.held.trial_id == free.trial_id
    with pytest.raises(Refused, match=expected) as refused:
        claim(search, OTHER)
    assert refused.value.final
    search.complete(taken.held, 0.5, {})
    assert search.counts()["kd"].waiting == 1
    why, stop = search.searches.closed(search.search_id)
    assert why is not None
    assert (why.kind.name.lower(), why.text) == (kind, refused.value.reason)
    assert stop == ("drain" if kind == "stop" else None)


def test_the_clock_of_wall_begins_with_the_first_admission(join: Join) -> None:
    search = join()
    search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    assert search_row(search).began is None
    claim(search)
    began = search_row(search).began
    assert began > 1.6e9
    claim(search)
    assert search_row(search).began == began
    age(search, began=began - 3590.0)
    claim(search)
    age(search, began=began - 3601.0)
    with pytest.raises(Refused, match="wall"):
        claim(search)


# ---- opening


def test_a_changed_study_is_refused_with_the_difference(join: Join, study: str) -> None:
    search = join()
    with pytest.raises(UserError) as refused:
        join(text=study.replace("epochs = 9", "epochs = 5").replace("high = 1e-1", "high = 1e-2"))
    message = str(refused.value)
    assert "study 'leased' exists with another identity" in message
    assert "run.epochs: 9 -> 5" in message
    assert "0.1 -> 0.01" in message
    assert "--name" in message
    assert "\n" not in message
    again = join("budget.trials=9", "budget.in_flight=9", "sampler.seed=7", "budget.wall='2h'")  # these may change
    assert (again.folder, again.search_id) == (search.folder, search.search_id)
    assert search_row(again).wall_seconds == 7200.0
    assert [claim(again).held.number for _ in range(9)] == list(range(9))


def test_two_arms_share_by_need(join: Join, study: str) -> None:
    """The arm that is furthest behind its share is served first, so both end together."""
    search = join("budget.wall='2h'", text=study + ARMS)
    drawn = [claim(search).arm.name for _ in range(12)]
    for done in range(1, 13):
        main, wide = drawn[:done].count("kd"), drawn[:done].count("wide")
        assert abs(main / 8 - wide / 4) <= 0.25
    assert (drawn.count("kd"), drawn.count("wide")) == (8, 4)
    with pytest.raises(Refused):
        claim(search)
    assert {c.running for c in search.counts().values()} == {8, 4}


@pytest.mark.parametrize(
    ("row", "table"),
    [
        (LeaseDetails, schema.leases),
        (AttemptRow, schema.attempts),
        (SearchRow, schema.searches),
        (ArmRow, schema.arms),
    ],
)
def test_a_typed_row_has_the_columns_of_its_table(row: type[Any], table: sa.Table) -> None:
    columns = {column.name: column.nullable for column in table.columns}
    optional = {each.name: "None" in str(each.type) for each in fields(row)}
    assert optional == columns
