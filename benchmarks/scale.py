"""How the service scales on one PostgreSQL: calls by finished trials, and trials an hour by workers.

    python -m benchmarks.scale

First table: latency of taking a trial (claim, suggest, store its run), of a report and of the pruner's verdict, and the
statements that they cost, in a study of 100, 1,000 and 5,000 finished trials with 50 reports each; alone and beside
eight workers. The first hundred trials are simulated, the rest are copies of them with other numbers. The first look
is a new worker's: it reads all trials once.
Second table: simulated workers on one database, their trials an hour against what their epochs allow, connections and
memory. Third table: the memory of one worker over 500 trials.
Training is simulated (`search simulate`); the database work is the real one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from benchmarks.campaign.server import OwnServer
from search.commands.simulate import simulated_identity
from search.execution.owner import owner_of
from search.execution.simulated_students import Curves
from search.spec.load import StudySpec, find, load
from search.storage.database import Database, open_storage
from search.storage.schema import leases
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from trainer.cli.entry import guard

EPOCHS = 50
MEMORY_EPOCHS = 5


@dataclass
class Calls:
    """Latencies in milliseconds and statements, by kind of call."""

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: {"ask": [], "report": [], "prune": []})
    statements: dict[str, list[int]] = field(default_factory=lambda: {"ask": [], "report": [], "prune": []})

    def cells(self) -> list[str]:
        """p50, p95 and mean statements of each kind."""
        cells = []
        for kind, times in self.milliseconds.items():
            p95 = statistics.quantiles(times, n=20)[-1]
            cells += [f"{statistics.median(times):.0f}, {p95:.0f}", f"{statistics.mean(self.statements[kind]):.1f}"]
        return cells


class Probe:
    """Takes trials and reports epochs as a worker's database thread does, with a clock."""

    def __init__(self, opened: Database, search: StudyAdapter) -> None:
        self.search = search
        self.calls = Calls()
        self._count = 0
        sa.event.listen(opened.engine, "before_cursor_execute", self._statement)

    def trial(self, epochs: int) -> None:
        """One trial of the main arm, ended as a failure so that the number of finished ones stays."""
        search, curves = self.search, Curves()
        with _timed(self, "ask"):
            claim = search.claim(owner_of(os.getpid(), 0), lambda _: 0, ())
            run = claim.arm.resolve(search.suggest(claim))
            search.commit(claim, run.model_dump_json(exclude_none=True), "{}")
        for epoch in range(1, epochs + 1):
            with _timed(self, "report"):
                search.report(claim.held, epoch, curves.score(run, epoch), {"epoch": epoch})
            with _timed(self, "prune"):
                search.pruned(claim.held)
        search.fail(claim.held, "bug", "a probe of the benchmark")

    def first_look(self) -> float:
        """Seconds of a first trial: a worker reads all trials of its study once, then only what is new."""
        began = time.perf_counter()
        self.trial(epochs=1)
        self.calls = Calls()
        return time.perf_counter() - began

    def _statement(self, *_: object) -> None:
        self._count += 1


class _timed:  # noqa: N801 - reads as the verb that it is
    def __init__(self, probe: Probe, kind: str) -> None:
        self._probe, self._kind = probe, kind

    def __enter__(self) -> None:
        self._before, self._began = self._probe._count, time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._probe.calls.milliseconds[self._kind].append((time.perf_counter() - self._began) * 1e3)
        self._probe.calls.statements[self._kind].append(self._probe._count - self._before)


def spec_of(name: str, trials: int, *more: str) -> StudySpec:
    """The demo's study with one budget and 50 epochs."""
    words = [f"budget.trials={trials}", f"run.epochs={EPOCHS}", "budget.in_flight=512", "budget.max_failed=100000"]
    return load(find("demo"), [*words, *more], name=name)


def simulate(runs: Path, spec: StudySpec, words: Sequence[str]) -> list[str]:
    """The command of one simulated worker."""
    budget = [f"budget.trials={spec.budget.trials}", f"run.epochs={EPOCHS}", "budget.in_flight=512"]
    sets = [w for text in [*budget, "budget.max_failed=100000", *words] for w in ("--set", text)]
    common = ["--name", spec.name, "--runs", str(runs), "--ttl", "60", "--as-worker"]
    return [sys.executable, "-m", "search", "simulate", "demo", *sets, *common]


