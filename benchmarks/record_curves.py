"""Train the search of `recorded.toml` with random parameters and no pruning, and keep its curves as numbers.

    OMP_NUM_THREADS=1 python -m benchmarks.record_curves

Takes about ten minutes on one core. `benchmarks.time_to_answer` replays what it writes.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from search.spec.arms import Arm
from search.spec.load import load
from search.spec.space import Choices, FloatRange, Scalar
from trainer.cli.entry import guard
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.reports import Failure

HERE = Path(__file__).parent
STUDY = HERE / "recorded.toml"
CURVES = HERE / "recorded_curves.json"


def drawn(arm: Arm, draw: random.Random, width: int) -> dict[str, Scalar]:
    """One point of the space, uniform, on a log scale where the range is; its width as given."""
    values: dict[str, Scalar] = {}
    for parameter in arm.space:
        if isinstance(parameter, Choices):
            values[parameter.name] = width
        elif isinstance(parameter, FloatRange) and parameter.log:
            power = draw.uniform(math.log(parameter.low), math.log(parameter.high))
            values[parameter.name] = min(max(math.exp(power), parameter.low), parameter.high)
        else:
            raise TypeError(f"{parameter.name}: {parameter!r} is not drawn here")
    return values


def train(folder: Path, trials: int, slots: int, seed: int) -> list[dict[str, object]]:
    """Every trial through all its epochs, `slots` of them side by side."""
    teacher, cache = folder / "teacher.safetensors", folder / "cache"
    command = [sys.executable, "-m", "trainer", "teach", str(STUDY), "-o", str(teacher), "--cache", str(cache)]
    subprocess.run(command, check=True)
    arm = load(STUDY, [f'run.teacher.checkpoint="{teacher}"'], name=None).arms[0]
    draw = random.Random(seed)  # noqa: S311 - no secret
    points = [drawn(arm, draw, (4, 8)[number % 2]) for number in range(trials)]
    curves: list[list[float]] = [[] for _ in points]
    cohort = Cohort(Ranks("cpu"), slots=slots, cache=cache)
    waiting, members = list(enumerate(points))[::-1], 0
    began = time.monotonic()
    while waiting or members:
        while waiting and members < slots:
            number, params = waiting.pop()
            cohort.admit(number, arm.resolve(params))
            members += 1
        for number, report in cohort.epoch().items():
            if isinstance(report, Failure):
                raise RuntimeError(f"trial {number}: {report.message}")
            curves[number].append(round((report.scores or {})["dice"], 5))
            if report.final:
                cohort.dismiss(number)
                members -= 1
                print(f"{number}: {curves[number][-1]:.4f}  {time.monotonic() - began:.0f} s", flush=True)
    return [{"params": params, "scores": curve} for params, curve in zip(points, curves, strict=True)]


def main() -> int:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=CURVES)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="curves-") as name:
        trials = train(Path(name), args.trials, args.slots, args.seed)
    lines = ",\n".join(json.dumps(trial) for trial in trials)
    args.output.write_text(f"[\n{lines}\n]\n")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
