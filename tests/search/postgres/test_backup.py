"""Backups that come back whole, and upgrades of older databases."""

import re
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.commands.simulate import simulated_identity
from search.spec.load import load
from search.storage import schema
from search.storage.database import open_storage
from search.storage.migrations import STEPS
from search.study.create import open_search
from trainer.errors import UserError

Done = subprocess.CompletedProcess[str]
Inside = Callable[..., Done]
OneLine = Callable[..., bool]


def two_workers(me: Any, study: Path, url: str, budget: int) -> "list[subprocess.Popen[bytes]]":
    words = ["simulate", str(study), "--runs", str(study.parent), "--slots", "2", "--epoch-seconds", "0.1"]
    command = me.words(*words, "--ttl", "6", "--set", f"budget.trials={budget}", "--as-worker")
    with (study.parent / "workers.log").open("a") as log:
        return [subprocess.Popen(command, cwd="/", env=me.environment(url), stderr=log) for _ in range(2)]


def trials_of(url: str) -> list[tuple[object, ...]]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = (
            "SELECT number, state, datetime_start FROM trials JOIN studies USING (study_id) WHERE study_name = 'kept'"
        )
        return [tuple(row) for row in connection.execute(sa.text(f"{query} ORDER BY number"))]


@pytest.mark.slow
def test_a_backup_taken_while_workers_run_goes_on_elsewhere_to_the_exact_budget(
    mine: Any, theirs: Any, study: Path, one_line: OneLine, me: Any
) -> None:
    file = study.parent / "kept.backup"
    running = two_workers(me, study, mine.url, 4000)
    try:
        end = time.monotonic() + 60
        while not any(state == "COMPLETE" for _, state, _ in _trials_once_there(mine.url)):
            assert time.monotonic() < end, (study.parent / "workers.log").read_text()
            time.sleep(0.1)
        done = mine.db("backup", "-o", str(file))
        assert done.returncode == 0, done.stderr
        assert mine.password not in done.stdout + done.stderr
        assert all(worker.poll() is None for worker in running)
    finally:
        for worker in running:
            worker.kill()
            worker.wait()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [p.name for p in file.parent.iterdir() if p.name.endswith(".part")] == []
    words = ("db", "restore", str(file), "--dir", str(theirs.folder))
    restored = me.search(*words)
    assert restored.returncode == 0, restored.stderr
    counts = re.search(r"\d+ studies, (\d+) trials", done.stdout)
    assert counts is not None
    assert counts[0] in restored.stdout
    there = trials_of(theirs.url)
    budget = len(there) + 2
    before = {row for row in trials_of(mine.url) if row[1] == "COMPLETE"}
    assert {row for row in there if row[1] == "COMPLETE"} <= before
    assert one_line(me.search(*words), "holds", "'kept'", "without a search")
    for worker in two_workers(me, study, theirs.url, budget):
        assert worker.wait(timeout=90) == 0, (study.parent / "workers.log").read_text()
    after = trials_of(theirs.url)
    assert [row[1] for row in after] == ["COMPLETE"] * budget
    assert {row for row in there if row[1] == "COMPLETE"} <= set(after)


def _trials_once_there(url: str) -> list[tuple[object, ...]]:
    try:
        return trials_of(url)
    except sa.exc.ProgrammingError:  # no worker has made the tables yet
        return []


def test_sqlite_is_copied_whole_while_somebody_has_it_open_and_put_back(
    sqlite_url: str, study: Path, inside: Inside, one_line: OneLine, log: list[str]
) -> None:
    opened = open_storage(sqlite_url)
    spec = load(study)
    open_search(opened, sqlite_url, spec, simulated_identity(spec))
    file, target = study.parent / "one.backup", study.parent / "two.db"
    done = inside("backup", "-o", str(file), "--storage", sqlite_url)
    opened.engine.dispose()
    assert done.returncode == 0, done.stderr
    assert "1 studies, 0 trials" in done.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(p.name for p in study.parent.glob("*one.backup*")) == ["one.backup"]
    (file.parent / f".{file.name}.1.part").touch()  # of a killed one
    again = ("backup", "-o", str(file), "--storage", sqlite_url)
    assert one_line(inside(*again), "one.backup: exists", "--force")
    assert inside(*again, "--force").returncode == 0
    assert [line for line in log if "half a backup" in line] == [
        f"WARNING {file.parent}/.one.backup.1.part: half a backup, of a command that was killed or still runs; it may "
        "be removed"
    ]
    words = ("restore", str(file), "--storage", f"sqlite:///{target}")
    assert inside(*words).returncode == 0
    assert one_line(inside(*words), "holds 1 studies", "'kept'")
    again = open_storage(f"sqlite:///{target}", create=False)
    assert again.searches.names() == ["kept"]
    again.engine.dispose()
    torn = study.parent / "torn.backup"
    torn.write_bytes(file.read_bytes()[:-8192])
    assert one_line(inside("restore", str(torn), "--storage", f"sqlite:///{study.parent}/three.db"), "damaged")
    assert not (study.parent / "three.db").exists()


