"""What breaks things for real: a proxy in front of the database, processes that are killed or stopped, small disks.

Durations are ratios of the time-to-live `TTL`. Every fault leaves a proof that it happened, which its test asserts.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import GroupEnd, SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents
from search.spec.load import load
from search.storage.database import open_storage
from search.storage.schema import orphans
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.create import attach_search
from trainer.reports import EpochReport, Failure

REPOSITORY = Path(__file__).resolve().parents[2]
TTL = 2.0
"""Seconds that a lease's beat may stand still."""
TRIALS, EPOCHS = 8, 5


class Proxy:
    """A TCP proxy in front of PostgreSQL that can be away, silent, or break connections at a COMMIT."""

    def __init__(self, url: str) -> None:
        self.refused = 0
        """Connections that were turned away."""
        self.swallowed = 0
        """Bytes that were taken and not passed on."""
        self.cut = 0
        """Connections that were broken."""
        self.lost_answers = 0
        """Commits that reached the server and whose answer did not come back."""
        self.lose_every: int | None = None
        self._commits = 0
        self._mode = "pass"
        self._upstream = _address(sa.make_url(url))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        self.url = (
            sa.make_url(url).set(host="127.0.0.1", port=self.port, query=plain).render_as_string(hide_password=False)
        )
        threading.Thread(target=self._accept, daemon=True).start()

    def go(self) -> None:
        """The server is gone: connections break, new ones are turned away."""
        self._mode = "refuse"
        self.break_all()

    def hang(self) -> None:
        """A network that drops: connections stay, nothing passes, in neither direction."""
        self._mode = "hang"

    def come_back(self) -> None:
        """Pass everything on again; what was held back arrives now, or its connection is found dead."""
        self._mode = "pass"

    def break_all(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self.cut += 1
            _close(*pair)

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self.break_all()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._mode == "refuse":
                self.refused += 1
                client.close()
                continue
            server = socket.socket(*self._upstream[:1])
            server.connect(self._upstream[1])
            pair = (client, server)
            with self._lock:
                self._pairs.append(pair)
            if self._mode == "refuse":  # since a moment ago
                self.break_all()
                continue
            threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while True:
                ready, _, _ = select.select([client, server], [], [], 0.5)
                for source in ready:
                    if not self._one(source, client, server):
                        return
        except (OSError, ValueError):  # closed by `break_all` meanwhile
            return
        finally:
            _close(client, server)

    def _one(self, source: socket.socket, client: socket.socket, server: socket.socket) -> bool:
        data = source.recv(65536)
        while data and self._mode == "hang":
            self.swallowed += len(data)
            while self._mode == "hang":
                if self._closed:
                    return False
                time.sleep(0.02)
        if not data:
            return False
        (server if source is client else client).sendall(data)
        if source is client and b"COMMIT" in data:
            self._commits += 1
            if self.lose_every and self._commits % self.lose_every == 0:
                server.settimeout(5)
                assert server.recv(65536)  # the server has committed and says so
                self.lost_answers += 1
                return False
        return True


def _address(url: sa.URL) -> tuple[int, Any]:
    folder = url.query.get("host")
    if isinstance(folder, str) and folder.startswith("/"):
        return socket.AF_UNIX, f"{folder}/.s.PGSQL.{url.port or 5432}"
    return socket.AF_INET, (url.host or "127.0.0.1", url.port or 5432)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:  # it was closed by the other side
            continue
        finally:
            each.close()


@pytest.fixture
def proxy() -> Iterator[Callable[[str], Proxy]]:
    """Put a proxy in front of a database: `proxy(url)`; its `url` leads through it."""
    made: list[Proxy] = []

    def make(url: str) -> Proxy:
        made.append(Proxy(url))
        return made[-1]

    yield make
    for each in made:
        each.close()


WORKER = """
import runpy, sys, warnings
warnings.simplefilter("ignore")  # that the package's main module is known already
sys.argv = {words!r}
runpy.run_module("search", run_name="__main__", alter_sys=True)
"""


class Process:
    """A simulated worker in a process of its own: forked, or, where its own program is looked at, started anew."""

    def __init__(self, words: Sequence[str], url: str, log: Path, fork: Callable[..., Any] | None) -> None:
        self._path = log
        command = ["search", "simulate", *words, "--as-worker"]
        self.popen: Any
        if fork is not None:
            self.popen = fork(WORKER.format(words=command), log=log, OPTUNA_STORAGE=url)
        else:
            with log.open("w") as file:
                environment = {**os.environ, "OPTUNA_STORAGE": url, "PYTHONPATH": str(REPOSITORY)}
                program = [sys.executable, "-m", *command]
                self.popen = subprocess.Popen(program, cwd=REPOSITORY, env=environment, stderr=file, stdout=file)
        self.pid = self.popen.pid

    @property
    def log(self) -> str:
        return self._path.read_text() if self._path.exists() else ""

    @property
    def owner(self) -> str:
        """What the owner names of this process begin with, after the boot id."""
        return f":{self.pid}:"

    def lines(self, words: str) -> int:
        return sum(words in line for line in self.log.splitlines())

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def state(self) -> str:
        """What the kernel says: R, S, T (stopped), Z ..."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def stop(self) -> None:
        """SIGSTOP, and see that it stands."""
        self.send(signal.SIGSTOP)
        until(lambda: self.state() == "T")

    def wait(self, seconds: float = 90.0) -> int:
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"worker {self.pid} did not end within {seconds:g} s:\n{self.log}")


@dataclass
class Herd:
    """Simulated workers of one study, on one database, and eyes on it that go past every proxy."""

    url: str
    folder: Path
    fork: Callable[..., Any]
    text: str
    processes: list[Process] = field(default_factory=list)
    _searches: list[StudyAdapter] = field(default_factory=list)

    @property
    def study(self) -> Path:
        path = self.folder / "faults.toml"
        if not path.exists():
            path.write_text(self.text)
        return path

    def start(
        self, url: str = "", *, slots: int = 2, epoch: float = 0.1, ttl: float = TTL, anew: bool = False
    ) -> Process:
        """anew: as a program with arguments and an environment of its own, which takes seconds to come up."""
        flags = ["--slots", str(slots), "--epoch-seconds", str(epoch), "--ttl", str(ttl)]
        words = [str(self.study), "--runs", str(self.folder / "runs"), *flags]
        log = self.folder / f"worker-{len(self.processes)}.log"
        self.processes.append(Process(words, url or self.url, log, None if anew else self.fork))
        return self.processes[-1]

    def look(self) -> StudyAdapter:
        """The search, once a worker has opened it; past every proxy."""
        if not self._searches:
            end = time.monotonic() + 60
            while True:
                opened = open_storage(self.url)
                if opened.searches.search("faults") is not None:
                    break
                opened.engine.dispose()
                assert time.monotonic() < end, "no worker opened the search"
                time.sleep(0.05)
            until(lambda: _attached(opened, self) is not None)
            self._searches.append(attach_search(opened, load(self.study)))
        return self._searches[0]

    def rows(self) -> list[Any]:
        search = self.look()
        return search.leases.of_studies(list(search.arms))

    def held_by(self, process: Process) -> list[Any]:
        return [row for row in self.rows() if row.state == "held" and process.owner in (row.owner or "")]

    def busy(self) -> int:
        """How many clients of the database are within a statement or a transaction, as far as it knows."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        text = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' AND state <> 'idle'"
        )
        with engine.connect() as connection:
            return int(connection.execute(sa.text(text)).scalar_one())

    def attempts(self) -> list[Any]:
        search = self.look()
        return search.leases.attempts_of(list(search.arms))

    def orphans(self) -> list[Any]:
        with self.look().opened.engine.begin() as connection:
            return list(connection.execute(sa.select(orphans)))

    def finish(self, seconds: float = 120.0) -> None:
        """Wait for all workers that still run to end by themselves, with exit code 0 and without a traceback."""
        for process in self.processes:
            if process.popen.poll() is None:
                assert process.wait(seconds) == 0, process.log
                assert "Traceback" not in process.log

    def check(self, trials: int = TRIALS) -> Counter[str]:
        """Exactly the budget, each number once, each curve whole, each attempt ended; why attempts ended, counted."""
        search = self.look()
        return checked(search, trials)

    def close(self) -> None:
        for process in self.processes:
            process.popen.kill()
            process.popen.wait()
        for search in self._searches:
            search.opened.engine.dispose()


