"""Workers of one study that run different sources are said aloud: their trials may not compare."""

import json
from pathlib import Path
from types import SimpleNamespace

from search.study import code_version


def lease(**environment: object) -> SimpleNamespace:
    return SimpleNamespace(environment=json.dumps(environment))


def test_a_version_names_the_sources_that_make_the_numbers(tmp_path: Path) -> None:
    for room in (*code_version.ROOMS, "search"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "some.py").write_text("one = 1\n")

    def now() -> str:
        code_version.code_of.cache_clear()
        return code_version.code_of(tmp_path)

    first = now()
    (tmp_path / "search" / "some.py").write_text("other = 1\n")
    assert now() == first  # what plans and stores changes no number
    for room in code_version.ROOMS:
        (tmp_path / room / "some.py").write_text(f"{room} = 2\n")
        assert now() != first
        first = now()
    (tmp_path / "models" / "some.py").rename(tmp_path / "models" / "another.py")
    assert now() != first
    code_version.code_of.cache_clear()
    assert code_version.code_of() == code_version.code_of(Path(__file__).resolve().parents[3])


def test_who_joins_trials_of_another_version_says_so_in_one_line(log: list[str]) -> None:
    own = code_version.code_of()
    code_version.warn_of_others("some", [lease(code=own), lease(), SimpleNamespace(environment=None)])
    assert log == []
    code_version.warn_of_others("some", [lease(code=own), lease(code="abc"), lease(code=f"abc+{own}")])
    (line,) = log
    assert f"version {own}, but 2 trials by abc" in line


def test_status_tells_versions_where_there_are_several() -> None:
    assert code_version.line(code_version.versions([lease(code="abc"), lease()])) is None
    versions = code_version.versions([lease(code="abc"), lease(code="abc+def")])
    assert versions == {"abc": 2, "def": 1}
    assert "2 different versions" in str(code_version.line(versions))


def test_a_trial_that_goes_on_elsewhere_names_both_once() -> None:
    assert code_version.both({"code": "abc"}, {"code": "def"}) == {"code": "abc+def"}
    assert code_version.both({"code": "abc+def"}, {"code": "abc"}) == {"code": "abc+def"}
    assert code_version.both({"ranks": 1}, {"ranks": 2}) == {}
