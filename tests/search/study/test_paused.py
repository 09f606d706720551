"""A paused trial: nobody holds it, samplers see it pruned, any worker goes on with it, and in the end it is PRUNED."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from optuna.trial import TrialState

from search.admin.close import close
from search.commands.status import lines, look
from search.execution.checkpoint_writer import on_hand
from search.samplers.storage_view import paused as as_pruned
from search.samplers.storage_view import study_through
from search.storage.leases import paused_of
from search.storage.schema import FINISHED, HELD, PAUSED
from search.storage.statements import LeaseLost, Owner, Refused
from search.study.adapter import Claim, StudyAdapter
from search.study.outcomes import end_all_paused, end_paused
from search.study.progress import read_progress

ME, OTHER = Owner("me", "here"), Owner("other", "there")
RULE = """
[pruner]
name = "promote"
min_epochs = 1
"""
Make = Callable[..., Any]


@pytest.fixture
def join(database_url: str, open_again: Make, small_study: Make) -> Callable[..., StudyAdapter]:
    """Open the one search of the test once more, as another process would."""
    text = small_study(epochs=8, trials=6, in_flight=3, more=RULE)
    return partial(open_again, database_url, "paused", text)


def begun(search: StudyAdapter, score: float, owner: Owner = ME) -> Claim:
    """A new trial with one reported epoch, judged at its rung and paused there unless it goes on."""
    claimed = search.claim(owner, on_hand, ())
    assert claimed.seen is None
    run = claimed.arm.resolve(search.suggest(claimed))
    search.commit(claimed, run.model_dump_json(exclude_none=True), "{}")
    search.report(claimed.held, 1, score, {"epoch": 1})
    if search.pauses(claimed.held):
        search.leases.pause(claimed.held)
    return claimed


def state(search: StudyAdapter, claimed: Claim) -> str:
    row = search.leases.row(claimed.held.trial_id)
    assert row is not None
    return row.state


def test_a_paused_trial_goes_on_under_its_number_where_it_is_among_the_best(join):
    search, other = join(), join()
    one = begun(search, 0.6)
    assert state(search, one) == PAUSED
    with pytest.raises(LeaseLost):
        search.report(one.held, 2, 0.7, {"epoch": 2})
    two = begun(search, 0.4)
    assert (state(search, two), begun(search, 0.5).held.number) == (PAUSED, 2)
    # Three stand at the rung, and one in three passes it.
    again = other.claim(OTHER, lambda row: row.epoch, ())
    assert (again.held.number, again.held.token, again.resume_epoch) == (0, 2, 1)
    assert state(search, one) == HELD
    assert not other.pauses(again.held)  # it passed this rung
    other.report(again.held, 2, 0.7, {"epoch": 2})
    assert not other.pauses(again.held)
    assert search.claim(ME, on_hand, ()).held.number == 3
    attempts = [(row.trial_id == one.held.trial_id, row.token, row.why) for row in search.leases.attempts_of([1])]
    assert (True, 1, "paused") in attempts
    assert (True, 2, None) in attempts


def test_a_better_one_goes_on_without_a_pause_and_its_verdict_stays(join):
    search = join()
    begun(search, 0.4), begun(search, 0.5)
    best = begun(search, 0.6)
    assert state(search, best) == HELD
    search.leases.give_back(best.held)
    again = join().claim(OTHER, lambda row: row.epoch, ())
    assert again.held.number == best.held.number
    for _ in range(3):
        begun(search, 0.9)  # by now it would be paused
    assert not search.pauses(again.held)


def test_promotion_keeps_to_trials_in_flight_and_to_a_closed_search(join, database_url):
    search = join()
    paused = [begun(search, score) for score in (0.6, 0.5, 0.4)]
    (row,) = search.promising(search.leases.of_studies(list(search.arms)))
    promote = partial(search.leases.promote, row, ME, resume_epoch=1, search_id=search.search_id, notes={})
    with search.opened.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE kd_arm SET in_flight = 0")
    with pytest.raises(Refused, match="in flight"):
        promote()
    with search.opened.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE kd_arm SET in_flight = 3")
    assert close(search.opened, database_url, search.search_id)["pruned"] == 3
    with pytest.raises(Refused, match="closed"):
        promote()
    assert {state(search, each) for each in paused} == {FINISHED}


def test_two_workers_never_go_on_with_the_same_one_nor_end_one_that_goes_on(join):
    search = join()
    for score in (0.6, 0.5, 0.4):
        begun(search, score)
    (row,) = search.promising(search.leases.of_studies(list(search.arms)))
    promote = partial(search.leases.promote, row, resume_epoch=1, search_id=search.search_id, notes={})
    assert promote(ME) is not None
    assert promote(OTHER) is None
    assert end_paused(search.opened, row.trial_id) is None


def test_a_checkpoint_that_is_named_after_the_rows_were_read_goes_too(join, database_url, tmp_path, monkeypatch):
    """Its holder still wrote it when the trial was paused; the end names what the row named in its own transaction."""
    search, other = join(), join()
    claims = [begun(search, score) for score in (0.6, 0.5)]
    rows = search.leases.of_studies(list(search.arms))
    late = [tmp_path / f"{claim.held.number}.pt" for claim in claims]
    for claim, path in zip(claims, late, strict=True):
        path.write_bytes(b"weights")
        assert other.leases.change_paused(claim.held, {"checkpoint": str(path), "checkpoint_sha256": "0"})
    (end,) = end_all_paused(search.opened, search.arms, rows[:1])
    assert end.checkpoint == str(late[0])
    monkeypatch.setattr(search.opened.leases, "of_studies", lambda _: rows)
    assert close(search.opened, database_url, search.search_id)["pruned"] == 1
    assert not late[1].exists()
    assert not other.leases.change_paused(claims[1].held, {"checkpoint": str(late[1])})


def test_a_checkpoint_that_a_killed_worker_never_named_goes_with_its_trial(join, worker_of, settings):
    search = join()
    one = begun(search, 0.1)
    unnamed = settings().runs / search.folder / "kd" / str(one.held.number) / "1" / "epoch-1.pt"
    unnamed.parent.mkdir(parents=True)
    unnamed.write_bytes(b"weights")
    worker_of(search, settings(slots=3)).run()
    assert state(search, one) == FINISHED
    assert not list(settings().runs.rglob("epoch-*"))


def test_samplers_see_it_pruned_and_the_database_keeps_it_running(join):
    search = join()
    one = begun(search, 0.6)
    study = search._study_of["kd"]
    rows = search.leases.of_studies(list(search.arms))
    seen = study_through(study, as_pruned(paused_of(rows).keys()))
    assert [t.state for t in seen.get_trials()] == [TrialState.PRUNED]
    assert [t.state for t in study.get_trials()] == [TrialState.RUNNING]
    assert search.counts()["kd"].admitted == 1
    assert end_paused(search.opened, one.held.trial_id) is not None
    (trial,) = study.get_trials()
    assert (trial.state, trial.values) == (TrialState.PRUNED, [0.6])
    assert end_paused(search.opened, one.held.trial_id) is None


def test_it_is_shown_as_paused(join):
    search = join()
    begun(search, 0.6), begun(search, 0.5)
    shown = look(search.opened, "paused")
    progress = read_progress(search.opened, "paused")
    assert (progress.arms["kd"].running, progress.arms["kd"].paused) == (0, 2)
    assert progress.arms["kd"].as_json()["paused"] == 2
    text = "\n".join(lines(shown))
    assert "running kd #0 (paused): epoch 1 of 8" in text
    assert "2 paused" in text


def test_the_best_two_go_on_when_all_are_admitted_and_the_rest_ends(join, worker_of, settings):
    search = join()
    assert worker_of(search, settings(slots=3)).run().text == "every arm has its trials"
    counts = search.counts()["kd"]
    assert (counts.complete + counts.pruned, counts.running, counts.waiting) == (6, 0, 0)
    assert counts.complete >= 2
    assert not list(settings().runs.rglob("epoch-*"))
    rows = search.leases.details(list(search.arms))
    promoted = [row for row in rows if row.token > 1]
    assert promoted
    trials = {trial.number: trial for trial in search.trials(search.spec.main)}
    assert all(len(trials[row.number].intermediate_values) == row.epoch for row in promoted)


def test_keep_paused_leaves_them_for_close(database_url, open_again, small_study, worker_of, settings):
    text = small_study(epochs=8, trials=6, in_flight=3, more=RULE + "keep_paused = true\n")
    search = open_again(database_url, "kept", text)
    assert worker_of(search, settings(slots=3)).run().text == "every arm has its trials"
    left = [row for row in search.leases.of_studies(list(search.arms)) if row.state == PAUSED]
    assert left
    assert all(on_hand(row) == 1 for row in left)
    assert close(search.opened, database_url, search.search_id)["pruned"] == len(left)
    assert not list(settings().runs.rglob("epoch-*"))


def test_device_hours_that_are_over_end_what_is_paused(database_url, open_again, small_study, worker_of, settings):
    text = small_study(epochs=8, trials=40, in_flight=3, more=RULE)
    search = open_again(database_url, "hours", text, "budget.gpu_hours=0.0001")
    assert "gpu_hours" in worker_of(search, settings(slots=3)).run().text
    counts = search.counts()["kd"]
    assert counts.pruned
    assert counts.running == 0
    assert search.leases.of_studies(list(search.arms)) == []
