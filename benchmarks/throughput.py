"""How many trials an hour, against the search that tutorials show (`benchmarks.plain`), and against a tuned one.

    OMP_NUM_THREADS=1 python -m benchmarks.throughput --blocks 5 --json throughput.json
    python -m benchmarks.throughput --table throughput.json
    python -m benchmarks.throughput --quick
    python -m benchmarks.throughput --against FOLDER --blocks 5 --arms ours-fp32-1 ours-fp32-8

Every arm is a fresh process; the arms of a block follow each other in random order; no time is taken before the gate
of `benchmarks.equality` has passed, and none is kept where an arm did other work than the rest. A ratio is taken
within a block; what is printed is the median over blocks with a bootstrap interval. Two clocks: wall, and the CPU
seconds of an arm's processes, which other programs on the machine hardly change; wall ratios come only from arms that
began below a load of 1.5 and between two calibrations within 15 %. Imports are not counted, nor is what is done once
a machine: decoding (ours), and with views the teacher's passes, whose seconds are printed. All raw values are in the
JSON file, to which a further call adds blocks.

`--against FOLDER` runs each arm by this version and, right before or after, by the one whose checkout is in FOLDER
(9f9c9df or later), on pictures of its own, and prints this one's seconds over the other's (`benchmarks.against`).
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import against, equality
from benchmarks.clock import calibrate, cpu_flags
from benchmarks.table import tables
from benchmarks.views import views_path
from benchmarks.workloads import BATCH, FULL, TINY, WORKLOADS, Parts, draw_data, teacher_file
from trainer.cli.entry import guard

QUICK = WORKLOADS["r18-8"]
MODULES = {True: "benchmarks.ours", False: "benchmarks.plain"}
"""Of an arm's process, by whether it runs the product; only the flags that both had at 9f9c9df are given."""
PARTS = {"epoch": "epoch of a trial", "trial": "short trial"}
"""What of an arm is timed, and its heading."""


@dataclass(frozen=True)
class Arm:
    """One way to run the search. The name says it all: plain-fp32, tuned-bf16, ours-fp32-8, ours-bf16-8-views."""

    name: str
    epochs: int = 2
    """Of each trial: two are a short trial, in which starts and ends weigh most."""

    @property
    def is_ours(self) -> bool:
        """Whether the product runs it."""
        return self.name.startswith("ours")

    @property
    def words(self) -> list[str]:
        """The flags of its process, but for the folder, the workload and the account."""
        kind, precision, *more = self.name.split("-")
        words = ["--precision", precision, "--epochs", str(self.epochs), "--trials", str(self.trials)]
        if kind == "ours":
            words += ["--slots", more[0], *(["--views"] if "views" in more else [])]
        return words + (["--tuned"] if kind == "tuned" else [])

    @property
    def trials(self) -> int:
        """Two at least, so that the start of a process is never all of it."""
        parts = self.name.split("-")
        return max(2, int(parts[2])) if parts[0] == "ours" else 2


def arms(views: bool, epochs: int) -> list[Arm]:
    """All of them, those to compare with first."""
    names = ["plain-fp32", "tuned-fp32", "tuned-bf16"]
    names += [f"ours-{precision}-{k}" for precision in ("fp32", "bf16") for k in (1, 2, 4, 8)]
    names += [f"ours-{precision}-{k}-views" for precision in ("fp32", "bf16") for k in (1, 8)] if views else []
    return [Arm(name, epochs) for name in names]


@dataclass(frozen=True)
class Side:
    """A version of the program, and the folder with its pictures, teachers and decoded data."""

    version: against.Version
    folder: Path


def measure(arm: Arm, workload: str, side: Side, seed: int) -> dict[str, Any]:
    """One fresh process: its account, the load when it began, and the calibrations around it."""
    account = side.folder / "account.json"
    account.unlink(missing_ok=True)
    load, before = os.getloadavg()[0], calibrate()
    words = [*arm.words, "--folder", str(side.folder), "--workload", workload]
    side.version.run(MODULES[arm.is_ours], [*words, "--seed", str(seed), "--account", str(account)])
    after = calibrate()
    row = {"workload": workload, "arm": arm.name, "load": load, "calibration": [before._asdict(), after._asdict()]}
    return {**row, **json.loads(account.read_text())}


