"""Random faults of all kinds at random times over the workers of one database, and what came of them.

    python -m benchmarks.faults --faults 500 --seed 1
    python -m benchmarks.faults --faults 200 --seed 2 --pruner promote
    python -m benchmarks.faults --faults 200 --seed 2 --pruner curves

A PostgreSQL of its own, and a gate between it and each worker. Workers come back as under a service manager. Searches
follow one another until enough faults have hit; the last one runs to its end without faults. Then the books are read:
each budget must be met exactly, no trial finished twice, no curve with a gap, nothing left running. Training is
simulated (`search simulate`), everything else is real; `--real` runs torchruns with two ranks that train.
Exit codes: 0 nothing lost, twice or stuck; 1 something was.
"""

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from benchmarks.campaign.injuries import FAULTS, NO_EFFECT, RANK_FAULTS, Scene, Steps
from benchmarks.campaign.server import OwnServer
from benchmarks.campaign.verdict import Count, Inspector, Wound, table
from benchmarks.campaign.worker_pool import WorkerPool
from search.spec.load import find
from search.storage.schema import HELD, leases, searches
from trainer.cli.entry import guard

PATIENCE = 180.0
"""Seconds without a finished epoch, and without a fault in progress, after which a search is called stuck."""
DISK = {False: 16, True: 512}
"""Megabytes of the disk that is filled: what simulated and real checkpoints and weights of a whole search need."""
TOGETHER = 3
"""Faults that may be in progress at the same time."""


@dataclass
class Open:
    """A fault in progress."""

    wound: Wound
    steps: Steps
    due: float


