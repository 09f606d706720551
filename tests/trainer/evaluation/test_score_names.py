"""Names of scores: what each stands for, which may be objectives, and what a wrong one is answered with."""

import re
from pathlib import Path

import numpy as np
import pytest

from search.spec.config import SCORE_NAMES
from trainer.evaluation.metrics import POOLED
from trainer.evaluation.metrics import SCORES as OF_VALIDATION
from trainer.evaluation.overlap import OF_ALL, OF_CASES, case_scores, pixel_counts, pooled_scores
from trainer.evaluation.score_names import (
    SCORE_KINDS,
    NamedScore,
    at_best_threshold,
    confirmed_name,
    objective,
    parse,
    unit_of,
)
from trainer.evaluation.surface import surface_scores

PAGE = Path(__file__).parents[3] / "docs" / "scores.md"
ORGANS = ("liver", "spleen", "left.kidney")


def test_every_score_that_is_computed_has_a_name_and_every_name_a_score():
    counts = pixel_counts(np.ones((2, 3, 4)))
    labels = np.ones((3, 3), np.uint8)
    computed = {*case_scores(counts, ORGANS), *pooled_scores(counts, ORGANS), *OF_ALL}
    computed |= {*surface_scores(labels, labels, ORGANS, tolerance=1.0), "dice_of_rows"}
    # What is one of these at another threshold is measured where images are seen.
    other = {name for name, kind in SCORE_KINDS.items() if kind.thresholded in computed}
    assert {parse(name, ORGANS).name for name in computed} == set(SCORE_KINDS) - other
    bare = {name for name in computed if "." not in name}
    of_classes = {name.partition(".")[0] for name in computed - bare} | {"dice_of_rows"} | other
    assert bare == set(SCORE_KINDS) - other
    assert of_classes == {name for name, kind in SCORE_KINDS.items() if kind.of_classes}


def test_what_studies_name_today_keeps_its_name_and_may_be_an_objective():
    assert set(SCORE_NAMES) == {*OF_VALIDATION, *POOLED} <= set(SCORE_KINDS)
    assert set(OF_VALIDATION) < set(OF_CASES)
    for name in SCORE_NAMES:
        assert str(objective(name, "maximize", ORGANS)) == name


@pytest.mark.parametrize("text", ["dice", "dice.liver", "hd95_missed_as_diagonal.left.kidney", "mdice"])
def test_a_name_goes_to_its_parts_and_back(text: str):
    score = parse(text, ORGANS)
    assert str(score) == text
    assert (score.name, score.label) == (text.partition(".")[0], text.partition(".")[2] or None)
    assert score.kind is SCORE_KINDS[score.name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dise", r"'dise': no score is called 'dise'; known: dice, .*; nearest: dice"),
        ("Dice.liver", r"'Dice.liver': no score is called 'Dice'; known: .*; nearest: dice"),
        ("", r"'': no score is called ''; known: .*"),
        ("dice.livr", r"'dice.livr': no foreground class is called 'livr'; known: liver, spleen, .*; nearest: liver"),
        ("dice.", r"'dice.': no foreground class is called ''; known: liver, .*"),
        ("dice.background", r"'dice.background': no foreground class is called 'background'; known: liver, .*"),
        ("miou.liver", r"'miou.liver': miou is one number of all classes, none of a single one; write miou"),
    ],
)
def test_a_name_that_is_none_is_answered_in_one_line(text: str, message: str):
    with pytest.raises(ValueError, match=f"^{message}$"):
        parse(text, ORGANS)


@pytest.mark.parametrize("name", [name for name, kind in SCORE_KINDS.items() if kind.refused])
def test_what_is_no_objective_names_what_is(name: str):
    kind = SCORE_KINDS[name]
    assert SCORE_KINDS[kind.instead].direction == kind.direction or kind.instead == "dice"
    assert not SCORE_KINDS[kind.instead].refused
    for text, use in ((name, kind.instead), (f"{name}.liver", f"{kind.instead}.liver")):
        with pytest.raises(ValueError, match=rf"^'{re.escape(text)}': is no objective: .+; use {re.escape(use)}$"):
            objective(text, kind.direction, ORGANS)


def test_distances_of_some_cases_alone_are_no_objective():
    assert {"hd95", "hd95_larger", "asd"} <= {name for name, kind in SCORE_KINDS.items() if kind.refused}
    message = r"gets better by missing more; use hd95_missed_as_diagonal\.liver$"
    with pytest.raises(ValueError, match=message):
        objective("hd95.liver", "minimize", ORGANS)


def test_a_direction_that_is_the_wrong_one_is_answered_with_the_right_one():
    right = objective("hd95_missed_as_diagonal.liver", "minimize", ORGANS)
    assert right == NamedScore("hd95_missed_as_diagonal", "liver")
    with pytest.raises(ValueError, match=r"^maximize = 'asd_missed_as_diagonal': lower is better; write minimize = 'a"):
        objective("asd_missed_as_diagonal", "maximize", ORGANS)
    with pytest.raises(ValueError, match=r"^minimize = 'dice': higher is better; write maximize = 'dice'$"):
        objective("dice", "minimize", ORGANS)


def test_a_score_at_the_best_threshold_is_of_two_classes_and_of_regions_and_is_confirmed_as_what_it_is():
    for known, regions in ((["polyp"], False), (ORGANS, True)):
        assert str(objective("dice_at_best_threshold", "maximize", known, regions=regions)) == "dice_at_best_threshold"
    message = r"^'iou_at_best_threshold.liver': with more than two .* no threshold; use iou.liver$"
    with pytest.raises(ValueError, match=message):
        parse("iou_at_best_threshold.liver", ORGANS)
    names = ("dice_at_best_threshold.liver", "iou_at_best_threshold", "hd95.left.kidney")
    assert [confirmed_name(name) for name in names] == ["dice.liver", "iou", "hd95.left.kidney"]


def test_what_is_0_where_nothing_is_found_names_the_score_that_is_not():
    names = ("dice", "recall.core", "iou_of_present", "dice_at_best_threshold", "miou", "hd95_missed_as_diagonal")
    better = ["dice_at_best_threshold", "dice_at_best_threshold.core", "iou_at_best_threshold", None, None, None]
    assert [at_best_threshold(name) for name in names] == better


def test_lengths_are_in_mm_where_there_is_a_spacing_and_shares_in_nothing():
    assert [unit_of("hd95", spacing=spacing) for spacing in (True, False)] == ["mm", "px"]
    assert unit_of("dice", spacing=True) == unit_of("surface_dice", spacing=True) == ""
    assert all(kind.direction == "minimize" for kind in SCORE_KINDS.values() if kind.unit == "length")


def test_the_page_of_scores_has_every_name():
    rows = set(re.findall(r"^\| `(\w+)`", PAGE.read_text(), re.MULTILINE))
    assert rows >= set(SCORE_KINDS)
