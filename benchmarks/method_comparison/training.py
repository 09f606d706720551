"""Trains what a comparison of methods is of, and goes on after what is done."""

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import models
from benchmarks.cells import Cells
from benchmarks.method_comparison.units import (
    ENCODER,
    SCORE,
    TEACHER,
    TEACHER_LR,
    Unit,
    best_trial,
    methods,
    opened,
    point,
    raw_file,
    settings,
    study,
    taken_over,
    waiting,
)
from models.config import NetworkConfig, network_config
from search.answer.comparisons import TEST
from search.spec.load import StudySpec
from trainer.config import RunConfig
from trainer.data import record_opening
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.resources import SharedResources
from trainer.errors import UserError
from trainer.evaluation.per_image import FinalEvaluation
from trainer.reports import EpochReport, Failure, PerImageResult, Resume

SKIPPED = ("_fc", "_conv_head", "_bn1")
"""What the encoder's file has beyond the maps that a U-Net takes."""


def encoder_weights(path: Path, folder: Path) -> Path:
    """A file of the teacher's whole network before its training: the encoder of the file, the rest of seed 0.

    Both packages write the same layers in the same order under names of their own. Raises UserError.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.build(network_config("smp-unet", encoder=ENCODER), in_channels=3, classes=2, size=128)
    state = network.state_dict()
    names = [name for name in state if name.startswith("encoder.")]
    read = torch.load(path, map_location="cpu", weights_only=True)
    given = [tensor for name, tensor in read.items() if not name.startswith(SKIPPED)]
    if [state[name].shape for name in names] != [tensor.shape for tensor in given]:
        raise UserError(f"--encoder {path}: its layers are not those of {ENCODER}")
    state |= dict(zip(names, given, strict=True))
    output = folder / "start.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, output)
    return output


def written_split(data: Path, sequences: Path, folder: Path) -> list[str]:
    """Both sets as one split file, as settings of the study."""
    output = folder / "split.csv"
    folders = [str(data / name) for name in ("Kvasir-SEG", "CVC-ClinicDB")]
    options = ["--root", str(data), "--groups", str(sequences), "-o", str(output), "--near-duplicates", "accept"]
    command = [sys.executable, "-m", "trainer", "data", "split", *folders, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [f'run.data.root="{data}"', f'run.data.split="{output}"']


class Trainer:
    """Trains units side by side, from where they were left in the work folder. start: the teacher's first weights;
    score: that of validation, by which the best trial is chosen. It changes no training, as epochs are not chosen."""

    def __init__(self, spec: StudySpec, cells: Cells, folder: Path, start: Path, score: str = SCORE) -> None:
        self.score = score
        self.arm, self.cells, self.folder, self.start = spec.main, cells, folder, start
        self.settings = settings(spec)
        self.resources = SharedResources(Ranks("cpu"), folder / "cache")
        self.evaluation = FinalEvaluation(record_opening(folder, "comparison of methods"), folder / "cache")

    def run_of(self, unit: Unit) -> RunConfig:
        """What a unit trains."""
        if unit.kind == "trial":
            return self.arm.resolve(point(self.arm, unit.method, unit.number))
        if unit.kind == "seed":
            best = best_trial(self.cells, unit.method)
            if best is None:
                raise ValueError(f"{unit.method}: its trials are not all done")
            return self.arm.resolve(best["params"]).model_copy(update={"seed": unit.number})
        student: NetworkConfig = network_config("smp-unet", encoder=ENCODER, checkpoint=str(self.start))
        optim = self.arm.base.optim.model_copy(update={"lr": TEACHER_LR})
        return self.arm.base.model_copy(update={"method": "none", "student": student, "optim": optim})

    def train(self, units: Sequence[Unit]) -> None:
        """All of them to their ends, each a line of the raw file as it gets there."""
        examination = None if units[0].kind == "trial" else self.evaluation
        cohort = Cohort(
            Ranks("cpu"),
            slots=len(units),
            cache=self.folder / "cache",
            monitor=self.score,
            examination=examination,
            resources=self.resources,
        )
        for key, unit in enumerate(units):
            state = self._state(unit)
            resume = Resume(state) if state.is_file() else None
            cohort.admit(key, self.run_of(unit), resume, follow=((1, 0),))  # alike, whoever is beside it
        left, begun = set(range(len(units))), time.process_time()
        while left:
            for key, report in cohort.epoch().items():
                if isinstance(report, EpochReport) and not report.final:
                    cohort.snapshot(key)(self._state(units[key]))
                    continue
                if isinstance(report, EpochReport) and units[key].kind == "teacher":
                    cohort.export(key, self.teacher)
                left.discard(key)
                self._finished(units[key], report, (time.process_time() - begun) / len(units))

    @property
    def teacher(self) -> Path:
        """The teacher's weights."""
        return self.folder / "teacher.safetensors"

    def _state(self, unit: Unit) -> Path:
        return self.folder / f"{self.settings}-{unit.kind}-{unit.method}-{unit.number}.state"

    def _finished(self, unit: Unit, report: EpochReport | Failure, seconds: float) -> None:
        """A line. seconds: of the processor since this process began with it and its neighbours, over their number."""
        line: dict[str, Any] = {**unit.cell, "settings": self.settings, "cpu_seconds": round(seconds, 1)}
        if isinstance(report, Failure):
            line["failed"] = f"{report.kind}: {report.message}"
        else:
            line["failed"] = None
            line["validation"] = round((report.scores or {})[self.score], 5)
        if unit.kind == "trial":
            line["params"] = point(self.arm, unit.method, unit.number)
        if isinstance(report, EpochReport) and report.measured is not None:
            line |= dice_of_test(report.measured, named=unit.kind == "teacher")
        if unit.kind == "teacher" and isinstance(report, EpochReport):
            line |= {"weights": digest(self.teacher), "start": digest(self.start)}
        self._state(unit).unlink(missing_ok=True)
        self.cells.add(**line)


