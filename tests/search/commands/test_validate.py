"""`search validate` says what can be known of a study before its first trial."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import models
from search.__main__ import main
from search.commands import validate
from search.commands.preflight import preflight
from search.commands.simulate import simulated_identity
from search.planning.limits import breach, refuse_hopeless
from search.planning.network_costs import costs
from search.spec.load import find, load, probe_runs
from search.storage.database import open_storage
from search.study.create import open_search
from trainer import checkpoint
from trainer.cli.entry import guard
from trainer.errors import UserError

STUDY = """
[objective]
maximize = "dice"
[front]
along = "student.width"
{limits}
[run]
method = "kl"
epochs = 4
batch_size = 4
[run.data]
name = "blobs"
size = {size}
train = 8
validation = 4
test = 4
augment = "{augment}"
[run.teacher]
name = "unet"
width = 4
checkpoint = "{folder}/teacher.safetensors"
min_dice = {floor}
[run.student]
name = "unet"
[run.losses]
ce = {{ weight = 1.0 }}
kl = {{ weight = 1.0 }}
cwd = {{ weight = 1.0 }}
at = {{ taps = ["{tap}"] }}
[space]
method = {{ choices = ["kl", "cwd", "at"] }}
"losses.kl.temperature" = {{ low = 1.0, high = 4.0, when = {{ method = "kl" }} }}
"losses.cwd.weight" = {{ low = 1.0, high = 4.0 }}
"student.width" = {{ choices = [2, 4] }}
{space}
[pruner]
name = "median"
warmup_epochs = 4
[budget]
trials = 6
[[arms]]
name = "no-kd"
set = {{ method = "none" }}
trials = 1
"""


@pytest.fixture
def study(tmp_path):
    """Write a small study on drawn pictures."""

    def make(**parts):
        values = {
            "size": 32,
            "augment": "none",
            "floor": 0.0,
            "tap": "mid",
            "limits": "",
            "space": "",
            "folder": tmp_path,
        }
        path = tmp_path / "small.toml"
        path.write_text(STUDY.format(**{**values, **parts}))
        return path

    return make


@pytest.fixture
def teacher(tmp_path):
    """An untrained teacher of the study's shape."""

    def make(**words):
        torch.manual_seed(0)
        spec = load(tmp_path / "small.toml")
        network = models.build(spec.run.teacher, in_channels=3, classes=2)
        known = {"network": spec.run.teacher.model_dump(mode="json"), "classes": 2, "channels": 3}
        return checkpoint.export(tmp_path / "teacher.safetensors", network.state_dict(), {**known, **words})

    return make


def printed(path: Path, capsys, *more: str) -> tuple[int, str]:
    """Exit code and output of the command; a mistake's line counts as output."""
    parser = argparse.ArgumentParser()
    validate.add_arguments(parser)
    args = parser.parse_args([str(path), "--cache", str(path.parent / "cache"), "--no-timing", *more])
    code = guard(lambda: validate.main(args))
    out, err = capsys.readouterr()
    return code, out + err


def test_a_study_that_may_begin_is_described_line_by_line(study, teacher, capsys):
    path = study(limits="[limits]\nparams_m = 1.0\ngflops = 5.0")
    saved = teacher(train_images=["another"])
    code, text = printed(path, capsys)
    assert code == 0, text
    for words in (
        "study     small  spec ",
        "blobs  16 images  train 8 / validation 4 / test 4",
        "teacher   teacher  validation dice ",
        "measured (floor 0)",
        "4 parameters (1 conditional)",
        "1 data setting: 1 stream, 1 teacher pass a batch",
        "when method = kl",
        "limits    params_m 1, gflops 5",
        "student.width 2 ",
        "student.width 4 ",
        "6 trials an arm",
        "arms      no-kd  1 trials, 1 parameter",
        "without losses.kl.temperature: its when can no longer hold",
        "without losses.cwd.weight: its term is in no method of the arm",
        "losses.cwd.weight is drawn without effect where method is kl or at; add when",
        "warmup_epochs = 4: nothing is pruned in 4 epochs",
        "no-kd: 1 trials for 2 choices of student.width: some get none",
    ):
        assert words in text
    *before, last, following = text.splitlines()
    assert last == "ok        nothing was written but decoded pictures"
    assert following == f"next      python -m search work {path}"
    # Lines of their own keep within a screen, however long the paths of this machine are.
    assert [line for line in before if line.startswith(("time", "confirm", "   ")) and len(line) > 130] == []
    assert saved.sha256 not in text


