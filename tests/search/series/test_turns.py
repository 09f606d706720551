"""A worker takes the members of a series in turn, and what is said of them is said of all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import search.__main__ as search_main
from search.commands import work
from search.commands.simulate import simulated_identity
from search.series.members import SeriesSpec, load_series, series_named
from search.series.state import series_state
from search.series.turns import take_turns, why_over, worst
from search.spec.load import load
from search.storage.database import Database, open_storage
from search.study.create import open_search
from trainer.cli.entry import guard

Text = Callable[..., str]


@pytest.fixture
def series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, series_text: Text) -> SeriesSpec:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kd.toml").write_text(series_text(trials=2))
    there = series_named("kd.toml")
    assert there is not None
    return load_series(there)


def join(folder: Path, url: str, *names: str) -> Database:
    opened = open_storage(url)
    for name in names:
        spec = load(folder / f"{name}.toml")
        open_search(opened, url, spec, simulated_identity(spec))
    return opened


def test_members_have_their_turn_in_order_and_the_worst_code_counts(series: SeriesSpec, log: list[str]) -> None:
    codes, taken = iter([0, 3, 2, 0]), []

    def worked(spec: object) -> int:
        taken.append(getattr(spec, "name", ""))
        return next(codes)

    assert take_turns(series, worked, lambda: None) == 2
    assert taken == ["kd.1", "kd.2", "kd.3", "kd.4"]
    assert any("kd.2 ended with exit code 3" in line for line in log)
    assert [worst(each) for each in ([], [0, 0], [3, 0], [0, 3, 1], [3, 2], [7, 1])] == [0, 0, 3, 1, 2, 7]


@pytest.mark.parametrize("code", [130, 143])
def test_a_signal_ends_the_whole_series_at_once(series: SeriesSpec, code: int) -> None:
    taken = []
    assert take_turns(series, lambda spec: taken.append(spec.name) or code, lambda: None) == code
    assert taken == ["kd.1"]


def test_no_member_begins_where_the_series_was_asked_to_stop(
    series: SeriesSpec, tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = join(tmp_path, sqlite_url, "kd.1")
    assert why_over(opened, series) is None
    stop = ["stop", "kd", "--storage", sqlite_url]
    assert search_main.main(stop) == 0
    assert why_over(opened, series) == "the series was asked to stop, or is closed"
    assert search_main.main([*stop, "--undo"]) == 0
    assert why_over(opened, series) is None
    assert "kd.1: workers may begin trials again" in capsys.readouterr().out
    opened.engine.dispose()


def test_work_starts_the_ranks_of_each_member_with_its_own_file(
    series: SeriesSpec, tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def supervised(_script: Path, arguments: list[str], **_: object) -> int:
        started.append(arguments)
        join(tmp_path, sqlite_url, Path(arguments[1]).stem).engine.dispose()
        if len(started) == 3:
            assert search_main.main(["close", "kd", "--storage", sqlite_url]) == 0
        return 0

    monkeypatch.setattr(work, "supervise", supervised)
    assert search_main.main(["work", "kd.toml", "--storage", sqlite_url, "--slots", "2"]) == 0
    assert [Path(arguments[1]).name for arguments in started] == ["kd.1.toml", "kd.2.toml", "kd.3.toml"]
    assert all(sorted(arguments[2:]) == ["--slots=2", f"--storage={sqlite_url}"] for arguments in started)
    opened = open_storage(sqlite_url)
    assert all(row.closed for row in opened.searches.members("kd"))
    opened.engine.dispose()


def test_status_has_a_line_for_each_member_begun_or_not(
    series: SeriesSpec, tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = join(tmp_path, sqlite_url, "kd.2", "kd.1")
    state = series_state(opened, "kd.toml")
    assert state is not None
    assert [(m.name, m.label, m.state) for m in state.members] == [
        ("kd.1", "student=small, method=kl", "waiting"),
        ("kd.2", "student=small, method=none", "waiting"),
        ("kd.3", None, "not begun"),
        ("kd.4", None, "not begun"),
    ]
    assert series_state(opened, "kd.1") is None
    assert search_main.main(["status", "kd", "--storage", sqlite_url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("kd  series of 4")
    assert lines[2].split()[:4] == ["kd.1", "student=small,", "method=kl", "waiting"]
    assert search_main.main(["status", "kd", "--json", "--storage", sqlite_url]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["series"], document["ended"], len(document["members"])) == ("kd", False, 4)
    assert search_main.main(["close", "kd", "--storage", sqlite_url]) == 0
    capsys.readouterr()
    assert search_main.main(["status", "kd", "--storage", sqlite_url]) == 0
    assert "no new trials: the series is closed for good" in capsys.readouterr().out
    opened.engine.dispose()


def test_a_trial_of_one_s_own_waits_in_every_member_that_was_begun(
    series: SeriesSpec, tmp_path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = join(tmp_path, sqlite_url, "kd.1", "kd.2")
    assert search_main.main(["enqueue", "kd.toml", "optim.lr=2e-3", "--storage", sqlite_url]) == 0
    assert [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines() if "queued" in line] == [
        "kd.1: queued in arm kd, where 2 now wait",
        "kd.2: queued in arm kd, where 2 now wait",
    ]
    opened.engine.dispose()


def test_validate_says_each_member_and_the_sum(
    series: SeriesSpec, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", "kd.toml", "--no-data", "--storage", sqlite_url]
    assert search_main.main(words) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:3] == [
        "series    kd  4 members",
        "          student: small, large",
        "          method: kl, none",
    ]
    assert "kd.4  student=large, method=none" in out
    assert "sum       8 trials; no steps were timed" in out
    assert "teachers  1 to teach: python -m trainer teach kd.toml" in out
    assert "kd.2, kd.4: without space.losses.kl.weight" in out
    assert search_main.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["study"]["study"] for each in document["members"]] == ["kd.1", "kd.2", "kd.3", "kd.4"]
    assert (document["trials"], document["problems"]) == (8, [])


@pytest.mark.parametrize("words", [["work", "kd.toml"], ["validate", "kd.toml"]])
def test_a_series_has_no_other_name(series: SeriesSpec, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(lambda: search_main.main([*words, "--name", "other", "--storage", "sqlite:///x.db"])) == 2
    assert "--name other: the members of a series have their own names" in capsys.readouterr().err
