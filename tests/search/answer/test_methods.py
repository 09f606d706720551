"""Claims of a study that deals its trials over methods: each less none, corrected over the methods."""

from typing import Any

import pytest

from search.answer.build import answer, distillation, methods_claims
from search.answer.document import claim_title, method_of
from search.answer.uncertainty import holm
from search.confirm.configurations import Configuration
from tests.search.answer.test_answer import claim, configuration, confirmed


def trained(name: str, method: str, role: str = "winner", params: int = 500, **more: Any) -> Configuration:
    run = {"method": method, "student": {"name": "unet", "width": 8}, "teacher": {"name": "unet"}}
    return configuration(name, role, "kd", params, run=run, **more)


ALL = (
    trained("kd-1", "cwd"),
    trained("kd-2", "kl", rank=2),
    trained("kd-3", "none", params=900, rank=3),
    trained("kd-4", "at", rank=5),
    trained("none-1", "none", "control", params=400, rank=4),
    trained("kd-1-without", "none", "ablation", of="kd-1", trial=None),
    trained("defaults", "none", "defaults", trial=None),
    configuration("teacher", "teacher", "kd", 5000),
)
LEVELS = {
    "kd-1": 0.85,
    "kd-2": 0.825,
    "kd-3": 0.9,
    "kd-4": 0.82,
    "none-1": 0.82,
    "kd-1-without": 0.84,
    "defaults": 0.79,
    "teacher": 0.86,
}
METHODS = ("kl", "cwd", "at")


@pytest.fixture(scope="module")
def part():
    return answer(confirmed(ALL, LEVELS, methods=METHODS))


def test_each_method_is_compared_with_the_best_of_none_that_has_no_more_parameters(part):
    """kd-3 is the best without a teacher, and larger than every taught network."""
    pairs = {c.name: (c.minuend, c.subtrahend, c.verdict) for c in methods_claims(part)}
    assert list(pairs) == ["gain[cwd]", "gain[kl]", "gain[at]"], "the search's best method first"
    assert pairs["gain[cwd]"] == ("kd-1", "none-1", "shown")
    assert pairs["gain[at]"] == ("kd-4", "none-1", "not_shown")
    assert distillation(part) == "shown"
    assert all(c.name != "gain" for c in part.claims)


def test_the_methods_are_a_family_of_their_own(part):
    claims = methods_claims(part)
    assert [c.p_holm for c in claims] == pytest.approx(holm([c.p for c in claims]))
    others = [claim(part, name) for name in ("kd_term_effect", "tuning_gain")]
    assert [c.p_holm for c in others] == pytest.approx(holm([c.p for c in others]))
    assert (others[1].minuend, others[1].subtrahend) == ("kd-3", "defaults")


def test_what_was_not_confirmed_is_said_by_method():
    few = tuple(c for c in ALL if c.name != "kd-4")
    part = answer(confirmed(few, LEVELS, methods=METHODS))
    lost = claim(part, "gain[at]")
    assert (lost.verdict, lost.estimate) == ("not estimable", None)
    assert "of this method" in (lost.reason or "")
    assert lost.words.startswith("gain of at over no distillation: not estimable")


def test_a_study_whose_best_has_no_teacher_still_compares_its_methods():
    first = (trained("kd-0", "none", params=300, rank=0), *ALL)
    part = answer(confirmed(first, LEVELS | {"kd-0": 0.86}, methods=METHODS))
    assert {c.subtrahend for c in methods_claims(part)} == {"kd-0"}
    assert distillation(part) != "shown"


def test_other_studies_have_no_claims_of_methods():
    part = answer(confirmed())
    assert methods_claims(part) == []
    assert claim(part, "gain").verdict == "shown"


def test_the_names_of_claims():
    assert method_of("gain[acfd+boundary-hard]") == "acfd+boundary-hard"
    assert method_of("gain") is None
    assert claim_title("gain[cwd]") == "gain of cwd over no distillation"
