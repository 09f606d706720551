"""What `export --confirmed --package` packs: the chosen configuration, its median seed, and what is known of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import search.__main__ as search_main
from search.answer.selection import SelectedStudent, by_hand, weights_of, with_evidence
from search.commands import confirm
from search.commands.simulate import simulated_identity
from search.confirm.plan import Plan, made
from search.confirm.results import confirmed
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents, plateau
from search.spec.config import Dashboard
from search.spec.load import load
from search.storage.database import open_storage
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from search.study.snapshot import read
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.evaluation.per_image import COLUMNS
from trainer.package.command import Wish
from trainer.reports import PerImageResult

STUDY = """
[objective]
maximize = "dice"
[run]
epochs = 2
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4, test = 6 }
student = { name = "unet", width = 4 }
losses = { ce = {} }
[space]
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
[sampler]
name = "random"
[budget]
trials = 2
[confirm]
seeds = [11, 12, 13, 14]
top = 1
"""
SCORES = {11: 0.91, 12: 0.70, 13: 0.85, 14: 0.80}
"""Of the validation images by seed."""
BINS = ((4.0, 2.0, 1.0),) * 15
MEDIAN = 14
"""Of the two in the middle, the lower."""


def measured(run: RunConfig) -> tuple[PerImageResult, ...]:
    """Scores that the seed decides; on test in the opposite order, so that a choice by test would be seen."""
    names = tuple(f"blobs/{i}" for i in range(4))
    good = SCORES.get(run.seed, plateau(run))
    rest = dict.fromkeys(COLUMNS, (0.5,) * 4)
    return tuple(
        PerImageResult(part, 0.35, names, ("blobs",) * 4, names, rest | {"dice": (value, value - 0.1) * 2}, BINS)
        for part, value in (("validation", good), ("test", 1.5 - good))
    )


def train(search: StudyAdapter, folder: Path) -> None:
    students = SimulatedStudents(Curves(), slots=4, metric="dice", epoch_seconds=0.0, fail_share=0.0)
    students.measure = measured if search.spec.confirms is not None else None
    settings = WorkerSettings(Owner("me", "here"), 4, folder, 1, {}, breach=lambda _: None, ttl=600.0)
    run_group(SingleProcess(), students, DatabaseThread(search, settings))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyAdapter]:
    """A search that has ended and is confirmed, in a database of files that the tests only read."""
    folder = tmp_path_factory.mktemp("confirmed")
    (folder / "tiny.toml").write_text(STUDY)
    url, spec = f"sqlite:///{folder / 'study.db'}", load(folder / "tiny.toml")
    opened = open_storage(url)
    ended = open_search(opened, url, spec, simulated_identity(spec))
    train(ended, folder / "runs")
    rows = read(opened, "tiny")
    plan: Plan = made(rows, spec.confirm, name="tiny.confirm", dashboard=Dashboard(), early=False)
    train(confirm.opened_as(opened, url, plan), folder / "runs")
    yield ended
    opened.engine.dispose()


@pytest.fixture
def url(done: StudyAdapter) -> str:
    return done.opened.engine.url.render_as_string(hide_password=False)


def test_the_seed_with_the_median_validation_score_is_packed_with_its_own_threshold(done: StudyAdapter) -> None:
    found, weights = confirmed(done.opened, "tiny"), weights_of(done.opened, "tiny")
    chosen = SelectedStudent("kd-1", "It is the smallest.", {"test": (0.6, 0.7, 0.95)}, ("gain: not shown.",))
    what = with_evidence(found, chosen, weights)
    assert what.weights == weights["kd-1", MEDIAN]
    assert what.thresholds == (0.35,)
    said = what.confirmation
    assert (said.study, said.configuration, said.seed, said.claims) == ("tiny", "kd-1", MEDIAN, chosen.claims)
    middle = f"seed {MEDIAN} has the median score on validation (0.7500)."
    assert said.why == f"It is the smallest. Of its 4 seeds, {middle}"
    test = {score.title: score for score in said.scores if score.part == "test"}
    own = test["Dice of these weights, mean over images, at threshold 0.35"]
    mean = test["Dice, mean over images and 4 seeds, at threshold 0.35"]
    assert (own.value, own.images, own.interval) == (pytest.approx(0.65), 4, None)
    assert (mean.value, mean.interval) == (pytest.approx(1.45 - sum(SCORES.values()) / 4), (0.6, 0.7, 0.95))


def test_a_seed_that_is_missing_is_no_middle(done: StudyAdapter) -> None:
    found, weights = confirmed(done.opened, "tiny"), weights_of(done.opened, "tiny")
    left = tuple(each for each in found.findings if each.seed != MEDIAN)
    assert with_evidence(replace(found, findings=left), by_hand(found, "kd-1"), weights).confirmation.seed == 13


def test_what_cannot_be_packed_is_one_line(done: StudyAdapter, tmp_path: Path) -> None:
    found, weights = confirmed(done.opened, "tiny"), weights_of(done.opened, "tiny")
    gone = {**weights, ("kd-1", MEDIAN): tmp_path / "gone.safetensors"}
    with pytest.raises(UserError, match=r"the weights of kd-1 seed 14 are not at .*--runs"):
        with_evidence(found, by_hand(found, "kd-1"), gone)
    with pytest.raises(
        UserError, match=r"--configuration kd-9: not in the confirmation of tiny; known: .*nearest: kd-1"
    ):
        by_hand(found, "kd-9")
    left = tuple(each for each in found.findings if each.configuration != "defaults")
    with pytest.raises(UserError, match="defaults: was not trained again"):
        with_evidence(replace(found, findings=left), by_hand(found, "defaults"), weights)


def test_the_command_hands_all_of_it_to_the_package(
    done: StudyAdapter, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The packing itself is in test_package.py; it takes seconds."""
    wishes: list[Wish] = []
    monkeypatch.setattr("trainer.package.command.package", lambda wish: wishes.append(wish) or ["packed"])
    words = ["export", "tiny", "--storage", url, "--confirmed", "--package", str(tmp_path / "ship")]
    assert guard(lambda: search_main.main([*words, "--configuration", "kd-1"])) == 0
    (wish,) = wishes
    assert wish.weights == weights_of(done.opened, "tiny")["kd-1", MEDIAN]
    assert (wish.folder, wish.thresholds, wish.threshold_from) == (tmp_path / "ship", (0.35,), "validation")
    assert wish.confirmation is not None
    assert "chosen by hand, not by the rule of [confirm], which chooses none" in wish.confirmation.why
    assert any(
        claim.startswith("gain over the search without distillation: not estimable")
        for claim in wish.confirmation.claims
    )
    assert capsys.readouterr().out.startswith("packed\n")


