"""Workers as pods of the Job of deploy/kubernetes, evicted, deleted and killed at random, and what came of the search.

    python -m benchmarks.evictions --pods 4 --evictions 30 --seed 1

No cluster: pods are started, asked to stop, killed and replaced by this program, by the rules of the manifest itself. A
PostgreSQL of its own; training is simulated (`search simulate`), all else is real. Each disruption hits a pod that
holds trials, or one that has just been started. At the end the books are read as after `benchmarks.faults`: each budget
met exactly, no trial twice, no gap in a curve, nothing left; and each pod has to end with the code that its end should
have. Exit codes: 0 all of it is so; 1 something is not.
"""

import argparse
import math
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import yaml

from benchmarks.campaign.kubelet import MANIFEST, ROOT, IndexedJob, Pod, family, kill_all, write_rank
from benchmarks.campaign.server import OwnServer
from benchmarks.campaign.verdict import Count, Inspector
from search.storage.schema import HELD, leases, searches
from trainer.cli.entry import guard

STUCK_SECONDS = 180.0
"""After so long without an epoch and without a disruption, a search is called stuck."""
YOUNG_SECONDS = 3.0
"""A pod that was started so long ago is still coming up."""
STARTING = "evicted while it starts"


@dataclass(frozen=True)
class Disruption:
    """One way in which a pod ends before its work does."""

    number: int
    """The signal: TERM to its first process, or KILL to all."""
    code: int
    """What the pod has to end with."""
    is_target: bool
    """Whether the cluster sets DisruptionTarget."""
    share: float
    """Of all disruptions."""


KINDS = {
    "evicted": Disruption(signal.SIGTERM, 143, is_target=True, share=0.4),
    "deleted": Disruption(signal.SIGTERM, 143, is_target=False, share=0.2),
    STARTING: Disruption(signal.SIGTERM, 143, is_target=True, share=0.1),
    "node gone": Disruption(signal.SIGKILL, 137, is_target=True, share=0.2),
    "out of memory": Disruption(signal.SIGKILL, 137, is_target=False, share=0.1),
}


class Run:
    """One search under disruptions."""

    def __init__(self, args: argparse.Namespace, url: sa.URL, folder: Path) -> None:
        self.args = args
        self.draw = random.Random(args.seed)  # noqa: S311 - no secret
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)
        self.name = f"evictions-{args.seed}"
        spec = next(yaml.safe_load_all(MANIFEST.read_text()))["spec"]
        logs = args.logs or folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        script = write_rank(folder / "rank.py", self._words(folder / "runs"))
        environment = {k: v for k, v in os.environ.items() if k != "OPTUNA_STORAGE_FILE"}
        environment |= {
            "OPTUNA_STORAGE": url.render_as_string(hide_password=False),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.job = IndexedJob(spec, script, environment, logs)
        self.early: dict[int, float] = {}
        """When each process is to be evicted while it starts, by its id; infinity: it is not."""
        kinds = [kind for kind, each in KINDS.items() for _ in range(round(each.share * args.evictions))]
        self.plan = self.draw.sample(kinds, len(kinds))
        """What is still to come, the next one last."""

    def _words(self, runs: Path) -> list[str]:
        a = self.args
        sets = [f"budget.trials={a.trials}", f"run.epochs={a.epochs}", "run.validate.from=1", "budget.in_flight=64"]
        words = [word for text in sets for word in ("--set", text)]
        flags = ["--slots", str(a.slots), "--epoch-seconds", str(a.epoch_seconds), "--ttl", str(a.ttl)]
        return ["demo", *words, "--name", self.name, "--runs", str(runs), *flags]

    def storm(self) -> float:
        """All disruptions, then the search to its end; returns how long it took in seconds."""
        disruptions = {kind: each.is_target for kind, each in KINDS.items()}
        began = time.monotonic()
        self.job.start(self.args.pods)
        due, moved, epochs = began + self.args.gap, began, -1
        while self.job.pods and not self.job.failed:
            self.job.tend(disruptions)
            now = time.monotonic()
            self._hit_early(now)
            if now >= due and self._hit_holder():
                due = now + self.draw.expovariate(1 / self.args.gap)
            if (trained := self._epochs()) != epochs:
                epochs, moved = trained, now
            if now - moved > STUCK_SECONDS:
                break  # the count says what is stuck
            time.sleep(0.2)
        return time.monotonic() - began

    def _hit_early(self, now: float) -> None:
        """Every second new pod is evicted before it is up, as long as the plan has such."""
        for pod in self._free():
            if pod.process.pid not in self.early:
                chosen = STARTING in self.plan and self.draw.random() < 0.5
                self.early[pod.process.pid] = now + self.draw.uniform(0.0, YOUNG_SECONDS) if chosen else math.inf
            elif now >= self.early[pod.process.pid] and STARTING in self.plan:
                self.plan.remove(STARTING)
                self._hit(pod, STARTING)

    def _hit_holder(self) -> bool:
        """Disrupt a pod that holds trials as the next of the plan says; False while there is none, or nothing left."""
        kind = next((kind for kind in reversed(self.plan) if kind != STARTING), None)
        victims = list(self._holders()) if kind is not None else []
        if kind is None or not victims:
            return False
        self.plan.remove(kind)
        self._hit(self.draw.choice(victims), kind)
        return True

    def _hit(self, pod: Pod, kind: str) -> None:
        pod.kind, pod.asked = kind, time.monotonic()
        if KINDS[kind].number == signal.SIGTERM:
            pod.process.send_signal(signal.SIGTERM)
        else:
            kill_all(pod.process.pid)
        print(f"{kind}: pod {pod.index}; {len(self.plan)} disruptions left", flush=True)

    def _free(self) -> list[Pod]:
        return [pod for pod in self.job.pods.values() if not pod.kind and pod.process.poll() is None]

    def _epochs(self) -> int:
        """A number that changes with every epoch that is stored."""
        try:
            with self.engine.connect() as connection:
                return int(connection.execute(sa.select(sa.func.sum(leases.c.epoch))).scalar_one() or 0)
        except sa.exc.ProgrammingError:  # no tables yet
            return -1

    def _holders(self) -> Iterator[Pod]:
        query = f"SELECT owner FROM kd_lease WHERE state = '{HELD}' AND epoch > 0"  # noqa: S608 - a literal of ours
        try:
            with self.engine.connect() as connection:
                owners = [str(owner) for (owner,) in connection.execute(sa.text(query))]
        except sa.exc.ProgrammingError:  # no tables yet
            return
        for pod in self._free():
            own = [f":{pid}:" for pid in family(pod.process.pid)]
            if any(pid in owner for owner in owners for pid in own):
                yield pod

    def count(self, runs: Path) -> Count:
        """The books of the search."""
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(searches.c.search_id).filter_by(name=self.name)).scalar_one()
        return Inspector(self.engine, found, runs).count()


