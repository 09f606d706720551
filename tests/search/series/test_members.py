"""The members of a series are studies: loaded with what they share, without what they have no use for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from search.series.members import SeriesSpec, distinct_teachers, load_series, series_named
from search.spec.load import find, load
from trainer.errors import UserError

Text = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    return tmp_path / "studies"


def loaded(name: str) -> SeriesSpec:
    series = series_named(name)
    assert series is not None
    return load_series(series)


def test_a_member_is_found_by_its_name_and_by_its_path(folder: Path, series_text: Text) -> None:
    (folder / "kd.toml").write_text(series_text())
    by_name, by_path = load(find("kd.2")), load(find("studies/kd.2.toml"))
    assert by_name == by_path
    assert (by_name.name, by_name.run.method, by_name.file) == (
        "kd.2",
        "none",
        folder.relative_to(folder.parent) / "kd.toml",
    )
    assert by_name.series is not None
    assert (by_name.series.number, by_name.series.of, by_name.series.label) == (2, 4, "student=small, method=none")
    with pytest.raises(UserError, match=r"kd\.5: no such member; there are 4"):
        find("kd.5")


def test_what_a_member_has_no_use_for_leaves_its_space_and_its_queue(folder: Path, series_text: Text) -> None:
    (folder / "kd.toml").write_text(series_text())
    taught, alone = load(find("kd.1")), load(find("kd.2"))
    assert [p.name for p in taught.space] == ["losses.kl.weight", "optim.lr"]
    assert [p.name for p in alone.space] == ["optim.lr"]
    assert alone.dropped == ("space.losses.kl.weight (its term is in no method of the arm)",)
    assert [dict(entry) for entry in (*taught.main.enqueue, *alone.main.enqueue)] == [
        {"losses.kl.weight": 2.0, "optim.lr": 1e-3},
        {"optim.lr": 1e-3},
    ]


def test_a_front_that_a_member_does_not_have_is_left_out_of_it(folder: Path, series_text: Text) -> None:
    text = series_text().replace("[run]", '[front]\nalong = "student.width"\n[run]', 1)
    text = text.replace("[space]", '[space]\n"student.width" = { choices = [4, 8] }', 1)
    text = text.replace('"run.student.width" = 4', '"run.student.name" = "ducknet-17"').replace(
        '"run.student.width" = 8', '"run.student.name" = "unet"'
    )
    (folder / "kd.toml").write_text(text)
    without, along = load(find("kd.1")), load(find("kd.3"))
    assert (without.front, without.main.front) == (None, ())
    assert along.front is not None
    assert along.front.along == "student.width"
    assert along.front.spread == "equal"
    (folder / "kd.toml").write_text(text.replace("[front]\n", '[front]\nspread = "open"\nper = "hour"\n'))
    opened = load(find("kd.3")).front
    assert opened is not None
    assert (opened.along, opened.spread, opened.per) == ("student.width", "open", "hour")


def test_under_another_name_a_member_is_a_study_of_its_own(folder: Path, series_text: Text) -> None:
    (folder / "kd.toml").write_text(series_text(limits="gpu_hours = 1.0"))
    assert load(find("kd.1"), ["run.epochs=2"], name="try").series is None
    named = r"another study than 'kd\.1' .*give it a name of its own: --name kd\.1-2; or a whole series"
    with pytest.raises(UserError, match=named):
        load(find("kd.1"), ["run.epochs=2"])


def test_the_series_itself_is_no_study_and_says_what_takes_it(folder: Path, series_text: Text) -> None:
    (folder / "kd.toml").write_text(series_text())
    with pytest.raises(UserError, match=r"is a series of studies; name one of them, such as kd\.1, or give"):
        load(find("kd"))
    assert series_named("kd.1") is None
    assert [spec.name for spec in loaded("kd").members] == ["kd.1", "kd.2", "kd.3", "kd.4"]
    assert [spec.name for spec in distinct_teachers(loaded("kd").members)] == ["kd.1"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            '"run.student.width" = 8',
            '"run.student.widht" = 8',
            r"kd\.3 \(student=large, method=kl\): run\.student\.widht = 8: unknown key; known: .*nearest: width",
        ),
        ('"run.method" = "kl"', '"run.methods" = "kl"', r"kd\.1 \(.*\): run\.methods = 'kl': unknown key"),
        (
            '"run.student.width" = 8',
            '"run.optim.lr" = 1e-2',
            r"kd\.3 \(.*\): run\.optim\.lr = 0\.01: optim\.lr is searched, every trial takes it from \[space\]; write "
            r'"space\.optim\.lr" = ',
        ),
        ('"run.student.width" = 8', '"enqueue" = []', r"no path of a study file"),
        ('"run.student.width" = 8', '"series.wall" = "1h"', r"kd\.3 .*: series: says itself what its members are"),
        (
            '"run.student.width" = 8',
            '"rum.epochs" = 3',
            r"kd\.3 .*: rum: no table of a study file; known: .*; nearest: run",
        ),
        (
            '"run.method" = "kl"',
            '"run.seed" = 3',
            r"kd\.toml: space\.losses\.kl\.weight \(its term is in no method of the arm\): in no member; remove it",
        ),
        (
            '"run.student.width" = 8',
            '"run.teacher.width" = 8',
            r"kd\.1 and kd\.3 have run\.teacher\.checkpoint = 'none\.safetensors' for two teachers "
            r"\(student\.width: 12 -> 8\)",
        ),
    ],
)
def test_a_member_that_is_no_study_is_named_in_one_line(
    folder: Path, series_text: Text, old: str, new: str, expected: str
) -> None:
    text = series_text()
    assert old in text
    (folder / "kd.toml").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=expected) as mistake:
        loaded("kd")
    assert len(str(mistake.value).splitlines()) == 1
