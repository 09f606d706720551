"""A report: every number from its JSON, nothing from outside, honest words, and what users wrote stays inert."""

import itertools
import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from optuna import load_study
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import get_note

import search.__main__ as search_main
from search.answer.build import answer
from search.answer.summary import score_words
from search.commands import confirm
from search.commands.simulate import simulated_identity
from search.commands.status import lines, look
from search.confirm import plan as confirm_plan
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed, PerImageScores
from search.dashboard.note import write
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents, plateau
from search.report import command, search_figures
from search.report.content.build import report, side
from search.report.content.document import Report
from search.report.content.number_format import KINDS, MINUS, shown
from search.report.content.statistics import curve, edges_of, expected_best, importance_of, rungs_of
from search.report.content.text import confirmed_words, unconfirmed
from search.report.files import csv_text, drawings, named, slug, text_of
from search.report.page import page
from search.report.table_formats import Column, Table, escaped, latex
from search.spec.config import Choose, Confirm, Dashboard
from search.spec.load import load
from search.storage.database import Database, open_storage
from search.storage.evidence import OpeningRecord
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from search.study.snapshot import read
from search.study.trial_attributes import attribute_builder
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.reports import PerImageResult

STUDY = """
[objective]
maximize = "dice"
[front]
along = "student.width"
[limits]
params_m = 1.0
[run]
method = "kl"
epochs = 4
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4 }
student = { name = "unet" }
teacher = { name = "unet", width = 24, checkpoint = "none.safetensors" }
losses = { ce = {}, kl = {} }
optim = { lr = 1e-3 }
[space]
"student.width" = { choices = [4, 8] }
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
"losses.kl.weight" = { low = 0.1, high = 10, log = true }
[sampler]
name = "random"
[pruner]
name = "median"
startup = 3
warmup_epochs = 1
[budget]
trials = 16
in_flight = 8
[[arms]]
name = "no-kd"
set = { method = "none" }
trials = 12
"""
HOSTILE = '<script>alert(1)</script> =cmd|"/c calc"!A0 \\input{/etc/passwd} $x^2$ {{ 7*7 }} %s & _'


def train(found: StudyAdapter, runs: Path) -> None:
    """One simulated worker, to the end of the search or of its confirmation."""
    students = SimulatedStudents(Curves(), slots=4, metric="dice", epoch_seconds=0.0, fail_share=0.05)
    students.measure = examined if found.spec.confirms is not None else None
    owner = Owner("me", "here")
    known = attribute_builder((), None)
    made = WorkerSettings(owner, 4, runs, 1, {"simulated": True}, breach=lambda _: None, ttl=60.0, known=known)
    run_group(SingleProcess(), students, DatabaseThread(found, made))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database in which a simulated search was run to its end."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "polyps.toml").write_text(STUDY)
    spec, url = load(folder / "polyps.toml"), f"sqlite:///{folder / 'study.db'}"
    found = open_storage(url)
    train(open_search(found, url, spec, simulated_identity(spec)), folder / "runs")
    yield found
    found.engine.dispose()


@pytest.fixture(scope="module")
def made(opened: Database) -> Report:
    return report(opened, ["polyps"])


@pytest.fixture(scope="module")
def html(made: Report) -> str:
    return page(made)


