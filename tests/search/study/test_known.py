"""Where searches of a name were begun on this account, as far as that can be known."""

import json

import pytest

from search.study import known


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "kd-search" / "searches.json"


@pytest.fixture
def databases(tmp_path):
    files = [tmp_path / name / "search.db" for name in ("a", "b", "gone")]
    for file in files:
        file.parent.mkdir()
        file.touch()
    return files


def test_others_that_are_still_there_are_named_the_newest_first(databases, state):
    a, b, gone = databases
    for file in (a, gone, b, a):
        known.remember("mine", file)
    gone.unlink()
    assert known.elsewhere("mine", gone) == [a, b]
    assert known.elsewhere("mine", a) == [b]
    assert known.elsewhere("other", a) == []
    assert state.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"mine": 3}', "\udcff"])
def test_a_file_that_somebody_spoiled_is_begun_anew(databases, state, text):
    state.parent.mkdir(parents=True)
    state.write_bytes(text.encode(errors="surrogateescape"))
    assert known.elsewhere("mine", databases[0]) == []
    known.remember("mine", databases[0])
    assert json.loads(state.read_text()) == {"mine": [str(databases[0])]}


def test_a_home_that_cannot_be_written_costs_nothing(databases, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    known.remember("mine", databases[0])
    assert known.elsewhere("mine", databases[1]) == []


def test_old_names_make_room(databases, monkeypatch):
    monkeypatch.setattr(known, "MOST", 2)
    for name in ("first", "second", "third"):
        known.remember(name, databases[0])
    assert known.elsewhere("first", databases[1]) == []
    assert known.elsewhere("third", databases[1]) == [databases[0]]
