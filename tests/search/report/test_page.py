"""The page: every number from its JSON, nothing from outside, and what users wrote stays inert."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.axes import Axes

from search.report import search_figures
from search.report.content.build import side
from search.report.content.document import Report
from search.report.files import drawings, named, text_of
from search.report.page import page
from search.report.table_formats import latex
from search.storage.database import Database

Make = Callable[..., Any]
HOSTILE = '<script>alert(1)</script> =cmd|"/c calc"!A0 \\input{/etc/passwd} $x^2$ {{ 7*7 }} %s & _'


@pytest.fixture(scope="module")
def html(made: Report) -> str:
    return page(made)


def test_every_number_of_the_page_is_in_its_json(made: Report, html: str, unaccounted: Make) -> None:
    assert unaccounted(html, text_of(made)) == []


def test_a_number_that_is_not_in_the_json_is_found(unaccounted: Make) -> None:
    assert unaccounted('<data value="0.5">0.5000</data> and 17', '{"a": 0.5}') == ["17"]
    assert unaccounted('<data value="0.5">0.6000</data>', '{"a": 0.5}') == ["0.5 as 0.6000"]
    assert unaccounted('<data value="0.4">0.4000</data>', '{"a": 0.5}') == ["0.4"]


def test_the_page_is_a_function_of_the_json_alone(made: Report, html: str) -> None:
    assert page(Report.model_validate_json(text_of(made))) == html


def test_the_page_brings_everything_and_runs_nothing(html: str, read_page: Make) -> None:
    reader = read_page(html)
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


def test_every_number_of_a_confirmed_page_is_in_its_json(gained: Report, read_page: Make, unaccounted: Make) -> None:
    shown_page = page(gained)
    assert unaccounted(shown_page, text_of(gained)) == []
    assert page(Report.model_validate_json(text_of(gained))) == shown_page
    reader = read_page(shown_page)
    titles = {"Confirmed Dice against parameters", "Confirmed Dice against latency", "Comparisons", "Less the teacher"}
    titles |= {"By size of the object", "Calibration of the foreground", "Openings of the test rows"}
    assert titles <= {text.strip() for text in reader.text}


def test_long_tables_are_folded_and_the_network_to_ship_is_not(gained: Report) -> None:
    shown_page = page(gained)
    folded = re.findall(r"<details><summary>([^(]+) \(long.*?</details>", shown_page, re.S)
    assert "Calibration: share of pixels right by confidence" in folded
    assert "Comparisons" not in folded
    assert shown_page.count("<details>") == shown_page.count("</details>") == len(folded)


def test_studies_stand_side_by_side(opened: Database, made: Report, unaccounted: Make) -> None:
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
