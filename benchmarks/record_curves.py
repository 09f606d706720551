"""Train a search with random parameters and no pruning, and keep its curves as numbers, for the benchmarks to replay.

    OMP_NUM_THREADS=1 python -m benchmarks.record_curves blobs
    OMP_NUM_THREADS=1 python -m benchmarks.record_curves kvasir --data FOLDER
    OMP_NUM_THREADS=1 python -m benchmarks.record_curves clinicdb --data FOLDER

FOLDER holds `Kvasir-SEG` and `CVC-ClinicDB`, each with folders `train`, `validation` and `test` of images and masks;
their parts are taken as they are. Ten minutes (drawn pictures) to half an hour (polyps) on one core. It goes on after
the trials that are done: a trial is a line of the file, written when it ends.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from search.spec.arms import Arm
from search.spec.load import load
from search.spec.space import Choices, FloatRange, Scalar
from trainer.cli.entry import guard
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.errors import UserError
from trainer.reports import Failure

HERE = Path(__file__).parent
WIDTH = "student.width"


@dataclass(frozen=True)
class Recording:
    """A search that was recorded: its study file, the folder of its pictures (None: drawn) and its curves."""

    study: Path
    pictures: str | None
    curves: Path
    trials: int


STUDY = HERE / "recorded.toml"
RECORDINGS = {
    "blobs": Recording(STUDY, None, HERE / "recorded_blobs.jsonl", 60),
    "kvasir": Recording(HERE / "recorded_polyps.toml", "Kvasir-SEG", HERE / "recorded_kvasir.jsonl", 160),
    "clinicdb": Recording(HERE / "recorded_polyps.toml", "CVC-ClinicDB", HERE / "recorded_clinicdb.jsonl", 160),
}


def widths_of(arm: Arm) -> list[Scalar]:
    """The choices along the front."""
    return [choice for p in arm.space if p.path == WIDTH for choice in p.probes()]


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


def read(path: Path) -> dict[int, dict[str, object]]:
    """The trials that are done, by number."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {trial["number"]: trial for trial in map(json.loads, lines)}


def places(recording: Recording, data: Path | None, folder: Path) -> list[str]:
    """What the study file leaves open, as settings: the pictures, and their split."""
    if recording.pictures is None:
        return []
    if data is None:
        raise UserError(f"--data: missing; name the folder that holds {recording.pictures}")
    split = folder / "split.csv"
    root = data / recording.pictures
    words = [
        "trainer",
        "data",
        "split",
        str(root),
        "--root",
        str(root),
        "-o",
        str(split),
        "--near-duplicates",
        "accept",
    ]
    subprocess.run([sys.executable, "-m", *words], check=True)
    return [f'run.data.root="{root}"', f'run.data.split="{split}"']


def taught(study: Path, sets: list[str], teacher: Path, cache: Path) -> Arm:
    """The study's first arm, after its teacher was trained."""
    words = ["trainer", "teach", str(study), "-o", str(teacher), "--cache", str(cache)]
    subprocess.run([sys.executable, "-m", *words, *(word for each in sets for word in ("--set", each))], check=True)
    return load(study, [*sets, f'run.teacher.checkpoint="{teacher}"'], name=None).arms[0]


def train(arm: Arm, output: Path, cache: Path, trials: int, slots: int, seed: int) -> None:
    """Every trial that is not done through all its epochs, `slots` of them side by side."""
    draw, widths = random.Random(seed), widths_of(arm)  # noqa: S311 - no secret
    points = [drawn(arm, draw, int(widths[number % len(widths)])) for number in range(trials)]
    done = read(output)
    curves: list[list[float]] = [[] for _ in points]
    cohort = Cohort(Ranks("cpu"), slots=slots, cache=cache)
    waiting, members = [number for number in range(trials) if number not in done][::-1], 0
    began = time.monotonic()
    while waiting or members:
        while waiting and members < slots:
            number = waiting.pop()
            cohort.admit(number, arm.resolve(points[number]))
            members += 1
        for number, report in cohort.epoch().items():
            if isinstance(report, Failure):
                raise RuntimeError(f"trial {number}: {report.message}")
            curves[number].append(round((report.scores or {})["dice"], 5))
            if report.final:
                cohort.dismiss(number)
                members -= 1
                trial = {"number": number, "params": points[number], "scores": curves[number]}
                with output.open("a") as file:
                    file.write(json.dumps(trial) + "\n")
                print(f"{number}: {curves[number][-1]:.4f}  {time.monotonic() - began:.0f} s", flush=True)


def main() -> int:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(RECORDINGS))
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="holds Kvasir-SEG and CVC-ClinicDB")
    parser.add_argument("--trials", type=int, help="in place of the recording's own number")
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="in place of the recording's own file")
    args = parser.parse_args()
    recording = RECORDINGS[args.name]
    output = args.output or recording.curves
    with tempfile.TemporaryDirectory(prefix="curves-") as name:
        folder = Path(name)
        sets = places(recording, args.data, folder)
        arm = taught(recording.study, sets, folder / "teacher.safetensors", folder / "cache")
        train(arm, output, folder / "cache", args.trials or recording.trials, args.slots, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
