"""The same search by the product: its worker's own loop, database thread, cohort and checkpoints, in this process.

    python -m benchmarks.ours --folder PICTURES --workload r101-16 --slots 8 --trials 8 --epochs 2 --account FILE

What is added are clocks: `Timed` notes when an epoch of the cohort is over and what building a student takes,
`asks` what a trial takes from its claim to its stored run.
"""

import argparse
import statistics
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import trainer.teacher.assessment  # noqa: F401 - what the first trial would import counts as a start of the process
from benchmarks.clock import Account, now
from benchmarks.views import views_path
from benchmarks.workloads import WORKLOADS, study
from models.torchvision_guard import make_importable
from search.commands.simulate import simulated_identity
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.messages import WorkerSettings
from search.execution.owner import this_owner
from search.spec.load import StudySpec
from search.storage.database import open_storage
from search.study.adapter import Claim, StudyAdapter
from search.study.create import open_search
from trainer.config import Replay, RunConfig
from trainer.data import augment, open_data
from trainer.data.classes import dims_of
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.reports import EpochReport, Failure, Resume, Saved


class Timed(Cohort):
    """A cohort that keeps an account."""

    account: Account
    told: list[float]
    """Wall seconds of each epoch of the cohort that its reports account for."""

    def epoch(self) -> dict[int, EpochReport | Failure]:
        """An epoch, and when it was over."""
        told = super().epoch()
        reports = [report for report in told.values() if isinstance(report, EpochReport)]
        if len(reports) < len(told):
            raise RuntimeError(f"a trial of the benchmark failed: {told}")
        own = {report.epoch for report in reports}
        self.account.epoch_over(min(own) if len(own) == 1 else -1, len(reports))
        self.told.append(sum(sum(report.seconds.values()) for report in reports))
        counts = self.account.counts
        counts["epochs"] += len(reports)
        counts["trials"] += sum(report.final for report in reports)
        counts["validation_images"] += self.pictures * sum(report.scores is not None for report in reports)
        for report in reports:
            parts = self.account.facts.setdefault("seconds", {})
            for part, seconds in report.seconds.items():
                parts[part] = parts.get(part, 0.0) + seconds
        return told

    pictures: int
    built: list[float]
    """Seconds of taking each trial in."""

    def admit(self, key: int, run: RunConfig, resume: Resume | None = None, *, follow: Replay | None = None) -> None:
        """Take a trial in."""
        began = perf_counter()
        super().admit(key, run, resume, follow=follow)
        self.built.append(perf_counter() - began)

    def export(self, key: int, path: Path) -> Saved:
        """The last thing of a trial."""
        saved = super().export(key, path)
        self.account.facts["ended"] = now()
        return saved


def asks(search: StudyAdapter) -> dict[int, float]:
    """Seconds that each trial of a search takes to be claimed, sampled and stored: filled while the search runs."""
    spent: dict[int, float] = {}
    claim, suggest, commit = search.claim, search.suggest, search.commit

    def claimed(*given: Any) -> Claim:
        began = perf_counter()
        found = claim(*given)
        spent[found.held.trial_id] = perf_counter() - began
        return found

    def suggested(found: Claim) -> Any:
        began = perf_counter()
        chosen = suggest(found)
        spent[found.held.trial_id] += perf_counter() - began
        return chosen

    def committed(found: Claim, *given: Any) -> None:
        began = perf_counter()
        commit(found, *given)
        spent[found.held.trial_id] += perf_counter() - began

    vars(search).update(claim=claimed, suggest=suggested, commit=committed)
    return spent


def search_once(spec: StudySpec, cache: Path, work: Path, slots: int) -> Account:
    """The whole search, with a database of its own."""
    account = Account()
    url = f"sqlite:///{work}/study.db"
    opened = open_storage(url)
    search = open_search(opened, url, spec, simulated_identity(spec))
    ranks = Ranks("cpu")
    students = Timed(ranks, slots=slots, cache=cache, monitor=spec.objective.metric)
    students.account, students.told, students.built = account, [], []
    asked = asks(search)
    students.pictures = len(open_data(spec.run.data, cache=cache).samples("validation"))
    if dims_of(spec.run.data) == 2:
        augment.build(spec.run.data.augment)  # imports albumentations
        make_importable()
        import_module("segmentation_models_pytorch")
    settings = WorkerSettings(this_owner(0), slots, work / "runs", 1, {"ranks": 1}, breach=lambda _: None)
    account.begin()
    end = run_group(ranks, students, DatabaseThread(search, settings))
    counters = students.counters
    account.counts["steps"] = counters.student_steps
    moments = [moment.wall for _, _, moment in account.epochs]
    account.facts["between_epochs"] = 1 - sum(students.told[1:]) / (moments[-1] - moments[0])
    account.facts |= {"ask": statistics.median(asked.values()), "build": statistics.median(students.built)}
    account.facts |= {"teacher_forwards": counters.teacher_forwards, "batches": counters.batches, "why": end.text}
    return account


def main() -> int:
    """Run the search and write its account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="pictures and the teacher's file")
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--views", action="store_true", help="with as many stored views as epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--account", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    more = (f"run.{views_path()}={args.epochs}",) if args.views else ()
    spec = study(
        args.folder,
        WORKLOADS[args.workload],
        precision=args.precision,
        trials=args.trials,
        epochs=args.epochs,
        more=more,
        seed=args.seed,
    )
    with tempfile.TemporaryDirectory(prefix="ours-") as name:
        search_once(spec, args.folder / "cache", Path(name), args.slots).write(args.account)
    return 0


if __name__ == "__main__":
    sys.exit(main())