class Campaign:
    """Injects faults over several searches."""

    def __init__(self, args: argparse.Namespace, server: OwnServer, folder: Path, disk: Path | None) -> None:
        self.args, self.server, self.folder, self.disk = args, server, folder, disk
        self.engine = sa.create_engine(server.url.set(drivername="postgresql+psycopg2"), poolclass=sa.NullPool)
        self.draw = random.Random(args.seed)  # noqa: S311 - no secret
        self.wounds: list[Wound] = []
        self.without_effect: Counter[str] = Counter()
        """Faults that met nothing, by kind; they are injected again in place of being counted."""
        self.counts: list[Count] = []
        self.exits: Counter[int] = Counter()
        self.kinds = RANK_FAULTS if args.real else FAULTS
        self.bag: list[str] = []
        self.teacher = folder / "teacher.safetensors"

    def run(self) -> None:
        """Search after search until all faults were injected; for real ranks, a teacher first."""
        if self.args.real:
            words = ["teach", str(find("demo")), "-o", str(self.teacher)]
            subprocess.run([sys.executable, "-m", "trainer", *words], check=True)
        while len(self.wounds) < self.args.faults:
            self._search(len(self.counts))

    def _search(self, index: int) -> None:
        name = f"faults-{self.args.seed}-{index}"
        runs = (self.disk or self.folder) / name
        runs.mkdir()
        pool = WorkerPool(
            self._words(name, runs), self.server.url, self.folder / "workers.log", count=self.args.workers
        )
        try:
            pool.tend(finished=False)
            inspector = self._inspector(name, runs)
            scene = Scene(pool, self.server, self.args.ttl, self.draw, self.disk, lambda wish: self._stop(name, wish))
            self._storm(pool, inspector, scene)
        finally:
            self.exits.update(code for _, code in pool.exits)
            pool.end()
        count = inspector.count()
        self.counts.append(count)
        print(
            f"{name}: {count.finished} of {count.owed} finished, failed {dict(count.failed)}; faults so far "
            f"{len(self.wounds)}; lost {count.lost}; twice {count.twice}; stuck {count.stuck}",
            flush=True,
        )

    def _storm(self, pool: WorkerPool, inspector: Inspector, scene: Scene) -> None:
        opened: list[Open] = []
        hurt: list[Wound] = []
        next_fault = time.monotonic() + self.args.every
        moved, epochs, look_due, ended = time.monotonic(), -1, 0.0, False
        while True:
            self._advance(opened)
            self._heal(inspector, hurt)
            now = time.monotonic()
            if now >= look_due:
                ended, now_epochs = self._look(inspector, epochs)
                look_due = now + 1.0
                if now_epochs != epochs or opened:
                    moved, epochs = now, now_epochs
            pool.tend(finished=ended)
            if ended and not opened and all(worker.done for worker in pool.workers):
                return
            if now - moved > PATIENCE:
                return  # the count says what is stuck
            enough = len(self.wounds) >= self.args.faults
            if not ended and not enough and now >= next_fault and len(opened) < TOGETHER:
                self._hit(inspector, scene, opened, hurt)
                next_fault = now + self.draw.expovariate(1 / self.args.every)
            time.sleep(0.05)

    def _hit(self, inspector: Inspector, scene: Scene, opened: list[Open], hurt: list[Wound]) -> None:
        """Begin the next fault of the bag: every kind comes once before one comes twice."""
        if not self.bag:
            self.bag = self.draw.sample(sorted(self.kinds), len(self.kinds))
        kind = self.bag.pop()
        if any(open_.wound.kind in (kind, "server crash") for open_ in opened):
            self.bag.insert(0, kind)
            return
        try:
            wound = inspector.wound(kind)
        except sa.exc.OperationalError:
            self.bag.insert(0, kind)  # the server is down just now
            return
        scene.holders = frozenset(was.owner for was in wound.touched.values() if was.owner is not None)
        if not scene.holders:
            self.bag.insert(0, kind)  # a fault that hits nobody's work shows nothing
            return
        scene.hit = set()
        steps = self.kinds[kind](scene)
        try:
            wait = next(steps)
        except LookupError:
            return  # nobody to hit, or no means: it is not counted
        except StopIteration as stop:
            raise RuntimeError(f"{kind} ended before it began") from stop
        if scene.hit:
            wound.narrow(scene.hit)
        self.wounds.append(wound)
        hurt.append(wound)
        opened.append(Open(wound, steps, time.monotonic() + wait))

    def _advance(self, opened: list[Open]) -> None:
        for fault in list(opened):
            if time.monotonic() < fault.due:
                continue
            try:
                fault.due = time.monotonic() + next(fault.steps)
            except StopIteration as stop:
                fault.wound.over = time.monotonic()
                fault.wound.proof = str(stop.value)
                if fault.wound.proof == NO_EFFECT:
                    self.wounds.remove(fault.wound)
                    self.without_effect[fault.wound.kind] += 1
                opened.remove(fault)

    def _heal(self, inspector: Inspector, hurt: list[Wound]) -> None:
        with contextlib.suppress(sa.exc.OperationalError):  # the server may be down just now
            for wound in [w for w in hurt if w.over is not None and inspector.healed(w)]:
                wound.healed = time.monotonic()
                hurt.remove(wound)

    def _look(self, inspector: Inspector, epochs: int) -> tuple[bool, int]:
        """Whether every budget is met with nothing open, and a number that changes with every epoch."""
        try:
            count = inspector.count()
            with self.engine.connect() as connection:
                total = connection.execute(sa.select(sa.func.sum(leases.c.epoch), sa.func.count())).one()
            return count.finished >= count.owed and not inspector.open_leases(), int(total[0] or 0) + int(total[1])
        except sa.exc.OperationalError:
            return False, epochs  # the server is down just now

    def _inspector(self, name: str, runs: Path) -> Inspector:
        """Wait until the first trials run."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(sa.exc.ProgrammingError), self.engine.connect() as connection:  # no tables yet
                found = connection.execute(sa.select(searches.c.search_id).filter_by(name=name)).scalar_one_or_none()
                held = connection.execute(sa.select(sa.func.count()).select_from(leases).filter_by(state=HELD))
                if found is not None and held.scalar_one() > 0:
                    return Inspector(self.engine, found, runs)
            time.sleep(0.2)
        told = (self.folder / "workers.log").read_text(errors="replace")
        raise RuntimeError(f"{name}: no worker began a trial; the end of their log:\n{told[-2000:]}")

    def _stop(self, name: str, wish: str | None) -> None:
        with self.engine.begin() as connection:
            connection.execute(searches.update().where(searches.c.name == name).values(stop=wish))

    def _words(self, name: str, runs: Path) -> list[str]:
        a = self.args
        sets = [f"budget.trials={a.trials}", "budget.max_failed=10000", "budget.in_flight=32", f"run.epochs={a.epochs}"]
        sets += ["run.validate.from=1"]  # the count looks for gaps in curves
        sets += [] if a.pruner is None else [f"pruner.name={a.pruner}"]
        words = [w for text in sets for w in ("--set", text)]
        common = [*words, "--name", name, "--runs", str(runs), "--slots", str(a.slots), "--ttl", str(a.ttl)]
        if not a.real:
            extra = ["--epoch-seconds", str(a.epoch_seconds), "--as-worker"]
            return [sys.executable, "-m", "search", "simulate", "demo", *common, *extra]
        common += ["--set", f"run.teacher.checkpoint={self.teacher}"]
        ranks = ["-m", "trainer.distributed.torchrun", "--nproc-per-node=2", "--max-restarts=100"]
        return [sys.executable, *ranks, "search/worker.py", "--study", "demo", *common, "--stall", str(5 * a.ttl)]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of its own for the checkpoints, where this user may mount one."""
    folder.mkdir()
    size = f"size={megabytes}m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def report(campaign: Campaign, seconds: float) -> int:
    """Print the tables; returns the exit code."""
    epochs: dict[str, list[int]] = {}
    inspector = Inspector(campaign.engine, 0, campaign.folder)
    epochs = inspector.epochs_lost(campaign.wounds)
    print("\n".join(table(campaign.wounds, epochs)))
    counts = campaign.counts
    failed = sum((count.failed for count in counts), Counter())
    sums = [sum(len(getattr(count, name)) for count in counts) for name in ("lost", "twice", "stuck")]
    unhealed = [wound for wound in campaign.wounds if wound.recovery is None]
    print(
        f"\n{len(campaign.wounds)} faults in {len(counts)} searches and {seconds / 60:.1f} minutes: "
        f"{sum(c.finished for c in counts)} of {sum(c.owed for c in counts)} trials finished; "
        f"lost {sums[0]}, counted twice {sums[1]}, stuck {sums[2]}; not recovered from {len(unhealed)}; "
        f"failed by rule {dict(failed)}; without effect and not counted {dict(campaign.without_effect)}; "
        f"workers' exit codes {dict(campaign.exits)}"
    )
    for kind in sorted(campaign.kinds):
        first = next((wound.proof for wound in campaign.wounds if wound.kind == kind), "never injected")
        print(f"- {kind}: {first}")
    return 1 if any(sums) or unhealed else 0


def main() -> int:
    """Run the campaign and print its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--slots", type=int, default=2, help="trials side by side in a worker")
    parser.add_argument("--trials", type=int, default=100, help="budget of each search (its control has the demo's)")
    parser.add_argument("--epochs", type=int, default=16, help="epochs of a trial")
    parser.add_argument("--epoch-seconds", type=float, default=0.25, help="length of a simulated epoch")
    parser.add_argument("--every", type=float, default=2.0, help="mean seconds between faults")
    parser.add_argument("--ttl", type=float, default=2.0, help="time-to-live of a lease in seconds")
    parser.add_argument("--pruner", help="the pruner of each search; default: the demo's")
    parser.add_argument("--real", action="store_true", help="torchruns of two ranks that train on drawn images")
    args = parser.parse_args()
    room = DISK[args.real]
    with tempfile.TemporaryDirectory(prefix="faults-") as name, small_disk(Path(name) / "disk", room) as disk:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user must reach its folder
        server = OwnServer(folder / "pg")
        began = time.monotonic()
        try:
            campaign = Campaign(args, server, folder, disk)
            campaign.run()
            return report(campaign, time.monotonic() - began)
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(guard(main))
