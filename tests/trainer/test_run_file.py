"""Runs in files: study files, exports and bare runs; what people get wrong ends in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.run_file import read

STUDY = """
[objective]
maximize = "dice"
[run]
epochs = 3
method = "kl"
data = { name = "blobs", size = 32, train = 8 }
student.name = "unet"
student.width = 4
"optim.schedule.name" = "one-cycle"
"optim.schedule.start_div" = 10.0
[run.teacher]
name = "resunet"
width = 8
checkpoint = "teacher.safetensors"
[run.losses]
ce = { weight = 0.5 }
kl = { temperature = 2.0 }
[teach]
epochs = 7
optim.schedule = { name = "poly", power = 0.5 }
[space]
"student.width" = { choices = [4, 8] }
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file with tables that a run does not need, nested, inline and dotted."""
    path = tmp_path / "small.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def export(study: Path) -> Path:
    """An export with two configurations, the second a plain one."""
    run = read(study).run.model_dump(mode="json")
    other = run | {"epochs": 2, "method": "none"}
    best = [
        {"rank": 1, "trial": 5, "run": run, "replay": [[1, 3]], "ranks": 2, "threads": 1, "scores": {"dice": 0.9}},
        {"rank": 2, "trial": 7, "run": other, "more": "left alone"},
    ]
    path = study.with_name("best.json")
    path.write_text(json.dumps({"best": best, "schema": 1}))
    return path


def message(path: Path, **options: Any) -> str:
    """The one line that reading ends with."""
    with pytest.raises(UserError) as caught:
        read(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_study_file_gives_its_run_from_nested_inline_and_dotted_keys(study: Path) -> None:
    run = read(study).run
    assert (run.epochs, run.student.name, getattr(run.student, "width", None)) == (3, "unet", 4)
    assert run.optim.schedule.model_dump()["start_div"] == 10.0
    assert run.losses.kl is not None
    assert run.losses.kl.temperature == 2.0


def test_a_bare_run_reads_as_it_was_written(study: Path, tmp_path: Path) -> None:
    run = read(study).run
    path = tmp_path / "run.json"
    path.write_text(run.model_dump_json())
    assert read(path).run == run
    assert read(path).promised is None


def test_an_export_gives_the_first_configuration_or_the_one_asked_for(export: Path) -> None:
    first, second = read(export), read(export, rank=2)
    assert first.run.epochs == 3
    assert first.entry is not None
    assert (first.entry.replay, first.entry.ranks, first.entry.threads) == (((1, 3),), 2, 1)
    assert second.run.method == "none"
    assert first.promised is first.entry
    assert second.promised is None


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("run.epochs=5", "epochs", 5),
        ("epochs=5", "epochs", 5),
        ("optim.lr=1e-2", "optim.lr", 0.01),
        ("losses.dice.weight = 2.0", "losses.dice.weight", 2.0),
        ('method="none"', "method", "none"),
        ("method=none", "method", "none"),
        ("data.augment=standard", "data.augment", "standard"),
        ("losses.at={ taps = ['enc1'] }", "losses.at.taps", ("enc1",)),
    ],
)
def test_a_value_is_set_on_the_command_line_as_toml_or_as_a_bare_word(
    study: Path, text: str, path: str, value: object
) -> None:
    found: Any = read(study, sets=[text]).run
    for step in path.split("."):
        found = getattr(found, step)
    assert found == value


def test_another_name_replaces_a_whole_table(study: Path) -> None:
    run = read(study, sets=["optim.schedule={ name = 'cosine', end = 0.1 }"]).run
    assert run.optim.schedule.model_dump() == {"name": "cosine", "warmup_epochs": 0, "end": 0.1}


def test_a_replay_is_promised_until_something_other_than_a_place_is_set(export: Path) -> None:
    assert read(export, sets=["teacher.checkpoint='elsewhere'"]).promised is not None
    assert read(export, sets=["teacher.min_dice=0.1"]).promised is not None
    assert read(export, sets=["optim.lr=1e-2"]).promised is None


def test_the_teacher_is_trained_by_the_run_without_distillation_and_its_own_recipe(study: Path) -> None:
    run = read(study, sets=["teach.optim.lr=5e-3"]).teacher_run()
    assert isinstance(run, RunConfig)
    assert (run.method, run.teacher, run.epochs) == ("none", None, 7)
    assert run.student.model_dump(exclude_none=True) == {"name": "resunet", "width": 8}
    assert run.optim.schedule.model_dump() == {"name": "poly", "warmup_epochs": 0, "power": 0.5}
    assert run.optim.lr == 5e-3
    assert run.data == read(study).run.data


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["optim.lrr=1"], ["run.optim.lrr = 1", "unknown key", "nearest: lr"]),
        (["losses.klx={}"], ["run.losses.klx", "known: ", "nearest: kl"]),
        (["data.name=blob"], ["run.data.name = 'blob'", "known: blobs, pictures, polyp, volumes", "nearest: blobs"]),
        (["student.name=unett"], ["run.student.name = 'unett'", "nearest: unet"]),
        (["optim.schedule.name=polly"], ["run.optim.schedule.name", "nearest: poly"]),
        (["precision=bf17"], ["run.precision = 'bf17'", "nearest: bf16"]),
        (["epochs=0"], ["run.epochs = 0", "greater than 0"]),
        (["method=cwd"], ["run.method", "'cwd'", "kl"]),
        (["epochs"], ["--set epochs", "PATH=VALUE"]),
        (["epochs=[1,"], ["--set epochs=[1,", "TOML"]),
        (["run=3"], ["whole table", "run.epochs=5"]),
        (["epochs=3\nseed = 4"], ["one value on one line"]),
        (["epochs.more=1"], ["epochs", "no table"]),
        (["epochs=0", "batch_size=0"], ["run.epochs = 0", "1 more"]),
    ],
)
def test_a_wrong_value_is_one_line_with_path_value_known_and_nearest(
    study: Path, sets: list[str], words: list[str]
) -> None:
    text = message(study, sets=sets)
    assert all(word in text for word in words), text


def test_a_missing_value_is_named_with_its_meaning(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[run]\nepochs = 1\ndata = { name = "polyp", split = "s.csv" }\nlosses = { ce = {} }\n')
    text = message(path)
    assert "s.toml: run.data.root: missing" in text
    assert "folder" in text


def test_files_that_hold_no_run_are_refused(tmp_path: Path, study: Path, export: Path) -> None:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert "cannot be read" in message(tmp_path / "missing.toml")
    assert "not TOML" in message(write("a.toml", b"[run"))
    assert "not JSON" in message(write("a.json", b"{"))
    assert "is UTF-16" in message(write("b.toml", b"\xff\xfe\x00"))
    assert "line 2, is no UTF-8" in message(write("b.toml", b"\n# caf\xe9"))
    assert "nested too deeply" in message(write("d.json", b"[" * 100_000))
    assert "holds a list" in message(write("b.json", b"[1]"))
    assert "run: missing" in message(write("c.toml", b"[runs]\nepochs = 1\n"))
    assert "nearest: runs" in message(write("c.toml", b"[runs]\nepochs = 1\n"))
    assert "expected a table [run]" in message(write("d.toml", b"run = 3\n"))
    assert "optim is a value already" in message(write("e.toml", b'[run]\noptim = 3\n"optim.lr" = 1.0\n'))
    assert "given twice" in message(write("e.toml", b'[run]\noptim.lr = 3\n"optim.lr" = 1.0\n'))
    assert "--rank 1" in message(study, rank=1)
    assert "known: 1, 2" in message(export, rank=3)
    assert "best.0.rank" in message(write("f.json", b'{"best": [{"run": {}}]}'))


@pytest.mark.parametrize("name", ["student", "teacher", "method", "data"])
def test_a_teachers_recipe_does_not_say_what_is_trained(study: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"teach\.{name} = .*set run\."):
        read(study, sets=[f"teach.{name}=3"]).teacher_run()


def test_a_run_without_a_teacher_has_nothing_to_teach(study: Path) -> None:
    text = study.read_text().replace('method = "kl"', 'method = "none"')
    start, end = text.index("[run.teacher]"), text.index("[run.losses]")
    study.write_text(text[:start] + text[end:])
    with pytest.raises(UserError, match=r"run\.teacher: missing"):
        read(study).teacher_run()


class TestGuard:
    def test_a_mistake_of_the_user_is_one_line_and_two(self, capsys: pytest.CaptureFixture[str]) -> None:
        def main() -> int:
            raise UserError("a.toml: x\n  is wrong")

        assert guard(main) == 2
        assert capsys.readouterr().err == "error: a.toml: x is wrong\n"

    def test_a_data_or_checkpoint_error_is_a_mistake_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        from trainer.data import DataError
        from trainer.errors import CheckpointError

        for kind in (DataError, CheckpointError):

            def main(kind: type[Exception] = kind) -> int:
                raise kind("in one line")

            assert guard(main) == 2
        assert capsys.readouterr().err == "error: in one line\n" * 2

    def test_an_interrupt_is_130(self) -> None:
        def main() -> int:
            raise KeyboardInterrupt

        assert guard(main) == 130

    def test_a_bug_keeps_its_traceback(self) -> None:
        def main() -> int:
            raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            guard(main)

    def test_other_codes_pass(self) -> None:
        assert guard(lambda: None) == 0
        assert guard(lambda: 3) == 3