def test_without_a_teacher_to_come_near_the_rule_chooses_none_and_says_so(
    done: StudyAdapter, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "tiny", "--storage", url, "--confirmed", "--package", str(tmp_path / "ship")]
    assert guard(lambda: search_main.main(words)) == 2
    error = capsys.readouterr().err
    assert "tiny: no network to ship: " in error
    assert "--configuration kd-1" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--confirmed",), "--confirmed and --package DIR go together"),
        (("--package", "x"), "python -m trainer package WEIGHTS DIR"),
        (("--confirmed", "--package", "x"), "study 'tiny': is not confirmed yet; python -m search confirm tiny"),
    ],
)
def test_a_mistake_is_one_line(
    sqlite_url: str,
    tmp_path: Path,
    open_again: Callable[..., StudyAdapter],
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    open_again(sqlite_url, "tiny", STUDY)
    assert guard(lambda: search_main.main(["export", "tiny", "--storage", sqlite_url, *words])) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_the_five_keys_of_other_projects_are_written_on_request(
    done: StudyAdapter, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "optuna_results.json"
    words = ["export", "tiny", "--storage", url, "--format", "seed"]
    assert guard(lambda: search_main.main([*words, "-o", str(target)])) == 0
    assert "unconfirmed; finished_trials 2 pruned_trials 0 completed_trials 2" in capsys.readouterr().out
    found = json.loads(target.read_text())
    assert list(found) == ["params", "value", "finished_trials", "pruned_trials", "completed_trials"]
    best = max(read(done.opened, "tiny").leases["kd"], key=lambda lease: float(lease.best_score))
    run = json.loads(best.run)
    assert found["params"] == {"optim.lr": run["optim"]["lr"]}
    assert (found["value"], found["finished_trials"], found["completed_trials"]) == (best.best_score, 2, 2)
    assert target.read_text().startswith('{\n "params": {\n  "')
    assert guard(lambda: search_main.main(words)) == 0
    assert capsys.readouterr().out == target.read_text()
