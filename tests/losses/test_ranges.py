"""The table of published values and ranges holds what the losses take, and a study file takes it."""

import pytest
from pydantic import ValidationError

from losses import LOSSES
from losses.config import LossTerms
from losses.ranges import RANGES, default_space

EVERY = [(term, option, values) for term, options in RANGES.items() for option, values in options.items()]
NEEDED = {
    **{term: {"taps": ("mid",)} for term in ("at", "skd-pair", "ifvd", "cwd-features", "acfd", "cirkd-pixel")},
    **{term: {"tap": "mid"} for term in ("cirkd-memory", "cirkd-region")},
}


def test_the_table_has_a_weight_of_every_loss():
    assert set(RANGES) == set(LOSSES)
    assert all("weight" in options for options in RANGES.values())


@pytest.mark.parametrize(("term", "option", "values"), EVERY, ids=[f"{term}.{option}" for term, option, _ in EVERY])
def test_a_loss_takes_its_published_value_and_the_ends_of_its_range(term, option, values):
    ends = [values.published, *values.choices, *(end for end in (values.low, values.high) if end is not None)]
    for value in ends:
        table = LossTerms.model_validate({term: {**NEEDED.get(term, {}), option: value}})
        assert getattr(table.terms()[term], option) == value
    if values.low is not None:
        assert values.low < values.high
        assert values.low <= values.published <= values.high
    if values.choices:
        assert values.published in values.choices


def test_an_option_that_no_loss_has_would_be_seen():
    with pytest.raises(ValidationError):
        LossTerms.model_validate({"cwd": {"gamma": 1.0}})


def test_a_term_that_needs_a_teacher_is_live_where_a_method_names_it():
    space = dict(default_space("cwd", ("none", "cwd", "kl+cwd")))
    assert space["losses.cwd.temperature"] == {
        "low": 1.0, "high": 8.0, "log": True, "when": {"method": ["cwd", "kl+cwd"]},
    }  # fmt: skip
    assert "when" not in dict(default_space("cwd", ()))["losses.cwd.weight"]
    assert "when" not in dict(default_space("selfreg", ("none", "kl")))["losses.selfreg.weight"]
    assert dict(default_space("ce", ("kl",))) == {}
