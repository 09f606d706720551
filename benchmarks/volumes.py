"""Trials an hour on volumes: several tiny U-Nets under one residual U-Net, against a plain MONAI loop.

    OMP_NUM_THREADS=1 python -m benchmarks.volumes --blocks 3 --json volumes.json
    python -m benchmarks.volumes --table volumes.json
    OMP_NUM_THREADS=1 python -m benchmarks.volumes --quick

Every arm is a fresh process; the arms of a block follow each other in random order, and a ratio is taken within a
block; what is printed is the median over blocks. `plain` is `benchmarks.volumes_plain`, the other arms are the
product with K students side by side; with views the teacher's passes are made before and their seconds are printed.
Times are CPU seconds of an arm's processes, which other programs on the machine hardly change; imports, preparation
and MONAI's cache are not in them. No time is kept where an arm did other work than the rest. The ceiling of a block
is what forward and backward passes alone allow: (T + S + V) / (T / K + S + V), with T a teacher's pass over a batch,
S a student's pass forward and backward, V its share of the validation windows, timed in the same block; with views T
/ K is not there.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.clock import cpu_flags
from benchmarks.volumes_work import PATCHES, SHAPE, TRAIN, VALIDATION, draw_cases, teacher_file
from trainer.cli.entry import guard

Row = dict[str, Any]
TARGETS = {"ours-8": 2.6, "ours-8-views": 3.7}
OF_CEILING = 0.8
EPOCHS = 2
"""Of each trial."""


@dataclass(frozen=True)
class Arm:
    """plain, passes, ours-K or ours-K-views."""

    name: str

    @property
    def slots(self) -> int:
        """Students side by side."""
        parts = self.name.split("-")
        return int(parts[1]) if len(parts) > 1 else 1

    @property
    def views(self) -> bool:
        """Whether the teacher's logits are stored before."""
        return self.name.endswith("-views")

    @property
    def trials(self) -> int:
        """Two at least, so that the start of a process is never all of it."""
        return max(self.slots, 2)

    def command(self) -> list[str]:
        """Its module and flags, but for the folder, the patch and the account."""
        if self.name == "passes":
            return ["benchmarks.volumes_work", "--passes"]
        words = ["--trials", str(self.trials), "--epochs", str(EPOCHS)]
        if self.name == "plain":
            return ["benchmarks.volumes_plain", *words]
        return ["benchmarks.volumes_work", *words, "--slots", str(self.slots), *(["--views"] if self.views else [])]


ARMS = [Arm(name) for name in ("plain", "passes", "ours-4", "ours-8", "ours-8-views")]


def measure(arm: Arm, patch: int, folder: Path, seed: int) -> Row:
    """One fresh process, and its account. Raises RuntimeError where it did other work than the rest."""
    account = folder / "account.json"
    account.unlink(missing_ok=True)
    where = ["--folder", str(folder), "--patch", str(patch), "--seed", str(seed), "--account", str(account)]
    subprocess.run([sys.executable, "-m", *arm.command(), *where], check=True, stdout=subprocess.DEVNULL)
    row = {"arm": arm.name, "patch": patch, **json.loads(account.read_text())}
    epochs = arm.trials * EPOCHS
    expected = {
        "steps": epochs * TRAIN,
        "epochs": epochs,
        "validation_images": epochs * VALIDATION * SHAPE[2],
        "trials": arm.trials,
    }
    if arm.name != "passes" and row["counts"] != expected:
        raise RuntimeError(f"{arm.name} did {row['counts']}, expected {expected}: times are not comparable")
    return row


def blocks(arms: Sequence[Arm], patches: Sequence[int], folder: Path, every: range, minutes: float) -> Iterator[Row]:
    """Rows as they come; a block has every arm of one patch once."""
    end = time.monotonic() + 60 * minutes
    for block in every:
        for patch in patches:
            order = [*arms]
            random.Random(f"{block} {patch}").shuffle(order)  # noqa: S311 - no secret
            for arm in order:
                if time.monotonic() > end:
                    return
                yield {"block": block, **measure(arm, patch, folder, block)}


def store_views(arms: Sequence[Arm], patches: Sequence[int], folder: Path) -> None:
    """What a search with stored logits pays once, printed and not counted in any trial."""
    for arm in [arm for arm in arms if arm.views]:
        for patch in patches:
            facts = measure(arm, patch, folder, 0)["facts"]
            seconds = facts["seconds"]["teacher"]
            print(f"{patch}^3, {arm.name}: {facts['teacher_forwards']} passes before, {seconds:.1f} s", flush=True)