def report(run: Run, count: Count, seconds: float) -> int:
    """Print what came of it; returns the exit code."""
    ended = run.job.ended
    wrong = [each for each in ended if each.kind and each.code not in (KINDS[each.kind].code, 0)]
    wrong += [each for each in ended if not each.kind and each.code != 0]
    print("| what happened to a pod | pods | exit codes | what the Job does | seconds to its end: median, worst |")
    print("| --- | ---: | --- | --- | ---: |")
    for kind in (*KINDS, ""):
        own = [each for each in ended if each.kind == kind]
        if not own:
            continue
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(Counter(each.code for each in own).items()))
        actions = ", ".join(sorted({each.action for each in own}))
        times = [each.seconds for each in own]
        spent = f"{statistics.median(times):.1f}, {max(times):.1f}" if kind else "-"
        print(f"| {kind or 'nothing: it ended by itself'} | {len(own)} | {codes} | {actions} | {spent} |")
    cpu = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    complete = sorted(each.index for each in ended if each.action == "Complete")
    hits, share = sum(bool(each.kind) for each in ended), cpu / seconds / (os.cpu_count() or 1)
    print(
        f"\n{hits} disruptions of {run.args.pods} pods in {seconds / 60:.1f} minutes: "
        f"{count.finished} of {count.owed} trials finished; lost {count.lost}; twice {count.twice}; stuck "
        f"{count.stuck}; failed by rule {dict(count.failed)}; indexes complete {complete}, counted ends "
        f"{dict(run.job.counted)} of {run.job.spec['backoffLimitPerIndex']} each; wrong codes {wrong}; "
        f"{run.job.failed or 'the Job did not fail'}; CPU without the database {share:.0%}"
    )
    bad = count.lost or count.twice or count.stuck or wrong or run.job.failed or run.plan
    return 1 if bad or complete != list(range(run.args.pods)) else 0


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=4)
    parser.add_argument("--evictions", type=int, default=30, help="disruptions of all kinds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gap", type=float, default=6.0, help="mean seconds between two disruptions")
    parser.add_argument("--trials", type=int, default=150, help="budget of the search (its control has the demo's)")
    parser.add_argument("--slots", type=int, default=2, help="trials side by side in a pod")
    parser.add_argument("--epochs", type=int, default=16, help="epochs of a trial")
    parser.add_argument("--epoch-seconds", type=float, default=1.0, help="length of a simulated epoch")
    parser.add_argument("--ttl", type=float, default=5.0, help="time-to-live of a lease in seconds")
    parser.add_argument("--logs", type=Path, help="folder in which the pods' logs stay (default: they do not)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evictions-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user must reach its folder
        server = OwnServer(folder / "pg")
        run = Run(args, server.url.set(drivername="postgresql+psycopg2"), folder)
        try:
            seconds = run.storm()
            return report(run, run.count(folder / "runs"), seconds)
        finally:
            run.job.end()
            server.stop()


if __name__ == "__main__":
    sys.exit(guard(main))
