"""`python -m search db`: a server of one's own with its secrets kept, backups that come back whole, and upgrades."""

import argparse
import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.commands.simulate import simulated_identity
from search.postgres.binaries import SERVER, usable
from search.postgres.command import ACTIONS, add_arguments, main
from search.spec.load import load
from search.storage import schema
from search.storage.database import open_storage
from search.storage.migrations import STEPS
from search.study.create import open_search
from trainer.cli.entry import guard
from trainer.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
STUDY = """
[objective]
maximize = "dice"
[run]
method = "none"
epochs = 3
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4 }
student = { name = "unet", width = 4 }
losses = { ce = {} }
optim = { lr = 1e-3 }
[space]
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
[sampler]
name = "random"
[budget]
trials = 400
in_flight = 4
"""

Done = subprocess.CompletedProcess[str]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@dataclass(frozen=True)
class Person:
    """Who runs commands, and with which interpreter."""

    user: str | None
    """None: whoever runs the tests."""
    python: str
    packages: str

    def words(self, *words: str) -> list[str]:
        return [self.python, "-m", "search", *words]

    def environment(self, storage: str | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OPTUNA_STORAGE")}
        given = {} if storage is None else {"OPTUNA_STORAGE": storage}
        return kept | given | {"PYTHONPATH": self.packages, "PYTHONDONTWRITEBYTECODE": "1"}

    def account(self) -> dict[str, object]:
        if self.user is None:
            return {}
        return {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}

    def search(self, *words: str, storage: str | None = None, cwd: Path = Path("/")) -> Done:
        return subprocess.run(
            self.words(*words),
            cwd=cwd,
            env=self.environment(storage),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **self.account(),  # type: ignore[call-overload]
        )


ME = Person(None, sys.executable, str(ROOT))


@dataclass(frozen=True)
class Mine:
    """A running server of one's own."""

    who: Person
    folder: Path
    url: str
    said: str

    @property
    def password(self) -> str:
        return str(sa.make_url(self.url).password)

    @property
    def port(self) -> int:
        return int(sa.make_url(self.url).port or 0)

    @property
    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def db(self, action: str, *words: str) -> Done:
        return self.who.search("db", action, "--dir", str(self.folder), *words)


Inside = Callable[..., Done]


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str]) -> Inside:
    """The command in this process, which is quicker; for actions that change neither its user nor its rights."""

    def run(*words: str) -> Done:
        parser = argparse.ArgumentParser(prog="python -m search db")
        add_arguments(parser)
        assert words[0] not in ("start", "stop")
        capsys.readouterr()
        code = guard(lambda: main(parser.parse_args(words)))
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, out, err)

    return run


def started(who: Person, folder: Path) -> Mine:
    done = who.search("db", "start", "--dir", str(folder))
    assert done.returncode == 0, done.stderr
    return Mine(who, folder, done.stdout.strip(), done.stderr)


def ended(mine: Mine) -> None:
    """Whatever a test left: the server stops, also where the command under test would not do it."""
    done = mine.db("stop")
    if done.returncode != 0:
        os.kill(mine.pid, signal.SIGINT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def place(quick: Path) -> Iterator[Path]:
    """A short path that other users may enter: pytest's own folders are private."""
    folder = Path(tempfile.mkdtemp(prefix="kd-db-", dir=quick))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def mine(place: Path) -> Iterator[Mine]:
    """A server started by whoever runs the tests: root in a container, an ordinary user elsewhere."""
    server = started(ME, place / "new" / "mine")
    yield server
    ended(server)


@pytest.fixture(scope="module")
def ordinary() -> Person:
    """An ordinary user and an interpreter that this user may run."""
    if os.geteuid() != 0:
        return ME
    packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))])
    for python in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.executable):
        who = Person("nobody", python, packages)
        try:
            if who.search("db", "--help").returncode == 0:
                return who
        except PermissionError:
            continue
    pytest.skip("user nobody can run no interpreter with these packages: they lie below a private folder")


@pytest.fixture(scope="module")
def theirs(place: Path, ordinary: Person) -> Iterator[Mine]:
    """A server that an ordinary user started."""
    folder = place / "theirs"
    folder.mkdir()
    if ordinary.user is not None:
        shutil.chown(folder, ordinary.user)
    server = started(ordinary, folder)
    yield server
    ended(server)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "kept.toml"
    path.write_text(STUDY)
    return path


