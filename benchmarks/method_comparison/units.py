"""What is trained to compare methods, and which of it is done."""

import hashlib
import json
import math
import random
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from benchmarks.cells import HERE, Cells
from search.answer.power import compared_methods
from search.spec.arms import Arm
from search.spec.load import StudySpec, find, load
from search.spec.space import Choices, FloatRange, Scalar, active
from trainer.errors import UserError

STUDY = "polyp-kd-methods"
SCORE = "dice"
"""By which the best of a method's trials is chosen, where nothing else is asked for."""
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


def raw_file(score: str) -> Path:
    """What is done, with the validation scores of this name."""
    return HERE / f"method_comparison{'' if score == SCORE else f'_{score}'}_raw.jsonl"


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


def waiting(spec: StudySpec, cells: Cells, only: Sequence[str] = (), slots: int = SLOTS) -> Iterator[list[Unit]]:
    """What is trained together next, as far as it is not done: a phase of two methods at a time, or of `only` these."""
    if TEACHER.cell not in cells:
        yield [TEACHER]
    for group in [only] if only else batches(methods(spec), BY_TWOS):
        trials = [Unit("trial", method, n) for method in group for n in range(TRIALS)]
        seeds = [Unit("seed", method, seed) for seed in spec.confirm.seeds for method in group]
        for phase in (trials, seeds):
            missing = [unit for unit in phase if unit.cell not in cells]
            yield from batches(missing, slots)


def best_trial(cells: Cells, method: str) -> dict[str, Any] | None:
    """The trial with the highest validation score; None where one is not done yet. Raises UserError if all failed."""
    trials = cells.lines(kind="trial", method=method)
    if len(trials) < TRIALS:
        return None
    known = [line for line in trials if line["failed"] is None]
    if not known:
        raise UserError(f"{method}: no trial was trained to its end; see {cells.path}")
    return max(known, key=lambda line: (line["validation"], -line["number"]))


def taken_over(spec: StudySpec, cells: Cells, known: Cells) -> None:
    """Enter what was trained for the comparison by another score and is the same here: the teacher, and the seeds of
    each method whose best trial is the same one. The validation scores of those lines are the other score's."""
    for unit in [TEACHER, *(Unit("seed", method, seed) for method in methods(spec) for seed in spec.confirm.seeds)]:
        if unit.kind == "seed":
            here, there = best_trial(cells, unit.method), best_trial(known, unit.method)
            if here is None or there is None or here["number"] != there["number"]:
                continue
        if unit.cell in known and unit.cell not in cells:
            cells.add(**known.lines(**unit.cell)[0])
