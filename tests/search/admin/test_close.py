"""`search close`: nothing begins any more, for good; what is running ends as it would have."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from optuna.trial import TrialState

from search.admin.close import WITHDRAWN, close
from search.storage.database import open_storage
from search.storage.schema import FINISHED, FREE, HELD, PAUSED
from search.storage.searches import CLOSED
from search.storage.statements import LeaseLost, Owner, Refused
from search.study.adapter import Claim, StudyAdapter
from trainer.errors import UserError

ARMS = """
[[enqueue]]
"optim.lr" = 1e-3
[[arms]]
name = "fixed"
set = { "optim.name" = "adam" }
trials = 3
"""
ME = Owner("me", "here")
COMMAND = """
import os, runpy, sys, warnings
warnings.simplefilter("ignore")  # that the package's main module is known already
os.chdir({folder!r})
sys.argv = {words!r}
runpy.run_module("search", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def study(small_study: Callable[..., str]) -> Callable[[int], str]:
    """The text of a search with so many trials and two arms."""
    return lambda trials: small_study(epochs=3, trials=trials, in_flight=20, more=ARMS)


@pytest.fixture
def join(
    database_url: str, open_again: Callable[..., StudyAdapter], study: Callable[[int], str]
) -> Callable[..., StudyAdapter]:
    """Open the one search of the test once more, as another process would."""
    return partial(open_again, database_url, "over", study(40))


def claim(search: StudyAdapter) -> Claim:
    return search.claim(ME, lambda _row: 0, ())


def begun(search: StudyAdapter) -> Claim:
    """A claimed trial with a stored run and one reported epoch."""
    claimed = claim(search)
    run = claimed.arm.resolve(search.suggest(claimed))
    search.commit(claimed, run.model_dump_json(exclude_none=True), "{}")
    search.report(claimed.held, 1, 0.5, {"epoch": 1})
    return claimed


def pause(search: StudyAdapter, claimed: Claim) -> None:
    search.leases.change(claimed.held, {"state": PAUSED, "owner": None}, ends="paused")


def test_each_state_goes_where_the_table_of_states_sends_it(join, database_url):
    search = join()
    free, held, paused = begun(search), begun(search), begun(search)
    search.leases.give_back(free.held)
    pause(search, paused)
    search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    search.enqueue(search.spec.arm("fixed"), {"optim.lr": 1e-2})
    again = {"withdrawn": 0, "pruned": 0, "held": 1, "free": 1}
    # The file's own trial was the first that was claimed.
    assert close(search.opened, database_url, search.search_id) == again | {"withdrawn": 2, "pruned": 1}
    assert close(search.opened, database_url, search.search_id) == again
    rows = {r.trial_id: r for r in search.leases.details(list(search.arms))}
    assert [rows[c.held.trial_id].state for c in (free, held, paused)] == [FREE, HELD, FINISHED]
    trials = {t._trial_id: t for arm in search.spec.arms for t in search.trials(arm)}
    assert trials[paused.held.trial_id].state == TrialState.PRUNED
    assert trials[paused.held.trial_id].values == [0.5]
    withdrawn = [t for t in trials.values() if t.state == TrialState.FAIL]
    assert [(rows[t._trial_id].state, rows[t._trial_id].failure) for t in withdrawn] == [(FINISHED, WITHDRAWN)] * 2


def test_a_closed_search_lets_running_trials_end_and_begins_none(join, database_url):
    search = join()
    free, held = begun(search), begun(search)
    search.leases.give_back(free.held)
    close(search.opened, database_url, search.search_id)
    search.complete(held.held, 0.6, {"weights": "w"})
    taken = claim(search)
    assert taken.held.trial_id == free.held.trial_id
    search.complete(taken.held, 0.7, {"weights": "w"})
    with pytest.raises(Refused, match=CLOSED):
        claim(search)
    with pytest.raises(UserError, match=f"{CLOSED}; start a study of another name"):
        search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    assert [r.state for r in search.leases.details(list(search.arms))] == [FINISHED] * 2
    assert search.searches.closed(search.search_id)[0].text == CLOSED


def test_neither_a_raised_budget_nor_a_new_arm_opens_it_again(join, open_again, database_url, study):
    first = join()
    close(first.opened, database_url, first.search_id)
    first.searches.ask_to_stop(first.search_id, None)
    more = study(80) + '[[arms]]\nname = "more"\nset = { "optim.name" = "sgd" }\n'
    later = open_again(database_url, "over", more)
    with pytest.raises(Refused, match=CLOSED):
        claim(later)
    assert later.counts()["more"].waiting == later.counts()["kd"].waiting == 0


def test_what_ended_by_its_budget_goes_on_when_that_is_raised(join):
    search = join("budget.max_failed=1")
    search.fail(claim(search).held, "nan", "not finite")
    with pytest.raises(Refused, match="max_failed"):
        claim(search)
    assert claim(join("budget.max_failed=3")).held.number == 1


def test_who_is_taken_out_of_a_pause_meanwhile_is_left_alone(join, database_url):
    """The commit decides, not what was read before it."""
    search, other = join(), join()
    paused = begun(search)
    pause(search, paused)
    (seen,) = [row for row in search.leases.of_studies(list(search.arms)) if row.state == PAUSED]
    promoted = other.leases.acquire(seen, ME, resume_epoch=1, lost=False)
    assert promoted is not None
    withdraw = search.opened.fence.withdraw(paused.held.trial_id, paused=True, lease={})
    with pytest.raises(LeaseLost), withdraw:
        search.opened.storage.set_trial_state_values(paused.held.trial_id, TrialState.PRUNED)
    assert close(search.opened, database_url, search.search_id)["pruned"] == 0
    other.complete(promoted, 0.9, {"weights": "w"})


def test_nothing_slips_in_behind_a_close(join, database_url):
    """Two that claim and enqueue as fast as they can: each success is counted, and no trial waits afterwards."""
    # With the budget of the file they would soon be refused for that, where SQLite lets the closer wait for its turn.
    others = [join("budget.trials=4000") for _ in range(2)]
    closer = join("budget.trials=4000")
    got: list[list[str]] = [[], []]
    errors: list[BaseException] = []

    def press(search: StudyAdapter, done: list[str]) -> None:
        try:
            while True:
                search.enqueue(search.spec.main, {"optim.lr": 1e-2})
                done.append("enqueued")
                search.leases.give_back(claim(search).held)
                done.append("claimed")
                time.sleep(0.002)  # SQLite's lock has no queue: who comes back at once has it again
        except (Refused, UserError) as refused:
            if CLOSED not in str(refused):
                errors.append(refused)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=press, args=pair) for pair in zip(others, got, strict=True)]
    for thread in threads:
        thread.start()
    while sum(map(len, got)) < 8 and not errors:
        time.sleep(0.005)
    found = close(closer.opened, database_url, closer.search_id)
    for thread in threads:
        thread.join(30)
    assert errors == []
    counts = closer.counts()
    assert sum(c.waiting for c in counts.values()) == 0
    assert sum(c.running for c in counts.values()) == found["free"] + found["held"]
    rows = closer.leases.details(list(closer.arms))
    assert sum(c.failed for c in counts.values()) == found["withdrawn"] == sum(r.failure == WITHDRAWN for r in rows)
    assert {r.trial_id for r in rows} == {t._trial_id for arm in closer.spec.arms for t in closer.trials(arm)}