def one_line(done: Done, *parts: str) -> bool:
    """A mistake of the user: nothing on stdout, and one line that has all parts as its last."""
    assert done.returncode == 2, f"{done.stdout}\n{done.stderr}"
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert [part for part in parts if part not in last] == [], last
    return True


# ---- start


def server_by(request: pytest.FixtureRequest) -> Mine:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Mine)
    return found


server = pytest.fixture(server_by, params=["mine", "theirs"])


def test_start_prints_the_url_alone_and_the_url_works(server: Mine) -> None:
    assert re.fullmatch(r"postgresql\+psycopg2://kd:[\w-]{32}@127\.0\.0\.1:\d+/kd", server.url)
    again = server.db("start")
    assert (again.returncode, again.stdout) == (0, f"{server.url}\n")
    assert "already running" in again.stderr
    engine = sa.create_engine(server.url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT current_user, current_database()")).one() == ("kd", "kd")
        assert connection.execute(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = 'kd'")).scalar_one() is False
    engine.dispose()
    state = server.db("status")
    assert f"running (process {server.pid}" in state.stdout
    assert f"127.0.0.1:{server.port}" in state.stdout


def test_files_belong_to_one_user_who_is_not_root_and_are_private(server: Mine) -> None:
    owner = server.folder.stat().st_uid
    assert owner != 0
    assert Path(f"/proc/{server.pid}").stat().st_uid == owner
    files = [server.folder, *server.folder.rglob("*")]
    assert len(files) > 100
    assert [f for f in files if f.stat().st_uid != owner] == []
    assert [f for f in files if stat.S_IMODE(f.stat().st_mode) & 0o077] == []
    assert stat.S_IMODE((server.folder / "pgpass").stat().st_mode) == 0o600


def test_the_server_outlives_its_terminal(server: Mine) -> None:
    assert os.getsid(server.pid) not in (os.getsid(0), os.getpid())
    assert all("/dev/pts" not in os.readlink(f"/proc/{server.pid}/fd/{n}") for n in (0, 1, 2))


def test_the_password_is_in_one_file_and_in_no_argument_and_no_log(server: Mine) -> None:
    engine = sa.create_engine(server.url)
    with engine.connect():  # a backend of this role is among the processes
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of one that has just ended
                lines.append(path.read_bytes())
    engine.dispose()
    assert any(b"postgres" in line for line in lines)
    secret = server.password.encode()
    assert [line for line in lines if secret in line] == []
    holding = [f for f in server.folder.rglob("*") if f.is_file() and secret in f.read_bytes()]
    assert holding == [server.folder / "pgpass"]
    environment = Path(f"/proc/{server.pid}/environ").read_bytes() if os.geteuid() == 0 else b""
    assert secret not in environment
    assert server.password not in server.said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"password": "wrong"}, "password authentication failed", id="wrong password"),
        pytest.param({"password": ""}, "no password supplied", id="no password"),
        pytest.param({"username": "postgres"}, "no pg_hba.conf entry", id="superuser"),
        pytest.param({"database": "postgres"}, "no pg_hba.conf entry", id="another database"),
    ],
)
def test_nobody_comes_in_otherwise(mine: Mine, change: dict[str, str], said: str) -> None:
    engine = sa.create_engine(sa.make_url(mine.url).set(**change), poolclass=sa.NullPool)  # type: ignore[arg-type]
    with pytest.raises(sa.exc.OperationalError, match=said):
        engine.connect()


