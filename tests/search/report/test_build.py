"""A report is built from the database: what the search did, its statistics, its confirmation, and the command."""

import itertools
import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna import load_study
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import get_note

import search.__main__ as search_main
from search.commands import confirm
from search.commands.simulate import simulated_identity
from search.commands.status import lines, look
from search.confirm import plan as confirm_plan
from search.dashboard.note import write
from search.report import command
from search.report.content.build import report, side
from search.report.content.document import Report
from search.report.content.search_results import readable
from search.report.content.statistics import curve, edges_of, expected_best, importance_of, importance_unknown, rungs_of
from search.report.page import page
from search.spec.config import Confirm, Dashboard
from search.spec.load import load
from search.storage.database import Database, open_storage
from search.study.create import open_search
from search.study.snapshot import read
from trainer.cli.entry import guard
from trainer.errors import UserError

Make = Callable[..., Any]


def test_the_document_tells_what_the_search_did(made: Report) -> None:
    search = made.studies[0].search
    main, control = search.arms
    assert (main.complete + main.pruned, control.complete + control.pruned) == (16, 12)
    assert control.sets == {"method": "none"}
    assert main.best is not None
    assert main.best.score == max(dot.score for dot in search.dots if dot.arm == "kd")
    assert main.best.network == f"unet, width {main.best.settings['student.width']}"
    assert [equal.n for equal in search.equal] == [12, 16]
    assert set(search.equal[0].expected) == {"kd", "no-kd"}
    assert sum(count for _, count in main.pruned_at) == main.pruned > 0
    assert {line.choice for line in search.front} == {4, 8}
    assert all(line.params_m for line in search.front)
    assert search.cost.part_shares == {} or sum(search.cost.part_shares.values()) == pytest.approx(1)


def test_a_confirmed_study_beside_an_unconfirmed_one(made: Report, gained: Report) -> None:
    lines = [side(gained.studies[0]), side(made.studies[0])]
    assert [line.part for line in lines] == ["test", "validation, unconfirmed"]
    assert lines[0].low is not None
    assert lines[0].difference is not None
    assert lines[0].low < lines[0].difference
    assert lines[1].low is None


def test_a_study_that_was_confirmed_in_the_database_has_its_answer(
    opened: Database, tmp_path: Path, train: Make
) -> None:
    file = str(opened.engine.url.database)
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(tmp_path / "study.db")) as copy:
        source.backup(copy)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    found = open_storage(url)
    rows = read(found, "polyps")
    table = Confirm(seeds=(21, 22), top=2)
    plan = confirm_plan.made(rows, table, name="polyps.confirm", dashboard=Dashboard(), early=False)
    begun = confirm.opened_as(found, url, plan)
    waiting = report(found, ["polyps"]).studies[0]
    assert waiting.confirmed is None
    assert any("A confirmation was begun" in words for words in waiting.limits)
    for told in told_of(found, "polyps"), told_of(found, "polyps.confirm"):
        assert all(f"0 of {plan.trials} trials finished; no result before it has ended" in each for each in told)
    train(begun, tmp_path / "runs")
    study = report(found, ["polyps"]).studies[0]
    assert study.confirmed is not None
    assert {network.name for network in study.confirmed.networks} >= {"kd-1", "kd-2", "no-kd-1", "teacher"}
    assert {each.name for each in study.confirmed.claims} >= {"gain", "kd_term_effect", "tuning_gain"}
    assert study.answer[0].startswith(
        "The teacher has no test score to be compared with; what the search found best is kd-1"
    )
    assert study.headline.startswith("Simulated")
    assert "missing: " in study.answer[2], "the teacher was not examined"
    ship = "python -m search export polyps --confirmed --configuration kd-1 --package package"
    assert study.commands[-3:] == ("python -m search confirm polyps", "python -m search report polyps", ship)
    best = next(network for network in study.confirmed.networks if network.name == "kd-1")
    assert best.test is not None
    for told in told_of(found, "polyps"), told_of(found, "polyps.confirm"):
        for each in told:
            assert f"{plan.trials - 2} of {plan.trials} trials finished, 2 failed" in each
            assert "the search's best is" in each
            assert f"test dice {best.test:.4f}, one seed" in each
            assert "python -m search report polyps" in each
            assert "so far, unconfirmed" not in each
    with pytest.raises(
        UserError, match="is the confirmation of polyps, whose report tells it: python -m search report"
    ):
        report(found, ["polyps.confirm"])
    found.engine.dispose()


