"""Studies of somebody else under a search's name are refused by every command, and left as they are."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from search.__main__ import main
from search.execution.checkpoint_writer import on_hand
from search.spec.load import load
from search.storage.database import bare_engine, open_storage
from search.storage.lookup import search_row
from search.storage.ownership import MARK
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.create import attach_search, study_id_of
from trainer.cli.entry import guard
from trainer.errors import UserError

ME = Owner("me", "here")
NO_STUDY = "not a study of this program"
Make = Callable[..., Any]


def five_trials(storage: str, name: str) -> None:
    study = optuna.create_study(study_name=name, storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=5)


def empty(storage: str, name: str) -> None:
    optuna.create_study(study_name=name, storage=storage, direction="minimize")


def two_objectives(storage: str, name: str) -> None:
    optuna.create_study(study_name=name, storage=storage, directions=["maximize", "minimize"])


OTHERS = [five_trials, empty, two_objectives]
"""What somebody else may have made."""


def content(url: str) -> dict[str, list[Any]]:
    """Every row of every table."""
    engine = bare_engine(url)
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = {t.name: [tuple(row) for row in connection.execute(sa.select(t))] for t in tables.sorted_tables}
    engine.dispose()
    return rows


@pytest.fixture
def file(tmp_path: Path, small_study: Make) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(small_study(more='[[arms]]\nname = "wide"\nset = { "student.width" = 6 }\n'))
    return path


@pytest.mark.parametrize("made", OTHERS)
@pytest.mark.parametrize("name", ["mine", "mine.wide"])
def test_somebody_else_s_study_is_refused_before_any_table_is_made(
    database_url: str, file: Path, made: Make, name: str
) -> None:
    made(database_url, name)
    before = content(database_url)
    studies = [arm.study_name for arm in load(file).arms]
    with pytest.raises(UserError, match=rf"study '{name}': .*{NO_STUDY} \(.*; use another name \(--name\)"):
        open_storage(database_url, studies=studies)
    assert content(database_url) == before


@pytest.mark.parametrize(
    ("command", "made"),
    [
        *[("validate", made) for made in OTHERS],
        *[
            (command, five_trials)
            for command in ("simulate", "status", "stop", "close", "enqueue", "export", "report", "note", "confirm")
        ],
    ],
)
def test_every_command_refuses_it_and_writes_nothing(
    sqlite_url: str,
    file: Path,
    open_again: Make,
    small_study: Make,
    made: Make,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another search of this program is in the same database, so that all tables are there."""
    open_again(sqlite_url, "other", small_study())
    made(sqlite_url, "mine")
    before = content(sqlite_url)
    monkeypatch.setenv("OPTUNA_STORAGE", sqlite_url)
    monkeypatch.chdir(file.parent)
    shared = ["--shared"] if command == "simulate" else []
    name = str(file) if command in ("validate", "simulate", "enqueue") else "mine"
    words = ["student.width=4"] if command == "enqueue" else []
    assert guard(lambda: main([command, name, *words, *shared])) == 2
    shown = capsys.readouterr()
    lines = [line for line in (shown.out + shown.err).splitlines() if NO_STUDY in line]
    assert len(lines) == 1
    assert content(sqlite_url) == before


@pytest.mark.parametrize("made", OTHERS)
def test_it_is_refused_where_it_took_the_place_of_a_deleted_search(
    database_url: str, open_again: Make, small_study: Make, made: Make
) -> None:
    """SQLite gives the deleted study's id again, so that neither name nor id tells them apart."""
    search: StudyAdapter = open_again(database_url, "mine", small_study())
    search.claim(ME, on_hand, ())
    optuna.delete_study(study_name="mine", storage=search.opened.storage)
    made(database_url, "mine")
    before = content(database_url)
    closed, wish = search.searches.closed(search.search_id)
    assert closed is not None
    assert (closed.text, wish) == ("the study mine was deleted", "now")
    with pytest.raises(UserError, match=NO_STUDY):
        open_again(database_url, "mine", small_study())
    with pytest.raises(UserError, match=NO_STUDY):
        attach_search(search.opened, search.spec)
    with pytest.raises(UserError, match=NO_STUDY):
        search_row(search.opened, "mine")
    assert content(database_url) == before


class Died(BaseException):
    """The process ends here."""


def test_a_search_whose_process_died_while_it_was_made_is_completed(
    database_url: str, open_again: Make, small_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between Optuna's study and our rows."""
    text = small_study(more='[[arms]]\nname = "wide"\nset = { "student.width" = 6 }\n')

    def dies(*_: object) -> None:
        raise Died

    monkeypatch.setattr("search.storage.searches.Searches.add_search", dies)
    with pytest.raises(Died):
        open_again(database_url, "mine", text)
    monkeypatch.undo()
    search: StudyAdapter = open_again(database_url, "mine", text)
    assert search.claim(ME, on_hand, ()).held.number == 0


def test_a_study_is_never_there_without_its_mark(database_url: str) -> None:
    """It is written in the transaction that creates the study."""
    opened = open_storage(database_url)
    statements: list[str] = []
    sa.event.listen(opened.engine, "commit", lambda _: statements.append("COMMIT"))
    sa.event.listen(opened.engine, "after_cursor_execute", lambda _c, _cur, text, *_: statements.append(text))
    study_id_of(opened, "mine", "maximize")
    places = [i for i, text in enumerate(statements) if "INSERT INTO stud" in text]
    assert len(places) >= 3  # study, direction, mark
    assert "COMMIT" not in statements[places[0] : places[-1]]
    assert opened.storage.get_study_system_attrs(study_id_of(opened, "mine", "maximize"))[MARK] == "mine"
    opened.engine.dispose()


def test_a_search_from_before_there_were_marks_goes_on_and_gets_them(
    sqlite_url: str, open_again: Make, small_study: Make
) -> None:
    def unmark() -> None:
        with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
            connection.execute("DELETE FROM study_system_attributes")
            row = connection.execute("SELECT settings FROM kd_search").fetchone()
            kept = {key: value for key, value in json.loads(row[0]).items() if key != "marked"}
            connection.execute("UPDATE kd_search SET settings = ?", (json.dumps(kept),))
        connection.close()

    search: StudyAdapter = open_again(sqlite_url, "mine", small_study())
    search.claim(ME, on_hand, ())
    unmark()
    assert attach_search(search.opened, search.spec).counts() == search.counts()
    assert search.searches.closed(search.search_id) == (None, None)
    again: StudyAdapter = open_again(sqlite_url, "mine", small_study())
    assert again.counts() == search.counts()
    study_id = next(iter(again.arms))
    assert again.opened.storage.get_study_system_attrs(study_id)[MARK] == "mine"


def test_a_copy_of_a_study_is_none_of_this_program(sqlite_url: str, open_again: Make, small_study: Make) -> None:
    """Optuna's copy has no leases, and its trials were trained by nobody."""
    open_again(sqlite_url, "mine", small_study()).claim(ME, on_hand, ())
    optuna.copy_study(from_study_name="mine", from_storage=sqlite_url, to_storage=sqlite_url, to_study_name="copied")
    with pytest.raises(UserError, match=NO_STUDY):
        open_again(sqlite_url, "copied", small_study())