def test_the_identity_covers_the_contents_of_data_and_teacher(study, teacher):
    spec = load(study())
    cache = spec.source.parent / "cache"
    teacher()
    with_one = preflight(spec, cache)
    assert with_one.contents
    assert with_one.teacher.overlap_text() == "unknown which images it was trained on"
    torch.manual_seed(1)
    teacher(remark="other bytes")
    assert preflight(spec, cache).identity != with_one.identity
    without = preflight(spec, None)
    assert not without.contents
    assert without.data is without.teacher is None
    assert without.problems == []


def test_nothing_but_decoded_pictures_is_written(study, teacher, capsys):
    path = study()
    teacher()
    before = {found: found.read_bytes() for found in path.parent.rglob("*") if found.is_file()}
    assert printed(path, capsys)[0] == 0
    assert printed(path, capsys, "--no-data")[1].rstrip().endswith("ok        nothing was written")
    after = [found for found in path.parent.rglob("*") if found.is_file() and "cache" not in found.parts]
    assert {found: found.read_bytes() for found in after} == before


def test_json_says_the_same(study, teacher, capsys):
    path = study()
    teacher()
    code, text = printed(path, capsys, "--json")
    found = json.loads(text)
    assert code == 0
    assert [arm["study"] for arm in found["arms"]] == ["small", "small.no-kd"]
    assert [(size["choice"], size["breaks"]) for size in found["arms"][0]["sizes"]] == [(2, None), (4, None)]
    assert found["streams"] == {"data": 1, "streams": 1, "teacher_passes": 1}


def test_a_teacher_whose_outputs_are_stored_passes_no_batch(study, teacher, capsys):
    path = study()
    path.write_text(path.read_text().replace('choices = ["kl", "cwd", "at"]', 'choices = ["kl", "cwd"]'))
    teacher()
    code, text = printed(path, capsys, "--set", "run.data.views=2", "--name", "small-2")
    assert "1 stream, 0 teacher passes a batch" in text, text
    assert code == 0


def test_overrides_are_shown_and_may_need_another_name(study, capsys):
    path = study()
    code, text = printed(path, capsys, "--no-data", "--set", "run.seed=3")
    assert (code, "--name small-2" in text) == (2, True)
    code, text = printed(path, capsys, "--no-data", "--set", "run.seed=3", "--name", "three")
    assert code == 0
    assert "study     three" in text
    assert "set: run.seed=3" in text


class TestStored:
    """What the database holds under the same name is compared, and nothing is written there."""

    def test_another_study_of_the_name_stands_in_the_way(self, study, sqlite_url, capsys):
        path, file = study(), Path(sqlite_url.removeprefix("sqlite:///"))
        flags = ("--no-data", "--storage", sqlite_url)
        code, text = printed(path, capsys, *flags)
        assert (code, file.exists()) == (0, False)
        assert f"stored    in {sqlite_url}: absent" in text
        opened = open_storage(sqlite_url)
        open_search(opened, sqlite_url, load(path), simulated_identity(load(path)))
        opened.engine.dispose()
        before = file.read_bytes()
        assert "the same" in printed(path, capsys, *flags)[1]
        path.write_text(path.read_text().replace("epochs = ", "epochs = 1"))
        code, text = printed(path, capsys, *flags)
        assert code == 2
        assert "with another identity: run.epochs: " in text
        assert "another name (--name)" in text
        assert file.read_bytes() == before

    def test_a_database_that_does_not_answer_is_said_and_stops_nothing(self, study, monkeypatch, capsys):
        monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://u:s3cret@127.0.0.1:9/db")
        code, text = printed(study(), capsys, "--no-data")
        assert code == 0
        assert "in postgresql://u:***@127.0.0.1:9/db: unknown: " in text


