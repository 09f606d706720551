"""Servers of one's own, started by whoever runs the tests and by an ordinary user."""

import argparse
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.postgres.command import add_arguments, main
from trainer.cli.entry import guard

ROOT = Path(__file__).resolve().parents[3]

Done = subprocess.CompletedProcess[str]


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


@pytest.fixture(params=["mine", "theirs"])
def server(request: pytest.FixtureRequest) -> Mine:
    """Each of the two."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Mine)
    return found


@pytest.fixture
def study(tmp_path: Path, small_study: Callable[..., str]) -> Path:
    path = tmp_path / "kept.toml"
    path.write_text(small_study(epochs=3, trials=400))
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


@pytest.fixture(scope="session", name="me")
def _me() -> Person:
    """Whoever runs the tests."""
    return ME


@pytest.fixture(scope="session", name="one_line")
def _one_line() -> Callable[..., bool]:
    """Whether a command ended as a user's mistake: `one_line(me.search(...), "part of its line")`."""
    return one_line
