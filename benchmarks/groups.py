"""Two ranks: independent cohorts (`--ranks-per-trial 1`) against data-parallel groups (2), in trials an hour.

    OMP_NUM_THREADS=1 python -m benchmarks.groups --blocks 5

Both train the same number of trials at a time over the same global batch; the second epoch is timed, each run in fresh
processes, in random order within a block. A ratio above 1 says how many more trials an hour independent cohorts train.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import Seconds, interval, now
from benchmarks.workloads import FULL, TINY, WORKLOADS, draw_data, study, teacher_file
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks, ranks_per_trial
from trainer.engine.cohort import Cohort
from trainer.reports import Failure

WORLD = 2


def write_runs(folder: Path, workload: str, batch: int, count: int) -> None:
    """Runs that differ in their learning rate alone, for the ranks to read."""
    sets = (f"run.batch_size={batch}",)
    run = study(folder, WORKLOADS[workload], precision="fp32", trials=count, epochs=2, more=sets).run
    tables = [run.model_dump(mode="json") for _ in range(count)]
    for number, table in enumerate(tables):
        table["optim"]["lr"] = 1e-3 * (1 + number)
    (folder / "runs.json").write_text(json.dumps(tables))


def as_rank(args: argparse.Namespace) -> int:
    """What each rank does: its group's share of the trials, two epochs of them."""
    torch.set_num_threads(1)
    ranks = Ranks.join(args.size, stall=600.0, device="cpu")
    share = args.trials // ranks.groups
    cohort = Cohort(ranks, slots=share, cache=args.folder / "cache")
    tables = json.loads((args.folder / "runs.json").read_text())
    for key, table in enumerate(tables[:share]):
        cohort.admit(key, RunConfig.model_validate(table))
    moments = []
    for _ in range(2):
        told = cohort.epoch()
        if any(isinstance(report, Failure) for report in told.values()):
            raise RuntimeError(str(told))
        moments.append(now())
    path = args.folder / f"rank-{ranks.group}-{ranks.rank}.json"
    path.write_text(json.dumps(moments[1].since(moments[0])._asdict()))
    ranks.leave()
    return 0


def measure(folder: Path, workload: str, batch: int, trials: int, size: int) -> Seconds:
    """Seconds of an epoch of one trial: all ranks' CPU, and the wall time of the slower rank, over all trials."""
    for path in folder.glob("rank-*.json"):
        path.unlink()
    write_runs(folder, workload, batch, trials)
    command = [sys.executable, "-m", "trainer.distributed.torchrun", f"--nproc-per-node={WORLD}"]
    words = ["-m", "benchmarks.groups", "--as-rank", "--folder", str(folder), "--workload", workload]
    words += ["--batch", str(batch), "--trials", str(trials), "--size", str(size)]
    done = subprocess.run(
        [*command, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    told = [Seconds(**json.loads(path.read_text())) for path in folder.glob("rank-*.json")]
    return Seconds(max(s.wall for s in told), sum(s.cpu for s in told)).over(trials)


def compare(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Rows of all blocks."""
    rows = []
    for block in range(1, args.blocks + 1):
        cases = [(w, b, t, s) for w in args.workloads for b in args.batches for t in args.in_flight for s in (1, WORLD)]
        random.Random(block).shuffle(cases)  # noqa: S311 - no secret
        for workload, batch, trials, size in cases:
            load = os.getloadavg()[0]
            seconds = measure(folder, workload, batch, trials, size)
            row = dict(block=block, workload=workload, batch=batch, trials=trials, size=size, load=load)
            rows.append({**row, **seconds._asdict()})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Ratios within blocks, groups of two over independent cohorts."""
    lines = [
        "| workload | global batch | trials in flight | blocks | trials an hour, independent over groups: wall | CPU | "
        "default of --ranks-per-trial |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in dict.fromkeys((r["workload"], r["batch"], r["trials"]) for r in rows):
        mine = [r for r in rows if (r["workload"], r["batch"], r["trials"]) == case]
        cells = [*map(str, case), str(max(r["block"] for r in mine))]
        for clock in ("wall", "cpu"):
            ratios = []
            for block in sorted({r["block"] for r in mine}):
                by_size = {r["size"]: r[clock] for r in mine if r["block"] == block}
                if len(by_size) == 2:
                    ratios.append(by_size[WORLD] / by_size[1])
            low, high = interval(ratios)
            cells.append(f"{statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {' | '.join([*cells, str(ranks_per_trial(WORLD, case[1]))])} |")
    return "\n".join(lines)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["r18-8"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--in-flight", nargs="+", type=int, default=[2, 8], help="even numbers")
    parser.add_argument("--json", type=Path, help="raw values")
    parser.add_argument("--quick", action="store_true", help="tiny data and one block")
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    for name, kind in {"folder": Path, "workload": str, "batch": int, "trials": int, "size": int}.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_rank:
        return as_rank(args)
    if args.quick:
        args.blocks, args.batches, args.in_flight = 1, [16], [2]
    with tempfile.TemporaryDirectory(prefix="groups-") as name:
        folder = Path(name)
        draw_data(folder, TINY if args.quick else FULL)
        for workload in args.workloads:
            teacher_file(folder, WORKLOADS[workload].encoder)
        rows = compare(args, folder)
    if args.json is not None:
        args.json.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
