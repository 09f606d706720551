"""A front along several parameters: its points, what it refuses, and what of it the identity keeps."""

import json
from typing import Any

import pytest

from search.planning.limits import refuse_hopeless
from search.planning.network_costs import costs
from search.spec.front import choice_shown, paths_of
from search.spec.load import identity, record
from search.spec.proposals import spread_notes
from search.study.settings import settings
from trainer.errors import UserError

PAIRS = 'along = ["student.name", "student.width"]'
FAMILIES = """
"student.name" = { choices = ["unet", "resunet", "unet-selfreg"] }
"student.width" = [
  { choices = [4, 8], when = { "student.name" = "unet" } },
  { choices = [2, 4, 6], when = { "student.name" = "resunet" } },
]
"""


def identified(spec: Any) -> str:
    return identity(spec, data_hash=None, teacher_hash=None)


def test_each_network_with_each_of_its_widths_is_one_point(study):
    arm = study(FAMILIES, f"[front]\n{PAIRS}").main
    assert arm.points == (
        {"student.name": "unet", "student.width[0]": 4},
        {"student.name": "unet", "student.width[0]": 8},
        {"student.name": "resunet", "student.width[1]": 2},
        {"student.name": "resunet", "student.width[1]": 4},
        {"student.name": "resunet", "student.width[1]": 6},
        {"student.name": "unet-selfreg"},
    )
    assert [arm.resolve(point).student.name for point in arm.points][2:] == ["resunet"] * 3 + ["unet-selfreg"]
    assert [choice_shown([*point.values()]) for point in arm.points][1:3] == ["unet, 8", "resunet, 2"]


def test_widths_that_all_networks_share_need_no_condition(study):
    space = '"student.name" = { choices = ["unet", "resunet"] }\n"student.width" = { choices = [4, 8] }'
    assert len(study(space, f"[front]\n{PAIRS}").main.points) == 4


def test_an_arm_that_sets_the_network_is_spread_over_its_widths_alone(study):
    arms = '[[arms]]\nname = "small"\nset = { method = "none", "student.name" = "resunet" }\n'
    spec = study(FAMILIES, f"[front]\n{PAIRS}\n{arms}")
    small = spec.arm("small")
    assert small.front == ("student.width",)
    assert [list(point.values()) for point in small.points] == [[2], [4], [6]]


def test_one_path_is_the_same_study_however_it_is_written(study):
    space = '"student.width" = { choices = [4, 8] }'
    one, listed = (study(space, f"[front]\nalong = {text}") for text in ('"student.width"', '["student.width"]'))
    assert identified(one) == identified(listed)
    assert record(one)["front"] == "student.width"


def test_the_paths_of_a_front_and_their_order_count(study):
    pairs = study(FAMILIES, f"[front]\n{PAIRS}")
    assert json.loads(json.dumps(record(pairs)))["front"] == ["student.name", "student.width"]
    assert identified(pairs) != identified(study(FAMILIES, '[front]\nalong = "student.name"'))
    assert paths_of(record(pairs)["front"]) == ("student.name", "student.width")
    assert (paths_of("method"), paths_of(None)) == (("method",), ())


@pytest.mark.parametrize(
    ("space", "along", "words"),
    [
        (FAMILIES, '["student.name", "student.widht"]', ["'student.widht'", "not in [space]", "student.width"]),
        (FAMILIES, '["student.width", "student.name"]', ["'student.name', which does not stand before it"]),
        (
            FAMILIES.replace("choices = [2, 4, 6]", "low = 2, high = 6"),
            '["student.name", "student.width"]',
            ["front.along = 'student.width'", "space.student.width[1] is a range", "choices = [...]"],
        ),
        (
            f'{FAMILIES}\nmethod = {{ choices = ["kl", "none"] }}'.replace(
                '"student.name" = "unet" }', '"student.name" = "unet", method = "kl" }'
            ),
            '["student.name", "student.width"]',
            ["student.width[0].when names 'method'", "known: student.name"],
        ),
        (FAMILIES, '["student.name", "student.name"]', ["front.along", "listed twice"]),
        (FAMILIES, "[]", ["front.along", "names no path"]),
    ],
)
def test_what_cannot_be_spread_along_is_refused_in_one_line(study, the_line, space, along, words):
    with pytest.raises(UserError) as error:
        study(space, f"[front]\nalong = {along}")
    the_line(error, *words)


