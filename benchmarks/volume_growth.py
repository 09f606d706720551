"""How memory grows over a search on volumes: 50 trials at 64^3 under a teacher, in one worker.

    OMP_NUM_THREADS=1 python -m benchmarks.volume_growth
    OMP_NUM_THREADS=1 python -m benchmarks.volume_growth --patch 16 --trials 8 --student 4 --teacher 8

Two students side by side learn by logits, an epoch a trial of one step of four patches, validation included, with the
worker's own loop, database and checkpoints. Whenever no student is left the resident memory of the process is read.
Growth is the median slope between any two readings after the first ten trials, by which time libraries and pools have
what they take; now and then a checkpoint is still being written when a reading is taken. It is to stay below 1 MB a
trial.
"""

import argparse
import gc
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import benchmarks.ours
from benchmarks.clock import now, peak
from benchmarks.volumes_work import STUDENT, TEACHER, draw_cases, network, study
from search.spec.load import StudySpec, load

BOUND_MB = 1.0
FIRST = 10
SLOTS = 2


def resident() -> float:
    """Memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


class Watched(benchmarks.ours.Timed):
    """A cohort that notes the process's memory whenever a trial is over."""

    after: list[tuple[int, float]]
    """(Students that still train, MB) after each trial."""

    def dismiss(self, key: int) -> None:
        """Forget a member, then look."""
        super().dismiss(key)
        gc.collect()
        self.after.append((len(self._members), resident()))


def spec_of(folder: Path, args: argparse.Namespace) -> StudySpec:
    """The study, with a teacher of drawn weights."""
    study(folder, args.patch, trials=args.trials, epochs=1, views=False, seed=0)
    torch.manual_seed(0)
    weights = network((TEACHER[0], args.teacher)).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "small.safetensors")
    sets = {"student.width": args.student, "teacher.width": args.teacher, "data.patches": 1}
    texts = [f"run.{key}={value}" for key, value in sets.items()]
    texts += [f"run.teacher.checkpoint={folder / 'small.safetensors'}", f"budget.in_flight={SLOTS}"]
    return load(folder / f"volumes-{args.patch}.toml", [*texts, "run.optim.schedule.warmup_epochs=0"], name="growth")


def main() -> int:
    """Run the search, print memory by tens of trials and its slope; 1 where it grows by more than the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, default=64, help="voxels a side")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--student", type=int, default=STUDENT[1], help="width")
    parser.add_argument("--teacher", type=int, default=32, help="width")
    args = parser.parse_args()
    torch.set_num_threads(1)
    Watched.after = []
    benchmarks.ours.Timed = Watched  # type: ignore[misc]  # what search_once makes
    with tempfile.TemporaryDirectory(prefix="volume-growth-") as name:
        folder = Path(name)
        draw_cases(folder)
        spec, work = spec_of(folder, args), folder / "work"
        work.mkdir()
        began = now()
        benchmarks.ours.search_once(spec, folder / "cache", work, SLOTS)
        spent = now().since(began)
    alone = [(trial, memory) for trial, (left, memory) in enumerate(Watched.after, 1) if left == 0]
    trials, after = (np.array(values, dtype=float) for values in zip(*alone, strict=True))
    tail = trials > min(FIRST, len(Watched.after) // 2)
    first, second = np.triu_indices(int(tail.sum()), 1)
    x, y = trials[tail], after[tail]
    slope = float(np.median((y[second] - y[first]) / (x[second] - x[first])))
    shown = ", ".join(f"{trial:.0f}: {memory:.0f}" for trial, memory in zip(trials, after, strict=True))
    print(f"{STUDENT[0]} {args.student} under {TEACHER[0]} {args.teacher}, {args.patch}^3, {len(Watched.after)} trials")
    print(f"resident MB after trial {shown}; peak {peak()} MB; {spent.cpu:.0f} CPU s")
    print(f"growth after the first {FIRST} trials: {slope:+.3f} MB a trial; bound {BOUND_MB:g}")
    return int(slope >= BOUND_MB)


if __name__ == "__main__":
    sys.exit(main())