def told_of(opened: Database, name: str) -> tuple[str, str]:
    """What `status` and the note of a study say; writing a confirmation's notes writes its search's."""
    status_lines = "\n".join(lines(look(opened, name)))
    write(opened, "polyps.confirm", None)
    study = opened.searches.arms_of(opened.searches.search(name).search_id)[0].study_name  # type: ignore[union-attr]
    return status_lines, get_note(load_study(study_name=study, storage=opened.storage))


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=1, max_size=7), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_expected_best_is_the_mean_over_all_draws(scores: list[float], maximize: bool) -> None:
    pick = max if maximize else min
    for n in range(1, len(scores) + 1):
        every = mean(pick(draw) for draw in itertools.combinations(scores, n))
        assert expected_best(scores, n, maximize=maximize) == pytest.approx(every, abs=1e-9)


def test_the_curve_of_the_expected_best_rises_from_the_mean_to_the_best() -> None:
    scores = [0.8 + 0.1 * math.sin(7.0 * i) for i in range(300)]
    points = curve(scores)
    assert points[0] == (1, pytest.approx(mean(scores)))
    assert points[-1] == (300, pytest.approx(max(scores)))
    assert [y for _, y in points] == sorted(y for _, y in points)
    with pytest.raises(ValueError, match="n = 301: from 1 to 300"):
        expected_best(scores, 301)


