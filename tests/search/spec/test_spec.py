"""A study file is read to its last value, and resolved into runs."""

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.spec.config import SCORE_NAMES, seconds
from search.spec.identity import difference
from search.spec.load import StudySpec, find, identity, load, probe_runs, record
from search.spec.space import Choices, FloatRange, IntRange, active
from trainer.config_paths import flatten
from trainer.errors import UserError

SMALL = """
[objective]
maximize = "dice"
[run]
method = "kl"
epochs = 10
[run.data]
name = "blobs"
[run.teacher]
name = "unet"
checkpoint = "teacher.safetensors"
[run.student]
name = "unet"
width = 8
[run.losses]
ce = { weight = 1.0 }
kl = { weight = 1.0 }
cwd = { weight = 1.0 }
at = { taps = ["mid"] }
[budget]
trials = 10
"""


@pytest.fixture
def study(tmp_path):
    """Write a study file: the small one with text before and after it, and with replacements; and load it."""

    def make(
        space: str = '"optim.lr" = { low = 1e-4, high = 1e-2, log = true }', more: str = "", **kwargs: Any
    ) -> StudySpec:
        sets = kwargs.pop("sets", ())
        name = kwargs.pop("name", None)
        text = SMALL
        for old, new in kwargs.pop("swap", {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "small.toml"
        path.write_text(f"{text}\n[space]\n{space}\n{more}\n")
        return load(path, sets, name=name)

    return make


def the_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    """An error is one line with all of these words."""
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_importing_the_study_file_brings_neither_torch_nor_optuna():
    code = (
        "import search.spec.load, search.commands.validate, sys; "
        "print([m for m in ('torch', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestShippedStudies:
    def test_the_polyp_study_loads_with_three_arms(self):
        spec = load(find("polyp-kd"))
        kd, no_kd, pretrained = spec.arms
        assert [arm.study_name for arm in spec.arms] == ["polyp-kd", "polyp-kd.no-kd", "polyp-kd.pretrained"]
        assert len(kd.space) == 12
        assert [p.path for p in no_kd.space] == ["losses.selfreg.weight", "student.width", "optim.name", "optim.lr"]
        assert [p.path for p in pretrained.space] == ["losses.selfreg.weight", "optim.name", "optim.lr"]
        assert [arm.front for arm in spec.arms] == ["student.width", "student.width", None]
        assert [arm.trials for arm in spec.arms] == [160, 160, 40]
        assert kd.enqueue == ({"method": "kl", "losses.kl.temperature": 4.0, "losses.kl.weight": 1.0},)
        assert no_kd.enqueue == pretrained.enqueue == ()
        assert "run.student.width (smp-unet does not take it)" in pretrained.dropped
        assert pretrained.base.student.name == "smp-unet"
        assert spec.budget.wall_seconds == 12 * 3600
        assert spec.objective.metric == "dice"

    def test_the_demo_study_drops_the_kd_terms_from_its_control_without_being_told_when(self):
        spec = load(find("demo"))
        assert [p.path for p in spec.arm("no-kd").space] == ["student.width", "optim.name", "optim.lr"]
        assert spec.main.front == "student.width"

    @pytest.mark.parametrize("name", ["polyp-kd", "demo"])
    def test_probe_runs_show_every_choice_and_both_ends(self, name):
        spec = load(find(name))
        for arm in spec.arms:
            runs = [
                flatten(run.model_dump(mode="json"))
                for label, run in probe_runs(spec)
                if label.startswith(f"{arm.name}:")
            ]
            for parameter in arm.space:
                held = {run.get(parameter.path) for run in runs}
                assert set(parameter.probes()) <= held


class TestWays:
    def test_nested_tables_and_dotted_keys_mean_the_same(self, study):
        dotted = study('"losses.kl.weight" = { low = 0.1, high = 1.0 }\n"student.width" = { choices = [4, 8] }')
        nested = study(
            "[space.losses.kl]\nweight = { low = 0.1, high = 1.0 }\n[space.student]\nwidth = { choices = [4, 8] }"
        )
        assert dotted.space == nested.space
        assert identity(dotted, data_hash=None, teacher_hash=None) == identity(
            nested, data_hash=None, teacher_hash=None
        )

    def test_whole_bounds_make_whole_numbers_and_others_real_ones(self, study):
        spec = study(
            '"student.width" = { low = 4, high = 16, step = 4 }\n"optim.lr" = { low = 0.25, high = 1, step = 0.25 }'
        )
        width, lr = spec.space
        assert isinstance(width, IntRange)
        assert isinstance(lr, FloatRange)
        assert [v for v in range(20) if width.contains(v)] == [4, 8, 12, 16]
        assert lr.contains(0.75)
        assert not lr.contains(0.8)

    def test_whole_and_real_choices_are_real_ones(self, study):
        (lr,) = study('"optim.weight_decay" = { choices = [0, 1e-4] }').space
        assert isinstance(lr, Choices)
        assert [type(choice) for choice in lr.choices] == [float, float]

    def test_true_and_false_are_choices(self, study):
        spec = study('"optim.ema" = { choices = [true, false] }')
        assert spec.main.resolve({"optim.ema": True}).optim.ema is True

    def test_a_value_may_be_conditional_on_a_fixed_value_of_the_run(self, study):
        spec = study('"optim.weight_decay" = { low = 0.0, high = 0.1, when = { "optim.name" = "adamw" } }')
        assert spec.main.resolve({"optim.weight_decay": 0.05}).optim.weight_decay == 0.05

    def test_choosing_a_name_drops_what_the_other_network_does_not_take(self, study):
        spec = study(
            """
            "student.name" = { choices = ["unet", "smp-unet"] }
            "student.encoder" = { choices = ["resnet18", "resnet34"], when = { "student.name" = "smp-unet" } }
            """
        )
        run = spec.main.resolve({"student.name": "smp-unet", "student.encoder": "resnet18"})
        assert run.student.model_dump()["encoder"] == "resnet18"
        assert spec.main.resolve({"student.name": "unet"}).student.model_dump()["width"] == 8

    def test_durations_are_written_in_units(self):
        assert [seconds(text) for text in ("12h", "90m", "1h30m", "2d", "1.5h")] == [43200, 5400, 5400, 172800, 5400]


class TestConditions:
    CHAIN = """
    "losses.cwd.weight" = { low = 1.0, high = 2.0, when = { "student.width" = 8 } }
    "student.width" = { choices = [4, 8], when = { method = ["cwd", "kl+cwd"] } }
    method = { choices = ["kl", "cwd", "kl+cwd"] }
    """

    def test_a_chain_is_ordered_after_what_it_names_and_decided_link_by_link(self, study):
        main = study(self.CHAIN).main
        assert [p.name for p in main.space] == ["method", "student.width", "losses.cwd.weight"]
        weight = main.parameter("losses.cwd.weight")
        assert active(weight, main.values({"method": "cwd", "student.width": 8}))
        assert not active(weight, main.values({"method": "cwd", "student.width": 4}))
        # Where the width is not searched, the run's own width of 8 decides.
        assert active(weight, main.values({"method": "kl"}))
        assert main.resolve({"method": "kl+cwd", "student.width": 4}).student.model_dump()["width"] == 4

    def test_several_ranges_under_one_path_are_parameters_of_their_own(self, study):
        spec = study(
            """
            "optim.name" = { choices = ["sgd", "adam", "adamw"] }
            "optim.lr" = [
                { low = 1e-2, high = 1.0, log = true, when = { "optim.name" = "sgd" } },
                { low = 1e-4, high = 1e-2, log = true, when = { "optim.name" = ["adam", "adamw"] } },
            ]
            """
        )
        assert [(p.name, p.path) for p in spec.space[1:]] == [("optim.lr[0]", "optim.lr"), ("optim.lr[1]", "optim.lr")]
        assert spec.main.resolve({"optim.name": "sgd", "optim.lr[0]": 0.5}).optim.lr == 0.5
        assert spec.main.resolve({"optim.name": "adam", "optim.lr[1]": 1e-3}).optim.lr == 1e-3
        with pytest.raises(UserError) as error:
            spec.main.resolve({"optim.name": "adam", "optim.lr[0]": 0.5})
        the_line(error, "optim.lr[0] = 0.5", "has no effect with these values", "optim.name = sgd")

    def test_a_condition_may_name_a_path_with_several_ranges(self, study):
        spec = study(
            """
            method = { choices = ["kl", "cwd"] }
            "student.width" = [
                { choices = [4, 8], when = { method = "kl" } }, { choices = [12, 16], when = { method = "cwd" } },
            ]
            "losses.cwd.weight" = { low = 1.0, high = 2.0, when = { "student.width" = 16 } }
            """
        )
        assert spec.main.resolve({"method": "cwd", "student.width[1]": 12}).student.model_dump()["width"] == 12
        run = spec.main.resolve({"method": "cwd", "student.width[1]": 16, "losses.cwd.weight": 1.5})
        assert run.losses.terms()["cwd"].weight == 1.5

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            pytest.param({"optim.lrr": 1e-3}, ["optim.lrr", "nearest: optim.lr"], id="unknown"),
            pytest.param({}, ["optim.lr: missing", "needs a value"], id="missing"),
            pytest.param({"optim.lr": 1.0}, ["optim.lr = 1.0", "outside", "0.0001..0.01 log"], id="outside"),
            pytest.param({"optim.lr": "fast"}, ["optim.lr = 'fast'", "outside"], id="wrong kind"),
        ],
    )
    def test_resolve_refuses_parameters_that_do_not_fit(self, study, params, words):
        with pytest.raises(UserError) as error:
            study().main.resolve(params)
        the_line(error, "small.toml", *words)


BAD_SPACES = [
    ('"student.widht" = { choices = [4] }', ["space.student.widht", "'widht'", "nearest: width"]),
    ('"losses.klx.weight" = { low = 1.0, high = 2.0 }', ["'klx'", "known: at, bce-dice", "nearest: kl"]),
    ('"losses.kl" = { low = 1.0, high = 2.0 }', ["losses.kl", "is a table", "temperature"]),
    ('"optim.lr.low" = 1.0', ["optim.lr.low", "single value"]),
    ('"optim.lr" = 0.1', ["optim.lr = 0.1", "write a table"]),
    ('"optim.lr" = []', ["optim.lr = []", "no range"]),
    ('"optim.lr" = { low = 1e-4, hihg = 1.0 }', ["optim.lr.hihg = 1.0", "unknown key", "nearest: high"]),
    ('"optim.lr" = { low = 1e-4 }', ["optim.lr.high: missing"]),
    ('"optim.lr" = { low = 1.0, high = 0.1 }', ["optim.lr.low = 1.0", "above high = 0.1", "exchange"]),
    ('"optim.lr" = { low = 0.0, high = 0.1, log = true }', ["optim.lr.low = 0.0", "above 0"]),
    ('"optim.lr" = { low = 0.1, high = 0.2, log = "yes" }', ["optim.lr.log = 'yes'", "true or false"]),
    (
        '"optim.lr" = { low = 0.1, high = 0.2, log = true, step = 0.1 }',
        ["optim.lr.step = 0.1", "log range has no step"],
    ),
    ('"optim.lr" = { low = 0.1, high = 0.2, step = 0.0 }', ["optim.lr.step = 0.0", "above 0"]),
    ('"optim.lr" = { low = 0.1, high = 0.25, step = 0.1 }', ["optim.lr.high = 0.25", "nearest: 0.2"]),
    ('"optim.lr" = { low = 0.1, high = inf }', ["optim.lr.high = inf", "not finite"]),
    ('"optim.lr" = { low = "a", high = 1.0 }', ["optim.lr.low = 'a'", "not a number"]),
    ('"optim.lr" = { low = true, high = 1.0 }', ["optim.lr.low = True", "not a number"]),
    ('"student.width" = { low = 1, high = 9007199254740993 }', ["student.width.high", "2**53"]),
    ('"student.width" = { low = 4, high = 8, step = 0.5 }', ["student.width.step = 0.5", "whole"]),
    ('"student.width" = { low = 4.0, high = 8.0 }', ["student.width = 4.0", "read as 4", "write the int"]),
    ('"student.width" = { choices = [] }', ["student.width.choices = []", "no choices"]),
    ('"student.width" = { choices = [4, 4] }', ["student.width.choices", "4 is listed twice"]),
    ('"student.width" = { choices = [4, "8"] }', ["student.width.choices", "several kinds (int, str)"]),
    ('"student.width" = { choices = [1, true] }', ["student.width.choices", "several kinds (bool, int)"]),
    ('"student.width" = { choices = [[4]] }', ["student.width.choices = [4]", "not a single value"]),
    ('"student.width" = { choices = ["8"] }', ["student.width = '8'", "read as 8", "write the int"]),
    ('"student.width" = { choices = [true] }', ["student.width = True"]),
    ('"student.width" = { choices = [4], low = 1 }', ["student.width.low = 1", "not together with choices"]),
    ('"optim.lr" = { choices = [0.1, nan] }', ["optim.lr.choices = nan", "not finite"]),
    ('"student.width" = { choices = [0, 4] }', ["run.student.width = 0", "greater than 0"]),
    ('"student.name" = { choices = ["unet", "unett"] }', ["run.student.name = 'unett'", "nearest: unet"]),
    ('method = { choices = ["kl", "dist"] }', ["'dist'", "known: none, at, cwd, kl"]),
    ('"losses.dist.weight" = { low = 1.0, high = 2.0 }', ["losses.dist.weight", "[run] has no losses.dist"]),
    ('"losses.cwd.weight" = { low = 1.0, high = 2.0 }', ["losses.cwd.weight", "no effect", "'cwd'"]),
    ('"losses.at.taps" = { choices = ["mid"] }', ["losses.at.taps"]),
    ('"optim.lr" = { low = 0.1, high = 1.0, when = "kl" }', ["optim.lr.when = 'kl'", "write a table"]),
    ('"optim.lr" = { low = 0.1, high = 1.0, when = { methd = "kl" } }', ["when.methd = 'kl'", "nearest: method"]),
    ('"optim.lr" = { low = 0.1, high = 1.0, when = { method = [] } }', ["when.method = []", "one value or a list"]),
    (
        '"optim.lr" = { low = 0.1, high = 1.0, when = { method = "cwd" } }',
        ["when.method = 'cwd'", "never", "known: kl"],
    ),
    (
        'method = { choices = ["kl", "cwd"] }\n"optim.lr" = { low = 0.1, high = 1.0, when = { method = "cwdd" } }',
        ["when.method = 'cwdd'", "never", "nearest: cwd"],
    ),
    (
        '"optim.lr" = { low = 0.1, high = 1.0 }\n"student.width" = { choices = [4], when = { "optim.lr" = 0.5 } }',
        ["when.optim.lr = 0.5", "real number"],
    ),
    (
        'method = { choices = ["kl", "cwd"], when = { "student.width" = 4 } }\n'
        '"student.width" = { choices = [4, 8], when = { method = "kl" } }',
        ["circle", "method -> student.width -> method"],
    ),
    (
        'method = { choices = ["kl", "cwd"] }\n"optim.lr" = [{ low = 0.1, high = 1.0 },'
        ' { low = 0.1, high = 1.0, when = { method = "kl" } }]',
        ["optim.lr[0].when", "overlaps with optim.lr[1]"],
    ),
    (
        'method = { choices = ["kl", "cwd"] }\n"student.width" = { choices = [4, 8], when = { method = "kl" } }\n'
        '"optim.lr" = { low = 0.1, high = 1.0, when = { method = "cwd", "student.width" = 4 } }',
        ["optim.lr.when", "can never hold"],
    ),
    (
        '"optim.lr" = { low = 0.1, high = 1.0 }\n[space.optim]\nlr = { low = 0.1, high = 1.0 }',
        ["optim.lr", "given twice"],
    ),
    ('epochs = { choices = [2, 10] }\n"validate.from" = { choices = [3] }', ["validate.from", "3", "last epoch 2"]),
]


@pytest.mark.parametrize(("space", "words"), [pytest.param(s, w, id=s[:60].replace("\n", " ")) for s, w in BAD_SPACES])
def test_a_mistake_in_the_space_is_one_line_with_field_value_and_remedy(study, space, words):
    with pytest.raises(UserError) as error:
        study(space)
    the_line(error, "small.toml", *words)


BAD_TABLES = [
    ({'maximize = "dice"': ""}, "", ["objective", "name a score", "known: dice, iou"]),
    ({'maximize = "dice"': 'maximize = "dice"\nminimize = "iou"'}, "", ["minimize = 'iou'", "keep one"]),
    ({'maximize = "dice"': 'minimize = "iou"'}, "", ["minimize = 'iou'", "write maximize = 'iou'"]),
    ({'maximize = "dice"': 'minimize = "hd95"'}, "", ["'hd95'", "use hd95_missed_as_diagonal"]),
    ({'maximize = "dice"': 'maximize = "dice.liver"'}, "", ["'dice.liver'", "no foreground class is called 'liver'"]),
    ({'maximize = "dice"': 'maximize = "dise"'}, "", ["objective", "'dise'", "nearest: dice"]),
    ({"trials = 10": "trials = 0"}, "", ["budget.trials = 0", "greater than 0"]),
    ({"trials = 10": 'trials = 10\nwall = "soon"'}, "", ["budget.wall", "'soon'", "12h"]),
    ({"trials = 10": "trails = 10"}, "", ["budget", "trials"]),
    ({"epochs = 10": "epochs = true"}, "", ["run.epochs = True: expected a number"]),
    ({"epochs = 10": "epochs = 2026-01-01"}, "", ["run.epochs = 2026-01-01: input should be a valid integer"]),
    ({"epochs = 10": "epoch = 10"}, "", ["run.epoch = 10", "unknown key", "nearest: epochs"]),
    ({"epochs = 10": "epochs = 10\nepoch = 3"}, "", ["run.epoch = 3", "nearest: epochs"]),
    ({"epochs = 10": 'epochs = 10\n"student.width" = 4'}, "", ["run.student.width = 8", "given twice"]),
    ({"epochs = 10": 'epochs = 10\n"a..b" = 4'}, "", ["run.a..b", "empty part"]),
    (
        {'[run.student]\nname = "unet"': '[run.student]\nname = "unett"'},
        "",
        ["run.student.name = 'unett'", "nearest: unet"],
    ),
    ({}, "[samplr]\nname = 'tpe'", ["samplr", "unknown key", "nearest: sampler"]),
    ({"[budget]": "[budgett]"}, "", ["budgett = {", "unknown key", "nearest: budget"]),
    ({}, '[sampler]\nname = "tpee"', ["sampler.name = 'tpee'", "known: random, tpe", "nearest: tpe"]),
    (
        {},
        '[sampler]\nname = "tpe"\noptions = { candidates = 3 }',
        ["sampler.options.candidates = 3", "n_ei_candidates"],
    ),
    ({}, '[pruner]\nname = "medium"', ["pruner.name = 'medium'", "nearest: median"]),
    ({}, '[pruner]\nname = "median"\nmin_epochs = 2', ["pruner.min_epochs = 2", "unknown key", "warmup_epochs"]),
    ({}, '[pruner]\nname = "hyperband"\nmin_epochs = 20', ["pruner.min_epochs = 20", "within 10 epochs"]),
    ({}, "[limits]\nlatency_ms = { max = 0.0, table = 'x.csv' }", ["limits.latency_ms.max = 0.0"]),
    ({}, "[limits]\nparams_m = -1", ["limits.params_m = -1"]),
    ({}, '[front]\nalong = "student.width"', ["front.along = 'student.width'", "not in [space]", "known: optim.lr"]),
    ({}, '[front]\nalong = "optim.lr"', ["front.along = 'optim.lr'", "choices"]),
    ({}, '[[arms]]\nname = "kd"\nset = { method = "none" }', ["arms.0.name", "'kd'", "choose another"]),
    ({}, '[[arms]]\nname = "a b"\nset = { method = "none" }', ["arms.0.name = 'a b'"]),
    ({}, '[[arms]]\nname = "a"', ["arms.a.set", "set a value"]),
    ({}, '[[arms]]\nname = "a"\nset = { methd = "none" }', ["arms.a.set.methd = 'none'", "nearest: method"]),
    ({}, '[[arms]]\nname = "a"\nset = { method = "klx" }', ["arms.a", "'klx'", "known: none, at, cwd, kl"]),
    (
        {},
        '[[arms]]\nname = "a"\nset.method = "none"\n[[arms]]\nname = "a"\nset.epochs = 3',
        ["arms.name = 'a'", "twice"],
    ),
    ({}, "[[enqueue]]", ["enqueue[0]", "empty"]),
    ({}, '[[enqueue]]\n"optim.lrr" = 0.1', ["enqueue[0].optim.lrr = 0.1", "nearest: optim.lr"]),
    ({}, '[[enqueue]]\n"optim.lr" = 0.5', ["enqueue[0].optim.lr = 0.5", "outside the range 0.0001..0.01 log"]),
    ({}, '[[enqueue]]\narm = "nokd"\n"optim.lr" = 0.001', ["enqueue[0].arm = 'nokd'", "known: kd"]),
    (
        {"trials = 10": "trials = 1"},
        "[[enqueue]]\noptim.lr = 0.001\n[[enqueue]]\noptim.lr = 0.002",
        ["2 trials", "budget of 1"],
    ),
    ({}, "[confirm]\nseeds = [1, true]", ["confirm.seeds = [1, True]: expected a number"]),
    ({}, "[confirm]\nseeds = [1, 1]", ["confirm.seeds", "twice"]),
    ({}, '[dashboard]\nimages = "test"', ["dashboard.images = 'test'", "off", "validation"]),
    ({}, "[teach]\nepoch = 3", ["teach.epoch"]),
    ({}, "[teach]\nstudent.width = 3", ["teach.student"]),
]


@pytest.mark.parametrize(
    ("swap", "more", "words"),
    [pytest.param(s, m, w, id=f"{list(s.values())}{m}"[:70].replace("\n", " ")) for s, m, w in BAD_TABLES],
)
def test_a_mistake_in_another_table_is_one_line_with_field_value_and_remedy(study, swap, more, words):
    with pytest.raises(UserError) as error:
        study(swap=swap, more=more)
    the_line(error, "small.toml", *words)


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            pytest.param(b"x" * 1_000_001, ["1000001 bytes"], id="large"),
            pytest.param(b"a = \xff", ["UTF-8"], id="encoding"),
            pytest.param("a = 1".encode("utf-16"), ["UTF-16", "save the file as UTF-8"], id="another encoding"),
            pytest.param(b"a = ", ["not TOML", "end of document"], id="syntax"),
            pytest.param(b"[a]\nb = 1\nb = 2", ["not TOML", "'b = 2' is given twice"], id="a key twice"),
            pytest.param(b"[a]\n[a]\nb = 2", ["line 2", "'[a]' is given twice"], id="a table twice"),
            pytest.param(b"a = " + b"[" * 5000 + b"]" * 5000, ["nested too deeply"], id="recursion"),
            pytest.param(b"a = " + b"[" * 20 + b"]" * 20, ["nested too deeply"], id="deep lists"),
            pytest.param(b"[run]\n'" + b".".join([b"a"] * 50) + b"' = 1", ["nested too deeply"], id="deep keys"),
            pytest.param(b"a = " + b"9" * 5000, ["not TOML"], id="huge number"),
            pytest.param(b"run = 3", ["missing", "objective"], id="not a study"),
        ],
    )
    def test_a_file_that_is_no_study_is_refused_in_one_line(self, tmp_path, content, words):
        path = tmp_path / "broken.toml"
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            load(path)
        the_line(error, "broken.toml", *words)

    def test_the_mark_and_the_line_ends_of_another_system_change_nothing(self, study, tmp_path):
        text = study().source.read_text()
        path = tmp_path / "elsewhere" / "small.toml"
        path.parent.mkdir()
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        assert record(load(path)) == record(study())

    def test_a_folder_and_a_pipe_are_no_study_file(self, tmp_path):
        for name, make, what in (("a.toml", os.mkdir, "is a folder"), ("b.toml", os.mkfifo, "is no file")):
            make(tmp_path / name)
            with pytest.raises(UserError, match=what):
                find(str(tmp_path / name))

    def test_a_missing_file_names_the_nearest(self, tmp_path):
        (tmp_path / "mine.toml").write_text("")
        with pytest.raises(UserError) as error:
            find(str(tmp_path / "mien.toml"))
        the_line(error, "mien.toml", "no such file", "mine.toml")
        with pytest.raises(UserError) as error:
            find("polyp-kdd")
        the_line(error, "polyp-kdd", "nearest: polyp-kd")
        with pytest.raises(UserError) as error:
            load(tmp_path)
        the_line(error, "cannot be read")

    def test_the_study_has_the_name_of_its_file(self, tmp_path):
        path = tmp_path / "a b.toml"
        path.write_text(SMALL + '[space]\n"optim.lr" = { low = 1e-4, high = 1e-2 }')
        with pytest.raises(UserError) as error:
            load(path)
        the_line(error, "file name = 'a b'", "1 to 128 letters")
        assert load(path, name="ab").name == "ab"
        with pytest.raises(UserError):
            load(path, name="x" * 129)

    def test_every_known_score_may_be_maximized(self, study):
        for name in SCORE_NAMES:
            spec = study(swap={'maximize = "dice"': f'maximize = "{name}"'})
            assert (spec.objective.metric, spec.objective.direction) == (name, "maximize")