def demand_same_work(row: dict[str, Any], arm: Arm, parts: Parts) -> None:
    """Steps, epochs and validated images of an arm are those of its trials. Raises Unequal."""
    epochs = arm.trials * arm.epochs
    steps, images = epochs * (parts.train // BATCH), epochs * parts.validation
    expected = {"steps": steps, "epochs": epochs, "validation_images": images, "trials": arm.trials}
    if row["counts"] != expected:
        raise equality.Unequal(f"{arm.name} did {row['counts']}, expected {expected}")


def blocks(
    chosen: Sequence[Arm], workloads: Sequence[str], sides: Sequence[Side], parts: Parts, every: range, minutes: float
) -> Iterator[dict[str, Any]]:
    """Rows as they come; a block has every arm of one workload once by each side. every: the numbers of the blocks."""
    end = time.monotonic() + 60 * minutes
    for block in every:
        for workload in workloads:
            order = [*chosen]
            random.Random(f"{block} {workload}").shuffle(order)  # noqa: S311 - no secret
            for arm in order:
                if time.monotonic() > end:
                    return
                for side in against.turns(sides, block + chosen.index(arm)):
                    row = {"block": block, **measure(arm, workload, side, seed=block)}
                    demand_same_work(row, arm, parts)
                    yield row | ({"version": side.version.name} if len(sides) > 1 else {})


def store_views(chosen: Sequence[Arm], workloads: Sequence[str], side: Side) -> None:
    """What a search with stored teacher outputs pays once, said and not counted in any trial."""
    precisions = sorted({arm.name.split("-")[1] for arm in chosen if arm.name.endswith("views")})
    for workload in {WORKLOADS[w].encoder: w for w in workloads}.values():
        for precision in precisions:
            arm = Arm(f"ours-{precision}-1-views", chosen[0].epochs)
            facts = measure(arm, workload, side, seed=0)["facts"]
            words = f"{facts['seconds']['teacher']:.1f} s for {facts['teacher_forwards']} passes"
            place = f"{side.version.name} version, {WORKLOADS[workload].encoder} {precision}"
            print(f"{place}: {arm.epochs} views, teacher {words}", flush=True)


def prepared(folder: Path, args: argparse.Namespace, parts: Parts) -> list[Side]:
    """The sides with equal pictures and teachers, once the gate has passed; what they decode is no other's."""
    sides = [Side(version, folder / version.name) for version in against.versions(args.against, MODULES[True])]
    first = sides[0].folder
    first.mkdir()
    draw_data(first, parts)
    for encoder in {WORKLOADS[w].encoder for w in args.workloads} | {"resnet18"}:
        teacher_file(first, encoder)
    for side in sides[1:]:
        shutil.copytree(first, side.folder)
    if len(sides) > 1:
        print(against.named([side.version for side in sides]), flush=True)
    equality.check(first)  # which also brings every library and file into the disk's cache
    return sides


def chosen_arms(args: argparse.Namespace) -> list[Arm]:
    """Those of --arms; by default all, and against another version those of the product."""
    views = views_path() is not None
    if not views:
        print("no arm with stored teacher outputs: runs have no field `views` in this version", flush=True)
    every = {arm.name: arm for arm in arms(views, args.epochs)}
    names = args.arms or [name for name, arm in every.items() if arm.is_ours or args.against is None]
    unknown = [name for name in names if name not in every]
    if unknown:
        raise SystemExit(f"--arms {unknown[0]}: unknown; known: {', '.join(every)}")
    return [every[name] for name in names]


def run(args: argparse.Namespace, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The gate, an untimed round, and the blocks; the file grows with every arm."""
    if any(("version" in row) != (args.against is not None) for row in known):
        raise SystemExit(f"--json {args.json}: one file holds either runs against another version or others")
    chosen = chosen_arms(args)
    parts = TINY if args.quick else Parts(args.train, args.train // 8)
    first = max((row["block"] for row in known), default=0) + 1
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        sides = prepared(Path(name), args, parts)
        for side in sides:
            store_views(chosen, args.workloads, side)
        every = range(first, first + args.blocks)
        for row in blocks(chosen, args.workloads, sides, parts, every, args.minutes):
            known.append({**row, "parts": [parts.train, parts.validation]})
            line = f"block {row['block']} {row['workload']} {row['arm']} {row.get('version', '')}".rstrip()
            words = [f"{part} {row[part]['wall']:.2f} s, {row[part]['cpu']:.2f} CPU" for part in PARTS]
            print(f"{line}: load {row['load']:.1f}, {', '.join(words)}", flush=True)
            if args.json is not None:
                args.json.write_text("[\n" + ",\n".join(json.dumps(r) for r in known) + "\n]\n")
    return known


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """The tables of a file of either kind."""
    return against.table(rows, PARTS) if any("version" in row for row in rows) else tables(rows)


def main() -> int:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--workloads", nargs="+", choices=[*WORKLOADS], default=["r101-16", "r101-8", "r18-32"])
    parser.add_argument("--arms", nargs="+", help="some of the arms (default: all)")
    parser.add_argument("--epochs", type=int, default=2, help="of each trial (default 2); one number a file")
    parser.add_argument("--train", type=int, default=FULL.train, help="training pictures; an eighth as many validate")
    parser.add_argument("--minutes", type=float, default=600.0, help="after so many, no further arm is begun")
    parser.add_argument("--json", type=Path, help="raw values, kept and added to")
    parser.add_argument("--table", type=Path, help="print the tables of such a file and measure nothing")
    parser.add_argument("--quick", action="store_true", help="one block of two arms on tiny data, in about a minute")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of another version, by turns")
    args = parser.parse_args()
    if args.quick:
        arms_of_quick = ["plain-fp32", "ours-fp32-2"] if args.against is None else ["ours-fp32-2"]
        args.blocks, args.workloads, args.arms = 1, [QUICK.name], args.arms or arms_of_quick
    print(cpu_flags(), flush=True)
    if args.table is not None:
        print(shown(json.loads(args.table.read_text())))
        return 0
    known = json.loads(args.json.read_text()) if args.json is not None and args.json.is_file() else []
    print(shown(run(args, known)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