def listening(port: int) -> list[str]:
    """The addresses, as the kernel writes them, at which this port is listened to."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]


def test_the_server_listens_at_loopback_alone_and_has_no_socket_file(mine: Mine) -> None:
    assert listening(mine.port) == ["0100007F"]
    assert list(mine.folder.rglob(".s.PGSQL*")) == []
    assert not Path(f"/tmp/.s.PGSQL.{mine.port}").exists()  # noqa: S108 - PostgreSQL's default place


def test_a_wish_for_another_address_is_refused_while_it_runs(mine: Mine) -> None:
    assert one_line(mine.db("start", "--port", "1"), f"already listens at 127.0.0.1:{mine.port}", "db stop")


def test_a_folder_that_another_machine_holds_is_refused(mine: Mine) -> None:
    holder = mine.folder / "holder.json"
    text = holder.read_text()
    assert json.loads(text)["host"] == socket.gethostname()
    holder.write_text(text.replace(socket.gethostname(), "node17"))
    try:
        for action in ("start", "stop"):
            assert one_line(mine.db(action), "held by node17", f"rm {holder}")
    finally:
        holder.write_text(text)


def test_stopped_and_started_by_two_at_once_it_keeps_data_port_and_password(mine: Mine, study: Path) -> None:
    """And for other machines on request: then, too, nobody comes in without the password."""
    opened = open_storage(mine.url)
    spec = load(study, name="stays")
    open_search(opened, mine.url, spec, simulated_identity(spec))
    opened.engine.dispose()
    with sa.create_engine(mine.url, poolclass=sa.NullPool).connect() as other:
        other.execute(sa.text("SELECT 1"))
        stopped = mine.db("stop")
        other.invalidate()
    assert stopped.stdout == f"{mine.folder}: stopped\n"
    assert "that end with it: 1;" in stopped.stderr
    again = mine.db("stop")
    assert (again.returncode, again.stdout) == (0, f"{mine.folder}: was not running\n")
    assert listening(mine.port) == []
    assert one_line(mine.db("backup", "-o", str(study.with_suffix(".backup"))), "does not run", "db start")
    words = ME.words("db", "start", "--dir", str(mine.folder), "--host", "0.0.0.0")  # noqa: S104 - what is tested
    pipe = subprocess.PIPE
    pair = [
        subprocess.Popen(words, cwd="/", env=ME.environment(), stdout=pipe, stderr=pipe, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in pair]
    url = mine.url.replace("127.0.0.1", socket.gethostname())
    assert [out for out, _ in said] == [f"{url}\n"] * 2, said
    assert sum("without encryption" in err for _, err in said) == 1
    assert sum("already running" in err for _, err in said) == 1
    assert listening(mine.port) == ["00000000"]
    rules = (mine.folder / "data" / "pg_hba.conf").read_text().splitlines()
    assert {line.split()[-1] for line in rules if line and not line.startswith("#")} == {"scram-sha-256"}
    opened = open_storage(mine.url)
    assert opened.searches.names() == ["stays"]
    opened.engine.dispose()


# ---- backup and restore


def two_workers(study: Path, url: str, budget: int) -> "list[subprocess.Popen[bytes]]":
    words = ["simulate", str(study), "--runs", str(study.parent), "--slots", "2", "--epoch-seconds", "0.1"]
    command = ME.words(*words, "--ttl", "6", "--set", f"budget.trials={budget}", "--as-worker")
    with (study.parent / "workers.log").open("a") as log:
        return [subprocess.Popen(command, cwd="/", env=ME.environment(url), stderr=log) for _ in range(2)]


def trials_of(url: str) -> list[tuple[object, ...]]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = (
            "SELECT number, state, datetime_start FROM trials JOIN studies USING (study_id) WHERE study_name = 'kept'"
        )
        return [tuple(row) for row in connection.execute(sa.text(f"{query} ORDER BY number"))]


@pytest.mark.slow
def test_a_backup_taken_while_workers_run_goes_on_elsewhere_to_the_exact_budget(
    mine: Mine, theirs: Mine, study: Path
) -> None:
    file = study.parent / "kept.backup"
    running = two_workers(study, mine.url, 4000)
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
    restored = ME.search(*words)
    assert restored.returncode == 0, restored.stderr
    counts = re.search(r"\d+ studies, (\d+) trials", done.stdout)
    assert counts is not None
    assert counts[0] in restored.stdout
    there = trials_of(theirs.url)
    budget = len(there) + 2
    before = {row for row in trials_of(mine.url) if row[1] == "COMPLETE"}
    assert {row for row in there if row[1] == "COMPLETE"} <= before
    assert one_line(ME.search(*words), "holds", "'kept'", "without a search")
    for worker in two_workers(study, theirs.url, budget):
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
    sqlite_url: str, study: Path, inside: Inside
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
    again = ("backup", "-o", str(file), "--storage", sqlite_url)
    assert one_line(inside(*again), "one.backup: exists", "--force")
    assert inside(*again, "--force").returncode == 0
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
    postgres_url: str, sqlite_url: str, study: Path, inside: Inside
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


# ---- mistakes


MISTAKES = {
    "no such folder": (["stop", "--dir", "{place}/absent"], ["does not exist", "db start"]),
    "a file as folder": (["start", "--dir", "{place}/file"], ["no folder"]),
    "a folder with other files": (["start", "--dir", "{place}/full"], ["other files", "new folder"]),
    "an unknown address": (["start", "--dir", "{place}/x", "--host", "203.0.113.7"], ["no address of this machine"]),
    "a port out of range": (["start", "--dir", "{place}/x", "--port", "0"], ["--port 0", "65535"]),
    "programs that are not there": (["start", "--dir", "{place}/x", "--bin", "/usr"], ["--bin /usr", "postgres"]),
    "data of another version": (["start", "--dir", "{place}/old"], ["PostgreSQL 9", "found here", "db restore"]),
    "a backup of a stopped server": (["backup", "--dir", "{place}/old", "-o", "b"], ["no server was made"]),
    "two databases": (["backup", "--dir", "{place}/x", "--storage", "sqlite:///a", "-o", "b"], ["one of them"]),
    "a file that is no backup": (["restore", "{place}/file", "--storage", "sqlite:///{place}/a.db"], ["no backup"]),
    "a file that is not there": (["restore", "{place}/gone", "--storage", "sqlite:///{place}/a.db"], ["gone"]),
    "a backup of nothing": (["backup", "--storage", "sqlite:///{place}/a.db", "-o", "{place}/b"], ["no such file"]),
    "an upgrade of nothing": (["upgrade", "--storage", "sqlite:///{place}/a.db"], ["no such file"]),
    "a folder as output": (["backup", "--storage", "sqlite:///{place}/a.db", "-o", "{place}"], ["a folder; name"]),
}


@pytest.fixture(scope="module")
def mistaken(place: Path) -> Path:
    folder = place / "mistakes"
    folder.mkdir()
    (folder / "file").write_text("text")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("text")
    (folder / "old" / "data").mkdir(parents=True)
    (folder / "old" / "data" / "PG_VERSION").write_text("9\n")
    if os.geteuid() == 0:
        shutil.chown(folder / "old", "nobody")
        shutil.chown(folder / "old" / "data", "nobody")
    return folder


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_makes_nothing(mistaken: Path, inside: Inside, case: str) -> None:
    words, parts = MISTAKES[case]
    filled = [word.format(place=mistaken) for word in words]
    said = ME.search("db", *filled) if words[0] in ("start", "stop") else inside(*filled)
    assert one_line(said, *parts)
    assert not (mistaken / "a.db").exists()
    assert not (mistaken / "x" / "data").exists()


def test_a_port_that_is_taken_leaves_no_database_behind(mistaken: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = ME.search("db", "start", "--dir", str(mistaken / "taken"), "--port", str(port))
    assert said.returncode == 2
    assert f"port {port} of 127.0.0.1 is taken" in said.stderr
    assert not (mistaken / "taken" / "data").exists()


def test_without_programs_both_remedies_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no PostgreSQL programs.*--bin FOLDER.*pip install \"kd-search\[db\]\""):
        usable(None, SERVER, [tmp_path])


@as_root
def test_root_hands_over_only_to_somebody_who_can_reach_the_folder(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    said = ME.search("db", "start", "--dir", str(closed / "pg"))
    assert one_line(said, f"cannot enter {closed}", f"chmod o+x {closed}")
    assert list(closed.iterdir()) == []
    for user, words in (("root", "does not run as root"), ("nobodyy", "no such user")):
        assert one_line(ME.search("db", "start", "--dir", str(place / "y"), "--user", user), f"--user {user}", words)
    assert not (place / "y").exists()


def test_a_folder_of_somebody_else_is_refused(ordinary: Person, mine: Mine) -> None:
    if ordinary.user is None:
        pytest.skip("needs root, who has a server of another user")
    for words in (["start"], ["backup", "-o", "/tmp/never"]):  # noqa: S108 - never written
        said = ordinary.search("db", words[0], "--dir", str(mine.folder), *words[1:])
        assert said.returncode == 2
        assert len(said.stderr.splitlines()) == 1
        assert mine.password not in said.stdout + said.stderr


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
def test_newer_tables_are_left_alone(sqlite_url: str, inside: Inside, table: str, column: str, value: object) -> None:
    opened = open_storage(sqlite_url)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {table} SET {column} = {value}")  # noqa: S608 - of this test
    opened.engine.dispose()
    before = shape(sqlite_url)
    assert one_line(inside("upgrade", "--storage", sqlite_url), "use the program of that version")
    assert shape(sqlite_url) == before


def test_every_older_version_has_a_step() -> None:
    assert sorted(STEPS) == list(range(1, schema.VERSION))


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_shows_an_example_of_itself(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m search db")
    add_arguments(parser)
    with pytest.raises(SystemExit) as ended_with:
        parser.parse_args([action, "--help"])
    assert ended_with.value.code == 0
    assert f"python -m search db {action} " in capsys.readouterr().out.partition("example: ")[2]