class TestArms:
    def test_a_path_that_the_arm_sets_leaves_its_space(self, study):
        spec = study(
            '"student.width" = { choices = [4, 8] }\n"optim.lr" = { low = 1e-4, high = 1e-2 }',
            '[front]\nalong = "student.width"\n[[arms]]\nname = "wide"\nset = { "student.width" = 32 }\n'
            "trials = 3\nin_flight = 2\n"
            'sampler = { name = "random" }\npruner = { name = "none" }',
        )
        wide = spec.arm("wide")
        assert [p.path for p in wide.space] == ["optim.lr"]
        assert wide.front is None
        assert (wide.trials, wide.in_flight, wide.sampler.name, wide.pruner.name) == (3, 2, "random", "none")
        assert wide.dropped == ("student.width (set by the arm)",)
        assert wide.resolve({"optim.lr": 1e-3}).student.model_dump()["width"] == 32

    def test_parameters_fall_one_after_the_other_along_a_chain(self, study):
        spec = study(TestConditions.CHAIN, '[[arms]]\nname = "kl"\nset = { method = "kl", "student.width" = 4 }')
        arm = spec.arm("kl")
        assert arm.space == ()
        assert "losses.cwd.weight (its when can no longer hold)" in arm.dropped

    def test_a_condition_that_the_set_value_fulfils_stays(self, study):
        spec = study(TestConditions.CHAIN, '[[arms]]\nname = "cwd"\nset = { method = "cwd" }')
        assert [p.path for p in spec.arm("cwd").space] == ["student.width", "losses.cwd.weight"]

    def test_enqueued_trials_go_to_the_arm_that_they_name(self, study):
        first, second = '"optim.lr" = 1e-3', 'arm = "none"\noptim.lr = 2e-3'
        more = f'[[arms]]\nname = "none"\nset = {{ method = "none" }}\n[[enqueue]]\n{first}\n[[enqueue]]\n{second}'
        spec = study(more=more)
        assert [arm.enqueue for arm in spec.arms] == [({"optim.lr": 1e-3},), ({"optim.lr": 2e-3},)]

    def test_an_enqueued_value_takes_the_range_that_is_live_with_its_neighbours(self, study):
        space = """
        "optim.name" = { choices = ["sgd", "adam"] }
        "optim.lr" = [
            { low = 1e-3, high = 1.0, when = { "optim.name" = "sgd" } },
            { low = 1e-4, high = 1e-2, when = { "optim.name" = "adam" } },
        ]
        """
        entry = '[[enqueue]]\n"optim.name" = "adam"\n"optim.lr" = 5e-3'
        assert study(space, entry).main.enqueue == ({"optim.name": "adam", "optim.lr[1]": 5e-3},)
        assert study(space, '[[enqueue]]\n"optim.lr" = 0.5').main.enqueue == ({"optim.lr[0]": 0.5},)
        with pytest.raises(UserError) as error:
            study(space, '[[enqueue]]\n"optim.lr" = 5e-3')
        the_line(error, "optim.lr = 0.005", "several ranges", "optim.lr[0], optim.lr[1]")
        with pytest.raises(UserError) as error:
            study(space, '[[enqueue]]\n"optim.name" = "adam"\n"optim.lr" = 0.5')
        the_line(error, "enqueue[0]", "optim.lr")

    def test_whole_numbers_are_enqueued_as_real_ones_where_the_range_is_real(self, study):
        spec = study('"losses.kl.weight" = { low = 0.5, high = 2.0 }', '[[enqueue]]\n"losses.kl.weight" = 1')
        (entry,) = spec.main.enqueue
        assert isinstance(entry["losses.kl.weight"], float)