def digest(path: Path) -> str:
    """A hash of a file's tensors, whatever else it says."""
    tensors = load_file(path)
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode() + tensors[name].numpy().tobytes())
    return whole.hexdigest()


def dice_of_test(results: Sequence[PerImageResult], *, named: bool) -> dict[str, Any]:
    """Dice of each test picture; named: and the number of its group, in the order of groups' first pictures."""
    result = next(each for each in results if each.part == TEST)
    line: dict[str, Any] = {"test": [round(value, 4) for value in result.columns["dice"]]}
    if named:
        numbers = {group: number for number, group in enumerate(dict.fromkeys(result.groups))}
        line["groups"] = [numbers[group] for group in result.groups]
    return line


def refuse_other_teacher(path: Path, cells: Cells) -> None:
    """Raises UserError where a teacher is not the one of the raw file's lines."""
    known = cells.lines(kind="teacher")
    if known and digest(path) != known[0]["weights"]:
        raise UserError(
            f"{path}: another teacher than that of {cells.path}, whose weights have sha256 {known[0]['weights'][:12]}; "
            "bring that file, or begin with a raw file of your own: --raw FILE"
        )


def train(args: argparse.Namespace) -> None:
    """Everything that is not done. Raises UserError."""
    args.work.mkdir(parents=True, exist_ok=True)
    folder = args.work.absolute()
    places = written_split(args.data.absolute(), args.sequences.absolute(), folder)
    spec = study([*places, f'run.teacher.checkpoint="{folder / "teacher.safetensors"}"'])
    for name in set(args.methods) - set(methods(spec)):
        raise UserError(f"--methods {name}: no such method; known: {', '.join(methods(spec))}")
    cells = opened(args.raw or raw_file(args.score), spec)
    start = folder / "start.safetensors"
    if not start.is_file():
        if args.encoder is None:
            raise UserError("--encoder: missing; the teacher begins with it")
        start = encoder_weights(args.encoder, folder)
    trainer = Trainer(spec, cells, folder, start, args.score)
    known = None if args.score == SCORE else opened(raw_file(SCORE), spec)
    if known is not None:
        taken_over(spec, cells, known)
    if TEACHER.cell in cells and not trainer.teacher.is_file():
        again = Trainer(spec, Cells(folder / "again.jsonl", Unit._fields), folder, start)
        again.train([TEACHER])
    if TEACHER.cell in cells:
        refuse_other_teacher(trainer.teacher, cells)
    while units := next(waiting(spec, cells, args.methods, args.slots), None):
        trainer.train(units)
        if known is not None:
            taken_over(spec, cells, known)