def test_a_pair_that_always_breaks_a_limit_is_refused(study, the_line):
    space = '"student.name" = { choices = ["unet", "resunet"] }\n"student.width" = { choices = [4, 8] }'
    spec = study(space, f"[front]\n{PAIRS}\n[limits]\nparams_m = 0.4", swap={'method = "kl"': 'method = "none"'})
    built = costs(spec)
    sizes = {(cost.run.student.name, cost.params["student.width"]): cost.params_m for cost in built}
    assert sizes["resunet", 8] < 0.4 < sizes["unet", 8]
    with pytest.raises(UserError) as error:
        refuse_hopeless(spec, built)
    the_line(error, "front.along: unet, 8 breaks the limits", "remove it or raise the limit")


WIDTHS = '"student.width" = { choices = [4, 8] }'
OPEN = '[front]\nalong = "student.width"\nspread = "open"\n'


@pytest.mark.parametrize("text", ['spread = "equal"', 'spread = "open"', 'spread = "open"\nper = "hour"\nstart = 2'])
def test_how_trials_are_spread_is_no_part_of_a_study(study, text):
    plain, spread = (study(WIDTHS, f'[front]\nalong = "student.width"\n{more}') for more in ("", text))
    assert record(plain) == record(spread)
    assert identified(plain) == identified(spread)
    assert (settings(plain) == settings(spread)) == (text == 'spread = "equal"')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('per = "hour"', ["front: per = 'hour'", 'changes nothing with spread = "equal"', 'set spread = "open"']),
        ("start = 3", ["start = 3", 'changes nothing with spread = "equal"', "remove it"]),
        ('spread = "opne"', ["front.spread", "'opne'", "equal", "open"]),
        ('spread = "open"\nstart = 0', ["front.start", "0"]),
        ('spread = "open"\nper = "day"', ["front.per", "'day'", "trial", "hour"]),
    ],
)
def test_a_spread_that_says_nothing_is_refused_in_one_line(study, the_line, text, words):
    with pytest.raises(UserError) as error:
        study(WIDTHS, f'[front]\nalong = "student.width"\n{text}')
    the_line(error, *words)


@pytest.mark.parametrize("sampler", ["qmc", "grid"])
def test_samplers_with_an_order_of_their_own_refuse_an_open_spread(study, the_line, sampler):
    tried = f'{WIDTHS}\n"optim.clip" = {{ low = 1, high = 5 }}'
    study(tried, f'{OPEN.replace("open", "equal")}[sampler]\nname = "{sampler}"')
    with pytest.raises(UserError) as error:
        study(tried, f'{OPEN}[sampler]\nname = "{sampler}"')
    the_line(error, f"sampler.name = '{sampler}'", "take sampler tpe or random", "front.spread = 'open'")


def test_the_pruner_that_looks_ahead_by_turns_refuses_an_open_spread(study, the_line):
    with pytest.raises(UserError) as error:
        study(WIDTHS, f'{OPEN}[pruner]\nname = "curves"')
    the_line(error, "pruner.name = 'curves'", "take pruner promote", "front.spread = 'open'")


def test_an_arm_without_the_front_may_have_any_sampler(study):
    arm = '[[arms]]\nname = "one"\nset = { "student.width" = 4 }\nsampler = { name = "qmc" }\n'
    assert study(WIDTHS, f"{OPEN}{arm}").arm("one").front == ()


def test_a_budget_that_the_fair_start_uses_up_is_warned_of(study):
    spec = study(WIDTHS, OPEN)
    (note,) = spread_notes(spec.front, spec.main)
    assert note == (
        "kd: front.start = 5: 10 trials begin before the spread is open, and 10 are wanted; lower it, or raise "
        "budget.trials"
    )
    assert not list(spread_notes(study(WIDTHS, f"{OPEN}start = 2").front, spec.main))
