"""A search from Python."""

import os
import signal
import sys
import threading
import time

import pytest

from search.api import CommandError, Job, Study, UserError
from search.api.commands import run_command
from search.report.files import csv_text
from search.report.tables import tables

WAITS = """
import signal, sys, time
def saved(*_):
    print("saved", flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, saved)
print("begun", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory, small_study) -> Study:
    """A search that has ended: its curves are a formula's, all else is what a worker does."""
    folder = tmp_path_factory.mktemp("api")
    file = folder / "mine.toml"
    file.write_text(small_study(trials=3))
    loaded = Study.load(
        file, storage=f"sqlite:///{folder}/s.db", runs=folder / "runs", cache=folder / "cache",
        overrides=["run.epochs=2"], name="other",
    )  # fmt: skip
    assert not loaded.begun
    arguments = ["simulate", str(file), "--set=run.epochs=2", "--name=other", "--as-worker", "--slots=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTUNA_STORAGE", loaded.storage)
        Job("search", arguments, folder / "log").wait(120)
    assert loaded.begun
    return loaded


def test_trials_and_curves_of_a_search_are_data_frames(study):
    trials, epochs = study.trials(), study.epochs()
    assert trials["state"].tolist() == ["complete"] * 3
    assert trials["trial"].tolist() == [0, 1, 2]
    assert trials["optim.lr"].between(1e-4, 1e-1).all()
    assert epochs.groupby("trial")["epoch"].apply(list).tolist() == [[1, 2]] * 3
    assert epochs.groupby("trial")["score"].max().tolist() == trials["score"].tolist()


def test_a_study_is_watched_to_its_end_and_its_best_are_exported(study):
    (last,) = study.watch()
    best = study.trials().sort_values("score").iloc[-1]
    assert last.ended
    assert last.arms["kd"].complete == 3
    assert last.arms["kd"].best.trial == best["trial"]
    (first, _) = study.export(top=2)["best"]
    assert first["run"]["optim"]["lr"] == best["optim.lr"]
    assert first["run"]["epochs"] == study.spec.run.epochs == 2


def test_tables_have_the_cells_of_the_reports_own(study, tmp_path):
    frames = study.tables()
    places = study.report(tmp_path / "report")
    assert places.page.is_file()
    of_arms = next(table for table in tables(study.findings()) if table.name == "arms")
    assert (places.tables / "arms.csv").read_text() == csv_text(of_arms)
    assert frames["arms"].shape == (1, len(of_arms.columns))


def test_a_study_is_read_by_its_name_alone_and_worked_on_by_its_file_only(study):
    opened = Study.open("other", storage=study.storage)
    assert opened.trials().equals(study.trials())
    with pytest.raises(UserError, match="was opened by its name"):
        opened.work()


def test_mistakes_are_said_in_the_words_of_the_commands(study, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Study.load("nosuch")
    with pytest.raises(UserError, match="'nosuch'"):
        Study.open("nosuch", storage=study.storage)
    with pytest.raises(UserError, match="--ranks"):
        study.work(ranks=0, line=None)


@pytest.fixture
def waiting(tmp_path, monkeypatch) -> str:
    """A module that ends with 130 when it is interrupted."""
    (tmp_path / "waits.py").write_text(WAITS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "waits"


def test_an_interrupt_lets_the_command_save_its_work_first(waiting):
    lines: list[str] = []

    def line(text: str) -> None:
        lines.append(text)
        if text == "begun":
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        run_command(waiting, [""], line)
    assert lines == ["begun", "saved"]


def test_a_job_ends_when_it_is_asked_to(waiting):
    job = Job(waiting, [""])
    while "begun" not in job.log.read_text():
        time.sleep(0.05)
    assert job.running
    job.stop()
    job.wait(30)
    assert not job.running


def test_a_command_that_fails_says_its_code_and_last_lines(tmp_path, monkeypatch):
    (tmp_path / "fails.py").write_text("print('why')\nraise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CommandError, match=r"code 3 .*: why") as failed:
        run_command("fails", [""], line=None)
    assert failed.value.code == 3


def test_without_pandas_a_line_says_what_to_install(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install \"\.\[api\]\""):
        study.trials()
