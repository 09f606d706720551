"""A search whose trials are paused and promoted by a model of curves: slots, workers, and that it always ends."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from search.execution.checkpoint_writer import on_hand
from search.storage.schema import PAUSED
from search.storage.statements import LeftEmpty, Owner, Refused
from search.study.adapter import Claim, StudyAdapter

ME, OTHER = Owner("me", "here"), Owner("other", "there")
RULE = """
[pruner]
name = "curves"
min_epochs = 1
startup = 2
"""
Make = Callable[..., Any]


@pytest.fixture
def join(sqlite_url: str, open_again: Make, small_study: Make) -> Callable[..., StudyAdapter]:
    """Open the one search of the test once more, as another process would: `join("pruner.startup=3")`."""
    return partial(open_again, sqlite_url, "curves", small_study(epochs=8, trials=6, in_flight=6, more=RULE))


def begin(search: StudyAdapter, owner: Owner = ME) -> Claim:
    claimed = search.claim(owner, on_hand, ())
    assert claimed.seen is None
    run = claimed.arm.resolve(search.suggest(claimed))
    search.commit(claimed, run.model_dump_json(exclude_none=True), "{}")
    return claimed


def train(search: StudyAdapter, claimed: Claim, *scores: float) -> bool:
    """Report these scores from where it stands, until it is paused; whether it was."""
    for epoch, score in enumerate(scores, claimed.resume_epoch + 1):
        search.report(claimed.held, epoch, score, {"epoch": epoch})
        if search.pauses(claimed.held):
            search.leases.pause(claimed.held)
            return True
    return False


def finish(search: StudyAdapter, claimed: Claim, score: float) -> None:
    """Train it to its end whatever the rule says."""
    for epoch in range(1, 9):
        search.report(claimed.held, epoch, score * (0.7 + 0.3 * epoch / 8), {"epoch": epoch})
    search.complete(claimed.held, score, {})


def go_on(search: StudyAdapter, owner: Owner = ME) -> Claim:
    return search.claim(owner, lambda row: row.epoch, ())


def test_the_promising_goes_on_in_any_worker_and_a_slot_beside_it_stays_empty(join):
    search, other = join("pruner.idle_below=0.7"), join("pruner.idle_below=0.7")
    assert train(search, begin(search), 0.6)  # a second one has to begin first
    assert train(search, begin(search), 0.4)
    best = go_on(other, OTHER)
    assert (best.held.number, best.resume_epoch) == (0, 1)
    assert not train(other, best, 0.7, 0.8, 0.85, 0.88)
    with pytest.raises(LeftEmpty, match="a slot is left empty, so that the promising train faster"):
        go_on(other, OTHER)
    go_on(search)  # a worker that holds nothing never waits for others
    go_on(join("pruner.idle_below=0"), OTHER)


def test_it_keeps_its_slot_at_a_rung_and_its_verdict_stays(join):
    search = join()
    train(search, begin(search), 0.4)
    best = begin(search)
    search.report(best.held, 1, 0.6, {"epoch": 1})
    assert not search.pauses(best.held)
    search.leases.give_back(best.held)
    again = go_on(join(), OTHER)
    assert again.held.number == best.held.number
    train(search, begin(search), 0.9)  # by now it would be paused
    assert not search.pauses(again.held)


def test_a_promotion_holds_where_the_checkpoint_of_the_rung_is_not_there(join):
    """Else two that are better in turn, each before the other's epoch is stored, would be paused for ever."""
    search = join()
    assert train(search, begin(search), 0.6)
    assert train(search, begin(search), 0.5)
    again = search.claim(ME, lambda _: 0, ())
    assert (again.held.number, again.resume_epoch) == (0, 0)
    search.report(again.held, 1, 0.1, {"epoch": 1})
    assert not search.pauses(again.held)
    search.report(again.held, 2, 0.1, {"epoch": 2})
    assert search.pauses(again.held)