@pytest.mark.slow
def test_running_workers_end_with_0_and_so_does_one_that_comes_later(database_url, tmp_path, fork, study):
    (tmp_path / "over.toml").write_text(study(200))
    words = ["simulate", "over.toml", "--slots", "2", "--epoch-seconds", "0.3", "--as-worker"]

    def started(*words: str) -> Any:
        return fork(COMMAND.format(folder=str(tmp_path), words=["search", *words]), OPTUNA_STORAGE=database_url)

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        """Both outputs are one."""
        child = started(*words)
        return subprocess.CompletedProcess(words, child.wait(60), child.log, child.log)

    workers = [started(*words) for _ in range(2)]
    try:
        opened = open_storage(database_url)
        end = time.monotonic() + 60
        while (row := opened.searches.search("over")) is None or len(
            opened.leases.of_studies([arm.study_id for arm in opened.searches.arms_of(row.search_id)])
        ) < 4:
            assert time.monotonic() < end
            time.sleep(0.05)
        done = run("close", "over.toml", "--json")
        assert done.returncode == 0, done.stdout
        figures = json.loads(done.stdout)
        assert (figures["study"], figures["before"]) == ("over", False)
        assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    rows = opened.leases.details([arm.study_id for arm in opened.searches.arms_of(row.search_id)])
    opened.engine.dispose()
    assert {r.state for r in rows} == {FINISHED}
    assert 4 <= len(rows) < 203
    if not database_url.startswith("sqlite"):
        return  # what is printed afterwards is the same on both
    again = run("close", "over")
    words_of_it = "over: closed before; waiting trials withdrawn 0, paused trials pruned 0"
    assert again.stdout == f"{words_of_it}  [{database_url}]\nnext: python -m search report over\n"
    assert run("stop", "over").stdout.startswith("over: closed for good already")
    late = run(*words)
    assert late.returncode == 0
    assert f"ends: {CLOSED}" in late.stderr
    for refused in (run("enqueue", "over.toml", "optim.lr=1e-2"), run("close", "ower")):
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
    assert CLOSED in run("status", "over").stdout
    assert "closed for good" in run("stop", "over", "--undo").stdout
