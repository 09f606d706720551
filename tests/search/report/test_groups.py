"""The report of searches that are dealt over networks and over methods."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.confirm.plan import plan_of
from search.dashboard.figures import draw
from search.report.content.build import report
from search.report.content.text import limits
from search.report.page import drawn, page
from search.report.tables import tables
from search.study.adapter import StudyAdapter
from search.study.progress import progress_of
from search.study.snapshot import SearchSnapshot, read
from search.study.trial_attributes import Share
from tests.search.confirm.conftest import STUDY as PLAIN
from tests.search.confirm.conftest import plan_for, train

FAMILIES = PLAIN.replace('along = "student.width"', 'along = ["student.name", "student.width"]').replace(
    '"student.width" = { choices = [2, 4] }',
    '"student.name" = { choices = ["unet", "resunet"] }\n"student.width" = [\n'
    '  { choices = [2, 4], when = { "student.name" = "unet" } },\n'
    '  { choices = [8], when = { "student.name" = "resunet" } },\n]',
)
METHODS = (
    PLAIN.replace('along = "student.width"', 'along = "method"')
    .replace('"student.width" = {', 'method = { choices = ["none", "kl", "cwd"] }\n"student.width" = {')
    .replace("low = 1.0, high = 8.0 }", 'low = 1.0, high = 8.0, when = { method = "kl" } }')
    .replace("kl = { weight = 1.0 } }", "kl = { weight = 1.0 }, cwd = {} }")
    .replace("trials = 6", "trials = 9")
    .replace('[[arms]]\nname = "no-kd"\nset = { method = "none" }\n', "")
)


@pytest.fixture
def searched(tmp_path: Path, sqlite_url: str, open_again: Callable[..., StudyAdapter]) -> Callable[[str], StudyAdapter]:
    def done(text: str) -> StudyAdapter:
        search = open_again(sqlite_url, "tiny", text)
        train(search, tmp_path)
        return search

    return done


def test_a_search_over_networks_has_a_table_and_a_picture_by_network(searched: Any, tmp_path: Path) -> None:
    search = searched(FAMILIES)
    made = report(search.opened, ["tiny"])
    (study,) = made.studies
    found = study.search
    assert found.along == "student.name, student.width"
    assert {line.choice for line in found.front} == {"unet, 2", "unet, 4", "resunet, 8"}
    lines = {line.name: line for line in found.families}
    assert (lines["unet"].complete, lines["unet"].choices, lines["resunet"].complete) == (8, 2, 4)
    assert {dot.family for dot in found.dots} == {"unet", "resunet"}
    best = max((dot for dot in found.dots if dot.arm == "kd"), key=lambda dot: dot.score)
    assert (found.families[0].name, found.families[0].choice, found.families[0].trial) == (
        best.family, best.choice, best.trial,
    )  # fmt: skip
    table = next(table for table in tables(study) if table.name == "families")
    assert [row[0] for row in table.rows] == [line.name for line in found.families]
    assert table.columns[0].title == "student.name"
    assert "by network, unconfirmed" in page(made)
    progress = progress_of(read(search.opened, "tiny"), search.searches.closed)
    assert [line.choice for line in progress.front] == ["resunet, 8", "unet, 2", "unet, 4"]
    assert set(draw(read(search.opened, "tiny"))) >= {"curves", "best"}


def test_a_confirmation_takes_the_best_of_each_pair(searched: Any) -> None:
    plan = plan_for(searched(FAMILIES))
    winners = [c.run["student"] for c in plan.configurations if c.role == "winner"]
    assert {(s["name"], s["width"]) for s in winners} == {("unet", 2), ("unet", 4), ("resunet", 8)}


def test_methods_that_each_network_lists_for_itself_are_all_methods_of_a_study() -> None:
    space = {"student.name": {}, "method[0]": {"choices": ["none", "kl"]}, "method[1]": {"choices": ["none", "cwd"]}}
    front = ("student.name", "method")
    assert SearchSnapshot.methods.fget(SimpleNamespace(front=front, record={"space": space})) == ("kl", "cwd")  # type: ignore[attr-defined]


def test_a_study_along_methods_confirms_each_beside_none_and_ranks_them(searched: Any) -> None:
    search = searched(METHODS)
    rows = read(search.opened, "tiny")
    assert rows.methods == ("kl", "cwd")
    plan = plan_for(search)
    assert plan.methods == ("kl", "cwd")
    assert plan_of(plan.name, json.loads(json.dumps(plan.record()))) == plan
    winners = [c for c in plan.configurations if c.role == "winner"]
    assert {c.run["method"] for c in winners} == {"none", "kl", "cwd"}
    untaught = [c for c in plan.configurations if c.role in ("winner", "control") and c.run["method"] == "none"]
    for winner in winners:
        fair = [t for t in rows.leases["kd"] if json.loads(t.known_run)["method"] == "none"]
        assert fair
        assert any(c.params <= winner.params for c in untaught)
    (study,) = report(search.opened, ["tiny"]).studies
    assert {line.name: line.trials for line in study.search.methods} == {"none": 3, "kl": 3, "cwd": 3}
    assert "the best method is" in study.answer[1]
    table = next(table for table in tables(study) if table.name == "methods")
    assert [row[0] for row in table.rows] == [1, 2, 3]
    scores = [row[3] for row in table.rows]
    assert scores == sorted(scores, reverse=True)
    assert "families" not in {figure.name for figure in drawn(study)}


def test_terms_that_never_moved_the_gradient_are_named(searched: Any) -> None:
    (study,) = report(searched(METHODS).opened, ["tiny"]).studies
    dead, live = Share(term="cwd", trials=3, median=0.001, dead=3), Share(term="kl", trials=3, median=0.4, dead=1)
    terms = {"cwd": (dead,), "kl": (live,)}
    methods = tuple(m.model_copy(update={"terms": terms.get(m.name, ())}) for m in study.search.methods)
    (main,) = study.search.arms
    search = study.search.model_copy(
        update={"methods": methods, "arms": (main.model_copy(update={"shares": (dead, live)}),)}
    )
    (sentence,) = [text for text in limits(search, None, begun=0) if "never moved" in text]
    assert sentence.startswith("The term cwd never moved the gradient")
    table = next(t for t in tables(study.model_copy(update={"search": search})) if t.name == "methods")
    assert {row[1]: row[-1] for row in table.rows} == {"cwd": "cwd", "kl": "", "none": ""}
