"""Which errors of a database are waited out, and which are said at once: by code, through every wrapping."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError

from search.storage import errors
from search.storage.database import creation_lock, open_storage
from search.storage.errors import patient
from trainer.errors import UserError

RAISED = "DO $$ BEGIN RAISE EXCEPTION 'as asked' USING ERRCODE = '{}'; END $$"


def caught(call: Callable[[], object]) -> Exception:
    with pytest.raises(sa.exc.SQLAlchemyError) as raised:
        call()
    return raised.value


def statement(url: str, text: str) -> Exception:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return caught(lambda: connection.exec_driver_sql(text))


def connecting(url: sa.URL) -> Exception:
    return caught(sa.create_engine(url, poolclass=sa.NullPool).connect)


PASSING = {
    "53100": "disk full",
    "53300": "too many connections",
    "57P01": "shut down",
    "57P03": "starting up",
    "25006": "read-only",
    "40P01": "deadlock",
    "57014": "statement timeout",
    "58030": "disk error",
}
LASTING = {
    "22001": "value too long",
    "23505": "unique",
    "42501": "permission denied",
    "42601": "syntax",
    "42P01": "no table",
    "28P01": "wrong password",
    "3D000": "no database",
    "57P04": "dropped",
}


def test_the_code_of_the_server_decides_whatever_the_class_of_the_error(postgres_url: str) -> None:
    """Codes as a real server sends them; Optuna's wrapping hides none of them."""
    caught_by_code = {code: statement(postgres_url, RAISED.format(code)) for code in {**PASSING, **LASTING}}
    assert {code for code, error in caught_by_code.items() if errors.is_transient(error)} == PASSING.keys()
    wrapped = {}
    for code, error in caught_by_code.items():
        wrapped[code] = StorageInternalError("An exception is raised during the commit.")
        wrapped[code].__cause__ = error
    assert {code for code, error in wrapped.items() if errors.is_transient(error)} == PASSING.keys()


def test_an_error_is_what_it_came_from(postgres_url: str) -> None:
    broken = statement(postgres_url, "SELECT pg_terminate_backend(pg_backend_pid())")
    too_long = statement(postgres_url, RAISED.format("22001"))
    assert errors.is_transient(broken)
    outer = RuntimeError("in the middle of something")
    outer.__cause__ = broken
    assert errors.is_transient(outer)
    too_long.__cause__ = broken
    assert errors.is_transient(too_long)
    assert not errors.is_transient(RuntimeError("no database in it"))


def test_who_is_refused_a_connection_is_told_and_who_meets_nobody_waits(postgres_server: sa.URL) -> None:
    assert not errors.is_transient(connecting(postgres_server.set(database="nowhere")))
    assert not errors.is_transient(connecting(postgres_server.set(username="nobody")))
    refused = connecting(sa.make_url("postgresql+psycopg2://u:secret@127.0.0.1:9/db"))
    assert errors.is_transient(refused, unknown_host=False)
    assert "secret" not in errors.driver_message(refused)
    unknown = connecting(sa.make_url("postgresql+psycopg2://u@no-such-host.invalid/db"))
    temporary = "Temporary failure" in str(unknown)  # as where the name server itself cannot be reached
    assert errors.is_transient(unknown)
    assert errors.is_transient(unknown, unknown_host=False) is temporary


def test_sqlite_says_what_passes_by_its_result_codes(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as holder:
        holder.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
        holder.execute("INSERT INTO t VALUES (1)")
        holder.commit()
        holder.execute("BEGIN IMMEDIATE")
        engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0}, poolclass=sa.NullPool)
        with engine.connect() as connection:
            assert errors.is_transient(caught(lambda: connection.exec_driver_sql("INSERT INTO t VALUES (2)")))
    for text in ("INSERT INTO t VALUES (1)", "SELECT * FROM nothing", "SELEKT"):
        assert not errors.is_transient(statement(f"sqlite:///{path}", text))


def test_commands_say_what_is_the_users_and_leave_bugs_alone(postgres_url: str) -> None:
    for code, kind in (("57P03", errors.DatabaseUnavailable), ("42501", UserError), ("42601", sa.exc.ProgrammingError)):
        error = statement(postgres_url, RAISED.format(code))
        with pytest.raises(kind) as raised, patient("look"):
            raise error
        assert type(raised.value) is kind
    with pytest.raises(UserError) as raised:
        open_storage(str(sa.make_url(postgres_url).set(database="nowhere")))
    assert not isinstance(raised.value, errors.DatabaseUnavailable)
    with pytest.raises(errors.DatabaseUnavailable):
        open_storage("postgresql://u@127.0.0.1:9/db")


def test_what_fails_under_the_creation_lock_is_not_taken_for_the_lock(database_url):
    with pytest.raises(sa.exc.OperationalError, match="lock timeout"), creation_lock(database_url):
        raise sa.exc.OperationalError("UPDATE", None, Exception("canceling statement due to lock timeout"))
