"""The whole service with curves in place of training: killed workers lose nothing, asked ones give back at once."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from search import __main__ as search_main
from search.spec.load import load
from search.storage.database import open_storage
from search.study.adapter import StudyAdapter
from search.study.create import attach_search
from trainer.errors import UserError

TRIALS, EPOCHS = 20, 5
PRUNER = """
[pruner]
name = "median"
startup = 3
warmup_epochs = 1
"""


@pytest.fixture
def study(tmp_path: Path, small_study: Callable[..., str]) -> Path:
    path = tmp_path / "simulated.toml"
    path.write_text(small_study(epochs=EPOCHS, trials=TRIALS, in_flight=12, more=PRUNER))
    return path


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, database_url: str) -> str:
    """The URL as a careful user gives it: not in the arguments, where others read it."""
    monkeypatch.setenv("OPTUNA_STORAGE", database_url)
    return database_url


@pytest.fixture
def attached(study: Path, environment: str) -> Iterator[StudyAdapter]:
    """The search after the workers opened it."""
    end = time.monotonic() + 60
    while True:
        opened = open_storage(environment)
        if opened.searches.search("simulated") is not None:
            break
        opened.engine.dispose()
        assert time.monotonic() < end, "no worker opened the search"
        time.sleep(0.1)
    yield attach_search(opened, load(study))
    opened.engine.dispose()


def words(study: Path, tmp_path: Path, *more: str) -> list[str]:
    return ["search", "simulate", str(study), "--shared", "--runs", str(tmp_path / "runs"), *more]


def whole_curve(trial: FrozenTrial) -> bool:
    return list(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))


def checked(search: StudyAdapter) -> Counter[str]:
    """Every trial is finished, numbered once, leased, and has a curve without gaps; returns the states."""
    trials = search.trials(search.spec.main)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    states = Counter(trial.state.name for trial in trials)
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
    assert states["COMPLETE"] + states["PRUNED"] == search.spec.budget.trials
    rows = {row.trial_id: row for row in search.leases.details(list(search.arms))}
    assert rows.keys() == {trial._trial_id for trial in trials}
    for trial in trials:
        row = rows[trial._trial_id]
        assert row.state == "finished"
        assert whole_curve(trial), trial.intermediate_values
        if trial.state == TrialState.COMPLETE:
            assert len(trial.intermediate_values) == row.epoch == EPOCHS
            assert trial.value == row.best_score == max(trial.intermediate_values.values())
            assert Path(row.weights).is_file()
            assert not list(Path(row.weights).parent.glob("epoch-*"))
    tries = search.leases.attempts_of(list(search.arms))
    assert all(attempt.ended is not None for attempt in tries)
    return states


def test_made_up_trials_stay_out_of_the_database_of_real_ones(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless they are sent there by a word of their own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    real = tmp_path / "real.db"
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{real}")
    few = ["simulate", str(study), "--runs", str(tmp_path / "runs"), "--workers", "1", "--set", "budget.trials=1"]
    assert search_main.main(few) == 0
    assert str(tmp_path / "runs" / "simulated.db") in capsys.readouterr().out
    assert not real.exists()
    monkeypatch.delenv("OPTUNA_STORAGE")
    with pytest.raises(UserError, match="--shared: neither OPTUNA_STORAGE nor"):
        search_main.main([*few, "--shared"])


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing(
    study: Path, environment: str, tmp_path: Path, module: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    """kill -9 of several processes: N trials come of it, none twice, none left, no curve with a gap."""
    # Each process takes seconds to come up; the writers of SQLite take turns, so that fewer show as much.
    many, victims = (3, 2) if environment.startswith("sqlite") else (5, 3)
    flags = ["--workers", str(many), "--slots", "2", "--epoch-seconds", "0.2", "--ttl", "2"]
    kills = ["--kills", str(victims), "--kill-every", "0.4", "--seed", "3"]
    done = module(*words(study, tmp_path, *flags, *kills), timeout=200)
    found = re.search(rf"^{TRIALS} trials in .* by {many} workers, (\d+) killed, 0 left", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    assert int(found[1]) == victims
    search = request.getfixturevalue("attached")
    states = checked(search)
    assert states["FAIL"] == 0
    ends = Counter(attempt.why for attempt in search.leases.attempts_of(list(search.arms)))
    assert ends["lost"] > 0, "no kill met a worker that held a trial"
    assert ends["finished"] == states["COMPLETE"]
    assert ends["pruned"] == states["PRUNED"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_trials_that_are_paused_and_promoted_survive_killed_workers(
    study: Path, environment: str, tmp_path: Path, module: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    """N trials, each begun once and with one curve; those that went on did so in whoever had a slot."""
    rule = '[pruner]\nname = "promote"\nmin_epochs = 1\nreduction = 4\n'
    study.write_text(study.read_text().replace(PRUNER, "\n" + rule))
    # With this seed the first trial is the best of all, and it reaches its rung before it has rivals there.
    flags = ["--workers", "2", "--slots", "2", "--epoch-seconds", "0.1", "--ttl", "2", "--set", "sampler.seed=10"]
    done = module(*words(study, tmp_path, *flags, "--kills", "1", "--kill-every", "0.4", "--seed", "3"), timeout=200)
    assert re.search(rf"^{TRIALS} trials in .* 1 killed, 0 left", done.stdout, re.MULTILINE), done.stdout
    search = request.getfixturevalue("attached")
    states = checked(search)
    assert (states["FAIL"], states["COMPLETE"] + states["PRUNED"]) == (0, TRIALS)
    assert states["COMPLETE"] >= 2
    tries = search.leases.attempts_of(list(search.arms))
    ends = Counter(attempt.why for attempt in tries)
    assert ends["paused"] >= TRIALS / 3
    paused = {attempt.trial_id for attempt in tries if attempt.why == "paused"}
    promoted = [attempt for attempt in tries if attempt.trial_id in paused and attempt.why == "finished"]
    assert promoted
    assert all(attempt.token > 1 for attempt in promoted)
    assert not list((tmp_path / "runs").rglob("epoch-*"))
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_worker_that_is_asked_to_stop_gives_its_trials_back_at_once(
    study: Path,
    environment: str,
    tmp_path: Path,
    module: Callable[..., Any],
    launch: Callable[..., Any],
    request: pytest.FixtureRequest,
) -> None:
    """Long before their time-to-live, as preempted and uncharged; the next worker goes on where it stopped."""
    study.write_text(study.read_text().replace(f"epochs = {EPOCHS}", "epochs = 20"))
    flags = ["--as-worker", "--slots", "3", "--ttl", "600"]
    slow = words(study, tmp_path, *flags, "--epoch-seconds", "0.5")
    first = launch(*slow)
    try:
        search: StudyAdapter = request.getfixturevalue("attached")
        study_ids = list(search.arms)
        end = time.monotonic() + 60
        while not any(row.epoch >= 2 for row in search.leases.of_studies(study_ids)):
            assert time.monotonic() < end
            assert first.poll() is None
            time.sleep(0.05)
        began = time.monotonic()
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=30) == 0, first.log
    finally:
        first.kill()
        first.wait()
    assert time.monotonic() - began < 20
    rows = search.leases.of_studies(study_ids)
    assert [row.state for row in rows] == ["free"] * 3
    assert {attempt.why for attempt in search.leases.attempts_of(study_ids)} == {"preempted"}
    epochs = {row.trial_id: row.epoch for row in rows}

    fast = words(study, tmp_path, *flags, "--set", "budget.trials=6")
    module(*fast)
    tries = search.leases.attempts_of(study_ids)
    resumed = {a.trial_id: a.first_epoch for a in tries if a.token == 2}
    assert resumed == {key: epoch + 1 for key, epoch in epochs.items()}
    assert all(row.lost == 0 for row in search.leases.details(study_ids))
    assert all(whole_curve(trial) for trial in search.trials(search.spec.main))
    assert search.counts()["kd"].running == 0


@pytest.mark.slow
def test_trials_that_a_model_of_curves_promotes_all_end(
    study: Path, sqlite_url: str, tmp_path: Path, module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """N trials in two real workers, of which one is killed; no worker waits for ever beside slots that stay empty."""
    monkeypatch.setenv("OPTUNA_STORAGE", sqlite_url)
    rule = '[pruner]\nname = "curves"\nmin_epochs = 1\nstartup = 12\n'
    study.write_text(study.read_text().replace(PRUNER, "\n" + rule))
    # With this seed the first trial is the best of all, and it comes to its rung before twelve were begun.
    flags = ["--workers", "2", "--slots", "3", "--epoch-seconds", "0.1", "--ttl", "2", "--set", "sampler.seed=10"]
    done = module(*words(study, tmp_path, *flags, "--kills", "1", "--kill-every", "0.4", "--seed", "3"), timeout=200)
    assert re.search(rf"^{TRIALS} trials in .* 1 killed, 0 left", done.stdout, re.MULTILINE), done.stdout
    opened = open_storage(sqlite_url)
    try:
        search = attach_search(opened, load(study))
        states = checked(search)
        tries = search.leases.attempts_of(list(search.arms))
    finally:
        opened.engine.dispose()
    assert (states["FAIL"], states["COMPLETE"] + states["PRUNED"]) == (0, TRIALS)
    paused = {attempt.trial_id for attempt in tries if attempt.why == "paused"}
    assert len(paused) >= TRIALS / 3
    assert any(attempt.trial_id in paused and attempt.why == "finished" for attempt in tries)
    assert not list((tmp_path / "runs").rglob("epoch-*"))
    assert "Traceback" not in done.stderr
