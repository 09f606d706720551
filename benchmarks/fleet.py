"""A department's workers on one PostgreSQL: what it does a second, and how long asks and reports take.

    python -m benchmarks.fleet --rows 1x1 8x1 64x1 64x20 64x1p 64x20p

A row is WORKERSxSTUDIES, with `p` through PgBouncer in transaction mode. Each worker has four students whose simulated
epochs take a minute, three a trial, so the database works as it does for a real search; workers come one after another
over the first minute. Asks (claim, sampling, storing the run) and reports are timed in the workers, from when all
train on. Workers are forked from one process that has loaded the program: their memory is what each has for itself
beside what all share. The machine's CPU in that time is printed with each row, and what of it
belongs to workers and database: where it is above 70 %, latencies are those of the cores. --raw keeps every latency.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from benchmarks.campaign.server import OwnServer
from benchmarks.scale import Probe
from search.commands.simulate import simulated_identity
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.owner import owner_of
from search.execution.simulated_students import Curves, SimulatedStudents
from search.spec.load import StudySpec, find, load
from search.storage.database import open_storage
from search.storage.schema import HELD, arms, leases, searches
from search.study.create import open_search
from trainer.cli.entry import guard
from trainer.errors import UserError

SLOTS, EPOCHS = 4, 3
UP_SHARE = 0.9
UP_SECONDS = 300.0
"""Within this nearly all slots train, or the machine is too busy for a row of so many."""
MOST_CPU = 0.70
POOLER = """\
[databases]
{name} = host={host} port={port} user={user} password={password} dbname={name}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 1000
ignore_startup_parameters = options, extra_float_digits
logfile = {folder}/log
"""


@dataclass(frozen=True)
class Row:
    """One measurement."""

    workers: int
    studies: int
    pooled: bool

    @classmethod
    def parse(cls, text: str) -> "Row":
        """`64x20p`. Raises UserError."""
        match = re.fullmatch(r"(\d+)x(\d+)(p?)", text)
        if match is None or int(match[2]) < 1 or int(match[1]) < int(match[2]):
            raise UserError(f"--rows {text}: WORKERSxSTUDIES, at least one worker a study, and p for PgBouncer")
        return cls(int(match[1]), int(match[2]), bool(match[3]))


@dataclass
class Timers:
    """Latencies in milliseconds of one worker with the monotonic time of each, and times of its statements."""

    ask: list[tuple[float, float]] = field(default_factory=list)
    report: list[tuple[float, float]] = field(default_factory=list)
    statements: list[float] = field(default_factory=list)
    _taken: dict[int, float] = field(default_factory=dict)
    """Milliseconds that each trial's ask took so far; a worker claims several before it goes on with the first."""

    def attach(self, search: Any) -> None:
        """Wrap what the worker's database thread calls."""
        claim, suggest, commit, report = search.claim, search.suggest, search.commit, search.report

        def timed_claim(*args: Any, **named: Any) -> Any:
            began = time.monotonic()
            claimed = claim(*args, **named)
            if claimed is not None:
                self._taken[claimed.held.trial_id] = _since(began)
            return claimed

        def timed_suggest(claimed: Any) -> Any:
            began = time.monotonic()
            result = suggest(claimed)
            self._taken[claimed.held.trial_id] += _since(began)
            return result

        def timed_commit(claimed: Any, *args: Any, **named: Any) -> Any:
            began = time.monotonic()
            result = commit(claimed, *args, **named)
            self.ask.append((began, self._taken.pop(claimed.held.trial_id) + _since(began)))
            return result

        def timed_report(*args: Any, **named: Any) -> Any:
            began = time.monotonic()
            result = report(*args, **named)
            self.report.append((began, _since(began)))
            return result

        search.claim, search.suggest, search.commit, search.report = (
            timed_claim,
            timed_suggest,
            timed_commit,
            timed_report,
        )
        sa.event.listen(search.opened.engine, "before_cursor_execute", self._statement)

    def _statement(self, *_: object) -> None:
        self.statements.append(time.monotonic())


def _since(began: float) -> float:
    """Milliseconds since then."""
    return (time.monotonic() - began) * 1e3


def worker(url: str, spec: StudySpec, folder: Path, index: int) -> None:
    """One simulated worker, in a process of its own, until it is asked to stop."""
    group = SingleProcess()
    signal.signal(signal.SIGTERM, lambda *_: group.ask_to_stop())
    opened = open_storage(url, studies=[arm.study_name for arm in spec.arms])
    search = open_search(opened, url, spec, simulated_identity(spec))
    timers = Timers()
    timers.attach(search)
    settings = WorkerSettings(owner_of(os.getpid(), 0), SLOTS, folder / "runs", 1, {}, breach=lambda _: None, ttl=60.0)
    metric = spec.objective.metric
    students = SimulatedStudents(Curves(), slots=SLOTS, metric=metric, epoch_seconds=60.0, fail_share=0.0)
    _sleep_in_parts(students, group)
    run_group(group, students, DatabaseThread(search, settings))
    figures = {"ask": timers.ask, "report": timers.report, "statements": timers.statements}
    (folder / f"{index}.json").write_text(json.dumps(figures))


