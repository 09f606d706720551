"""A series is listed and deleted as one."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from search.admin import delete
from search.admin.list import listed
from search.storage.database import Database
from search.storage.evidence import Evidence
from search.study.adapter import StudyAdapter
from trainer.errors import UserError

Join = Callable[..., StudyAdapter]
Text = Callable[..., str]
MORE = "".join(f'[series.product.student.w{width}]\n"run.student.width" = {width}\n' for width in (5, 6, 7))


def test_members_are_listed_in_the_order_of_their_numbers(opened: Database, join: Join, series_text: Text) -> None:
    join("kd.10", series_text(limits=MORE))
    join("kd.2")
    assert [each.study for each in listed(opened)] == ["kd.2", "kd.10"]


@pytest.mark.parametrize(("answer", "left"), [("kd", ["other"]), ("kd.2", ["kd.1", "kd.2", "other"])])
def test_its_name_deletes_all_members(
    opened: Database, join: Join, series_text: Text, small_study: Text, database_url: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, left: list[str],
) -> None:  # fmt: skip
    first = join("kd.1", series_text())
    join("kd.2")
    join("other", small_study())
    for name in ("kd.1", "kd.2"):
        Evidence(opened.engine).open(name, first.folder, "me@here", "confirm", ["kd-1"])
    parser = argparse.ArgumentParser()
    delete.add_arguments(parser)
    args = parser.parse_args(["kd", "--storage", database_url, "--runs", str(tmp_path / "runs")])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _prompt: answer)
    if answer == "kd":
        assert delete.main(args) == 0
    else:
        with pytest.raises(UserError, match="study 'kd': that was not its name; nothing was deleted"):
            delete.main(args)
    asked, *rest = capsys.readouterr().out.splitlines()
    assert asked.startswith("deletes kd, with kd.1, kd.2 from ")
    assert opened.searches.names() == left
    if answer == "kd":
        assert rest[1].startswith("kd.1, kd.2: deleted, 2 trials")
        assert rest[-1] == "kept: 2 records of who opened its test rows, and when"
