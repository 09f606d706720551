"""What bf16 costs in accuracy: the same runs in fp32 and in bf16, teacher and student, pair by pair.

    OMP_NUM_THREADS=1 python -m benchmarks.precision --seeds 8

Drawn pictures, the study of `recorded.toml`, width 8. Prints the best validation Dice of each run and the mean
difference with a bootstrap interval.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record_curves import STUDY
from search.spec.load import load
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.reports import EpochReport


def best_dice(runs: list[RunConfig], cache: Path) -> list[float]:
    """The best validation Dice of each, trained side by side."""
    cohort = Cohort(Ranks(), slots=len(runs), cache=cache)
    best = [0.0] * len(runs)
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    for _ in range(runs[0].epochs):
        for key, report in cohort.epoch().items():
            if not isinstance(report, EpochReport):
                raise RuntimeError(report.message)
            best[key] = max(best[key], (report.scores or {})["dice"])
    return best


def main() -> int:
    """Train the pairs and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="precision-") as name:
        teacher, cache = Path(name) / "teacher.safetensors", Path(name) / "cache"
        words = ["teach", str(STUDY), "-o", str(teacher), "--cache", str(cache)]
        subprocess.run([sys.executable, "-m", "trainer", *words], check=True)
        for precision in ("fp32", "bf16"):
            sets = [f'run.teacher.checkpoint="{teacher}"', f'run.precision="{precision}"']
            run = load(STUDY, sets, name=f"precision-{precision}").run
            runs = [run.model_copy(update={"seed": seed}) for seed in range(1, args.seeds + 1)]
            found[precision] = best_dice(runs, cache)
            print(precision, " ".join(f"{dice:.4f}" for dice in found[precision]), flush=True)
    differences = [b - a for a, b in zip(found["fp32"], found["bf16"], strict=True)]
    draw = random.Random(0)  # noqa: S311 - no secret
    means = sorted(statistics.mean(draw.choices(differences, k=args.seeds)) for _ in range(2000))
    print(f"bf16 - fp32: {statistics.mean(differences):+.4f} [{means[50]:+.4f}, {means[-51]:+.4f}]")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
