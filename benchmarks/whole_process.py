"""A whole `search work`, from the command to its end: 16 short trials, by this version and by another one.

    python -m benchmarks.whole_process --against FOLDER --blocks 5

48 drawn pictures at 128 pixels, a U-Net on ResNet-101 as teacher with two stored views, students of width 8 and 16
dealt evenly, 2 epochs, 8 slots, one rank. Every process has a database, a folder of runs and a cache of its own, all
empty, so that decoding and the teacher's passes are in it. Both versions train every trial to its end, or it stops. A
ratio is the other version's seconds over this one's, within a block.
"""

import argparse
import os
import re
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

from benchmarks.against import OTHER, THIS, Version, named, times_as_fast, turns, versions
from benchmarks.clock import Seconds, now
from benchmarks.workloads import FULL, TINY, WORKLOADS, draw_data, study
from trainer.cli.entry import guard
from trainer.config import Precision

CHANGES = (
    (r"^maximize = .*$", r'\g<0>\n[front]\nalong = "student.width"'),
    (r"^augment = .*$", r"\g<0>\nviews = 2"),
    (r"^\[sampler\]$", r'"student.width" = { choices = [8, 16] }\n\g<0>'),
)
"""What makes the study of a workload this benchmark's: a pattern of its file and what stands there."""


def study_file(folder: Path, workload: str, precision: Precision, trials: int) -> Path:
    """The study file, in the folder of its pictures."""
    study(folder, WORKLOADS[workload], precision=precision, trials=trials, epochs=2)
    path = folder / f"{workload}.toml"
    text = path.read_text()
    for pattern, replacement in CHANGES:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if count != 1:
            raise RuntimeError(f"{path}: {pattern} matches {count} times")
    path.write_text(text)
    return path


def run(version: Version, path: Path, trials: int) -> Seconds:
    """Seconds of one process and its children. Raises RuntimeError where a trial did not end well."""
    place = Path(tempfile.mkdtemp(dir=path.parent))
    database = place / "study.db"
    words = ["work", str(path), "--storage", f"sqlite:///{database}", "--runs", str(place / "runs"), "--slots", "8"]
    words += ["--cache", str(place / "cache"), "--ranks", "1", "--set", "run.teacher.min_dice=0.0"]
    before = now()
    version.run("search", words)
    took = now().since(before)
    with sqlite3.connect(database) as connection:
        (done,) = connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()
    if done != trials:
        raise RuntimeError(f"{version.name}: {done} of {trials} trials were trained to their end")
    shutil.rmtree(place)
    return took


def main() -> int:
    """Print a line for each process, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, metavar="FOLDER", help="a checkout of another version")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--quick", action="store_true", help="a tiny teacher and data set: shows that it runs")
    args = parser.parse_args()
    compared = versions(args.against, "search.__main__")
    print(named(compared), flush=True)
    taken: dict[str, list[Seconds]] = {THIS: [], OTHER: []}
    with tempfile.TemporaryDirectory() as folder:
        draw_data(Path(folder), TINY if args.quick else FULL)
        path = study_file(Path(folder), "r18-8" if args.quick else "r101-8", args.precision, args.trials)
        for block in range(args.blocks):
            for version in turns(compared, block):
                seconds = run(version, path, args.trials)
                taken[version.name].append(seconds)
                line = f"{seconds.cpu:.1f} CPU s, {seconds.wall:.1f} s at load {os.getloadavg()[0]:.1f}"
                print(f"{block + 1} {version.name}: {line}", flush=True)
    for clock in ("cpu", "wall"):
        print(times_as_fast(taken, clock))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
