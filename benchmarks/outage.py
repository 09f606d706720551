"""The database away for long from all workers at once, refusing or silent: nothing may fail, nothing may be adopted.

    python -m benchmarks.outage --seconds 600

Four workers on a PostgreSQL of their own, each behind a gate. Exit codes: 0 as promised; 1 not.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import sqlalchemy as sa

from benchmarks.campaign.server import OwnServer
from benchmarks.campaign.verdict import Inspector
from benchmarks.campaign.worker_pool import WorkerPool
from search.storage.schema import HELD, arms, attempts, leases, searches
from trainer.cli.entry import guard


def words(name: str, runs: Path, ttl: float) -> list[str]:
    """The command of one worker: trials of 40 epochs of half a second."""
    sets = ["budget.trials=24", "run.epochs=40", "budget.in_flight=32"]
    flags = [word for text in sets for word in ("--set", text)]
    common = ["--name", name, "--runs", str(runs), "--slots", "2", "--ttl", str(ttl), "--epoch-seconds", "0.5"]
    return [sys.executable, "-m", "search", "simulate", "demo", *flags, *common, "--as-worker"]


def search_of(engine: sa.Engine, name: str) -> int:
    """Wait until all workers hold trials; returns the search's id."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.5)
        try:
            with engine.connect() as connection:
                owners = connection.execute(sa.select(leases.c.owner).filter_by(state=HELD).distinct()).all()
                if len(owners) == 4:
                    return int(connection.execute(sa.select(searches.c.search_id).filter_by(name=name)).scalar_one())
        except sa.exc.ProgrammingError:
            continue  # no tables yet
    raise RuntimeError("the workers did not begin")


def outage(server: OwnServer, folder: Path, mode: str, seconds: float, ttl: float) -> bool:
    """One search through one outage; prints a line of the table; whether all was as promised."""
    runs = folder / mode
    runs.mkdir()
    pool = WorkerPool(words(mode, runs, ttl), server.url, folder / f"{mode}.log", count=4)
    engine = sa.create_engine(server.url.set(drivername="postgresql+psycopg2"), poolclass=sa.NullPool)
    try:
        pool.tend(finished=False)
        inspector = Inspector(engine, search_of(engine, mode), runs)
        for worker in pool.workers:
            (worker.gate.refuse if mode == "refused" else worker.gate.stall)()
        time.sleep(seconds)
        alive = sum(worker.alive for worker in pool.workers)
        with engine.connect() as connection:
            beats = connection.execute(sa.select(sa.func.sum(leases.c.beat))).scalar_one()
            time.sleep(2 * ttl)
            still = connection.execute(sa.select(sa.func.sum(leases.c.beat))).scalar_one()
        for worker in pool.workers:
            worker.gate.open()
        back = time.monotonic()
        while any(worker.alive for worker in pool.workers) and time.monotonic() < back + 300:
            time.sleep(0.5)
        count = inspector.count()
        with engine.connect() as connection:
            mine = sa.select(leases.c.trial_id).join(arms, arms.c.study_id == leases.c.study_id)
            mine = mine.where(arms.c.search_id == inspector.search_id)
            ends = Counter(connection.execute(sa.select(attempts.c.why).where(attempts.c.trial_id.in_(mine))).scalars())
    finally:
        pool.end()
        engine.dispose()
    good = alive == 4 and beats == still and not (count.lost or count.twice or count.stuck or count.failed)
    good = good and set(ends) <= {"finished", "pruned", "restarted"}
    print(
        f"| {mode} | {seconds:g} s, {seconds / ttl:g} ttl | {alive} of 4 | {count.finished} of {count.owed} "
        f"| {dict(count.failed) or 0} | {ends['lost']} | {ends['restarted']} | {time.monotonic() - back:.0f} s |",
        flush=True,
    )
    return good


def main() -> int:
    """Run both kinds of outage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--ttl", type=float, default=2.0, help="time-to-live of a lease in seconds")
    parser.add_argument("--modes", nargs="+", choices=["refused", "silent"], default=["refused", "silent"])
    args = parser.parse_args()
    print(
        "| database | for | workers alive | trials finished | failed | adopted | taken back | from return to the end |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory(prefix="outage-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user must reach its folder
        server = OwnServer(folder / "pg")
        try:
            good = [outage(server, folder, mode, args.seconds, args.ttl) for mode in args.modes]
        finally:
            server.stop()
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(guard(main))
