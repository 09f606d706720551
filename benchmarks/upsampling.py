"""What the comb edges of the 3 x 3 transposed convolution cost: a U-Net's ways up beside it, on real polyps.

    OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.upsampling --data FOLDER    # goes on after what is done
    python -m benchmarks.upsampling --table

FOLDER holds `Kvasir-SEG/{train,validation,test}/{images,masks}`. Each way up (`student.up`) is trained on the same
seeds, without a teacher, on the training pictures squeezed to 64 pixels, cross-entropy and Dice, AdamW; the Dice of the
last epoch, at native size, over the pictures of validation and test together: nothing is chosen by it. Intervals are of
the mean difference to `transposed` over the seeds, paired, Student's t. Comb: how much of a probability map alternates
from one column (row) to the next over all pictures, mean |p(x-1) - 2 p(x) + p(x+1)| / 4 where the three alternate.
"""

import argparse
import csv
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.cells import HERE, Cells
from models import parameters
from trainer.checkpoint import ready
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.data.streams.batches import normalise
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.resources import SharedResources
from trainer.errors import UserError
from trainer.reports import Failure

RAW = HERE / "upsampling_raw.jsonl"
WAYS = ("transposed", "transposed-2x2", "transposed-4x4", "bilinear")
SEEDS = (1, 2, 3, 4, 5)
EPOCHS, SIZE, BATCH, WIDTH = 20, 64, 8, 8


def split(data: Path, folder: Path) -> Path:
    """A split file: the set's own training part, and all else as validation."""
    rows = []
    for part in ("train", "validation", "test"):
        for path in sorted((data / "Kvasir-SEG" / part / "images").glob("*.jpg")):
            places = [path, path.parents[1] / "masks" / f"{path.stem}.png"]
            role = "train" if part == "train" else "validation"
            rows.append(["kvasir", *(str(place.relative_to(data)) for place in places), "", role])
    if not rows:
        raise UserError(f"--data {data}: no pictures in {data / 'Kvasir-SEG'}")
    file = folder / "split.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([["source", "image", "mask", "group", "split"], *rows])
    return file


def run_of(data: Path, split_file: Path, way: str, seed: int) -> RunConfig:
    """One training."""
    return RunConfig.model_validate(
        {
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "seed": seed,
            "validate": {"from": EPOCHS},
            "data": {
                "name": "polyp",
                "root": str(data),
                "split": str(split_file),
                "size": SIZE,
                "fit": "stretch",
                "near_duplicates": "accept",
            },
            "student": {"name": "unet", "width": WIDTH, "up": way},
            "losses": {"ce": {}, "dice": {}},
            "optim": {"lr": 3e-3},
        }
    )


def alternation(probabilities: Tensor) -> float:
    """How much of (N, H, W) alternates between neighbours, both axes; 0 for smooth maps and for steps."""
    shares = []
    for dim in (1, 2):
        difference = probabilities.diff(dim=dim)
        count = difference.shape[dim] - 1
        before, after = difference.narrow(dim, 0, count), difference.narrow(dim, 1, count)
        shares.append(((before - after).abs() / 4 * (before * after < 0)).mean().item())
    return sum(shares) / 2


def measure(resources: SharedResources, runs: list[RunConfig], folder: Path) -> Iterator[dict[str, Any]]:
    """Train these side by side; a line each. Raises UserError where one fails."""
    cohort = Cohort(resources.ranks, slots=len(runs), cache=resources.cache, resources=resources)
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    last: dict[int, float] = {}
    for _ in range(EPOCHS):
        for key, report in cohort.epoch().items():
            if isinstance(report, Failure):
                raise UserError(f"{runs[key].student.name} seed {runs[key].seed}: {report.message}")
            last[key] = (report.scores or {}).get("dice", 0.0)
    for key, run in enumerate(runs):
        file = folder / f"{key}.safetensors"
        cohort.export(key, file)
        network = ready(file, device=torch.device("cpu")).network.eval()
        data = resources.data(run)
        fitted = [data.fitted("validation", index)[0] for index in range(len(data.samples("validation")))]
        with torch.no_grad():
            pixels = normalise(torch.from_numpy(np.stack(fitted)), network.normalisation)
            maps = [network(few).logits.softmax(1)[:, 1] for few in pixels.split(10)]
        yield {
            "up": run.student.up,  # type: ignore[union-attr]  # a U-Net
            "seed": run.seed,
            "dice": round(last[key], 5),
            "comb": round(alternation(torch.cat(maps)), 6),
            "parameters": parameters(network),
        }


def table(cells: Cells) -> Iterator[str]:
    """A row a way up, in Markdown."""
    yield "| up | parameters | Dice by seed | mean | beside transposed [95 %] | comb, of 1000 |"
    yield "| --- | ---: | --- | ---: | --- | ---: |"
    by_way = {way: {line["seed"]: line for line in cells.lines(up=way)} for way in WAYS}
    first = by_way[WAYS[0]]
    for way, lines in by_way.items():
        if not lines:
            continue
        seeds = sorted(lines.keys() & first.keys())
        scores = [lines[seed]["dice"] for seed in seeds]
        gap = "" if way == WAYS[0] else paired([lines[seed]["dice"] - first[seed]["dice"] for seed in seeds])
        comb = 1e3 * statistics.mean(lines[seed]["comb"] for seed in seeds)
        shown = f"{' '.join(f'{score:.3f}' for score in scores)} | {statistics.mean(scores):.3f}"
        yield f"| {way} | {lines[seeds[0]]['parameters']:,} | {shown} | {gap} | {comb:.2f} |"


def paired(differences: list[float]) -> str:
    """The mean with Student's interval at 95 %."""
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return f"{mean:+.3f}"
    half = float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def main() -> int:
    """Train what is not done yet, a seed at a time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="holds Kvasir-SEG")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--raw", type=Path, default=RAW, help="one line a training; what is there is not done again")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(args.raw, ("up", "seed"))
    if args.data is None and not args.table:
        raise UserError("--data: missing; name the folder that holds Kvasir-SEG")
    with tempfile.TemporaryDirectory(prefix="upsampling-") as name:
        resources = SharedResources(Ranks("cpu"), Path(name) / "cache")
        for seed in () if args.table else args.seeds:
            todo = [way for way in WAYS if {"up": way, "seed": seed} not in cells]
            runs = [run_of(args.data.resolve(), split(args.data.resolve(), Path(name)), way, seed) for way in todo]
            for line in measure(resources, runs, Path(name)) if runs else ():
                cells.add(**line)
    print("\n".join(table(cells)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
