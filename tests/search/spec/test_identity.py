"""The identity of a study, and what `--set` may change under the same name."""

import pytest

from search.spec.identity import difference
from search.spec.load import StudySpec, identity, record
from trainer.errors import UserError


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

    def test_another_study_needs_another_name(self, study, the_line):
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
    def test_a_mistake_is_one_line(self, study, text, words, the_line):
        with pytest.raises(UserError) as error:
            study(sets=[text], name="other")
        the_line(error, *words)
