"""`python -m search metrics`: all searches of a database as Prometheus text, from the database alone.

Heartbeats are counters in the database, not times: this process watches them on its own clock, as workers watch each
other's. So an age is the time since this process last saw the beat of a trial rise, and no worker needs a port. With
--workers, what workers write of their own time and memory comes with it.
"""

import argparse
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from loguru import logger

from search.dashboard.server import LOOPBACK, host_name, listening, port_of
from search.dashboard.worker_files import WorkerFiles
from search.storage.database import Database, open_storage
from search.storage.errors import look_again, patient
from search.storage.schema import HELD
from search.storage.url import add_storage, storage_url
from search.study.outcomes import completed_or_pruned
from search.study.progress import SearchProgress, progress_of
from search.study.snapshot import SearchSnapshot, read
from trainer.cli.numbers import whole
from trainer.errors import UserError

PORT = 9108
"""Where Prometheus asks by default."""
KEPT_SECONDS = 2.0
"""For so long a reading of the database answers further questions."""
THREADS = 2
"""Requests answered at the same time; one of them reads the database."""
COUNTERS = frozenset({"kd_device_seconds", "kd_spent_seconds", "kd_attempts", "kd_failed_trials"})
"""Families that only grow; in the text their names end in `_total`."""
FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "kd_trials": ("Trials by state; complete and pruned ones count against the budget.", ("study", "arm", "state")),
    "kd_budget_trials": ("Trials that an arm is to finish.", ("study", "arm")),
    "kd_failed_trials": ("Trials that failed, by class.", ("study", "arm", "failure")),
    "kd_best_score": ("Best score of an arm, unconfirmed.", ("study", "arm", "metric")),
    "kd_trials_per_hour": ("Pace over the newest finished trials; absent while unknown.", ("study",)),
    "kd_eta_seconds": ("Time until the search is done, at this pace; absent while unknown.", ("study",)),
    "kd_finished_age_seconds": ("Time since a trial last completed or was pruned, or the search began.", ("study",)),
    "kd_held_trials": ("Trials that a host trains now.", ("study", "host")),
    "kd_heartbeat_age_seconds": ("Oldest heartbeat of a host's trials, as seen here.", ("study", "host")),
    "kd_attempts": ("Attempts at trials that ended, by why.", ("study", "why")),
    "kd_device_seconds": ("Device time that trials took.", ("study",)),
    "kd_spent_seconds": ("Wall time of trials, by part.", ("study", "part")),
    "kd_teacher_passes_per_step": ("Teacher passes a student step, mean over trials.", ("study",)),
    "kd_search_ended": ("1 where nothing more will come.", ("study",)),
}
"""Name -> what it is, and its labels."""
Values = list[tuple[tuple[str, ...], float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    add_storage(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=PORT, help="port to listen on (default %(default)s; 0: any free one)"
    )
    parser.add_argument(
        "--workers",
        type=Path,
        metavar="DIR",
        help="also what workers with --log prometheus write of their time and memory: their --log-dir",
    )
    parser.add_argument("--once", action="store_true", help="print the text and end, as for node_exporter's textfiles")


def main(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, or print once."""
    client = prometheus()
    with patient("metrics"):
        opened = open_storage(storage_url(args.storage), create=False)
    registry = client.CollectorRegistry()
    registry.register(Collector(opened))
    if args.workers is not None:
        registry.register(WorkerFiles(args.workers))
    if args.once:
        print(client.generate_latest(registry).decode(), end="")
        return 0
    application = client.make_wsgi_app(registry)
    if args.host in LOOPBACK:
        application = local(application)
    server = listening(application, args, THREADS)
    logger.info("http://{}:{}/metrics  {}", args.host, port_of(server), opened.label)
    server.run()
    return 0


def local(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The application for who asks this machine by its own name: a web page whose name leads here is refused."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if host_name(str(environ.get("HTTP_HOST", ""))) in LOOPBACK:
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"not served under this name\n"]

    return answer


def prometheus() -> ModuleType:
    """The client library. Raises UserError where the extra is absent."""
    try:
        import prometheus_client
    except ImportError:
        raise UserError('metrics: prometheus_client is not installed; pip install -e ".[metrics]"') from None
    return prometheus_client


@dataclass
class Beats:
    """When the heartbeat of each held trial was last seen to rise, on this process's monotonic clock."""

    _seen: dict[tuple[str, int], tuple[int, int, float]] = field(default_factory=dict)

    def ages(self, study: str, rows: Sequence[Any], now: float) -> dict[str, float]:
        """The oldest beat of each host that holds trials of a study, in seconds; `rows` are all its leases."""
        ages: dict[str, float] = {}
        held = [row for row in rows if row.state == HELD]
        for row in held:
            before = self._seen.get((study, row.trial_id))
            if before is None or before[:2] != (row.token, row.beat):
                before = self._seen[study, row.trial_id] = (row.token, row.beat, now)
            host = row.host or ""
            ages[host] = max(ages.get(host, 0.0), now - before[2])
        kept = {row.trial_id for row in held}
        self._seen = {key: at for key, at in self._seen.items() if key[0] != study or key[1] in kept}
        return ages


class Collector:
    """Reads the database when it is asked; what Prometheus asks in the same moment again is answered from memory.

    A database that is away is a figure, kd_database_up, and no others: old ones would look like a search that runs.
    """

    def __init__(self, opened: Database) -> None:
        self._opened = opened
        self._beats = Beats()
        self._lock = threading.Lock()
        self._read: tuple[float, dict[str, Values] | None] | None = None

    def collect(self) -> Iterator[Any]:
        """The families of metrics, as the client library wants them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            now = time.monotonic()
            if self._read is None or now - self._read[0] > KEPT_SECONDS:
                self._read = (now, look_again(self._look))
            values = self._read[1]
        yield GaugeMetricFamily("kd_database_up", "Whether the database answered.", value=float(values is not None))
        for name, (text, labels) in FAMILIES.items() if values is not None else ():
            kind = CounterMetricFamily if name in COUNTERS else GaugeMetricFamily
            family = kind(name, text, labels=labels)
            for of, value in (values or {}).get(name, ()):
                family.add_metric(of, value)
            yield family

    def _look(self) -> dict[str, Values]:
        values: dict[str, Values] = {name: [] for name in FAMILIES}
        for name in self._opened.searches.names():
            if self._opened.searches.search(name) is None:
                continue  # deleted since
            rows = read(self._opened, name)
            progress = progress_of(rows, self._opened.searches.closed)
            ages = self._beats.ages(name, rows.every, time.monotonic())
            for family, of, value in (*of_search(rows, progress), *of_hosts(progress, ages)):
                values[family].append(((name, *of), value))
        return values


def of_search(rows: SearchSnapshot, progress: SearchProgress) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """The figures of one search: family, labels after the study, value."""
    for name, arm in progress.arms.items():
        for state in ("complete", "pruned", "running", "waiting"):
            yield "kd_trials", (name, state), getattr(arm, state)
        yield "kd_trials", (name, "failed"), arm.failures
        if arm.paused:
            yield "kd_trials", (name, "paused"), arm.paused
        yield "kd_budget_trials", (name,), arm.of
        yield from (("kd_failed_trials", (name, kind), count) for kind, count in arm.failed.items())
        if arm.best is not None:
            yield "kd_best_score", (name, progress.metric), arm.best.score
    yield "kd_device_seconds", (), progress.gpu_hours * 3600
    yield from (("kd_spent_seconds", (part,), seconds) for part, seconds in progress.seconds.items())
    yield "kd_search_ended", (), float(progress.ended)
    yield from _where_known("kd_trials_per_hour", progress.trials_an_hour)
    yield from _where_known("kd_eta_seconds", progress.eta_seconds)
    yield from _where_known("kd_teacher_passes_per_step", progress.teacher_passes)
    finished = rows.ended()
    ends = [finished[row.trial_id] for row in rows.every if completed_or_pruned(row) and row.trial_id in finished]
    begun = [attempt.began for attempt in rows.attempts]
    if ends or begun:
        yield "kd_finished_age_seconds", (), max(0.0, rows.now - (max(ends) if ends else min(begun)))


def of_hosts(progress: SearchProgress, ages: Mapping[str, float]) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """The figures of the hosts that train a search, and how attempts at its trials ended."""
    yield from (("kd_held_trials", (host or "",), count) for host, count in progress.holding.items())
    yield from (("kd_heartbeat_age_seconds", (host,), age) for host, age in ages.items())
    ends: dict[str, int] = {}
    for each in progress.workers.values():
        for why, count in each.items():
            ends[why] = ends.get(why, 0) + count * (why != "running")
    yield from (("kd_attempts", (why,), count) for why, count in ends.items() if why != "running")


def _where_known(family: str, value: float | None) -> Iterable[tuple[str, tuple[str, ...], float]]:
    return () if value is None else ((family, (), value),)