class Reader(HTMLParser):
    """What a page shows and names: numbers with their values, other text, tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self._value: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)
        self._value = dict(attrs)["value"] if tag == "data" else self._value

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "data" in self._inside:
            assert self._value is not None
            self.numbers.append((self._value, data))
        elif "style" not in self._inside:
            self.text.append(data)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def unaccounted(html: str, text: str) -> list[str]:
    """Numbers of the page that the JSON does not hold: values that are no number of it, digits that are not those of
    the value, and digits in words that stand in no text of it."""
    known = list(leaves(json.loads(text)))
    numbers = {repr(value) for value in known if isinstance(value, int | float) and not isinstance(value, bool)}
    words = [str(value) for value in known if isinstance(value, str)]
    reader = Reader(html)
    assert reader.numbers
    found = [value for value, _ in reader.numbers if value not in numbers]
    found += [f"{v} as {s}" for v, s in reader.numbers if s not in {shown(float(v), kind) for kind in KINDS}]
    digits = [token for part in reader.text for token in re.findall(r"\d[\d.,]*\d|\d", part)]
    return found + [token for token in digits if not any(token in word for word in words)]


def test_every_number_of_the_page_is_in_its_json(made: Report, html: str) -> None:
    assert unaccounted(html, text_of(made)) == []


def test_a_number_that_is_not_in_the_json_is_found() -> None:
    assert unaccounted('<data value="0.5">0.5000</data> and 17', '{"a": 0.5}') == ["17"]
    assert unaccounted('<data value="0.5">0.6000</data>', '{"a": 0.5}') == ["0.5 as 0.6000"]
    assert unaccounted('<data value="0.4">0.4000</data>', '{"a": 0.5}') == ["0.4"]


def test_the_page_is_a_function_of_the_json_alone(made: Report, html: str) -> None:
    assert page(Report.model_validate_json(text_of(made))) == html


def test_the_page_brings_everything_and_runs_nothing(html: str) -> None:
    reader = Reader(html)
    names = [tag for tag, _ in reader.tags]
    assert not {"script", "iframe", "object", "embed", "form", "link", "base"} & set(names)
    assert [v for _, attrs in reader.tags for k, v in attrs.items() if k.startswith("on")] == []
    sources = [attrs["src"] or "" for tag, attrs in reader.tags if tag == "img"]
    assert len(sources) >= 5
    assert all(source.startswith("data:image/") for source in sources)
    assert all(len(attrs["alt"] or "") > 20 for tag, attrs in reader.tags if tag == "img")
    targets = {f"#{attrs['id']}" for _, attrs in reader.tags if "id" in attrs}
    assert {attrs["href"] for tag, attrs in reader.tags if tag == "a"} <= targets
    assert names.count("caption") == names.count("table") >= 6
    assert all("scope" in attrs for tag, attrs in reader.tags if tag == "th")


def test_an_unconfirmed_search_says_so_first_and_shows_no_gain(made: Report) -> None:
    study = made.studies[0]
    assert study.answer[0].startswith("Unconfirmed")
    assert study.verdict == "not_shown"
    assert "not shown" in study.answer[1]
    assert "python -m search confirm polyps" in study.answer[3]
    assert "Simulated" in study.headline


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


# ---- what was confirmed

SOURCES = ("Kvasir-SEG", "CVC-ClinicDB")


def configuration(name: str, role: Any, score: float, width: int, of: str | None = None) -> Configuration:
    run = {"method": "kl" if role == "winner" else "none", "student": {"name": "unet", "width": width}}
    run["teacher"] = {"name": "unet", "width": 24, "checkpoint": None}
    params = width * width * 8447
    arm = "kd" if role in ("winner", "ablation") else "no-kd"
    rank = 1 if role == "teacher" else int(re.findall(r"\d+", name)[0]) if re.search(r"\d", name) else 1
    trial = rank if role in ("winner", "control") else None
    return Configuration(name, role, arm, of, rank, trial, score + 0.02, params, params / 1.8e5, run)


def measured(each: Configuration, seed: int | None, part: str, score: float, images: int) -> PerImageScores:
    """Images of very different difficulty, the same for all networks, with a little of the seed in each."""
    draw = np.random.default_rng([7, len(part)])
    area = draw.uniform(0.01, 0.3, images)
    hard = draw.normal(0, 0.06, images) - 0.05 * (area < 0.08)
    own = np.random.default_rng([seed or 0, len(each.name), each.params, len(part)])
    dice = np.clip(score + hard + own.normal(0, 0.02, images) + own.normal(0, 0.003), 0, 1)
    ones = np.ones(images)
    columns = {"dice": dice, "iou": dice - 0.08, "precision": dice, "recall": dice, "hd95": 40 * (1 - dice)}
    columns |= {
        "brier": 0.1 * (1 - dice),
        "area": area,
        "polyps": ones,
        "missed": dice < 0.75,
        "false_positives": 0 * ones,
    }
    bins = [
        (1000.0 * (i == 14) + 30, (1000.0 * (i == 14) + 30) * (i + 0.5) / 15, 1000.0 * (i == 14) + 30 * i / 16)
        for i in range(8, 15)
    ]
    unseen = part not in ("validation", "test")
    return PerImageScores(
        configuration=each.name,
        seed=seed,
        part=part,
        threshold=0.5,
        images=tuple(f"{part}/{i}.png" for i in range(images)),
        sources=tuple(part if unseen else SOURCES[i % 2] for i in range(images)),
        groups=tuple(f"{part}-{i // 2}" for i in range(images)),
        columns={name: tuple(map(float, values)) for name, values in columns.items()},
        calibration=tuple([(0.0, 0.0, 0.0)] * 8 + bins),
    )


def synthetic(gain: float) -> Confirmed:
    """A confirmation in which distillation is worth so much, at every size, and the larger network is the better."""
    rows = [
        (configuration("kd-1", "winner", 0.90, 16), 0.885 + gain),
        (configuration("kd-2", "winner", 0.89, 8), 0.875 + gain),
        (configuration("no-kd-1", "control", 0.88, 16), 0.885),
        (configuration("no-kd-2", "control", 0.87, 8), 0.875),
        (configuration("kd-1-without", "ablation", 0.88, 16, of="kd-1"), 0.884),
        (configuration("defaults", "defaults", 0.86, 16), 0.86),
        (configuration("teacher", "teacher", 0.91, 24), 0.905),
    ]
    found = []
    for each, score in rows:
        for part, images, shift in (("validation", 40, 0.01), ("test", 80, 0.0), ("ETIS-LaribPolypDB", 60, -0.12)):
            seeds = (None,) if each.role == "teacher" else (11, 12, 13, 14, 15)
            found += [measured(each, seed, part, score + shift, images) for seed in seeds]
    opening = OpeningRecord("anna@gpu1", 1.76e9, "confirm polyps", tuple(c.name for c, _ in rows), "u")
    return Confirmed(
        study="polyps",
        objective="dice",
        configurations=tuple(each for each, _ in rows),
        findings=tuple(found),
        budgets={"kd": (16, 16), "no-kd": (12, 12)},
        choose=Choose(margin=0.02),
        openings=(opening,),
        missing=(),
    )


def changed(found: Confirmed, *, without: tuple[str, ...] = (), seeds: int = 5, images: int | None = None) -> Confirmed:
    """A confirmation with fewer networks, seeds or images."""
    kept = [
        each
        for each in found.findings
        if each.configuration not in without and (each.seed is None or each.seed < 11 + seeds)
    ]
    if images is not None:
        cut = slice(0, images)
        kept = [
            replace(
                each,
                images=each.images[cut],
                sources=each.sources[cut],
                groups=each.groups[cut],
                columns={name: values[cut] for name, values in each.columns.items()},
            )
            for each in kept
        ]
    rows = tuple(each for each in found.configurations if each.name not in without)
    return replace(found, configurations=rows, findings=tuple(kept))


def alone(made: Report, *, taught: bool) -> Report:
    """The report of a study that has only its main search."""
    study = made.studies[0]
    main = study.search.arms[0].model_copy(update={"taught": taught})
    equal = tuple(each.model_copy(update={"expected": {"kd": each.expected["kd"]}}) for each in study.search.equal[1:])
    search = study.search.model_copy(update={"arms": (main,), "equal": equal})
    headline, sentences = unconfirmed(study.name, search)
    changes = {"search": search, "headline": headline, "answer": sentences, "verdict": "not estimable"}
    return made.model_copy(update={"studies": (study.model_copy(update=changes),)})


def confirmed_study(made: Report, found: Confirmed) -> Report:
    """The report of the search with what was confirmed in the place of its own answer."""
    first = made.studies[0]
    part = answer(found, lambda each: None if each.role == "teacher" else 2.0 * each.gflops)
    headline, sentences, verdict = confirmed_words(first.search, part)
    changes = {"confirmed": part, "headline": headline, "answer": sentences, "verdict": verdict}
    return made.model_copy(update={"studies": (first.model_copy(update=changes),)})


@pytest.fixture(scope="module")
def gained(made: Report) -> Report:
    return confirmed_study(made, synthetic(0.02))


def test_a_confirmed_gain_is_shown_with_its_interval(gained: Report) -> None:
    study = gained.studies[0]
    assert study.verdict == "shown"
    assert study.answer[0].startswith("Ship kd-2: unet, width 8")
    assert "Distillation was a reason" in study.answer[1]
    assert re.search(r"the gain is \+0\.0\d+ \[\+0\.\d+, \+0\.\d+\] \(kd-1 less no-kd-1\), shown", study.answer[1])
    assert "5 seeds" in study.answer[2]
    assert "ETIS-LaribPolypDB" in study.answer[3]
    assert "unconfirmed" not in " ".join(study.answer).lower()


def test_no_gain_is_not_shown_and_harm_is_named(made: Report) -> None:
    assert confirmed_study(made, synthetic(0.0)).studies[0].verdict == "not_shown"
    harmed = confirmed_study(made, synthetic(-0.03)).studies[0]
    assert harmed.verdict == "worse"
    assert "did harm" in harmed.answer[1]


CONTROLS = ("no-kd-1", "no-kd-2")


def test_a_search_without_distillation_is_not_said_to_have_asked_for_it(made: Report) -> None:
    study = alone(made, taught=False).studies[0]
    assert study.distillation == "not asked"
    assert study.answer[1] == "Whether distillation helps was not asked: the main search trains without a teacher."
    assert "trials each" not in study.answer[2]
    assert side(study).without_kd is not None
    assert side(study).with_kd is None
    words = " ".join(Reader(page(alone(made, taught=False))).text)
    assert "with and without knowledge distillation" not in words
    assert "is it distillation" not in words
    assert "Each arm is a search of its own" not in words


def test_a_confirmed_search_without_distillation_speaks_of_no_teacher(made: Report) -> None:
    found = changed(synthetic(0.02), without=(*CONTROLS, "kd-1-without", "teacher"))
    runs = [replace(each, run={**each.run, "method": "none"}) for each in found.configurations]
    study = confirmed_study(alone(made, taught=False), replace(found, configurations=tuple(runs))).studies[0]
    assert study.confirmed is not None
    assert study.answer[0].startswith("No teacher is there to be compared with; what the search found best is kd-1:")
    assert study.answer[1].startswith("Whether distillation helps was not asked: the main search trains without")
    assert re.search(r"; kd-1 less defaults is \+0\.\d+ \[.+\], shown\.$", study.answer[1]), "what tuning gained"
    assert "5 seeds" in study.answer[2]
    assert {c.reason for c in study.confirmed.claims if c.name in ("gain", "kd_term_effect")} == {
        "the winner was trained without distillation"
    }
    assert side(study).with_kd is None
    assert side(study).without_kd == next(n.test for n in study.confirmed.networks if n.name == "kd-1")


def test_one_arm_with_distillation_says_what_is_missing_to_tell(made: Report) -> None:
    study = alone(made, taught=True).studies[0]
    assert study.answer[1].startswith("Whether distillation was the reason is not estimable: no arm searched without")
    assert 'set = { method = "none" }' in study.answer[1]
    found = changed(synthetic(0.02), without=CONTROLS)
    study = confirmed_study(alone(made, taught=True), found).studies[0]
    assert study.verdict == "not_shown", "the same network without its KD term alone does not tell"
    assert "the gain is not estimable, no search without KD" in study.answer[1]
    assert "(kd-1 less kd-1-without), shown" in study.answer[1]
    assert "vary 40 groups of 80 images" in study.answer[2]
    assert side(study).with_kd is not None


def test_few_seeds_and_few_groups_are_said(made: Report) -> None:
    few = confirmed_study(made, changed(synthetic(0.02), seeds=3)).studies[0]
    assert "fewer than 5 seeds make every interval unsure" in few.answer[2]
    assert "unsure" not in confirmed_study(made, synthetic(0.02)).studies[0].answer[2]
    groups = confirmed_study(made, changed(synthetic(0.02), images=16)).studies[0]
    assert groups.verdict == "not estimable"
    assert "(kd-1 less no-kd-1), not estimable, since 8 groups of images are fewer than 10" in groups.answer[1]
    assert groups.answer[2].startswith("Nobody can say: an interval is not estimable of 8 groups of 16 images")
    assert "[" not in " ".join(groups.answer[:3])


def test_every_number_of_a_confirmed_page_is_in_its_json(gained: Report) -> None:
    shown_page = page(gained)
    assert unaccounted(shown_page, text_of(gained)) == []
    assert page(Report.model_validate_json(text_of(gained))) == shown_page
    reader = Reader(shown_page)
    titles = {"Confirmed Dice against parameters", "Confirmed Dice against latency", "Comparisons", "Less the teacher"}
    titles |= {"By size of the polyp", "Calibration", "Openings of the test rows"}
    assert titles <= {text.strip() for text in reader.text}


def test_long_tables_are_folded_and_the_network_to_ship_is_not(gained: Report) -> None:
    shown_page = page(gained)
    folded = re.findall(r"<details><summary>([^(]+) \(long.*?</details>", shown_page, re.S)
    assert "Calibration: share of pixels right by confidence" in folded
    assert "Comparisons" not in folded
    assert shown_page.count("<details>") == shown_page.count("</details>") == len(folded)


def test_a_confirmed_study_beside_an_unconfirmed_one(made: Report, gained: Report) -> None:
    lines = [side(gained.studies[0]), side(made.studies[0])]
    assert [line.part for line in lines] == ["test", "validation, unconfirmed"]
    assert lines[0].low is not None
    assert lines[0].difference is not None
    assert lines[0].low < lines[0].difference
    assert lines[1].low is None


def examined(run: RunConfig) -> tuple[PerImageResult, ...]:
    """What a simulated network did on images: as good as its curve ends."""
    facts = Configuration("n", "winner", "kd", None, 1, None, None, run.student.width, 1.0, {})
    found = [
        measured(facts, run.seed, part, plateau(run), images) for part, images in (("validation", 24), ("test", 40))
    ]
    return tuple(
        PerImageResult(**{name: value for name, value in vars(each).items() if name not in ("configuration", "seed")})
        for each in found
    )


def test_a_study_that_was_confirmed_in_the_database_has_its_answer(opened: Database, tmp_path: Path) -> None:
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


def test_a_confirmed_score_is_told_with_its_interval_and_seeds() -> None:
    told = {"score": 0.85, "low": 0.84, "high": 0.86, "seeds": 5}
    assert score_words({"metric": "dice", "networks": {"a": told}}, "a") == (
        "test dice 0.8500 [0.8400, 0.8600], mean over 5 seeds"
    )


def told_of(opened: Database, name: str) -> tuple[str, str]:
    """What `status` and the note of a study say; writing a confirmation's notes writes its search's."""
    status_lines = "\n".join(lines(look(opened, name)))
    write(opened, "polyps.confirm", None)
    study = opened.searches.arms_of(opened.searches.search(name).search_id)[0].study_name  # type: ignore[union-attr]
    return status_lines, get_note(load_study(study_name=study, storage=opened.storage))


# ---- the statistics of a search


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


def test_the_figure_of_the_expected_best_shows_every_arm_from_its_first_trial(
    made: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Axes] = []
    monkeypatch.setattr(search_figures, "quiet", seen.append)
    search_figures._expected(made.studies[0].search)
    (low, high), (left, right) = seen[0].get_ylim(), seen[0].get_xlim()
    for arm in made.studies[0].search.arms:
        assert arm.expected[0].n == 1
        assert all(low < point.score < high and left < point.n < right for point in arm.expected)


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
    found, judged = importance_of(done, maximize=True, along="student.width")
    assert judged == 80
    assert found[0][0] == "optim.lr"
    assert {name for name, *_ in found} == {"optim.lr", "optim.name"}, "the front's own parameter is left out"
    assert sum(share for _, share, _, _ in found) == pytest.approx(1)
    assert all(0 <= low <= high <= 1 for _, _, low, high in found)
    assert found[0][2] > found[1][3], "what decides is told apart from what does not"
    assert importance_of(done[:10], maximize=True, along=None) == ([], 10)


def test_an_end_of_the_space_that_the_best_trials_hit_is_named() -> None:
    found = {
        name: (end, which)
        for name, end, which, *_ in edges_of(
            trials(100, lambda lr, name, width: math.log10(lr) + width / 100), maximize=True, along="student.width"
        )
    }
    assert found == {"optim.lr": (0.1, "highest"), "student.width": (8, "highest")}
    inside = trials(100, lambda lr, name, width: -((math.log10(lr) + 2.5) ** 2))
    assert [name for name, *_ in edges_of(inside, maximize=True, along=None)] == []


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_rank_correlation_is_taken_within_a_size(sign: int, expected: float) -> None:
    """Two sizes whose scores differ by far: only the order within each counts."""
    early = {i: (i % 5) * sign + 100 * (i // 5) for i in range(10)}
    leases = [
        SimpleNamespace(trial_id=i, state="finished", failure=None, weights="w", best_score=i % 5 + 100 * (i // 5))
        for i in range(10)
    ]
    told = [SimpleNamespace(_trial_id=i, intermediate_values={1: early[i]}) for i in range(10)]
    found = rungs_of(leases, told, {i: i // 5 for i in range(10)})
    assert found == [(1, 10, pytest.approx(expected))]


# ---- what users wrote


def test_hostile_texts_stay_text(made: Report) -> None:
    document = json.loads(text_of(made))
    study = document["studies"][0]
    study["name"] = study["answer"][0] = study["search"]["arms"][0]["name"] = HOSTILE
    study["search"]["failures"] = [[HOSTILE, 1, HOSTILE, HOSTILE]]
    study["search"]["data"] = [{"name": HOSTILE, "value": HOSTILE}]
    study["commands"] = study["limits"] = [HOSTILE]
    for dot in study["search"]["dots"]:
        dot["arm"] = HOSTILE if dot["arm"] == "kd" else dot["arm"]
    spoilt = Report.model_validate(document)
    shown_page = page(spoilt)
    assert "<script" not in shown_page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown_page
    assert "{{ 7*7 }}" in shown_page
    for name, table in named(spoilt):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,180}", name)
        assert not re.search(
            r"\\input|(?<!\\)[&%$#_](?![^ ]*\\\\)", re.sub(r"[^\n]*% needs[^\n]*", "", latex(table)).replace(" & ", "")
        ), name


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1"])
def test_no_text_of_a_csv_is_a_formula(text: str) -> None:
    made = csv_text(Table("t", "t", (Column("a"), Column("b", "signed")), ((text, -1.5),)))
    assert made.splitlines()[1].startswith("'")
    assert made.splitlines()[1].endswith(",-1.5"), "numbers stay numbers"


def test_latex_is_escaped_and_numbers_are_as_on_the_page() -> None:
    table = Table("a_b", "Ends & 50 %", (Column("what"), Column("x", "signed")), (("a_b\\c{}", -0.0123), (None, None)))
    text = latex(table)
    assert r"Ends \& 50 \%" in text
    assert r"a\_b\textbackslash{}c\{\} & $-$0.0123 \\" in text
    assert "-- & -- \\\\" in text
    assert r"\label{tab:a-b}" in text
    assert escaped("a\nb \u202e \U0001f600") == "a b ? ?"


def test_latex_of_every_table_has_as_many_cells_in_each_row_as_columns(gained: Report) -> None:
    """Long tables go over pages, and what nobody knows of any row has no column."""
    for name, table in named(gained):
        text = latex(table)
        assert ("\\begin{longtable}" in text) == (len(table.rows) > 30), name
        layout = text.split("{@{}", 1)[1].split("@{}}", 1)[0].replace("textwidth", "")
        columns = len(re.findall(r"[lr]|p\{", layout))
        rows = [line for line in text.splitlines() if line.endswith("\\\\") and "\\caption" not in line]
        assert len(rows) == len(table.rows) + 1 + table.long, name
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}, name
        assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1], name
    empty = Table("t", "t", (Column("a"), Column("b"), Column("c")), (("x", None, 1), ("y", "", None)))
    assert [column.title for column in empty.told().columns] == ["a", "c"]
    assert empty.told().rows == (("x", 1), ("y", None))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", ".", "x" * 300, "caf\u00e9 \u202e"])
def test_names_of_files_are_never_paths(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", slug(name))


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.91234, "score", "0.9123"),
        (-0.01234, "signed", f"{MINUS}0.0123"),
        (0.01234, "signed", "+0.0123"),
        (12345.0, "count", "12,345"),
        (0.0001, "p", "< 0.001"),
        (0.0421, "p", "0.042"),
        (0.042, "percent", "4.2 %"),
        (0.42, "percent", "42 %"),
        (1.41e-5, "short", "1.41e-05"),
        (4.858, "short", "4.86"),
    ],
)
def test_numbers_are_written_one_way(value: float, kind: str, text: str) -> None:
    assert shown(value, kind) == text


# ---- the command


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


def test_studies_stand_side_by_side(opened: Database, made: Report) -> None:
    """The same network on several sets, or several networks on one: a line each, and everything of each below."""
    first = made.studies[0]
    other = first.model_copy(update={"name": "other/../x", "search": first.search.model_copy(update={"data": ()})})
    two = made.model_copy(update={"studies": (first, other), "sides": (side(first), side(other))})
    assert two.sides[0].data == "blobs"
    best = {arm.name: arm.best for arm in first.search.arms}
    assert best["kd"] is not None
    assert best["no-kd"] is not None
    assert two.sides[0].difference == best["kd"].score - best["no-kd"].score
    shown_page = page(two)
    assert unaccounted(shown_page, text_of(two)) == []
    assert "Studies side by side" in shown_page
    assert "Scores against parameters, by study" in shown_page
    assert "studies-size" in [name for name, _ in drawings(two)]
    names = [name for name, _ in named(two)]
    assert "studies" in names
    assert {"1-polyps-arms", "2-other-x-arms"} <= set(names)
    assert len(set(names)) == len(names)


def test_a_search_that_runs_is_written_again_until_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "polyps.toml").write_text(STUDY)
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
