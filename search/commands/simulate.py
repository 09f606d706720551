"""`python -m search simulate`: the whole service, with curves in place of training.

Workers, leases, budgets, arms, pruning, adoption and checkpoints are the real ones; only a student's epoch is a number
from a formula, or from a file of recorded curves. So a thousand trials take minutes and no GPU.
"""

import argparse
import hashlib
import json
import math
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from loguru import logger

from search.commands.herd import herd
from search.execution import connect
from search.execution.database_thread import Desk
from search.execution.epoch_loop import PREEMPTED, run_group
from search.execution.group import Alone
from search.execution.messages import Settings
from search.execution.owner import this_owner
from search.spec.identity import arm_identity, digest
from search.spec.load import StudySpec, find, load, record
from search.storage.artifacts import Artifacts
from search.storage.database import Opened, label_of, open_storage, patient
from search.storage.fencing import Owner
from search.storage.url import from_environment, storage_url
from search.study.adapter import Search
from search.study.create import Identity, open_search
from search.study.trial_attributes import nothing_known, teller
from trainer.config import Replay, RunConfig
from trainer.distributed import signals
from trainer.errors import UserError
from trainer.reports import EpochReport, Failure, FailureKind, Measured, Resume, Saved, Write
from trainer.seeds import derive


class Curves:
    """Scores of a run by epoch."""

    def __init__(self, recorded: Sequence[Sequence[float]] = (), noise: float = 0.004) -> None:
        self._recorded = recorded
        self._noise = noise

    @classmethod
    def read(cls, path: Path) -> "Curves":
        """A JSON file: a list of curves, each a list of scores in [0, 1] by epoch. Raises UserError."""
        try:
            curves = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"--curves {path}: {error}; write a JSON list of lists of scores") from None
        good = isinstance(curves, list) and curves and all(isinstance(c, list) and c for c in curves)
        if not good or not all(isinstance(v, int | float) and 0 <= v <= 1 for c in curves for v in c):
            raise UserError(f"--curves {path}: no list of lists of scores in [0, 1]")
        return cls(curves)

    def score(self, run: RunConfig, epoch: int) -> float:
        """The score of an epoch (from 1), a function of the run alone."""
        key = int.from_bytes(hashlib.sha256(run.model_dump_json().encode()).digest()[:8], "big") >> 1
        if self._recorded:
            curve = self._recorded[key % len(self._recorded)]
            return float(curve[min(len(curve) - 1, (epoch - 1) * len(curve) // run.epochs)])
        noise = random.Random(derive(key, "noise", epoch)).gauss(0.0, self._noise)  # noqa: S311 - no secret
        rise = 0.25 * math.exp(-4.5 * epoch / run.epochs)
        return min(1.0, max(0.0, plateau(run) - rise + noise))


def plateau(run: RunConfig) -> float:
    """Where a run's curve ends: a smooth function with one best learning rate a width and one best temperature."""
    width = getattr(run.student, "width", 16)
    score = 0.94 - 0.35 / (width + 2) - 0.04 * (math.log10(run.optim.lr) + 2.6 + 0.4 * math.log2(width / 8) / 1.6) ** 2
    kl = run.losses.kl
    if "kl" in run.methods() and kl is not None:
        score += (
            0.012 - 0.02 * math.log(kl.temperature / 3.0) ** 2 - 0.012 * math.log10(max(kl.weight, 1e-6) / 3.0) ** 2
        )
    return score


class SimulatedStudents:
    """`trainer.reports.Students` whose epochs come from curves and whose checkpoints are small files."""

    measure: Callable[[RunConfig], tuple[Measured, ...]] | None = None
    """What an examination after the last epoch finds; None: there is none."""

    def __init__(self, curves: Curves, *, slots: int, metric: str, epoch_seconds: float, fail_share: float) -> None:
        self._curves, self._slots, self._metric = curves, slots, metric
        self._seconds, self._fail_share = epoch_seconds, fail_share
        self._members: dict[int, tuple[RunConfig, int, Replay]] = {}
        self._stream_epoch = 0

    def admit(self, key: int, run: RunConfig, resume: Resume | None = None) -> None:
        """Take a run into a free slot."""
        if len(self._members) >= self._slots or key in self._members:
            raise ValueError(f"no free slot for {key}: {len(self._members)} of {self._slots} are taken")
        epoch, replay = 0, () if resume is None else resume.replay
        if resume is not None and resume.checkpoint is not None:
            epoch = int(json.loads(resume.checkpoint.read_text())["epoch"])
        self._members[key] = (run, epoch, (*replay, (epoch + 1, self._stream_epoch)))

    def dismiss(self, key: int) -> None:
        """Forget a member."""
        del self._members[key]

    def replay(self, key: int) -> Replay:
        """The joins of a member so far."""
        return self._members[key][2]

    def epoch(self) -> dict[int, EpochReport | Failure]:
        """One epoch of every member."""
        time.sleep(self._seconds)
        reports: dict[int, EpochReport | Failure] = {}
        for key, (run, done, replay) in list(self._members.items()):
            if done == run.epochs:
                continue  # it waits to be dismissed
            epoch = done + 1
            draw = random.Random(derive(run.seed, "fail", key, epoch)).random()  # noqa: S311 - no secret
            if draw < self._fail_share / run.epochs:
                reports[key] = Failure(FailureKind.NOT_FINITE, "simulated: the loss is not finite", epoch)
                del self._members[key]
                continue
            due = run.validation.due(epoch, run.epochs)
            scores = {self._metric: self._curves.score(run, epoch)} if due else None
            seconds = {"student": self._seconds}
            final = epoch == run.epochs
            found = self.measure(run) if final and self.measure is not None else None
            reports[key] = EpochReport(epoch, self._stream_epoch, scores, {}, seconds, final, measured=found)
            self._members[key] = (run, epoch, replay)
        self._stream_epoch += 1
        return reports

    def snapshot(self, key: int) -> Write:
        """Where a member stands."""
        run, epoch, _ = self._members[key]
        return partial(self._write, values={"epoch": epoch, "seed": run.seed})

    def export(self, key: int, path: Path) -> Saved:
        """Write what stands for the weights of a member."""
        run, epoch, _ = self._members[key]
        return self._write(path, {"simulated": True, "epoch": epoch, "seed": run.seed})

    def picture(self, key: int, path: Path) -> Path | None:  # noqa: ARG002 - as every kind of students
        """None: nothing was trained, so there is nothing to draw."""
        return None

    def _write(self, path: Path, values: dict[str, object]) -> Saved:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps(values).encode()
        beside = path.with_suffix(".part")
        try:
            beside.write_bytes(data)
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        return Saved(path, hashlib.sha256(data).hexdigest(), len(data))


def simulated_identity(spec: StudySpec) -> Identity:
    """The identity of a simulated search: no real worker can join it, as its contents are named otherwise."""
    content = {"data_hash": "simulated", "teacher_hash": "simulated"}
    document = record(spec, **content)
    return Identity(digest(document), {arm.name: arm_identity(arm, **content) for arm in spec.arms}, document)


def work(args: argparse.Namespace, spec: StudySpec) -> str:
    """One simulated worker in this process; returns why it ended."""
    group = Alone()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: group.ask_to_stop())
    if args.parent is not None:
        signals.end_with(args.parent)

    def opens() -> tuple[Opened, Search]:
        with patient("simulate"):
            opened = open_storage(args.storage)
            return opened, open_search(opened, args.storage, spec, simulated_identity(spec))

    try:
        found = connect.opened(group, opens, place=label_of(args.storage), patience=connect.WAIT)
    except connect.AskedToStopError:
        return PREEMPTED
    assert found is not None  # noqa: S101 - who opens finds
    opened, search = found
    curves = Curves.read(args.curves) if args.curves else Curves()
    metric = spec.objective.metric
    students = SimulatedStudents(
        curves, slots=args.slots, metric=metric, epoch_seconds=args.epoch_seconds, fail_share=args.fail_share
    )
    owner: Owner = this_owner(0)
    environment = {"simulated": True, "ranks": 1}
    settings = Settings(
        owner,
        args.slots,
        args.runs,
        1,
        environment,
        breach=lambda _: None,
        ttl=args.ttl,
        artifacts=Artifacts(args.runs / "artifacts", opened.storage) if args.note_every else None,
        note_every=args.note_every or None,
        # Sizes of students are for people who look; finding them loads torch.
        known=teller((), None) if args.note_every else nothing_known,
    )
    return run_group(group, students, Desk(search, settings))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m search simulate`."""
    parser.add_argument("study", help="a study's name or file")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a value of the file")
    parser.add_argument("--name", help="another study name")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--storage",
        help="database URL; default: the SQLite file simulated.db in --runs. $OPTUNA_STORAGE is not used, so that no "
        "made-up trial comes into a real database",
    )
    where.add_argument(
        "--shared", action="store_true", help="use what $OPTUNA_STORAGE or $OPTUNA_STORAGE_FILE names after all"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/simulated"), help="folder of the small checkpoints")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default 4)")
    parser.add_argument("--slots", type=int, default=4, help="trials side by side in a worker (default 4)")
    parser.add_argument("--epoch-seconds", type=float, default=0.0, help="how long an epoch takes")
    parser.add_argument(
        "--ttl", type=float, default=10.0, help="seconds after which a dead worker's trials are adopted"
    )
    parser.add_argument("--kills", type=int, default=0, help="kill -9 so many workers that hold trials, start new ones")
    parser.add_argument("--kill-every", type=float, default=2.0, help="mean seconds between kills")
    parser.add_argument(
        "--note-every",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="write the studies' notes that often, with figures in artifacts in --runs (default: never)",
    )
    parser.add_argument("--fail-share", type=float, default=0.0, help="share of trials that fail")
    parser.add_argument("--curves", type=Path, help="JSON file of recorded curves in place of the formula")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--json", action="store_true", help="the outcome as one JSON document")
    parser.add_argument("--as-worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # the process without which a worker ends


def main(args: argparse.Namespace) -> int:
    """Run the workers to the end of the search and print what came of it."""
    spec = load(find(args.study), args.set, name=args.name)
    if args.curves is not None and not args.as_worker:
        Curves.read(args.curves)  # a mistake in it is said once, not by every worker
    args.runs.mkdir(parents=True, exist_ok=True)
    args.storage = _storage(args)
    if args.as_worker:
        logger.info("{} worker {} ends: {}", spec.name, os.getpid(), work(args, spec))
        return 0
    with patient("simulate"):
        opened = open_storage(args.storage)
        search = open_search(opened, args.storage, spec, simulated_identity(spec))
    began = time.monotonic()
    killed = herd(args, search)
    seconds = time.monotonic() - began
    with patient("simulate"):
        line = search.progress()
        counts = search.counts()
    done = sum(c.complete + c.pruned for c in counts.values())
    left = sum(c.running + c.waiting for c in counts.values())
    if args.json:
        arms = {name: asdict(count) for name, count in counts.items()}
        figures = {"study": spec.name, "arms": arms, "trials": done, "left": left, "killed": killed}
        figures |= {"seconds": seconds, "workers": args.workers, "storage": opened.label}
        print(json.dumps(figures, allow_nan=False, sort_keys=True))
    else:
        print(line)
        print(
            f"{done} trials in {seconds:.1f} s by {args.workers} workers, {killed} killed, "
            f"{left} left running or waiting"
        )
        print(f"{seconds and done / seconds * 3600:.0f} trials an hour; storage {opened.label}")
    return 0 if left == 0 else 1


def _storage(args: argparse.Namespace) -> str:
    """The URL: as told, or a file of its own. A worker gets it by its environment: it may hold a password, and
    arguments can be read by everybody.
    """
    if args.storage is not None:
        return storage_url(args.storage)
    url = from_environment() if args.shared or args.as_worker else None
    if args.shared and url is None:
        raise UserError(
            "--shared: neither OPTUNA_STORAGE nor OPTUNA_STORAGE_FILE is set; set one, or leave --shared out"
        )
    return url or f"sqlite:///{args.runs / 'simulated.db'}"
