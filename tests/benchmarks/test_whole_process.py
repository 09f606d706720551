"""The study that a whole process is timed on, and that a process which does not do its work is no measurement."""

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import whole_process
from benchmarks.against import THIS, Version
from benchmarks.record_curves import drawn
from benchmarks.whole_process import run, study_file
from search.spec.load import load


def test_its_trials_are_dealt_over_two_widths_with_stored_views(tmp_path: Path):
    (arm,) = load(study_file(tmp_path, "r18-8", "fp32", trials=16), [], name=None).arms
    (width,) = (parameter for parameter in arm.space if parameter.path == "student.width")
    assert tuple(width.choices) == (8, 16)
    run = arm.resolve(drawn(arm, random.Random(0), 8))
    assert (run.data.views, run.epochs, arm.trials) == (2, 2, 16)


def test_a_file_that_the_changes_do_not_fit_any_more_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whole_process, "CHANGES", ((r"^no such line$", ""),))
    with pytest.raises(RuntimeError, match=r"no such line\$ matches 0 times"):
        study_file(tmp_path, "r18-8", "fp32", trials=16)


def test_trials_that_did_not_end_well_are_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Any
):
    version = Version(THIS)
    monkeypatch.setattr(Version, "run", lambda self, module, words: database(Path(words[3].removeprefix("sqlite:///"))))
    with pytest.raises(RuntimeError, match="1 of 2 trials"):
        run(version, tmp_path / "r18-8.toml", 2)


@pytest.fixture
def database():
    """Makes a database of which one trial is COMPLETE and one failed."""
    import optuna

    def make(path: Path) -> None:
        study = optuna.create_study(storage=f"sqlite:///{path}")
        study.tell(study.ask(), 0.5)
        study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)

    return make
