"""A file with [series] is read as its members: a list or a product, each mistake in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainer.__main__ as trainer_main
from trainer import checkpoint
from trainer.errors import UserError
from trainer.run_file import read
from trainer.series import Series, member_at, series_in

SHARED = """
[run]
method = "kl"
epochs = 1
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4, augment = "none" }
teacher = { name = "unet", width = 4, checkpoint = "{data}-{teacher}.safetensors" }
student = { name = "unet", width = 2 }
losses = { ce = {}, kl = {} }
"""
PRODUCT = """
[series]
leave_out = [ { data = "large", teacher = "wide" } ]
[series.product.data.small]
"run.data.train" = 8
[series.product.data.large]
run.data.train = 12
[series.product.teacher.thin]
"run.teacher.width" = 2
[series.product.teacher.wide]
"run.teacher.width" = 6
[series.product.method.kl]
"run.method" = "kl"
[series.product.method.none]
"run.method" = "none"
"""


def written(folder: Path, text: str, name: str = "kd") -> Series:
    path = folder / f"{name}.toml"
    path.write_text(text)
    series = series_in(path)
    assert series is not None
    return series


def test_a_product_has_a_member_for_each_combination_but_those_left_out_the_last_axis_fastest(tmp_path: Path) -> None:
    series = written(tmp_path, SHARED + PRODUCT)
    assert [member.called for member in series.members] == [
        "kd.1 (data=small, teacher=thin, method=kl)",
        "kd.2 (data=small, teacher=thin, method=none)",
        "kd.3 (data=small, teacher=wide, method=kl)",
        "kd.4 (data=small, teacher=wide, method=none)",
        "kd.5 (data=large, teacher=thin, method=kl)",
        "kd.6 (data=large, teacher=thin, method=none)",
    ]
    assert series.sets == {
        "data": ("run.data.train",), "teacher": ("run.teacher.width",), "method": ("run.method",)
    }  # fmt: skip


def test_a_member_is_read_as_a_file_of_its_own_would_be(tmp_path: Path) -> None:
    written(tmp_path, SHARED + PRODUCT)
    file = read(tmp_path / "kd.5.toml", sets=["epochs=3"])
    data: Any = file.run.data
    teacher: Any = file.run.teacher
    assert (data.train, teacher.width, file.run.method, file.run.epochs) == (12, 2, "kl", 3)
    assert teacher.checkpoint == "large-thin.safetensors"


def test_a_list_sets_names_before_their_options_and_takes_tables_apart(tmp_path: Path) -> None:
    members = """
    [[series.members]]
    title = "smp"
    "run.teacher.encoder" = "resnet18"
    "run.teacher.name" = "smp-unet"
    "run.teacher.checkpoint" = "smp.safetensors"
    [[series.members]]
    run.teacher = { checkpoint = "thin.safetensors", width = 2 }
    """
    series = written(tmp_path, SHARED + members)
    smp, thin = (read(series.path(member)).run.teacher for member in series.members)
    assert (smp.name, getattr(smp, "encoder", None)) == ("smp-unet", "resnet18")
    assert (thin.name, getattr(thin, "width", None), thin.checkpoint) == ("unet", 2, "thin.safetensors")
    assert [member.called for member in series.members] == ["kd.1 (smp)", "kd.2"]


KNOWN = "known: gpu_hours, leave_out, members, product, wall"
NO_AXIS = PRODUCT.replace("{ data =", "{ date =")
NO_CHOICE = PRODUCT.replace('"large", t', '"larg", t')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[series]", "series.has no members; write members = [...] or [series.product.AXIS.CHOICE]"),
        ("[series]\nmembers = [{}]", "series.members[0]: sets nothing"),
        ("[series]\nmember = 1", f"series.member = 1: unknown key; {KNOWN}; nearest: members"),
        ('[series]\nmembers = [{"run.epochs" = 1}, {"run.epochs" = 1}]', "kd.1 and kd.2 set the same"),
        ('[series]\nmembers = [{epochs = 1}]', 'series.members[0].epochs = 1: no path of a study file; write "run.e'),
        ('[series]\nmembers = [{"run..epochs" = 1}]', "has an empty part"),
        ('[series]\nwall = "soon"\nmembers = [{"run.epochs" = 1}]', "series.wall: 'soon' is no duration"),
        ("[series.product.data]", "series.product.data: has no choices"),
        ('[series.product.data."a b"]\n"run.epochs" = 1', "series.product.data.a b: 'a b' is no name"),
        (
            '[series.product.a.x]\n"run.epochs" = 1\n[series.product.b.y]\n"run.epochs" = 2',
            "series.product.a.x: run.epochs is set by b.y, too; let one axis set it",
        ),
        (
            '[series.product.a.x]\n"run.teacher" = { name = "unet" }\n[series.product.b.y]\n"run.teacher.width" = 2',
            "series.product.a.x: run.teacher is set by b.y, too",
        ),
        (NO_AXIS, "series.leave_out[0].date = 'large': no axis of the product; known: data, method, teacher"),
        (NO_CHOICE, "series.leave_out[0].data = 'larg': no such choice; known: large, small"),
        (PRODUCT.replace(', teacher = "wide"', "").replace('data = "large"', ""), "series.leave_out[0] = {}"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_table_is_one_line_that_names_it(tmp_path: Path, text: str, expected: str) -> None:
    plain = SHARED.replace("{data}-{teacher}", "t")
    with pytest.raises(UserError) as mistake:
        written(tmp_path, (SHARED if "product.teacher" in text else plain) + text)
    assert expected in str(mistake.value)
    assert len(str(mistake.value).splitlines()) == 1


def test_braces_that_name_no_axis_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\{techer\} is no axis of the series; known: .* nearest: teacher"):
        written(tmp_path, SHARED.replace("{teacher}", "{techer}") + PRODUCT)


def test_a_number_that_no_member_has_and_a_file_with_a_member_s_name_are_refused(tmp_path: Path) -> None:
    written(tmp_path, SHARED + PRODUCT)
    with pytest.raises(UserError, match=r"kd\.7: no such member; there are 6"):
        member_at(tmp_path / "kd.7.toml")
    assert member_at(tmp_path / "other.1.toml") is None
    (tmp_path / "kd.2.toml").write_text("")
    with pytest.raises(UserError, match=r"kd\.2\.toml: has the name of a member of the series"):
        member_at(tmp_path / "kd.1.toml")


def test_each_distinct_teacher_of_a_series_is_taught_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    series = written(tmp_path, SHARED + PRODUCT)
    monkeypatch.chdir(tmp_path)
    words = ["teach", str(series.file), "--cache", str(tmp_path / "cache")]
    assert trainer_main.main(words) == 0
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [file.name for file in files] == [
        "large-thin.safetensors",
        "small-thin.safetensors",
        "small-wide.safetensors",
    ]
    assert [len(checkpoint.weights(file).word("train_images")) for file in files] == [12, 8, 8]
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("next: ")] == [f"next: python -m search validate {series.file}"]
    assert lines[-1].startswith("next: ")
    assert trainer_main.main(words) == 0
    assert capsys.readouterr().out.count("nothing to do: trained before") == 3
    with pytest.raises(UserError, match=r"--output .*: a series may have several teachers"):
        trainer_main.main([*words, "-o", "one.safetensors"])


def test_ranks_of_their_own_name_the_series_that_was_given_as_what_comes_next(
    tmp_path: Path, launch: Callable[..., Any]
) -> None:
    """Each teacher's ranks are started on its member; what is typed after them is still the series."""
    one = '[series.product.method.kl]\nrun.method = "kl"\n[series.product.method.none]\nrun.method = "none"\n'
    shared = SHARED.replace("{data}-{teacher}", "t")
    series = written(tmp_path, shared + one)
    words = ["--ranks", "2", "--cache", str(tmp_path / "cache")]
    for given in (series.file, tmp_path / "kd.2.toml"):
        child = launch("trainer", "teach", given, *words, cwd=tmp_path)
        assert child.wait(200) == 0, child.log
        assert [line for line in child.log.splitlines() if line.startswith("next: ")] == [
            f"next: python -m search validate {given}"
        ]


def test_two_teachers_in_one_file_are_refused_before_any_is_taught(tmp_path: Path) -> None:
    series = written(tmp_path, SHARED.replace("{data}-{teacher}", "{data}") + PRODUCT)
    with pytest.raises(UserError, match=r"kd\.1 .* and kd\.3 .* have run\.teacher\.checkpoint = 'small\.safetensors'"):
        trainer_main.main(["teach", str(series.file)])