def test_what_its_worker_still_writes_gets_no_slot_now(join):
    search = join("pruner.idle_below=0")
    assert train(search, begin(search), 0.6)
    assert train(search, begin(search), 0.5)
    assert search.claim(ME, on_hand, (), [1, 2]).seen is None
    assert go_on(search).held.number == 0


def test_it_decides_by_what_its_worker_holds_in_its_slots(join):
    """Two that come to a rung together: with two slots the second stays, beside a paused one that is better."""
    search = join("pruner.idle_below=0")
    better, good = begin(search), begin(search)
    search.report(better.held, 1, 0.60, {"epoch": 1})
    search.report(good.held, 1, 0.59, {"epoch": 1})
    beside = [better.held.trial_id, good.held.trial_id]
    full = join("pruner.idle_below=0", "budget.trials=2")  # none to begin
    assert full.pauses(good.held, beside=beside, slots=1)
    assert not full.pauses(good.held, beside=beside, slots=2)


def test_a_search_ends_by_itself_where_nothing_runs_and_nothing_paused_is_worth_more(join, worker_of, settings):
    search = join("pruner.startup=6")
    finish(search, begin(search), 0.9)
    finish(search, begin(search), 0.8)
    for score in (0.1, 0.11, 0.12, 0.13):
        assert train(search, begin(search), score)
    paused = search.leases.of_studies(list(search.arms))
    assert [row.state for row in paused] == [PAUSED] * 4
    assert search.promising(paused) == []
    with pytest.raises(Refused, match="every arm has its trials"):
        go_on(search)
    assert worker_of(search, settings()).run().text == "every arm has its trials"
    counts = search.counts()["kd"]
    assert (counts.complete, counts.pruned, counts.running) == (2, 4, 0)


def test_a_search_goes_on_where_nothing_paused_is_worth_more_and_budget_is_left(join, worker_of, settings):
    search = join("pruner.startup=1")
    for score in (0.8, 0.85, 0.9):
        finish(search, begin(search), score)
    assert train(search, begin(search), 0.01)
    assert search.promising(search.leases.of_studies(list(search.arms))) == []
    assert worker_of(search, settings()).run().text == "every arm has its trials"
    counts = search.counts()["kd"]
    assert (counts.complete + counts.pruned, counts.running, counts.waiting) == (6, 0, 0)


@pytest.mark.parametrize("objective", ['maximize = "dice"', 'minimize = "hd95_missed_as_diagonal"'])
def test_a_whole_search_beside_a_control_that_is_not_pruned(
    sqlite_url, open_again, small_study, worker_of, settings, objective
):
    text = small_study(epochs=8, trials=9, in_flight=4, more=RULE.replace("startup = 2", "startup = 3"))
    text = text.replace('maximize = "dice"', objective)
    control = '[[arms]]\nname = "plain"\nset = { "optim.name" = "sgd" }\ntrials = 3\npruner = { name = "none" }\n'
    search = open_again(sqlite_url, "both", text + control)
    assert worker_of(search, settings(slots=3)).run().text == "every arm has its trials"
    counts = search.counts()
    assert (counts["plain"].complete, counts["plain"].pruned) == (3, 0)
    kd = counts["kd"]
    assert (kd.complete + kd.pruned, kd.running, kd.waiting) == (9, 0, 0)
    assert kd.complete >= 1
    assert kd.pruned >= 1
    assert not list(settings().runs.rglob("epoch-*"))
    rows = {row.trial_id: row for row in search.leases.details(list(search.arms))}
    trials = search.trials(search.spec.main)
    assert all(list(trial.intermediate_values) == list(range(1, rows[trial._trial_id].epoch + 1)) for trial in trials)
    assert any(rows[trial._trial_id].token > 1 and trial.state.name == "COMPLETE" for trial in trials)


def test_keep_paused_leaves_them(join, worker_of, settings):
    search = join("pruner.keep_paused=true")
    assert worker_of(search, settings(slots=3)).run().text == "every arm has its trials"
    left = [row for row in search.leases.of_studies(list(search.arms)) if row.state == PAUSED]
    assert left
    assert all(on_hand(row) for row in left)
