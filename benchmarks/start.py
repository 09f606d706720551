"""From the command to the first trained batch: `search work` on one trial of one batch, by this version and another.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.start --against FOLDER --blocks 5

The study is the main arm of `studies/demo.toml` with one trial of one epoch, 8 drawn pictures of 32 pixels and its
U-Net as teacher; pictures and teacher are there, the database is new. What a process takes to its first stored score is
the start, the batch and a validation; to its end, also a checkpoint, the last rows and the end of its processes. Every
process has to finish its trial, or it is no measurement. Without --against this version alone is timed.
"""

import argparse
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from benchmarks.against import OTHER, Version, named, ratio, times_as_fast, turns, versions
from benchmarks.clock import now
from trainer.cli.entry import guard
from trainer.repository import REPOSITORY

SETS = (
    "run.data.train=8",
    "run.data.validation=4",
    "run.data.test=4",
    "run.epochs=1",
    "run.validate={ from = 1 }",
    "run.teacher.min_dice=0.0",
    "teach.epochs=1",
)
"""What makes a trial short: a batch has 8 images."""
EXACT = ("loose ", "# loose")
"""Versions before masks could be loose know no such key."""
ONE = re.compile(r"^(trials|in_flight)\b.*$", re.MULTILINE)


def prepare(version: Version, folder: Path) -> list[str]:
    """Write the study file, and train its teacher with its data in the cache; returns the words that name it."""
    folder.mkdir()
    text = (REPOSITORY / "studies" / "demo.toml").read_text()
    file = folder / "start.toml"
    main_arm = text[: text.index("[[enqueue]]")]  # behind it are other arms and the confirmation
    file.write_text(ONE.sub(r"\1 = 1", main_arm.replace(*EXACT)))
    changes = [*SETS, f'run.teacher.checkpoint="{folder / "teacher.safetensors"}"']
    words = [str(file), "--cache", str(folder / "cache"), *[f"--set={each}" for each in changes]]
    version.run("trainer", ["teach", *words])
    return words


class Start(NamedTuple):
    """Seconds from the command."""

    score: float
    """To the first score in the database, by the wall."""
    cpu: float
    """To the end, of the process and its children."""
    wall: float
    """To the end."""


def run(version: Version, folder: Path, study: Sequence[str]) -> Start:
    """Time one process. Raises RuntimeError where the trial did not end well."""
    place = Path(tempfile.mkdtemp(dir=folder))
    database = place / "study.db"
    words = ["work", *study, "--storage", f"sqlite:///{database}", "--runs", str(place / "runs")]
    words += ["--ranks", "1", "--note-every", "0", "--name", "one-batch"]
    before, score = now(), None
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(**version.command("search", words), stdout=said, stderr=said) as child:
            while child.poll() is None:
                if score is None and _has_score(database):
                    score = now().since(before).wall
                time.sleep(0.02)
        took = now().since(before)
        if child.returncode or score is None or _rows(database, "select state from trials") != [("COMPLETE",)]:
            said.seek(0)
            raise RuntimeError(f"{version.name}: its trial did not end well: {said.read()[-3000:]}")
    shutil.rmtree(place)
    return Start(score, took.cpu, took.wall)


def _has_score(database: Path) -> bool:
    try:
        return database.exists() and bool(_rows(database, "select 1 from trial_intermediate_values"))
    except sqlite3.OperationalError:  # a table that is not there yet, or a moment in which it is locked
        return False


def _rows(database: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def main() -> int:
    """Print a line for each process, medians, and the ratios to another version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of another version")
    parser.add_argument("--blocks", type=int, default=5)
    args = parser.parse_args()
    compared = versions(args.against, "search.__main__")
    print(named(compared), flush=True)
    taken: dict[str, list[Start]] = {version.name: [] for version in compared}
    with tempfile.TemporaryDirectory() as folder:
        places = {version.name: Path(folder) / version.name for version in compared}
        studies = {version.name: prepare(version, places[version.name]) for version in compared}
        for version in compared:
            run(version, places[version.name], studies[version.name])  # the compiler and the disk do their part once
        for block in range(args.blocks):
            for version in turns(compared, block):
                seconds = run(version, places[version.name], studies[version.name])
                taken[version.name].append(seconds)
                shown = ", ".join(f"{name} {value:.2f}" for name, value in seconds._asdict().items())
                print(f"{block + 1} {version.name}: {shown}; load {os.getloadavg()[0]:.1f}", flush=True)
    for clock in Start._fields:
        for name, all_of_it in taken.items():
            middle = ratio([getattr(seconds, clock) for seconds in all_of_it])
            print(f"{name}, {clock}: {middle.median:.2f} s [{middle.low:.2f}, {middle.high:.2f}]")
        if OTHER in taken:
            print(times_as_fast(taken, clock))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