class TestIdentity:
    SPACE = '"optim.lr" = { low = 1e-4, high = 1e-2, log = true }'

    def of(self, spec: StudySpec, data: str | None = "d", teacher: str | None = "t") -> str:
        return identity(spec, data_hash=data, teacher_hash=teacher)

    @pytest.mark.parametrize(
        "kwargs",
        [
            pytest.param({"more": '[sampler]\nname = "random"'}, id="sampler"),
            pytest.param({"more": '[pruner]\nname = "median"'}, id="pruner"),
            pytest.param({"swap": {"trials = 10": "trials = 11\nwall = '1h'"}}, id="budget"),
            pytest.param({"more": '[[enqueue]]\n"optim.lr" = 1e-3'}, id="enqueue"),
            pytest.param({"more": '[[arms]]\nname = "a"\nset = { method = "none" }'}, id="arms"),
            pytest.param({"more": "[confirm]\ntop = 3"}, id="confirm"),
            pytest.param({"more": '[dashboard]\nimages = "validation"'}, id="dashboard"),
            pytest.param({"more": "[teach]\nepochs = 3"}, id="teach"),
            pytest.param({"swap": {"teacher.safetensors": "elsewhere.safetensors"}}, id="place of the teacher"),
            pytest.param(
                {"swap": {"epochs = 10": 'epochs = 10\nmethod = "kl"', '[run]\nmethod = "kl"': "[run]"}}, id="order"
            ),
            pytest.param({"swap": {"ce = { weight = 1.0 }": "ce = {}"}}, id="a default written out"),
            pytest.param({"swap": {"ce = { weight = 1.0 }": "ce = { weight = 1 }"}}, id="1 for 1.0"),
        ],
    )
    def test_stays_where_no_number_of_a_trial_changes(self, study, kwargs):
        before, after = study(self.SPACE), study(self.SPACE, **kwargs)
        assert self.of(before) == self.of(after)
        assert difference(record(before), record(after)) == []

    @pytest.mark.parametrize(
        ("kwargs", "line"),
        [
            pytest.param({"swap": {"epochs = 10": "epochs = 20"}}, "run.epochs: 10 -> 20", id="run"),
            pytest.param(
                {"swap": {'maximize = "dice"': 'maximize = "iou"'}},
                'objective.maximize: "dice" -> "iou"',
                id="objective",
            ),
            pytest.param(
                {"swap": {"width = 8": 'width = 8\ncheckpoint = "x"'}},
                'run.student.checkpoint: absent -> "x"',
                id="weights to start from, for which no hash stands",
            ),
            pytest.param({"more": "[limits]\nparams_m = 3"}, "limits.params_m: absent -> 3.0", id="limits"),
            pytest.param({"space": SPACE.replace("1e-2", "1e-1")}, "space.optim.lr.high: 0.01 -> 0.1", id="range"),
            pytest.param({"space": SPACE.replace("true", "false")}, "space.optim.lr.log: true -> false", id="scale"),
            pytest.param(
                {"space": SPACE.replace("true", 'true, when = { method = "kl" }')},
                'space.optim.lr.when.method: absent -> ["\\"kl\\""]',
                id="condition",
            ),
            pytest.param({"space": SPACE + '\n"optim.ema" = { choices = [true] }'}, "absent -> [true]", id="parameter"),
        ],
    )
    def test_changes_with_every_number_and_says_what_changed(self, study, kwargs, line):
        before = study(self.SPACE)
        after = study(**{"space": self.SPACE, **kwargs})
        assert self.of(before) != self.of(after)
        assert any(line in found for found in difference(record(before), record(after)))

    def test_contents_of_data_and_teacher_count(self, study):
        spec = study()
        assert len({self.of(spec), self.of(spec, data="e"), self.of(spec, teacher="u"), self.of(spec, None, None)}) == 4

    def test_the_order_of_choices_counts_as_trials_are_dealt_by_it(self, study):
        one = study('"student.width" = { choices = [4, 8] }')
        other = study('"student.width" = { choices = [8, 4] }')
        assert self.of(one) != self.of(other)

    def test_the_front_counts(self, study):
        space = '"student.width" = { choices = [4, 8] }'
        assert self.of(study(space)) != self.of(study(space, '[front]\nalong = "student.width"'))

    def test_an_arm_has_its_own_which_follows_what_it_sets(self, study):
        def arm(width: int) -> str:
            return study(more=f'[[arms]]\nname = "a"\nset = {{ "student.width" = {width} }}').arm("a").identity

        assert arm(4) == arm(4) != arm(12)
        spec = study(more='[[arms]]\nname = "a"\nset = { "student.width" = 4 }')
        assert len({a.identity for a in spec.arms}) == 2