def _attached(opened: Any, herd: Herd) -> Any:
    row = opened.searches.search("faults")
    return row if opened.searches.arms_of(row.search_id) else None


def checked(search: StudyAdapter, trials: int) -> Counter[str]:
    found = search.trials(search.spec.main)
    assert [trial.number for trial in found] == list(range(len(found)))
    done = [trial for trial in found if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(done) == trials
    assert all(trial.state.is_finished() for trial in found)
    rows = {row.trial_id: row for row in search.leases.details(list(search.arms))}
    assert rows.keys() == {trial._trial_id for trial in found}
    tries = search.leases.attempts_of(list(search.arms))
    for trial in found:
        row = rows[trial._trial_id]
        assert row.state == "finished"
        mine = [attempt for attempt in tries if attempt.trial_id == row.trial_id]
        assert [attempt.token for attempt in mine] == list(range(1, row.token + 1))
        assert all(attempt.ended is not None for attempt in mine)
        if trial.state.name == "COMPLETE":
            assert list(trial.intermediate_values) == list(range(1, search.spec.run.epochs + 1))
            assert [attempt.why for attempt in mine].count("finished") == 1
            assert trial.value == row.best_score == max(trial.intermediate_values.values())
            assert row.failure is None
            assert Path(row.weights).is_file()
            assert not list(Path(row.weights).parent.parent.rglob("*epoch-*"))
    return Counter(str(attempt.why) for attempt in tries)


@pytest.fixture
def study(small_study: Callable[..., str]) -> str:
    """The text of the study that these tests search."""
    return small_study(epochs=EPOCHS, trials=TRIALS, in_flight=8)


@pytest.fixture
def herd(postgres_url: str, tmp_path: Path, fork: Callable[..., Any], study: str) -> Iterator[Herd]:
    """Workers on a fresh PostgreSQL."""
    made = Herd(postgres_url, tmp_path, fork, study)
    yield made
    made.close()


@pytest.fixture
def herd_on(tmp_path: Path, fork: Callable[..., Any], study: str) -> Iterator[Callable[[str], Herd]]:
    """Workers on a given database."""
    made: list[Herd] = []

    def on(url: str) -> Herd:
        made.append(Herd(url, tmp_path, fork, study))
        return made[-1]

    yield on
    for each in made:
        each.close()


@dataclass
class InProcess:
    """A whole worker but for its process; `at[n]` is called before the n-th epoch of the group."""

    search: StudyAdapter
    runs: Path
    slots: int = 2
    seconds: float = 0.02
    ttl: float = 600.0
    spare: tuple[Path, ...] = ()
    owner: Owner = field(default_factory=lambda: Owner("me", "here"))
    at: dict[int, Callable[[], None]] = field(default_factory=dict)
    group: SingleProcess = field(default_factory=SingleProcess)
    spoil: Callable[[int, dict[int, EpochReport | Failure]], dict[int, EpochReport | Failure]] = lambda _, told: told
    """What becomes of the reports of the n-th epoch."""

    def __post_init__(self) -> None:
        given = WorkerSettings(
            self.owner, self.slots, self.runs, 1, {}, breach=lambda _: None, ttl=self.ttl, spare=self.spare
        )
        self.database_thread = DatabaseThread(self.search, given)
        self.students = SimulatedStudents(
            Curves(), slots=self.slots, metric="dice", epoch_seconds=self.seconds, fail_share=0.0
        )

    def run(self) -> GroupEnd:
        train, done = self.students.epoch, 0

        def epoch() -> dict[int, EpochReport | Failure]:
            nonlocal done
            self.at.get(done, lambda: None)()
            done += 1
            told = self.spoil(done, train())
            for key in [key for key, report in told.items() if isinstance(report, Failure)]:
                if key in self.students._members:
                    self.students.dismiss(key)
            return told

        self.students.epoch = epoch  # type: ignore[method-assign]
        patience = threading.Timer(200.0, self.group.ask_to_stop)
        patience.start()
        try:
            return run_group(self.group, self.students, self.database_thread)
        finally:
            patience.cancel()


@pytest.fixture
def join(open_again: Callable[..., StudyAdapter], study: str, postgres_url: str) -> Callable[..., StudyAdapter]:
    """Open the one search of the test on PostgreSQL, once more for each call: `join(*changes, url=...)`."""
    return lambda *changes, url=postgres_url: open_again(url, "faults", study, *changes)


def until(what: Callable[[], Any], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)  # what is asked is often a question to the database, and workers need the processor


@pytest.fixture
def tools(study: str) -> SimpleNamespace:
    """Names that all these tests use: modules of tests cannot import each other."""
    return SimpleNamespace(
        TTL=TTL, TRIALS=TRIALS, EPOCHS=EPOCHS, STUDY=study, until=until, InProcess=InProcess, checked=checked
    )


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A disk of so many KiB: `tiny_disk(kib)`; needs the right to mount."""
    mounted: list[Path] = []

    def make(kib: int) -> Path:
        path = tmp_path / f"disk-{len(mounted)}"
        path.mkdir()
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("a small disk needs root and mount")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)