def test_a_restore_overwrites_nothing_of_others(
    postgres_url: str, sqlite_url: str, study: Path, inside: Inside, one_line: OneLine
) -> None:
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE invoices (id int)")
    opened = open_storage(sqlite_url)
    opened.engine.dispose()
    with sqlite3.connect(str(opened.engine.url.database)) as raw:
        raw.execute("CREATE TABLE invoices (id int)")
    raw.close()
    dump, copy = study.parent / "some.backup", study.parent / "copy.backup"
    dump.write_bytes(b"PGDMP and more")
    assert inside("backup", "-o", str(copy), "--storage", sqlite_url).returncode == 0
    assert one_line(inside("restore", str(dump), "--storage", postgres_url), "something else (invoices)")
    assert one_line(inside("restore", str(copy), "--storage", sqlite_url), "something else (invoices)")
    assert one_line(inside("restore", str(copy), "--storage", postgres_url), "a backup of sqlite cannot go into")


# ---- upgrade

VERSION_1 = """
CREATE TABLE kd_schema (version INTEGER NOT NULL PRIMARY KEY);
INSERT INTO kd_schema VALUES (1);
CREATE TABLE kd_search (
    search_id {serial}, name VARCHAR(128) NOT NULL UNIQUE, uuid VARCHAR(32) NOT NULL, identity VARCHAR(64) NOT NULL,
    spec TEXT NOT NULL, settings TEXT NOT NULL, stop VARCHAR(16), closed BOOLEAN NOT NULL, max_failed INTEGER NOT NULL,
    gpu_hours FLOAT, wall_seconds FLOAT, began FLOAT
);
"""
SERIAL = {"postgresql": "SERIAL PRIMARY KEY", "sqlite": "INTEGER NOT NULL PRIMARY KEY"}


@pytest.fixture
def version_1(database_url: str) -> str:
    """A database as version 1 left it: its own kd_search and version row, and Optuna's tables of 2022."""
    opened = open_storage(database_url)
    with opened.engine.begin() as connection:
        kept = {"kd_search", "kd_schema", "kd_opening", "kd_finding"}
        others = [table for name, table in schema.metadata.tables.items() if name not in kept]
        schema.metadata.drop_all(connection)
        serial = SERIAL[opened.engine.dialect.name]
        for statement in filter(str.strip, VERSION_1.format(serial=serial).split(";")):
            connection.exec_driver_sql(statement)
        schema.metadata.create_all(connection, tables=others)
        connection.exec_driver_sql("ALTER TABLE kd_lease DROP COLUMN weights_sha256")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    opened.engine.dispose()
    return database_url


def shape(url: str) -> dict[str, object]:
    """Tables with columns, their kinds and whether they may be null."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    seen = sa.inspect(engine)
    return {
        name: sorted((c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name))
        for name in seen.get_table_names()
    }


def test_a_database_of_version_1_is_brought_up_once_by_two_at_a_time(
    version_1: str, study: Path, tmp_path: Path, fork: Callable[..., Any]
) -> None:
    fresh = open_storage(f"sqlite:///{tmp_path / 'fresh.db'}")
    fresh.engine.dispose()
    with pytest.raises(UserError, match=r"older than this program's.*python -m search db upgrade"):
        open_storage(version_1)
    script = "import sys; from search.__main__ import main; sys.exit(main({}))"
    pair = [fork(script.format(["db", "upgrade"]), OPTUNA_STORAGE=version_1) for _ in range(2)]
    assert [process.wait(90) for process in pair] == [0, 0], [process.log for process in pair]
    said = [process.log.splitlines()[-1] for process in pair]
    assert sum("v3.0.0.d -> " in line and "our tables: 1 -> 2" in line for line in said) == 1, said
    assert sum("nothing was changed" in line for line in said) == 1, said
    if version_1.startswith("sqlite"):
        assert shape(version_1) == shape(f"sqlite:///{tmp_path / 'fresh.db'}")
    opened = open_storage(version_1)
    spec = load(study)
    open_search(opened, version_1, spec, simulated_identity(spec))
    opened.engine.dispose()
    if version_1.startswith("sqlite"):
        return
    few = ["--runs", str(tmp_path / "runs"), "--set", "budget.trials=3", "--as-worker"]
    worked = fork(script.format(["simulate", str(study), *few]), OPTUNA_STORAGE=version_1)
    assert worked.wait(90) == 0, worked.log
    assert [row[1] for row in trials_of(version_1)] == ["COMPLETE"] * 3


@pytest.mark.parametrize(
    ("table", "column", "value"), [("kd_schema", "version", 99), ("alembic_version", "version_num", "'v9.9.9.a'")]
)
def test_newer_tables_are_left_alone(
    sqlite_url: str, inside: Inside, table: str, column: str, value: object, one_line: OneLine
) -> None:
    opened = open_storage(sqlite_url)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {table} SET {column} = {value}")  # noqa: S608 - of this test
    opened.engine.dispose()
    before = shape(sqlite_url)
    assert one_line(inside("upgrade", "--storage", sqlite_url), "use the program of that version")
    assert shape(sqlite_url) == before


def test_every_older_version_has_a_step() -> None:
    assert sorted(STEPS) == list(range(1, schema.VERSION))
