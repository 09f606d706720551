"""`python -m search db start` and `stop`: a server of one's own with its secrets kept, and mistakes in one line."""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.commands.simulate import simulated_identity
from search.postgres.binaries import SERVER, usable
from search.postgres.command import ACTIONS, add_arguments
from search.spec.load import load
from search.storage.database import open_storage
from search.study.create import open_search
from trainer.errors import UserError

Done = subprocess.CompletedProcess[str]
Inside = Callable[..., Done]
OneLine = Callable[..., bool]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_start_prints_the_url_alone_and_the_url_works(server: Any) -> None:
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


def test_files_belong_to_one_user_who_is_not_root_and_are_private(server: Any) -> None:
    owner = server.folder.stat().st_uid
    assert owner != 0
    assert Path(f"/proc/{server.pid}").stat().st_uid == owner
    files = [server.folder, *server.folder.rglob("*")]
    assert len(files) > 100
    assert [f for f in files if f.stat().st_uid != owner] == []
    assert [f for f in files if stat.S_IMODE(f.stat().st_mode) & 0o077] == []
    assert stat.S_IMODE((server.folder / "pgpass").stat().st_mode) == 0o600


def test_the_server_outlives_its_terminal(server: Any) -> None:
    assert os.getsid(server.pid) not in (os.getsid(0), os.getpid())
    assert all("/dev/pts" not in os.readlink(f"/proc/{server.pid}/fd/{n}") for n in (0, 1, 2))


def test_the_password_is_in_one_file_and_in_no_argument_and_no_log(server: Any) -> None:
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
def test_nobody_comes_in_otherwise(mine: Any, change: dict[str, str], said: str) -> None:
    engine = sa.create_engine(sa.make_url(mine.url).set(**change), poolclass=sa.NullPool)  # type: ignore[arg-type]
    with pytest.raises(sa.exc.OperationalError, match=said):
        engine.connect()


def listening(port: int) -> list[str]:
    """The addresses, as the kernel writes them, at which this port is listened to."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]


def test_the_server_listens_at_loopback_alone_and_has_no_socket_file(mine: Any) -> None:
    assert listening(mine.port) == ["0100007F"]
    assert list(mine.folder.rglob(".s.PGSQL*")) == []
    assert not Path(f"/tmp/.s.PGSQL.{mine.port}").exists()  # noqa: S108 - PostgreSQL's default place


def test_a_wish_for_another_address_is_refused_while_it_runs(mine: Any, one_line: OneLine) -> None:
    assert one_line(mine.db("start", "--port", "1"), f"already listens at 127.0.0.1:{mine.port}", "db stop")


def test_a_folder_that_another_machine_holds_is_refused(mine: Any, one_line: OneLine) -> None:
    holder = mine.folder / "holder.json"
    text = holder.read_text()
    assert json.loads(text)["host"] == socket.gethostname()
    holder.write_text(text.replace(socket.gethostname(), "node17"))
    try:
        for action in ("start", "stop"):
            assert one_line(mine.db(action), "held by node17", f"rm {holder}")
    finally:
        holder.write_text(text)


def test_stopped_and_started_by_two_at_once_it_keeps_data_port_and_password(
    mine: Any, study: Path, one_line: OneLine, me: Any
) -> None:
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
    words = me.words("db", "start", "--dir", str(mine.folder), "--host", "0.0.0.0")  # noqa: S104 - what is tested
    pipe = subprocess.PIPE
    pair = [
        subprocess.Popen(words, cwd="/", env=me.environment(), stdout=pipe, stderr=pipe, text=True) for _ in range(2)
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


# ---- mistakes


MISTAKES = {
    "no such folder": (["stop", "--dir", "{place}/absent"], ["does not exist", "db start"]),
    "a file as folder": (["start", "--dir", "{place}/file"], ["no folder"]),
    "a folder with other files": (["start", "--dir", "{place}/full"], ["other files", "new folder"]),
    "an unknown address": (["start", "--dir", "{place}/x", "--host", "203.0.113.7"], ["no address of this machine"]),
    "a port out of range": (["start", "--dir", "{place}/x", "--port", "0"], ["--port: '0'", "from 1 to 65535"]),
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
def test_a_mistake_is_one_line_and_makes_nothing(
    mistaken: Path, inside: Inside, case: str, one_line: OneLine, me: Any
) -> None:
    words, parts = MISTAKES[case]
    filled = [word.format(place=mistaken) for word in words]
    said = me.search("db", *filled) if words[0] in ("start", "stop") else inside(*filled)
    assert one_line(said, *parts)
    assert not (mistaken / "a.db").exists()
    assert not (mistaken / "x" / "data").exists()


def test_a_port_that_is_taken_leaves_no_database_behind(mistaken: Path, me: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = me.search("db", "start", "--dir", str(mistaken / "taken"), "--port", str(port))
    assert said.returncode == 2
    assert f"port {port} of 127.0.0.1 is taken" in said.stderr
    assert not (mistaken / "taken" / "data").exists()


def test_without_programs_both_remedies_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no PostgreSQL programs.*--bin FOLDER.*pip install \"kd-search\[db\]\""):
        usable(None, SERVER, [tmp_path])


@as_root
def test_root_hands_over_only_to_somebody_who_can_reach_the_folder(place: Path, one_line: OneLine, me: Any) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    said = me.search("db", "start", "--dir", str(closed / "pg"))
    assert one_line(said, f"cannot enter {closed}", f"chmod o+x {closed}")
    assert list(closed.iterdir()) == []
    for user, words in (("root", "does not run as root"), ("nobodyy", "no such user")):
        assert one_line(me.search("db", "start", "--dir", str(place / "y"), "--user", user), f"--user {user}", words)
    assert not (place / "y").exists()


def test_a_folder_of_somebody_else_is_refused(ordinary: Any, mine: Any) -> None:
    if ordinary.user is None:
        pytest.skip("needs root, who has a server of another user")
    for words in (["start"], ["backup", "-o", "/tmp/never"]):  # noqa: S108 - never written
        said = ordinary.search("db", words[0], "--dir", str(mine.folder), *words[1:])
        assert said.returncode == 2
        assert len(said.stderr.splitlines()) == 1
        assert mine.password not in said.stdout + said.stderr


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_shows_an_example_of_itself(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m search db")
    add_arguments(parser)
    with pytest.raises(SystemExit) as ended_with:
        parser.parse_args([action, "--help"])
    assert ended_with.value.code == 0
    assert f"python -m search db {action} " in capsys.readouterr().out.partition("example: ")[2]
