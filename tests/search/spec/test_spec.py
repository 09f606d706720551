"""A study file is read to its last value, and resolved into runs."""

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.spec.config import SCORE_NAMES
from search.spec.load import find, identity, load, probe_runs, record
from search.spec.space import Choices, FloatRange, IntRange, active
from trainer.cli.durations import seconds
from trainer.config_paths import flatten
from trainer.errors import UserError


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
        assert [arm.front for arm in spec.arms] == [("student.width",), ("student.width",), ()]
        assert [arm.trials for arm in spec.arms] == [160, 160, 40]
        assert kd.enqueue == ({"method": "kl", "losses.kl.temperature": 4.0, "losses.kl.weight": 1.0},)
        assert no_kd.enqueue == pretrained.enqueue == ()
        assert "run.student.width (smp-unet does not take it)" in pretrained.dropped
        assert pretrained.base.student.name == "smp-unet"
        assert spec.budget.wall_seconds == 12 * 3600
        assert spec.objective.metric == "dice"

    def test_the_demo_study_drops_the_kd_terms_from_its_control_without_being_told_when(self):
        spec = load(find("demo"))
        assert [p.path for p in spec.arm("no-kd").space] == ["optim.name", "optim.weight_decay"]
        assert spec.main.front == ("student.width",)

    def test_the_demo_s_control_has_the_width_of_the_untuned_network_so_that_tuning_gains_nothing(self):
        spec = load(find("demo"))
        widths = [point["student.width"] for point in spec.main.points]
        assert spec.arm("no-kd").base.student == spec.run.student
        assert spec.run.student.width == max(widths)

    def test_the_study_of_families_has_equal_shares_of_every_network_and_width(self):
        spec = load(find("polyp-families"))
        assert [len(arm.points) for arm in spec.arms] == [9, 9]
        assert all(arm.trials % 9 == 0 for arm in spec.arms)
        assert spec.confirm.top == 9

    @pytest.mark.parametrize("name", ["polyp-kd", "demo", "polyp-families", "polyp-kd-methods"])
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
    def test_a_chain_is_ordered_after_what_it_names_and_decided_link_by_link(self, study, chain):
        main = study(chain).main
        assert [p.name for p in main.space] == ["method", "student.width", "losses.cwd.weight"]
        weight = main.parameter("losses.cwd.weight")
        assert active(weight, main.values({"method": "cwd", "student.width": 8}))
        assert not active(weight, main.values({"method": "cwd", "student.width": 4}))
        # Where the width is not searched, the run's own width of 8 decides.
        assert active(weight, main.values({"method": "kl"}))
        assert main.resolve({"method": "kl+cwd", "student.width": 4}).student.model_dump()["width"] == 4

    def test_several_ranges_under_one_path_are_parameters_of_their_own(self, study, the_line):
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
    def test_resolve_refuses_parameters_that_do_not_fit(self, study, params, words, the_line):
        with pytest.raises(UserError) as error:
            study().main.resolve(params)
        the_line(error, "small.toml", *words)


BAD_SPACES = [
    ('"student.widht" = { choices = [4] }', ["space.student.widht", "'widht'", "nearest: width"]),
    ('"losses.klx.weight" = { low = 1.0, high = 2.0 }', ["'klx'", "known: acfd, at, bce-dice", "nearest: kl"]),
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
def test_a_mistake_in_the_space_is_one_line_with_field_value_and_remedy(study, space, words, the_line):
    with pytest.raises(UserError) as error:
        study(space)
    the_line(error, "small.toml", *words)


BAD_TABLES = [
    ({'maximize = "dice"': ""}, "", ["objective", "name a score", "known: dice, iou"]),
    ({'maximize = "dice"': 'maximize = "dice"\nminimize = "iou"'}, "", ["minimize = 'iou'", "keep one"]),
    ({'maximize = "dice"': 'minimize = "iou"'}, "", ["minimize = 'iou'", "write maximize = 'iou'"]),
    ({'maximize = "dice"': 'minimize = "hd95"'}, "", ["'hd95'", "use hd95_missed_as_diagonal"]),
    ({'maximize = "dice"': 'maximize = "dice.liver"'}, "", ["'dice.liver'", "no foreground class is called 'liver'"]),
    ({'maximize = "dice"': 'minimize = "dice_at_best_threshold"'}, "", ["higher is better", "write maximize"]),
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
    ({}, '[sampler]\nname = "tpee"', ["sampler.name = 'tpee'", "random, tpe", "nearest: tpe"]),
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
    (
        {},
        '[confirm]\nchoose = { smallest = "params", not_below = "teacher", metric = "dice_at_best_threshold" }',
        ["confirm.choose.metric", "a threshold for each seed; write dice"],
    ),
    ({}, '[dashboard]\nimages = "test"', ["dashboard.images = 'test'", "off", "validation"]),
    ({}, "[teach]\nepoch = 3", ["teach.epoch"]),
    ({}, "[teach]\nstudent.width = 3", ["teach.student"]),
]


@pytest.mark.parametrize(
    ("swap", "more", "words"),
    [pytest.param(s, m, w, id=f"{list(s.values())}{m}"[:70].replace("\n", " ")) for s, m, w in BAD_TABLES],
)
def test_a_mistake_in_another_table_is_one_line_with_field_value_and_remedy(study, swap, more, words, the_line):
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
    def test_a_file_that_is_no_study_is_refused_in_one_line(self, tmp_path, content, words, the_line):
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

    def test_a_missing_file_names_the_nearest(self, tmp_path, the_line):
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

    def test_the_study_has_the_name_of_its_file(self, tmp_path, the_line, small_text):
        path = tmp_path / "a b.toml"
        path.write_text(small_text + '[space]\n"optim.lr" = { low = 1e-4, high = 1e-2 }')
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
def test_live_parameters_of_any_space_come_back_out_of_the_resolved_run(data, tmp_path_factory, small_text):
    """Whatever the space: what is drawn for each live parameter stands at its path in the run, the rest is [run]'s."""
    wanted = data.draw(st.sets(st.sampled_from(sorted(_PATHS)), min_size=1))
    wanted |= {"optim.name"} if "optim.momentum" in wanted else set()
    wanted |= {"method"} if wanted & {"losses.kl.weight", "losses.kl.temperature"} else set()
    lines = [f'"{path}" = {data.draw(_PATHS[path])}' for path in data.draw(st.permutations(sorted(wanted)))]
    path = tmp_path_factory.mktemp("any") / "any.toml"
    path.write_text(small_text + "\n[space]\n" + "\n".join(lines))
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