def environment(url: sa.URL) -> dict[str, str]:
    """Where the workers find the database; the password stays out of the process list."""
    return {**os.environ, "OPTUNA_STORAGE": url.render_as_string(hide_password=False), "OMP_NUM_THREADS": "1"}


COPIED = {
    "trials": "study_id, state, datetime_start, datetime_complete",
    "trial_params": "param_name, param_value, distribution_json",
    "trial_values": "objective, value, value_type",
    "trial_intermediate_values": "step, intermediate_value, intermediate_value_type",
    "kd_lease": ", ".join(c.name for c in leases.columns if c.name not in ("trial_id", "number")),
}
"""Tables that hold a finished trial, in the order of their references, and what is copied as it is."""


def copies(engine: sa.Engine, study_id: int, times: int) -> None:
    """Copy all finished trials of a study `times` times, with their parameters, curves, values and leases."""
    with engine.begin() as connection:
        query = "SELECT max(trial_id), max(number) + 1 FROM trials WHERE study_id = :s"
        high, count = connection.execute(sa.text(query), {"s": study_id}).one()
        for k in range(1, times + 1):
            values = {"s": study_id, "high": high, "ids": k * int(high), "numbers": k * int(count)}
            for name, columns in COPIED.items():
                numbered = name in ("trials", "kd_lease")
                into = f"INSERT INTO {name} (trial_id, {'number, ' if numbered else ''}{columns})"
                what = f"SELECT trial_id + :ids, {'number + :numbers, ' if numbered else ''}{columns} FROM {name}"  # noqa: S608 - literals of this file
                which = "WHERE trial_id IN (SELECT trial_id FROM trials WHERE study_id = :s AND trial_id <= :high)"
                connection.execute(sa.text(f"{into} {what} {which}"), values)
        connection.execute(sa.text("SELECT setval('trials_trial_id_seq', (SELECT max(trial_id) FROM trials))"))
        connection.execute(sa.text("UPDATE kd_arm SET trials = 100000 WHERE study_id = :s"), {"s": study_id})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


