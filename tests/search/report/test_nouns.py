"""What a report calls its data's things: images and pixels, slices and cases, or voxels and patches; names stay."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from search.commands.confirm import outcome
from search.report.content.document import Report, Search
from search.report.content.text import limits, next_step, unconfirmed
from search.report.files import csv_text
from search.report.page import page
from search.report.table_formats import latex
from search.report.tables import tables
from trainer.data.splits.part_sizes import IMAGES, SLICES, VOLUMES, Nouns

Make = Callable[..., Any]
NAMES = ("image of pixels", "an image", "pixel")
"""A study and two classes whose names are those of things."""
FIELDS = {
    "classes": [{"name": name, "colour": "#009e73"} for name in NAMES[1:]],
    "volumes": True,
    "scored": "case",
    "metric": "dice",
}


def of(made: Report, **fields: Any) -> Report:
    """The report of a study of that name, with these facts of its search."""
    study = made.studies[0]
    search = Search.model_validate({**study.search.model_dump(), **fields})
    headline, answer = unconfirmed(search)
    changes = {"headline": headline, "answer": answer, "limits": limits(search, None, begun=0), "search": search}
    changes |= {"name": NAMES[0], "following": next_step(NAMES[0], search, None, None)}
    return made.model_copy(update={"studies": (study.model_copy(update=changes),)})


def found_on(synthetic: Make, nouns: Nouns) -> Any:
    found = synthetic(0.02)
    scores = (replace(each, scored=nouns.scored, threshold_rule="likeliest") for each in found.findings)
    return replace(found, study=NAMES[0], nouns=nouns, findings=tuple(scores))


@pytest.fixture(scope="module")
def shown(made: Report, synthetic: Make, confirmed_study: Make, read_page: Make) -> tuple[Report, str]:
    """A confirmed study of volumes, and what is read on its page, the pictures' legends too."""
    report = confirmed_study(of(made, **FIELDS), found_on(synthetic, VOLUMES))
    html = page(report)
    reader = read_page(html)
    legends = [attributes.get("alt") or "" for _, attributes in reader.tags]
    return report, " ".join([*reader.text, *legends])


def without_names(text: str) -> str:
    for name in (*NAMES[:2], "<td>pixel</td>"):
        text = text.replace(name, "")
    return text


def test_a_page_of_volumes_speaks_of_cases_voxels_and_patches(shown: tuple[Report, str]) -> None:
    report, text = shown
    assert "each voxel counts for its likeliest class" in text.lower()
    assert "of the voxels" in text
    assert "Calibration: share of voxels right by confidence" in text
    assert re.search(r"It takes [\d.]+ GFLOP and [\d.]+ ms a patch; ", report.studies[0].answer[3])
    assert [word for word in re.findall(r"\w*(?:image|pixel)\w*", without_names(text)) if word != "pixel"] == []


def test_a_study_and_its_classes_keep_their_names_on_a_page_of_volumes(shown: tuple[Report, str]) -> None:
    report, text = shown
    assert f"the mean over {NAMES[1]}, {NAMES[2]}" in text
    assert report.studies[0].following.endswith(f"search export '{NAMES[0]}' --confirmed --package package")
    by_class = {table.name: table for table in tables(report.studies[0])}["classes-searched"]
    assert [row[0] for row in by_class.rows] == list(NAMES[1:])
    assert NAMES[1] in latex(by_class)


def test_confirm_names_study_and_classes_as_they_are_called(synthetic: Make) -> None:
    lines = outcome(found_on(synthetic, VOLUMES))
    assert lines[-1] == f"more: python -m search report {NAMES[0]}"
    said = "\n".join(lines)
    assert "none, since each voxel has the likeliest of its classes" in said
    assert "with intervals over cases and seeds" in said
    assert "none, since each pixel has" in "\n".join(outcome(found_on(synthetic, SLICES)))


def test_scripts_read_the_columns_that_they_always_had(shown: tuple[Report, str]) -> None:
    calibration = {table.name: table for table in tables(shown[0].studies[0])}["reliability"]
    assert csv_text(calibration).startswith("on,network,of,probability,right,of the pixels\n")
    assert "of the voxels" in [column.title for column in calibration.for_readers().columns]


def test_a_page_of_slices_speaks_of_cases_slices_and_pixels(made: Report) -> None:
    study = of(made, **FIELDS | {"volumes": False}).studies[0]
    assert "GFLOP a slice; the search took" in study.answer[3]
    assert "on the same validation cases, each with a single seed" in study.answer[1]
    assert "each pixel counts for its likeliest class" in " ".join(study.limits)
    assert study.search.nouns == SLICES


def test_a_page_of_pictures_speaks_of_images(made: Report) -> None:
    study = of(made, scored="image").studies[0]
    assert study.search.nouns == IMAGES
    assert "GFLOP an image; the search took" in study.answer[3]
