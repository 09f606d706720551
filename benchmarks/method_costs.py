"""What each distillation method costs beside cross-entropy alone and beside soft labels, eight students side by side.

    OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.method_costs    # goes on after the cells that are done
    python -m benchmarks.method_costs --table                         # the tables of what is done
    python -m benchmarks.method_costs --profile cirkd-memory unet 2   # where a step's time goes

Eight equal students learn from one pass of a U-Net on a ResNet-18 a batch, as in a search; drawn pictures of 96 pixels
with ellipses of 1 or 8 classes on ground, batches of 4, one thread. A step is that of all eight with the teacher's
pass, in CPU seconds. After two that are not timed (the first measures shares of gradients, the second is the first with
memories that hold something) steps of the method and of soft labels are taken by turns, three of each: neighbours on
the machine slow both alike. Times are medians, a ratio is the median of the three ratios. Memory is what the process
takes from before the students are built to its peak in those two steps. Every loss must be finite.
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

import models
from benchmarks.cells import HERE, Cells
from benchmarks.network_matrix import METHODS, terms
from benchmarks.structures import CHANNELS, LIGHT, network, pairs
from losses.config import NEEDS_TEACHER
from models.config import NetworkConfig, network_config, teacher_config
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.data.streams.batches import BatchImages
from trainer.distributed.ranks import Ranks
from trainer.engine.resources import SharedResources
from trainer.engine.student import Student
from trainer.profiling.command import Peak

RAW = HERE / "method_costs_raw.jsonl"
STUDENTS: Mapping[str, NetworkConfig] = {
    "unet": network_config("unet", width=8),
    "resunet": network_config("resunet", width=8),
    "smp-unet": network_config("smp-unet", encoder=LIGHT),
    "swin-unet": network_config("swin-unet", width=24),
}
TEACHER = teacher_config("smp-unet", encoder="resnet18")
CLASSES = (2, 9)
BESIDE, SIZE, BATCH, PICTURES = 8, 96, 4, 8
WARM, TIMED = 2, 3
LIMIT = 1.35
"""Times soft labels; above it there is a reason to be given."""


def draw(folder: Path, classes: int) -> None:
    """Pictures of ellipses, one of each class, with label masks and a split file."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(PICTURES + 1):
        image = rng.normal(90, 12, (SIZE, SIZE, 3))
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for label in range(1, classes):
            axes, centre = rng.integers(6, 24, 2), rng.integers(10, SIZE - 10, 2)
            cv2.ellipse(mask, tuple(map(int, centre)), tuple(map(int, axes)), 0, 0, 360, label, -1)
        image += 18.0 * mask[..., None]
        part = "train" if number < PICTURES else "validation"
        names = [f"{kind}-{classes}-{number}.png" for kind in ("image", "mask")]
        for name, pixels in zip(names, (np.clip(image, 0, 255).astype(np.uint8), mask), strict=True):
            cv2.imwrite(str(folder / name), pixels)
        rows.append(["drawn", *names, "", part])
    with (folder / f"split-{classes}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["source", "image", "mask", "group", "split"], *rows])


def run_of(folder: Path, method: str, learner: str, classes: int) -> RunConfig:
    """One run on the drawn pictures of a folder."""
    built = [STUDENTS[learner], TEACHER]
    with torch.device("meta"):
        taps = [models.build(each, in_channels=CHANNELS, classes=classes, size=SIZE).taps for each in built]
    return RunConfig.model_validate(
        {
            "method": method if method in NEEDS_TEACHER else "none",
            "epochs": 4,
            "batch_size": BATCH,
            "data": {
                "name": "pictures",
                "root": str(folder),
                "split": str(folder / f"split-{classes}.csv"),
                "size": SIZE,
                "augment": "none",
                "classes": [{"name": f"c{label}", "value": label} for label in range(classes)],
            },
            "teacher": TEACHER.model_copy(update={"checkpoint": str(folder / f"teacher-{classes}.safetensors")}),
            "student": STUDENTS[learner],
            "losses": terms(method, pairs(*taps)),
            "optim": {"lr": 1e-3, "schedule": {"name": "constant"}},
        }
    )


class Side:
    """Eight students of one run and what they share."""

    def __init__(self, run: RunConfig, resources: SharedResources, beside: int = BESIDE) -> None:
        self.run, self.resources = run, resources
        stream = resources.stream(run)
        self.peak = Peak()
        self.students = [
            Student(
                run,
                resources.data(run),
                teacher=resources.taps(run),
                steps=stream.steps,
                ranks=resources.ranks,
                monitor="dice",
            )
            for _ in range(beside)
        ]
        with closing(stream.epoch(0)) as batches:
            self.batches = [(BatchImages(batch.images), batch.masks.long()) for batch in batches]
        for student in self.students:
            student.epoch = 1  # in the first epoch boundaries are all hard
            student.begin_epoch()
        self.steps = 0

    def step(self) -> float:
        """CPU seconds of one step of all. Raises RuntimeError where a loss is not finite."""
        images, target = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        begun = time.process_time()
        teacher = self.resources.teacher_forward(self.run, images, self.students[0].teacher_taps)
        for student in self.students:
            sums = student.forward(images.normalised(student.network.normalisation), target, teacher)
            offered = student.offered()
            if offered is not None:
                student.absorb(offered)
            student.backward(sums)
            student.update()
        taken = time.process_time() - begun
        for student in self.students:
            if student.fault is not None:
                raise RuntimeError(student.fault.message)
        return taken

    def values(self) -> dict[str, float]:
        """The mean of each term over the steps so far; ends the epoch."""
        return self.students[0].end_epoch()


def measure(
    soft_labels: Side, folder: Path, resources: SharedResources, method: str, learner: str, classes: int
) -> dict[str, Any]:
    """A line of the raw file. soft_labels: warm students that are stepped by turns with those of the method."""
    line: dict[str, Any] = {"method": method, "student": learner, "classes": classes}
    try:
        side = Side(run_of(folder, method, learner, classes), resources)
        for _ in range(WARM):
            side.step()
        megabytes = side.peak.megabytes()
        pairs_of_steps = [(side.step(), soft_labels.step()) for _ in range(TIMED)]
    except (RuntimeError, ValueError) as error:
        return {**line, "result": str(error).splitlines()[0]}
    values = side.values()
    finite = all(np.isfinite(value) for value in values.values())
    return {
        **line,
        "result": "ok" if finite else f"not finite: {values}",
        "ms": round(1e3 * statistics.median(mine for mine, _ in pairs_of_steps), 1),
        "over_kl": round(statistics.median(mine / beside for mine, beside in pairs_of_steps), 3),
        "mb": round(megabytes, 1),
    }


def prepared(folder: Path, classes: int) -> None:
    """Pictures, and a teacher with the weights of seed 0."""
    draw(folder, classes)
    state = network(TEACHER, SIZE, classes).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / f"teacher-{classes}.safetensors")