def _sleep_in_parts(students: SimulatedStudents, group: SingleProcess) -> None:
    """An epoch that is a sleep of a minute ends when the worker is asked to stop, as one of real training does."""
    whole, epoch = 60.0, students.epoch
    students._seconds = 0.0

    def in_parts() -> Any:
        end = time.monotonic() + whole
        while time.monotonic() < end and not group.stop_asked:
            time.sleep(0.25)
        return epoch()

    students.epoch = in_parts  # type: ignore[method-assign]


def forked(work: Callable[[], None], log: Path) -> int:
    """Run it in a child; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the child's log has it, the parent its exit code
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@dataclass
class Watched:
    """What the parent sees in the window."""

    connections: int = 0
    cpu: float = 0.0
    """Share of the machine that worked, by anybody."""
    own_cpu: float = 0.0
    """Share that workers, database and pooler took."""
    memory: float = 0.0
    """Most of a worker for itself (USS), in MB."""
    server_memory: float = 0.0
    """Of all processes of the database (PSS), in MB."""


def watch(
    pids: list[int], server: psutil.Process, pooler: int | None, engine: sa.Engine, window: tuple[float, float]
) -> Watched:
    """Look until the window is over."""
    result = Watched()
    time.sleep(max(0.0, window[0] - time.monotonic()))
    psutil.cpu_percent()
    before = _cpu_seconds(pids, server, pooler)
    while time.monotonic() < window[1]:
        time.sleep(5)
        with engine.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            result.connections = max(result.connections, int(connection.execute(sa.text(query)).scalar_one()) - 1)
    result.cpu = psutil.cpu_percent() / 100
    spent = _cpu_seconds(pids, server, pooler) - before
    result.own_cpu = spent / (time.monotonic() - window[0]) / (os.cpu_count() or 1)
    result.memory = max(psutil.Process(pid).memory_full_info().uss for pid in pids) / 2**20
    for each in [server, *server.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # a backend that ends meanwhile
            result.server_memory += each.memory_full_info().pss / 2**20
    return result


def _cpu_seconds(pids: list[int], server: psutil.Process, pooler: int | None) -> float:
    family = [server, *server.children(recursive=True), *map(psutil.Process, [*pids, *([pooler] if pooler else [])])]
    times = []
    for each in family:
        with suppress(psutil.NoSuchProcess):  # a backend that ended in between stands with its postmaster
            times.append(each.cpu_times())
    ended = server.cpu_times()
    return sum(each.user + each.system for each in times) + ended.children_user + ended.children_system


@contextmanager
def pooler(url: sa.URL, folder: Path) -> Iterator[tuple[sa.URL, int]]:
    """A PgBouncer in transaction mode before the database: its URL and its process id. Raises UserError without one."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        raise UserError("--rows with p: pgbouncer is not installed (Debian: apt install pgbouncer)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    known = {"name": url.database, "host": url.host, "port": url.port, "user": url.username, "password": url.password}
    (folder / "pooler.ini").touch(0o600)
    (folder / "pooler.ini").write_text(POOLER.format(**known, own=port, folder=folder))
    user = None
    if os.getuid() == 0:  # it does not run as root
        user = "nobody"
        for path in (folder, folder / "pooler.ini"):
            shutil.chown(path, user)
    process = subprocess.Popen([program, "-q", str(folder / "pooler.ini")], user=user, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield url.set(host="127.0.0.1", port=port, query={}), process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def wait_for(trials: int, names: str, engine: sa.Engine) -> float:
    """Wait until so many trials run in the searches whose names begin so; returns the seconds. Raises RuntimeError
    after `UP_SECONDS`."""
    began = time.monotonic()
    query = (
        sa.select(sa.func.count())
        .select_from(leases.join(arms, arms.c.study_id == leases.c.study_id).join(searches))
        .where(searches.c.name.startswith(names), leases.c.state == HELD, leases.c.run.is_not(None))
    )
    running = 0
    while time.monotonic() - began < UP_SECONDS:
        with engine.connect() as connection:
            running = int(connection.execute(query).scalar_one())
        if running >= UP_SHARE * trials:  # a slot whose trial was pruned waits for the next epoch
            return time.monotonic() - began
        time.sleep(1)
    raise RuntimeError(f"{running} of {trials} trials run after {UP_SECONDS:g} s: this machine is too busy")


def measure(row: Row, number: int, server: OwnServer, folder: Path, seconds: float) -> dict[str, Any]:
    """One row: its figures, with every latency."""
    direct = server.url.set(drivername="postgresql+psycopg2")
    folder.mkdir()
    (postmaster,) = (folder.parent / "pg").rglob("postmaster.pid")
    process = psutil.Process(int(postmaster.read_text().splitlines()[0]))
    sets = ["budget.trials=100000", "budget.in_flight=1000", "budget.max_failed=100000", "arms.no-kd.trials=1"]
    sets += [f"run.epochs={EPOCHS}", "run.validate.from=1"]
    specs = [load(find("demo"), sets, name=f"fleet-{number}-{k}") for k in range(row.studies)]
    text = direct.render_as_string(hide_password=False)
    for spec in specs:
        opened = open_storage(text, studies=[arm.study_name for arm in spec.arms])
        search = open_search(opened, text, spec, simulated_identity(spec))
        if spec is specs[0]:
            Probe(opened, search).trial(epochs=1)  # loads what samplers need, for all that are forked from here
        opened.engine.dispose()
    with pooler(direct, folder / "pooler") if row.pooled else _nothing(direct) as (url, pool):
        address = url.render_as_string(hide_password=False)
        now = time.monotonic()
        pids: list[int] = []
        try:
            for k in range(row.workers):
                time.sleep(max(0.0, now + 60.0 * k / row.workers - time.monotonic()))
                work = partial(worker, address, specs[k % row.studies], folder, k)
                pids.append(forked(work, folder / "log"))
            engine = sa.create_engine(direct, poolclass=sa.NullPool)
            up = wait_for(row.workers * SLOTS, f"fleet-{number}-", engine)
            began = time.monotonic()
            window = (began, began + seconds)
            seen = watch(pids, process, pool, engine, window)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if any(codes):
        raise RuntimeError(f"workers ended with {codes}:\n{(folder / 'log').read_text()[-2000:]}")
    figures: dict[str, Any] = {"workers": row.workers, "studies": row.studies, "pooled": row.pooled, "seconds": seconds}
    each = [json.loads((folder / f"{k}.json").read_text()) for k in range(row.workers)]
    for kind in ("ask", "report"):
        inside = [value for one in each for at, value in one[kind] if window[0] <= at < window[1]]
        figures[kind] = [round(value, 1) for value in inside]
    figures["statements"] = sum(window[0] <= at < window[1] for one in each for at in one["statements"])
    return figures | {"up_seconds": up, **vars(seen)}


@contextmanager
def _nothing(url: sa.URL) -> Iterator[tuple[sa.URL, None]]:
    yield url, None


def _p(values: list[float]) -> str:
    """Median and 95 %, with how many they are of."""
    if len(values) < 2:
        return "-"
    return f"{statistics.median(values):.0f}, {statistics.quantiles(values, n=20)[-1]:.0f} ({len(values)})"


def line(figures: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [
        f"{figures['workers']} on {figures['studies']}",
        "PgBouncer" if figures["pooled"] else "direct",
        f"{figures['statements'] / figures['seconds']:.1f}",
        _p(figures["ask"]),
        _p(figures["report"]),
        str(figures["connections"]),
        f"{figures['memory']:.0f}",
        f"{figures['server_memory']:.0f}",
        f"{figures['own_cpu']:.0%}",
        f"{figures['cpu']:.0%}{'' if figures['cpu'] < MOST_CPU else ' (too much)'}",
    ]
    return f"| {' | '.join(cells)} |"


HEADS = (
    "workers on studies",
    "way",
    "statements a second",
    "ask ms: p50, p95 (of)",
    "report ms: p50, p95 (of)",
    "connections of the server",
    "a worker's own MB",
    "server's MB",
    "CPU, of this",
    "CPU, of all",
)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=["1x1", "8x1", "64x1", "20x20", "64x20", "64x1p", "64x20p"])
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the window of a row")
    parser.add_argument("--raw", type=Path, help="file for a JSON line a row")
    args = parser.parse_args()
    rows = [Row.parse(text) for text in args.rows]
    print(f"| {' | '.join(HEADS)} |")
    print("| --- | --- " + "| ---: " * (len(HEADS) - 2) + "|", flush=True)
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user must reach its folder
        server = OwnServer(folder / "pg")
        try:
            for number, row in enumerate(rows):
                figures = measure(row, number, server, folder / str(number), args.seconds)
                print(line(figures), flush=True)
                if args.raw is not None:
                    with args.raw.open("a") as file:
                        file.write(json.dumps(figures) + "\n")
        finally:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