class TestOverrides:
    def test_what_is_outside_the_identity_may_be_set_under_the_same_name(self, study):
        spec = study(
            sets=["budget.trials=4", "pruner.name=median", "pruner.startup=2", "run.teacher.checkpoint=b.safetensors"]
        )
        assert (spec.budget.trials, spec.pruner.model_dump()["startup"], spec.main.trials) == (4, 2, 4)
        assert spec.run.teacher is not None
        assert spec.run.teacher.checkpoint == "b.safetensors"
        assert spec.overrides[0] == "budget.trials=4"

    def test_another_study_needs_another_name(self, study):
        with pytest.raises(UserError) as error:
            study(sets=["run.epochs=5"])
        the_line(error, "--set run.epochs=5", "run.epochs: 10 -> 5", "--name small-2")
        with pytest.raises(UserError):
            study(sets=["run.epochs=5"], name="small")
        spec = study(sets=["run.epochs=5"], name="quick")
        assert (spec.run.epochs, spec.name, spec.main.study_name) == (5, "quick", "quick")

    def test_ranges_are_set_whole_or_by_key(self, study):
        spec = study(sets=["space.optim.lr.high=0.1", "space.student.width={ choices = [4, 8] }"], name="other")
        assert [p.facts().get("high") for p in spec.space] == [0.1, None]
        spec = study(sets=["space.optim.lr.when.method=kl"], name="other")
        assert spec.space[0].when == (("method", ("kl",)),)

    def test_a_new_name_drops_what_it_does_not_take_and_says_so(self, study):
        more = '[pruner]\nname = "median"\nstartup = 3\nwarmup_epochs = 2'
        spec = study(more=more, sets=["pruner.name=hyperband"])
        assert spec.pruner.model_dump() == {"name": "hyperband", "min_epochs": 1, "warmup_epochs": 2, "reduction": 3}
        assert spec.dropped == ("pruner.startup",)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("run.epochs", ["PATH=VALUE"]),
            ("=3", ["PATH=VALUE"]),
            ("runs.epochs=3", ["runs", "nearest: run"]),
            ("run.epoch=3", ["run.epoch", "nearest: epochs"]),
            ("run.epochs=ten", ["run.epochs = 'ten'"]),
            ("run.epochs=[1", ["'[1'", "no TOML value"]),
            ("run.epochs=3\nrun.seed = 4", ["one value on one line"]),
            ("run=3", ["whole table", "run.epochs=5"]),
            ("arms=3", ["arms is a list"]),
            ("arms.0.name=x", ["no arm '0'"]),
            ("run.optim.lr=0.1", ["optim.lr is searched", "space.optim.lr"]),
            ("budget.trails=3", ["budget.trails", "nearest: trials"]),
        ],
    )
    def test_a_mistake_is_one_line(self, study, text, words):
        with pytest.raises(UserError) as error:
            study(sets=[text], name="other")
        the_line(error, *words)