def profiled(folder: Path, method: str, learner: str, classes: int) -> str:
    """Where a step of one student spends its time."""
    resources = SharedResources(Ranks("cpu"), folder / "cache")
    side = Side(run_of(folder, method, learner, classes), resources, beside=2)
    for _ in range(WARM):
        side.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(2):
            side.step()
    table: str = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40)
    return table


def table(cells: Cells) -> Iterator[str]:
    """A row a method: its step over that of soft labels, by student and classes, and megabytes, in Markdown."""
    places = [(learner, classes) for classes in CLASSES for learner in STUDENTS]
    heads = [f"{learner}, {classes}" for learner, classes in places]
    for what, unit in (("over_kl", "times soft labels"), ("mb", "MB")):
        yield f"| {unit} | {' | '.join(heads)} |"
        yield f"| --- | {' | '.join('---:' for _ in heads)} |"
        for method in METHODS:
            found = {(line["student"], line["classes"]): line for line in cells.lines(method=method)}
            shown = [_cell(found.get(place), what) for place in places]
            if any(shown):
                yield f"| {'ce alone' if method == 'none' else method} | {' | '.join(shown)} |"
        yield ""
    every = cells.lines()
    wrong = [line for line in every if line["result"] != "ok"]
    yield f"{len(every) - len(wrong)} of {len(every)} cells train."
    yield from (f"- {line['method']}, {line['student']}, {line['classes']}: {line['result']}" for line in wrong)


def _cell(line: Mapping[str, Any] | None, what: str) -> str:
    if line is None:
        return ""
    if line["result"] != "ok":
        return "no"
    if what == "mb":
        return f"{line['mb']:.0f}"
    return f"**{line['over_kl']:.2f}**" if line["over_kl"] > LIMIT else f"{line['over_kl']:.2f}"


def main() -> int:
    """Measure the cells that are not done yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS), metavar="NAME")
    parser.add_argument("--classes", nargs="+", type=int, choices=CLASSES, default=list(CLASSES))
    parser.add_argument("--raw", type=Path, default=RAW, help="one line a cell; what is there is not done again")
    parser.add_argument(
        "--profile", nargs=3, metavar=("METHOD", "STUDENT", "CLASSES"), help="of one step, by operation"
    )
    parser.add_argument("--table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(args.raw, ("method", "student", "classes"))
    with tempfile.TemporaryDirectory(prefix="costs-") as name:
        folder = Path(name)
        for classes in () if args.table else args.classes:
            prepared(folder, classes)
        if args.profile:
            print(profiled(folder, args.profile[0], args.profile[1], int(args.profile[2])))
            return 0
        for classes in () if args.table else args.classes:
            for learner in args.students:
                todo = [
                    method
                    for method in args.methods
                    if {"method": method, "student": learner, "classes": classes} not in cells
                ]
                if todo:
                    resources = SharedResources(Ranks("cpu"), folder / "cache")
                    soft_labels = Side(run_of(folder, "kl", learner, classes), resources)
                    for _ in range(WARM):
                        soft_labels.step()
                for method in todo:
                    cells.add(**measure(soft_labels, folder, resources, method, learner, classes))
    print("\n".join(table(cells)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