class TestProblems:
    def test_a_missing_teacher_is_named_with_the_remedy(self, study, capsys):
        code, text = printed(study(), capsys)
        assert code == 2
        assert "ok " not in text
        assert f"no such file; train it: python -m trainer teach {study()}" in text

    def test_a_teacher_below_its_floor_is_refused(self, study, teacher, capsys):
        path = study(floor=0.99)
        teacher()
        code, text = printed(path, capsys)
        assert code == 2
        assert "teacher.min_dice = 0.99" in text

    def test_a_variable_that_is_not_set_is_named_beside_the_other_problems(self, study, monkeypatch, capsys):
        monkeypatch.delenv("NO_SUCH_ROOT", raising=False)
        sets = [f"run.data.{text}" for text in ("name=polyp", "root=$NO_SUCH_ROOT", "split=splits/none.csv")]
        code, text = printed(study(), capsys, "--name", "other", *[word for one in sets for word in ("--set", one)])
        assert code == 2
        assert "run.data.root = '$NO_SUCH_ROOT': the variable NO_SUCH_ROOT is not set" in text
        assert "dropped: run.data.train" in text
        assert "teacher.safetensors': no such file" in text

    def test_a_split_that_is_not_found_says_from_where_it_was_looked_for(self, study, tmp_path, capsys):
        sets = [f"run.data.{text}" for text in ("name=polyp", f"root={tmp_path}", "split=splits/none.csv")]
        code, text = printed(study(), capsys, "--name", "other", *[word for one in sets for word in ("--set", one)])
        assert code == 2
        assert f"run.data.split = 'splits/none.csv': no such file {Path('splits/none.csv').absolute()}" in text
        assert "starts at the current folder: cd to the folder where the study was made" in text

    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            pytest.param({"size": 33}, ["run.data.size = 33", "multiples of 16", "32"], id="stride"),
            pytest.param({"tap": "midd"}, ["midd", "mid"], id="tap"),
            pytest.param({"augment": "standrad"}, ["augment = 'standrad'", "nearest: standard"], id="preset"),
            pytest.param(
                {"limits": "[limits]\nparams_m = 0.1"},
                ["choices: 4 breaks the limits", "of at most 0.1 M"],
                id="choice",
            ),
            pytest.param({"limits": "[limits]\nparams_m = 0.001"}, ["every network is beyond them"], id="all"),
            pytest.param(
                {"limits": "[limits]\ngflops = 0.003"},
                ["choices: 4 breaks the limits", "GFLOP of at most"],
                id="gflops",
            ),
        ],
    )
    def test_a_run_that_cannot_be_is_one_line_before_anything_is_opened(self, study, capsys, parts, words):
        code, text = printed(study(**parts), capsys)
        assert code == 2
        assert text.startswith("error: ")
        assert text.count("\n") == 1
        for word in words:
            assert word in text, text


class TestLimits:
    def test_a_choice_stays_where_another_value_beside_it_keeps_the_limit(self, study):
        space = '"student.name" = { choices = ["unet", "resunet"] }'
        spec = load(study(space=space, limits="[limits]\nparams_m = 10.0"))
        found = costs(spec)
        largest = sorted({round(cost.params_m, 6) for cost in found})
        assert len(largest) == 4  # two networks in two widths each
        tight = load(study(space=space, limits=f"[limits]\nparams_m = {largest[-2] + 1e-6}"))
        refuse_hopeless(tight, found)  # what a network costs does not depend on the limits
        tighter = load(study(space=space, limits=f"[limits]\nparams_m = {largest[1] + 1e-6}"))
        with pytest.raises(
            UserError, match=r"space\.student\.name\.choices: 'unet' breaks the limits with .* M parameters"
        ):
            refuse_hopeless(tighter, found)

    def test_a_run_that_breaks_a_limit_is_told_which(self, study):
        spec = load(study(limits="[limits]\nparams_m = 0.1"))
        broken = breach(spec.limits)
        runs = [run for _, run in probe_runs(spec)]
        words = {run.student.model_dump()["width"]: broken(run) for run in runs}
        assert words[2] is None
        assert "M parameters of at most 0.1 M" in str(words[4])

    def test_without_limits_nothing_is_built(self, study):
        spec = load(study(size=33))
        params = {"method": "cwd", "losses.cwd.weight": 2.0, "student.width": 4}
        assert breach(spec.limits)(spec.main.resolve(params)) is None

    @pytest.mark.slow
    def test_the_polyp_study_keeps_its_limit_at_every_width(self):
        spec = load(find("polyp-kd"))
        found = costs(spec)
        refuse_hopeless(spec, found)
        widths = {cost.params["student.width"]: cost.params_m for cost in found if cost.arm == "kd"}
        assert sorted(widths) == [8, 12, 16, 24]
        assert max(widths.values()) <= 5.0
        assert any(cost.arm == "pretrained" and cost.run.student.name == "smp-unet" for cost in found)


def test_counts_are_said_as_a_person_says_them(
    tmp_path: Path, small_study: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """No more trials in flight than there are, and one epoch is no epochs."""
    path = tmp_path / "one.toml"
    path.write_text(small_study(epochs=1, trials=3, in_flight=8, more='[pruner]\nname = "median"\nwarmup_epochs = 1\n'))
    assert main(["validate", str(path), "--no-data"]) == 0
    shown = capsys.readouterr().out
    assert "in flight at most 3 of 3" in shown
    assert "nothing is pruned in 1 epoch\n" in shown