def by_finished(url: sa.URL, folder: Path, sizes: Sequence[int], probes: int) -> None:
    """Print the first table."""
    heads = ["finished", "workers beside", "first look s", "ask ms: p50, p95", "statements"]
    heads += ["report ms", "statements", "prune ms", "statements"]
    print(f"| {' | '.join(heads)} |")
    print("| ---: " * len(heads) + "|")
    for size in sizes:
        spec = spec_of(f"scale-{size}", 100, "pruner.name=none", "arms.no-kd.trials=1")
        text = url.render_as_string(hide_password=False)
        opened = open_storage(text)
        open_search(opened, text, spec, simulated_identity(spec))
        words = simulate(folder, spec, ["pruner.name=none", "arms.no-kd.trials=1"])
        subprocess.run([*words, "--slots", "16"], env=environment(url), check=True, capture_output=True)
        arm = next(a for a in opened.searches.arms_of(opened.searches.search(spec.name).search_id) if a.name == "kd")  # type: ignore[union-attr]
        copies(opened.engine, arm.study_id, size // 100 - 1)
        opened.engine.dispose()
        spec = spec_of(f"scale-{size}", 100_000, "arms.no-kd.trials=1")
        for beside in (0, 8):
            workers = []
            if beside:
                words = [*simulate(folder, spec, ["arms.no-kd.trials=1"]), "--slots", "4", "--epoch-seconds", "1"]
                workers = [
                    subprocess.Popen(words, env=environment(url), stderr=subprocess.DEVNULL) for _ in range(beside)
                ]
                time.sleep(15)
            opened = open_storage(text)
            probe = Probe(opened, open_search(opened, text, spec, simulated_identity(spec)))
            first = probe.first_look()
            for _ in range(probes):
                probe.trial(epochs=10)
            opened.engine.dispose()
            for worker in workers:
                worker.kill()
                worker.wait()
            print(f"| {size} | {beside} | {first:.1f} | {' | '.join(probe.calls.cells())} |", flush=True)


def by_workers(url: sa.URL, folder: Path, counts: Sequence[int], epoch_seconds: float) -> None:
    """Print the second table."""
    slots, epochs = 4, 10
    print(
        "| workers | trials an hour | of what epochs allow | most connections a worker | memory of one at its end, MB |"
    )
    print("| ---: | ---: | ---: | ---: | ---: |")
    for count in counts:
        name, budget = f"workers-{count}", 6 * count * slots
        sets = [f"budget.trials={budget}", f"run.epochs={epochs}", "budget.in_flight=512", "pruner.name=none"]
        words = [w for text in [*sets, "arms.no-kd.trials=1"] for w in ("--set", text)]
        common = ["--name", name, "--runs", str(folder), "--slots", str(slots), "--epoch-seconds", str(epoch_seconds)]
        command = [sys.executable, "-m", "search", "simulate", "demo", *words, *common, "--ttl", "60", "--as-worker"]
        text = url.render_as_string(hide_password=False)
        spec = load(find("demo"), [*sets, "arms.no-kd.trials=1"], name=name)
        opened = open_storage(text)
        search = open_search(opened, text, spec, simulated_identity(spec))
        workers = [subprocess.Popen(command, env=environment(url), stderr=subprocess.DEVNULL) for _ in range(count)]
        row = _watch(opened, search, workers)
        opened.engine.dispose()
        ideal = 3600 * count * slots / (epochs * epoch_seconds)
        print(f"| {count} | {row[0]:.0f} | {row[0] / ideal:.0%} | {row[1]:.1f} | {row[2]:.0f} |", flush=True)


def by_trials(url: sa.URL, folder: Path, trials: int) -> None:
    """Print the third table: memory at the first look after each tenth of the budget."""
    print(f"| trials finished of {trials} | memory of the worker, MB |")
    print("| ---: | ---: |")
    sets = ["pruner.name=none", "arms.no-kd.trials=1", f"run.epochs={MEMORY_EPOCHS}"]
    spec = spec_of("memory", trials, *sets)
    text = url.render_as_string(hide_password=False)
    opened = open_storage(text)
    search = open_search(opened, text, spec, simulated_identity(spec))
    words = [*simulate(folder, spec, sets), "--slots", "4", "--epoch-seconds", "0.01"]
    worker = subprocess.Popen(words, env=environment(url), stderr=subprocess.DEVNULL)
    tenth = 1
    while worker.poll() is None:
        done = sum(c.complete + c.pruned for c in search.counts().values())
        if done >= tenth * trials / 10:
            print(f"| {done} | {_resident(worker.pid):.1f} |", flush=True)
            tenth = 10 * done // trials + 1
        time.sleep(0.2)
    opened.engine.dispose()
    if worker.returncode != 0:
        raise RuntimeError(f"the worker ended with {worker.returncode}")


def _watch(
    opened: Database, search: StudyAdapter, workers: Sequence["subprocess.Popen[bytes]"]
) -> tuple[float, float, float]:
    """Trials an hour between a quarter and three quarters of the budget; connections a worker; memory of one."""
    marks: dict[float, tuple[float, int]] = {}
    total = sum(arm.trials for arm in search.arms.values())
    most, last = 0, 0.0
    while any(worker.poll() is None for worker in workers):
        done = sum(c.complete + c.pruned for c in search.counts().values())
        for share in (0.25, 0.75):
            if done >= share * total:
                marks.setdefault(share, (time.monotonic(), done))
        with opened.engine.begin() as connection:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            most = max(most, int(connection.execute(sa.text(query)).scalar_one()))
        last = _resident(workers[0].pid) or last
        time.sleep(0.5)
    (begin, a), (end, b) = marks[0.25], marks[0.75]
    return (b - a) / (end - begin) * 3600, most / len(workers), last


def _resident(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", type=int, nargs="*", default=[100, 1000, 5000], help="none: no first table")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32], help="none: no second table")
    parser.add_argument("--probes", type=int, default=20, help="trials that are timed in each row")
    parser.add_argument("--trials", type=int, default=500, help="over which one worker's memory is watched; 0: not")
    parser.add_argument("--epoch-seconds", type=float, default=1.0, help="length of a simulated epoch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user must reach its folder
        server = OwnServer(folder / "pg")
        url = server.url.set(drivername="postgresql+psycopg2")
        try:
            if args.finished:
                by_finished(url, folder / "runs", args.finished, args.probes)
                print()
            if args.workers:
                by_workers(url, folder / "runs", args.workers, args.epoch_seconds)
                print()
            if args.trials:
                by_trials(url, folder / "runs", args.trials)
        finally:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
