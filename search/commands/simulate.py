"""`python -m search simulate`: the whole service, with curves in place of training.

Workers, leases, budgets, arms, pruning, adoption and checkpoints are the real ones; only a student's epoch is a number
from a formula, or from a file of recorded curves. So a thousand trials take minutes and no GPU.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from loguru import logger

from search.execution.connect import AskedToStopError, connect
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import ASKED_TO_STOP, GroupEnd, SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.owner import owner_of, this_owner
from search.execution.simulated_students import Curves, SimulatedStudents
from search.spec.identity import arm_identity, digest
from search.spec.load import StudySpec, find, load, record
from search.storage.database import Database, open_storage
from search.storage.errors import patient
from search.storage.schema import HELD
from search.storage.statements import Owner
from search.storage.url import WAIT_SECONDS, from_environment, label_of, storage_url
from search.study.adapter import StudyAdapter
from search.study.artifacts import Artifacts
from search.study.create import Identity, open_search
from search.study.trial_attributes import attribute_builder, no_attributes
from trainer.atomic_files import private_folder
from trainer.cli.numbers import MOST_SECONDS, real, whole
from trainer.distributed import signals
from trainer.errors import UserError


def simulated_identity(spec: StudySpec) -> Identity:
    """The identity of a simulated search: no real worker can join it, as its contents are named otherwise."""
    content = {"data_hash": "simulated", "teacher_hash": "simulated"}
    document = record(spec, **content)
    return Identity(digest(document), {arm.name: arm_identity(arm, **content) for arm in spec.arms}, document)


def work(args: argparse.Namespace, spec: StudySpec) -> GroupEnd:
    """One simulated worker in this process; returns why it ended."""
    group = SingleProcess()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: group.ask_to_stop())
    if args.parent is not None:
        signals.end_with(args.parent)

    def opens() -> tuple[Database, StudyAdapter]:
        with patient("simulate"):
            opened = open_storage(args.storage, studies=[arm.study_name for arm in spec.arms])
            return opened, open_search(opened, args.storage, spec, simulated_identity(spec))

    try:
        joined = connect(group, opens, place=label_of(args.storage), patience=WAIT_SECONDS)
    except AskedToStopError:
        return ASKED_TO_STOP
    assert joined is not None  # noqa: S101 - who opens finds
    opened, search = joined
    curves = Curves.read(args.curves) if args.curves else Curves()
    metric = spec.objective.metric
    students = SimulatedStudents(
        curves, slots=args.slots, metric=metric, epoch_seconds=args.epoch_seconds, fail_share=args.fail_share
    )
    owner: Owner = this_owner(0)
    environment = {"simulated": True, "ranks": 1}
    settings = WorkerSettings(
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
        known=attribute_builder((), None) if args.note_every else no_attributes,
    )
    return run_group(group, students, DatabaseThread(search, settings))


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
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/simulated"),
        help="folder of the small checkpoints (default: %(default)s)",
    )
    parser.add_argument("--workers", type=whole(1), default=4, help="worker processes (default 4)")
    parser.add_argument("--slots", type=whole(1), default=4, help="trials side by side in a worker (default 4)")
    parser.add_argument(
        "--epoch-seconds",
        type=real(0, MOST_SECONDS),
        default=0.0,
        help="how long an epoch takes, in seconds (default: %(default)g)",
    )
    parser.add_argument(
        "--ttl",
        type=real(0, MOST_SECONDS, above=True),
        default=10.0,
        help="seconds after which others go on with a dead worker's trials (default: %(default)g)",
    )
    parser.add_argument(
        "--kills", type=whole(0), default=0, help="kill so many workers that hold trials (kill -9), and start new ones"
    )
    parser.add_argument(
        "--kill-every", type=real(0, MOST_SECONDS, above=True), default=2.0, help="mean seconds between kills"
    )
    parser.add_argument(
        "--note-every",
        type=real(0, MOST_SECONDS),
        default=0.0,
        metavar="SECONDS",
        help="write the studies' notes that often, with figures in artifacts in --runs (default: never)",
    )
    parser.add_argument(
        "--fail-share",
        type=real(0, 1),
        default=0.0,
        help="share of the trials that fail, 0 to 1 (default: %(default)g)",
    )
    parser.add_argument("--curves", type=Path, help="JSON file of recorded curves in place of the formula")
    parser.add_argument("--seed", type=whole(0), default=0, help="random seed of the kills")
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON document")
    parser.add_argument("--as-worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # the process without which a worker ends


def main(args: argparse.Namespace) -> int:
    """Run the workers to the end of the search and print what came of it."""
    spec = load(find(args.study), args.set, name=args.name)
    if args.curves is not None and not args.as_worker:
        Curves.read(args.curves)  # a mistake in it is said once, not by every worker
    private_folder(args.runs)
    args.storage = _storage(args)
    if args.as_worker:
        logger.info("{} worker {} ends: {}", spec.name, os.getpid(), work(args, spec).text)
        return 0
    place = label_of(args.storage)
    logger.info("{}: simulates {} workers in {}; files in {}", spec.name, args.workers, place, args.runs.absolute())
    with patient("simulate"):
        opened = open_storage(args.storage, studies=[arm.study_name for arm in spec.arms])
        search = open_search(opened, args.storage, spec, simulated_identity(spec))
    began = time.monotonic()
    killed = run_workers(args, search)
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


def run_workers(args: argparse.Namespace, search: StudyAdapter) -> int:
    """Keep the workers running until all have ended by themselves; returns how many were killed."""
    draw = random.Random(args.seed)  # noqa: S311 - no secret
    # Nothing but the URL that was found: a file in the environment would be a second one.
    environment = {k: v for k, v in os.environ.items() if k != "OPTUNA_STORAGE_FILE"} | {"OPTUNA_STORAGE": args.storage}
    command = [sys.executable, "-m", "search", "simulate", args.study, *_passed_on(args), "--as-worker"]
    command += ["--parent", str(os.getpid())]
    workers = [subprocess.Popen(command, env=environment) for _ in range(args.workers)]
    killed = 0
    next_kill = time.monotonic() + args.kill_every
    while any(worker.poll() is None for worker in workers):
        time.sleep(0.05)
        if killed >= args.kills or time.monotonic() < next_kill:
            continue
        if victims := _holders(search, workers):
            victim = draw.choice(victims)
            workers[victim].kill()
            workers[victim].wait()
            workers[victim] = subprocess.Popen(command, env=environment)
            killed += 1
            next_kill = time.monotonic() + draw.expovariate(1 / args.kill_every)
    failed = [worker.returncode for worker in workers if worker.returncode != 0]
    if failed:
        raise UserError(f"simulate: {len(failed)} workers ended with exit codes {failed}; their messages are above")
    return killed


def _holders(search: StudyAdapter, workers: Sequence["subprocess.Popen[bytes]"]) -> list[int]:
    """The workers that hold trials now: killing one that has just begun or ended would show nothing."""
    owners = {row.owner for row in search.leases.of_studies(list(search.arms)) if row.state == HELD}
    return [i for i, w in enumerate(workers) if w.poll() is None and owner_of(w.pid, 0).name in owners]


def _passed_on(args: argparse.Namespace) -> list[str]:
    arguments = [word for text in args.set for word in ("--set", text)]
    arguments += ["--name", args.name] if args.name else []
    arguments += ["--curves", str(args.curves)] if args.curves else []
    for flag in ("runs", "slots", "epoch_seconds", "ttl", "fail_share", "note_every"):
        arguments += [f"--{flag.replace('_', '-')}", str(getattr(args, flag))]
    return arguments