_PATHS = {
    "optim.lr": st.one_of(
        st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.booleans()).map(
            lambda t: f"{{ low = {min(t[:2])!r}, high = {max(t[:2])!r}, log = {str(t[2]).lower()} }}"
        ),
        st.just("{ low = 0.1, high = 0.9, step = 0.1 }"),
    ),
    "student.width": st.one_of(
        st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True).map(lambda c: f"{{ choices = {c} }}"),
        st.integers(1, 20).map(lambda low: f"{{ low = {low}, high = {low + 12}, step = 3 }}"),
    ),
    "optim.name": st.just('{ choices = ["sgd", "adam", "adamw"] }'),
    "optim.momentum": st.just('{ low = 0.0, high = 0.99, when = { "optim.name" = "sgd" } }'),
    "losses.kl.weight": st.sampled_from(
        ["{ low = 1, high = 9 }", '{ low = 0.5, high = 9.0, when = { method = "kl" } }']
    ),
    "losses.kl.temperature": st.just('{ choices = [1.0, 4.0], when = { method = ["kl", "kl+cwd"] } }'),
    "method": st.just('{ choices = ["cwd", "kl", "kl+cwd", "none"] }'),
}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_live_parameters_of_any_space_come_back_out_of_the_resolved_run(data, tmp_path_factory):
    """Whatever the space: what is drawn for each live parameter stands at its path in the run, the rest is [run]'s."""
    wanted = data.draw(st.sets(st.sampled_from(sorted(_PATHS)), min_size=1))
    wanted |= {"optim.name"} if "optim.momentum" in wanted else set()
    wanted |= {"method"} if wanted & {"losses.kl.weight", "losses.kl.temperature"} else set()
    lines = [f'"{path}" = {data.draw(_PATHS[path])}' for path in data.draw(st.permutations(sorted(wanted)))]
    path = tmp_path_factory.mktemp("any") / "any.toml"
    path.write_text(SMALL + "\n[space]\n" + "\n".join(lines))
    main = load(path).main
    chosen: dict[str, Any] = {}
    for parameter in main.space:
        if active(parameter, main.values(chosen)):
            chosen[parameter.name] = _draw(data, parameter)
    run = flatten(main.resolve(chosen).model_dump(mode="json"))
    for parameter in main.space:
        expected = chosen.get(parameter.name, main.fixed.get(parameter.path))
        assert run[parameter.path] == expected
    rest = {p: v for p, v in run.items() if p not in _PATHS}
    assert rest == {p: v for p, v in flatten(main.base.model_dump(mode="json")).items() if p not in _PATHS}


def _draw(data: st.DataObject, parameter: Any) -> Any:
    if isinstance(parameter, Choices):
        return data.draw(st.sampled_from(parameter.choices))
    if isinstance(parameter, IntRange):
        return data.draw(st.sampled_from(range(parameter.low, parameter.high + 1, parameter.step)))
    if parameter.step is not None:
        return parameter.low + parameter.step * data.draw(
            st.integers(0, round((parameter.high - parameter.low) / parameter.step))
        )
    return data.draw(st.floats(parameter.low, parameter.high))