def trials(count: int, value: Callable[[float, str, int], float]) -> list[FrozenTrial]:
    """Complete trials over a learning rate, a word and a width."""
    lr, name = FloatDistribution(1e-4, 1e-1, log=True), CategoricalDistribution(("adam", "sgd"))
    width = CategoricalDistribution((4, 8))
    found = []
    for i in range(count):
        x = 10 ** (-4 + 3 * ((i * 0.618034) % 1))
        params = {"optim.lr": x, "optim.name": ("adam", "sgd")[i % 2], "student.width": (4, 8)[i // 2 % 2]}
        score = value(x, params["optim.name"], params["student.width"])
        distributions = {"optim.lr": lr, "optim.name": name, "student.width": width}
        trial = create_trial(state=TrialState.COMPLETE, value=score, params=params, distributions=distributions)
        trial.number = trial._trial_id = i
        found.append(trial)
    return found


def test_importance_names_what_decides_and_how_firmly() -> None:
    done = trials(80, lambda lr, name, width: -((math.log10(lr) + 2) ** 2) + width)
    found, judged = importance_of(done, maximize=True, along=["student.width"])
    assert judged == 80
    assert found[0][0] == "optim.lr"
    assert {name for name, *_ in found} == {"optim.lr", "optim.name"}, "the front's own parameter is left out"
    assert sum(share for _, share, _, _ in found) == pytest.approx(1)
    assert all(0 <= low <= high <= 1 for _, _, low, high in found)
    assert found[0][2] > found[1][3], "what decides is told apart from what does not"
    assert importance_of(done[:10], maximize=True, along=()) == ([], 10)


@pytest.mark.parametrize(
    ("along", "score"),
    [
        pytest.param((), lambda *_: 0.0, id="all"),
        pytest.param(("student.width",), lambda *_: 0.0, id="all, with a front"),
        pytest.param(("student.width",), lambda _lr, _name, width: float(width), id="within each size"),
    ],
)
def test_of_ties_nothing_can_be_told_of_importance(along: tuple[str, ...], score: Callable[..., float]) -> None:
    """Optuna's equal shares, of which it warns, would look certain."""
    assert importance_of(trials(60, score), maximize=True, along=along) == ([], 60)
    assert importance_unknown(60) == "the scores tie, so that the best tenth cannot be told from the others"


def test_one_best_trial_among_ties_tells_nothing_of_importance() -> None:
    """More than a third of the sets drawn anew are without it."""
    best = max(trial.params["optim.lr"] for trial in trials(60, lambda *_: 0.0))
    assert importance_of(trials(60, lambda lr, *_: float(lr == best)), maximize=True, along=()) == ([], 60)


def test_one_trial_along_each_choice_tells_nothing_of_importance() -> None:
    done = trials(1, lambda *_: 0.5)
    assert importance_of(done, maximize=True, along=["student.width"]) == ([], 1)
    assert importance_unknown(1) == "1 of the 20 trials that it needs were trained to their end"


def test_an_end_of_the_space_that_the_best_trials_hit_is_named() -> None:
    found = {
        name: (end, which)
        for name, end, which, *_ in edges_of(
            trials(100, lambda lr, name, width: math.log10(lr) + width / 100), maximize=True, along=["student.width"]
        )
    }
    assert found == {"optim.lr": (0.1, "highest"), "student.width": (8, "highest")}
    inside = trials(100, lambda lr, name, width: -((math.log10(lr) + 2.5) ** 2))
    assert [name for name, *_ in edges_of(inside, maximize=True, along=())] == []


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_rank_correlation_is_taken_within_a_size(sign: int, expected: float) -> None:
    """Two sizes whose scores differ by far: only the order within each counts."""
    early = {i: (i % 5) * sign + 100 * (i // 5) for i in range(10)}
    leases = [
        SimpleNamespace(trial_id=i, state="finished", failure=None, weights="w", best_score=score, known_score=score)
        for i, score in ((i, i % 5 + 100 * (i // 5)) for i in range(10))
    ]
    told = [SimpleNamespace(_trial_id=i, intermediate_values={1: early[i]}) for i in range(10)]
    found = rungs_of(leases, told, {i: i // 5 for i in range(10)})
    assert found == [(1, 10, pytest.approx(expected))]


def run(*words: str) -> tuple[int, list[str]]:
    lines: list[str] = []
    return guard(lambda: search_main.main(list(words)), lines.append), lines


def test_the_command_writes_page_json_csv_and_latex(
    opened: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = run("report", "polyps", "--storage", str(opened.engine.url), "-o", str(tmp_path / "out"))
    assert code == 0
    assert "polyps  distillation: not shown" in capsys.readouterr().out
    written = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert (tmp_path / "out" / "report.html").read_text() == page(written)
    assert written.refresh is None
    names = {path.name for path in (tmp_path / "out" / "tables").iterdir()}
    assert {"arms.csv", "arms.tex", "front.csv", "equal-budget.tex"} <= names
    code, _ = run("report", "polyps", "--storage", str(opened.engine.url), "-o", str(tmp_path / "one.html"), "--json")
    said = json.loads(capsys.readouterr().out)
    assert code == 0
    beside = ["one-figures", "one-tables", "one.html", "one.json", "out"]
    assert sorted(path.name for path in tmp_path.iterdir()) == beside
    assert said["page"] == str(tmp_path / "one.html")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["polips"], "error: study 'polips' is not in sqlite"),
        (["polyps", "polyps"], "error: study 'polyps' is named twice; name each once"),
        (["polyps", "--watch", "0"], "error: --watch 0: give seconds from 1 to 86400"),
        (["polyps", "-o", "FILE/x"], "error: --output"),
    ],
)
def test_mistakes_are_one_line(opened: Database, tmp_path: Path, words: list[str], told: str) -> None:
    (tmp_path / "file").write_text("no folder")
    words = [word.replace("FILE", str(tmp_path / "file")) for word in words]
    code, lines = run("report", *words, "--storage", str(opened.engine.url))
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(told)


def test_a_search_that_runs_is_written_again_until_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, train: Make, polyps_text: str
) -> None:
    (tmp_path / "polyps.toml").write_text(polyps_text)
    spec = load(tmp_path / "polyps.toml", ["budget.trials=3", "arms.no-kd.trials=2", "run.epochs=2"], name="short")
    url = f"sqlite:///{tmp_path / 'study.db'}"
    found = open_storage(url)
    joined = open_search(found, url, spec, simulated_identity(spec))
    out = tmp_path / "out"
    looks: list[str] = []

    def work(_seconds: float) -> None:
        """What happens between two looks: the page of the first is there, and the search goes on to its end."""
        looks.append((out / "report.html").read_text())
        train(joined, tmp_path / "runs")

    monkeypatch.setattr(command, "until_interrupted", lambda: nullcontext(work))
    assert run("report", "short", "--storage", url, "-o", str(out), "--watch", "7")[0] == 0
    found.engine.dispose()
    assert len(looks) == 1
    assert '<meta http-equiv="refresh" content="7">' in looks[0]
    assert "no trial of kd has been trained to its end yet" in looks[0]
    last = (out / "report.html").read_text()
    assert 'http-equiv="refresh"' not in last
    assert "has been trained to its end yet" not in last


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            [{"name": "ground", "value": 0}, {"name": "liver", "value": 1, "colour": "#ff0000"}],
            "ground 0; liver 1, #ff0000",
        ),
        ([{"name": "whole", "value": [1, "2-3"], "colour": None}], "whole 1, 2-3"),
        ([{"name": "core", "value": None}], "core"),
        ([80, 80.5, 40], "80, 80.5, 40"),
        ("letterbox", "letterbox"),
        (0.5, 0.5),
    ],
)
def test_settings_of_data_are_readable(setting: Any, text: str) -> None:
    assert readable(setting) == text