def ceiling(passes: dict[str, float], arm: Arm) -> float:
    """How many times as fast as one trial at a time passes alone allow an arm to be."""
    shared = 0.0 if arm.views else passes["teacher"] / arm.slots
    rest = passes["student"] + passes["validation"] / TRAIN
    return (passes["teacher"] + rest) / (shared + rest)


def table(rows: Sequence[Row]) -> str:
    """Markdown: an arm a line, with its ratio to the plain loop, the ceiling, and what was asked for."""
    lines = [
        "| patch | arm | trial: CPU s | trials an hour of CPU | against plain: trial | epoch | ceiling | share of it "
        "| peak MB | target |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for patch in dict.fromkeys(row["patch"] for row in rows):
        own = [row for row in rows if row["patch"] == patch]
        there = {row["arm"] for row in own} - {"passes"}
        lines += [_line(patch, arm, own) for arm in ARMS if arm.name in there]
    return "\n".join(lines)


def _line(patch: int, arm: Arm, rows: Sequence[Row]) -> str:
    mine = {row["block"]: row for row in rows if row["arm"] == arm.name}
    plain = {row["block"]: row for row in rows if row["arm"] == "plain"}
    passes = {row["block"]: row["passes"] for row in rows if row["arm"] == "passes"}
    seconds = statistics.median(row["trial"]["cpu"] for row in mine.values())
    ratios = {
        part: [plain[block][part]["cpu"] / row[part]["cpu"] for block, row in mine.items() if block in plain]
        for part in ("trial", "epoch")
    }
    tops = [ceiling(passes[block], arm) for block in mine if block in passes]
    peak = max(row["facts"]["peak_mb"] for row in mine.values())
    start = f"| {patch}^3 | {arm.name} | {seconds:.2f} | {3600 / seconds:.0f} "
    if arm.name == "plain" or not ratios["trial"] or not tops:
        return f"{start}| 1 | 1 | | | {peak} | |"
    trial, epoch, top = (statistics.median(each) for each in (ratios["trial"], ratios["epoch"], tops))
    spread = f"{trial:.2f} [{min(ratios['trial']):.2f}, {max(ratios['trial']):.2f}]"
    return f"{start}| {spread} | {epoch:.2f} | {top:.2f} | {trial / top:.2f} | {peak} | {_verdict(arm, trial, top)} |"


def _verdict(arm: Arm, ratio: float, top: float) -> str:
    if arm.name not in TARGETS:
        return ""
    return "; ".join(
        f"{what} {wanted:g}: {'met' if value >= wanted else 'missed'} ({value:.2f})"
        for what, wanted, value in (("at least", TARGETS[arm.name], ratio), ("of the ceiling", OF_CEILING, ratio / top))
    )


def run(args: argparse.Namespace, known: list[Row]) -> list[Row]:
    """The blocks; the file grows with every arm."""
    arms = [arm for arm in ARMS if not args.arms or arm.name in args.arms]
    first = max((row["block"] for row in known), default=0) + 1
    with tempfile.TemporaryDirectory(prefix="volumes-") as name:
        folder = Path(name)
        draw_cases(folder)
        teacher_file(folder)
        store_views(arms, args.patches, folder)
        for row in blocks(arms, args.patches, folder, range(first, first + args.blocks), args.minutes):
            known.append(row)
            if "trial" in row:
                each = f"trial {row['trial']['cpu']:.2f} CPU s, epoch {row['epoch']['cpu']:.2f}"
            else:
                each = ", ".join(f"{part} {seconds:.3f} CPU s" for part, seconds in row["passes"].items())
            print(f"block {row['block']} {row['patch']}^3 {row['arm']}: {each}", flush=True)
            if args.json is not None:
                args.json.write_text("[\n" + ",\n".join(json.dumps(each) for each in known) + "\n]\n")
    return known


def main() -> int:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--patches", type=int, nargs="+", default=[32, 48], help="voxels a side")
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], help="some of the arms (default: all)")
    parser.add_argument("--minutes", type=float, default=600.0, help="after so many, no further arm is begun")
    parser.add_argument("--json", type=Path, help="raw values, kept and added to")
    parser.add_argument("--table", type=Path, help="print the table of such a file and measure nothing")
    parser.add_argument("--quick", action="store_true", help="one block of patches of 16 voxels, in about a minute")
    args = parser.parse_args()
    if args.quick:
        args.blocks, args.patches = 1, [16]
    print(f"{cpu_flags()}; {TRAIN} cases of {SHAPE} train, {PATCHES} patches of each an epoch", flush=True)
    known = json.loads(args.json.read_text()) if args.json is not None and args.json.is_file() else []
    print(table(json.loads(args.table.read_text()) if args.table is not None else run(args, known)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
