"""How a database is opened: by many at once, by a URL that shows no password, and what a user hears of a bad one."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from loguru import logger

from search.storage import database, fencing
from search.storage import url as storage_addresses
from search.storage.database import creation_lock, open_storage
from search.storage.errors import is_transient
from search.storage.schema import searches, version_row
from search.storage.url import disk_kind, label_of
from search.study.adapter import StudyAdapter
from trainer.errors import UserError

ARMS = """
[[arms]]
name = "wide"
set = { "student.width" = 6 }
trials = 4
"""

Join = Callable[..., StudyAdapter]


OPENER = """
import os
from pathlib import Path
from search.study.create import open_search
from search.commands.simulate import simulated_identity
from search.spec.load import load
from search.storage.database import open_storage
spec = load(Path({path!r}))
os.read({gate}, 1)
search = open_search(open_storage({url!r}), {url!r}, spec, simulated_identity(spec))
print(search.folder, sorted(search.arms))
"""


def test_an_empty_database_opened_by_eight_processes_holds_one_search(
    database_url: str, tmp_path: Path, fork: Callable[..., Any], small_study: Callable[..., str]
) -> None:
    path = tmp_path / "leased.toml"
    path.write_text(small_study() + ARMS + '[[enqueue]]\n"optim.lr" = 1e-2\n')
    gate, opens = os.pipe()
    script = OPENER.format(path=str(path), url=database_url, gate=gate)
    children = [fork(script) for _ in range(8)]
    os.write(opens, b"go go go")
    outputs = []
    for child in children:
        assert child.wait(100) == 0, child.log
        outputs.append(child.log)
    os.close(gate)
    os.close(opens)
    assert len(set(outputs)) == 1, outputs
    opened = open_storage(database_url)
    assert opened.searches.names() == ["leased"]
    search_id = getattr(opened.searches.search("leased"), "search_id", 0)
    assert [arm.name for arm in opened.searches.arms_of(search_id)] == ["kd", "wide"]
    assert len(opened.storage.get_all_studies()) == 2
    assert sum(opened.searches.states([a.study_id for a in opened.searches.arms_of(search_id)]).values()) == 1
    opened.engine.dispose()


SECRET = "s3cret-{0}-{x"  # noqa: S105 - the point of the test


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param(f"postgresql://user:{SECRET}@127.0.0.1:9/db", "does not answer", id="no server"),
        pytest.param(f"postgresql://user:{SECRET}@127.0.0.1:port/db", "no database URL", id="port is a word"),
        pytest.param(
            f"postgresql://user:a/{SECRET}:{SECRET}@127.0.0.1:9/db", "does not answer", id="slash in password"
        ),
        pytest.param(f"user:{SECRET}@127.0.0.1", "no database URL", id="no URL"),
        pytest.param(f"mysql://user:{SECRET}@127.0.0.1/db", "'mysql' is not supported", id="another database"),
        pytest.param(
            f"postgresql+pg8000://user:{SECRET}@127.0.0.1/db",
            "'postgresql+pg8000' is not supported",
            id="a driver that is not there",
        ),
        pytest.param("sqlite://", "in-memory", id="in memory"),
        pytest.param("sqlite:////nowhere/to/be/found/s.db", "does not exist; create it first", id="no folder"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_a_database_that_cannot_be_used_is_one_line_without_the_password(url: str, expected: str, create: bool) -> None:
    with pytest.raises(UserError) as refused:
        open_storage(url, create=create)
    message = str(refused.value)
    assert expected in message
    assert "\n" not in message
    assert "s3cret" not in message
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_password_with_braces_and_percents_reaches_the_server(
    postgres_url: str, postgres_admin: sa.Engine, tmp_path: Path
) -> None:
    """Optuna formats the URL as a template, alembic interpolates it: neither may change a password."""
    user = f"kd_user_{tmp_path.name[-6:]}".replace("-", "_")
    secret = "p{0}%s%%{SCHEMA_VERSION}w"  # noqa: S105 - the point of the test
    url = sa.make_url(postgres_url)
    with postgres_admin.connect() as connection:
        connection.execute(sa.text(f'CREATE ROLE "{user}" LOGIN SUPERUSER PASSWORD :secret'), {"secret": secret})
    try:
        own = url.set(username=user, password=secret).render_as_string(hide_password=False)
        opened = open_storage(own)
        with opened.engine.connect() as connection:
            assert connection.execute(sa.text("SELECT current_user")).scalar_one() == user
            assert opened.engine.url.password == secret
        opened.engine.dispose()
        assert secret not in opened.label
        assert "***" in opened.label
    finally:
        with postgres_admin.connect() as connection:
            connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{url.database}" WITH (FORCE)'))
            connection.execute(sa.text(f'DROP ROLE "{user}"'))


def test_the_documented_url_of_postgresql_names_no_driver(postgres_url: str) -> None:
    """SQLAlchemy 2.1 means another driver by it than 2.0: ours is the one that is installed with us."""
    plain = sa.make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    opened = open_storage(plain)
    with creation_lock(plain):
        assert opened.searches.names() == []
    opened.engine.dispose()
    seen_again = open_storage(plain, create=False)
    assert seen_again.searches.names() == []
    seen_again.engine.dispose()


def test_a_label_shows_everything_but_the_password() -> None:
    assert label_of("postgresql://me:pw@host:1/db") == "postgresql://me:***@host:1/db"
    assert label_of("sqlite:///runs/search.db") == "sqlite:///runs/search.db"


@pytest.mark.parametrize(
    "password", ["Top@s3cret", "p@s3/cret@x", "s3?cret@x", "a@s3cret?b", "@s3cret", "s3cret@", "s3@cret#%"]
)
def test_a_password_with_an_at_is_refused_with_the_remedy_and_not_shown(password: str) -> None:
    """SQLAlchemy ends a password at its first @, so that the rest would be shown as the host."""
    with pytest.raises(UserError, match="password holds '@'; write it as %40") as refused:
        label_of(f"postgresql://me:{password}@host:1/db")
    assert "me:***@host:1/db" in str(refused.value)
    assert not any(part in str(refused.value) for part in ("s3", "cret", "Top"))


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("postgresql://me:a%40b@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@host/d@b", "postgresql://me@host/d%40b"),
        ("postgresql://me:pw@host/db?application_name=a@b", "postgresql://me:***@host/db?application_name=a%40b"),
    ],
)
def test_an_at_that_ends_no_password_is_read(url: str, label: str) -> None:
    assert label_of(url) == label


def test_the_kind_of_disk_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\ntmpfs /home/me/fast tmpfs rw 0 0\n"
        "//nas/x /media/with\\040space cifs rw 0 0\nbroken\n"
    )
    kinds = {"/srv": "ext4", "/home/me": "nfs4", "/home/me/fast/a": "tmpfs", "/homes": "ext4"}
    assert {folder: disk_kind(Path(folder), mounts) for folder in kinds} == kinds
    assert disk_kind(Path("/media/with space/a"), mounts) == "cifs"
    assert disk_kind(tmp_path, tmp_path / "absent") == "unknown"


def test_sqlite_on_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path.resolve()} nfs rw 0 0\n")
    real = disk_kind
    monkeypatch.setattr(storage_addresses, "disk_kind", lambda folder: real(folder, mounts))
    with pytest.raises(UserError, match=r"lies on a network disk \(nfs\).*python -m search db start --dir"):
        open_storage(f"sqlite:///{tmp_path / 's.db'}")
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(99, "newer than this program's .*use the program"), (0, "older .*python -m search db upgrade")],
)
def test_tables_of_another_version_are_refused(sqlite_url: str, stored: int, expected: str) -> None:
    opened = open_storage(sqlite_url)
    with opened.engine.begin() as connection:
        connection.execute(version_row.update().values(version=stored))
    opened.engine.dispose()
    with pytest.raises(UserError, match=f"tables of version {stored}, {expected}"):
        open_storage(sqlite_url)


@pytest.mark.parametrize(("version", "remedy"), [("v0.9.0.a", "search db upgrade"), ("v9.9.9.a", "use the program of")])
def test_tables_of_another_optuna_are_refused_with_the_remedy(sqlite_url: str, version: str, remedy: str) -> None:
    opened = open_storage(sqlite_url)
    with opened.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{version}'"))  # noqa: S608 - of this test
    opened.engine.dispose()
    with pytest.raises(UserError, match=f"of version {version}.*{remedy}") as refused:
        open_storage(sqlite_url)
    assert "\n" not in str(refused.value)


def test_looking_makes_no_database(tmp_path: Path, postgres_url: str) -> None:
    absent = tmp_path / "absent.db"
    with pytest.raises(UserError, match="no such file"):
        open_storage(f"sqlite:///{absent}", create=False)
    assert not absent.exists()
    with pytest.raises(UserError, match="holds no search yet"):
        open_storage(postgres_url, create=False)
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


def test_sqlite_takes_its_write_lock_at_begin_and_says_that_it_waits(
    sqlite_url: str, small_study: Callable[..., str], open_again: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two processes pop the same waiting trial."""
    monkeypatch.setattr(database, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(fencing, "SILENT_SECONDS", 0.05)
    lines: list[str] = []
    logger.add(lines.append, format="{message}")
    one, two = (open_again(sqlite_url, "locked", small_study()) for _ in range(2))
    with one.opened.engine.begin() as connection:
        connection.execute(sa.select(searches))
        with pytest.raises(sa.exc.OperationalError, match="locked"), two.opened.engine.begin():
            pass
    file = Path(str(one.opened.engine.url.database)).absolute()
    assert lines == [f"{file} is locked by another program that writes: waiting for it, 0.2 s at most\n"]
    with two.opened.engine.begin() as connection:
        assert connection.execute(sa.select(searches)).all()
    with one.opened.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"


def test_an_sqlite_file_that_was_removed_or_replaced_is_a_database_that_is_away(
    sqlite_url: str, small_study: Callable[..., str], open_again: Join
) -> None:
    """SQLite itself would write on into what nobody can open any more, or begin an empty file."""
    engine = open_again(sqlite_url, "away", small_study()).opened.engine
    file = Path(str(engine.url.database))
    aside = file.rename(file.with_name("aside.db"))
    for state in ("was removed", "is another file than before"):
        with pytest.raises(sa.exc.OperationalError, match=state) as error, engine.begin():
            pass
        assert is_transient(error.value)
        assert file.exists() == (state != "was removed")
        file.touch()
    aside.rename(file)
    with engine.begin() as connection:
        assert connection.execute(sa.select(searches)).all()


def test_a_server_that_accepts_and_never_answers_is_named_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a stopped postmaster, whose kernel still takes connections."""
    monkeypatch.setattr(database, "CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(database, "QUIET_SECONDS", 0.2)
    said: list[str] = []
    sink = logger.add(said.append, format="{message}")
    try:
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            url = f"postgresql://user:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/db"
            with pytest.raises(UserError, match="does not answer: no answer within 1 s"):
                open_storage(url, create=False)
    finally:
        logger.remove(sink)
    assert said == ["the database accepts a connection and does not answer; waits up to 1 s\n"]
