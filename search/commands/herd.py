"""The processes of `search simulate`: workers that are kept running, and killed where that is asked for."""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence

from search.execution.owner import owner_of
from search.storage.schema import HELD
from search.study.adapter import Search
from trainer.errors import UserError


def herd(args: argparse.Namespace, search: Search) -> int:
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


def _holders(search: Search, workers: Sequence["subprocess.Popen[bytes]"]) -> list[int]:
    """The workers that hold trials now: killing one that has just begun or ended would show nothing."""
    owners = {row.owner for row in search.leases.of_studies(list(search.arms)) if row.state == HELD}
    return [i for i, w in enumerate(workers) if w.poll() is None and owner_of(w.pid, 0).name in owners]


def _passed_on(args: argparse.Namespace) -> list[str]:
    words = [word for text in args.set for word in ("--set", text)]
    words += ["--name", args.name] if args.name else []
    words += ["--curves", str(args.curves)] if args.curves else []
    for flag in ("runs", "slots", "epoch_seconds", "ttl", "fail_share", "note_every"):
        words += [f"--{flag.replace('_', '-')}", str(getattr(args, flag))]
    return words
