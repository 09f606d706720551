"""That the start's study is one trial of one batch, and that a trial which does not end well is no measurement."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import start
from benchmarks.against import THIS, Version
from search.spec.load import load


def test_its_study_is_one_trial_of_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(Version, "run", lambda self, module, words: ran.append((self.name, module, words)))
    file, *rest = start.prepare(Version(THIS), tmp_path / "here")
    assert ran == [(THIS, "trainer", ["teach", file, *rest])]
    changes = [word.removeprefix("--set=") for word in rest if word.startswith("--set=")]
    (arm,) = load(Path(file), changes, name="one-batch").arms
    run = arm.resolve(arm.complete({}))
    assert (arm.trials, run.epochs, run.data.train, run.batch_size) == (1, 1, 8, 8)


def test_a_trial_that_does_not_end_well_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)this: its trial did not end well: .*no such file"):
        start.run(Version(THIS), tmp_path, [str(tmp_path / "none.toml")])
