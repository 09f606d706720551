"""Floating-point operations of a search, its teacher and its confirmation: what does not depend on the machine.

They are counted, not measured: forward passes on the meta device times images, epochs and trainings. A reader divides
by what a device reaches; a forecast of time is measured where it is printed (`search.planning.time_forecast`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from models.config import NetworkTeacher
from search.planning.network_costs import Cost
from search.spec.arms import Arm
from search.spec.load import StudySpec
from trainer.run_file import RunFile

STEP_PASSES = 3
"""A training step in forward passes: the backward pass computes gradients of maps and of weights, each as long."""
_UNITS = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))

Range = tuple[float, float]
"""For the smallest and for the largest students of the space."""


@dataclass(frozen=True)
class TrainingWork:
    """Operations (2 for each multiply-add) of training steps and of the teacher's passes beside them; validation is
    not counted."""

    examples: int
    """Images, or patches of volumes, of an epoch."""
    students: Range
    """All trials to their last epoch: none pruned."""
    teacher: float
    """The teacher's passes for them, each trial trained alone: trials side by side share them."""
    teaching: float
    """The training of the teacher itself; 0 where this program does not train it."""
    confirmation: float
    """What a confirmation trains at most, of the largest students, with the teacher's passes."""

    def as_json(self) -> dict[str, Any]:
        """The form that `validate --json` prints."""
        return asdict(self)


def training_work(spec: StudySpec, built: Sequence[Cost], examples: int, *, trainings: int) -> TrainingWork:
    """What the study trains on `examples` an epoch. built: its networks; trainings: of the confirmation. Along a front
    every choice counts as often as the others, as trials are dealt.

    Raises ValueError or UserError where the teacher's recipe cannot be trained.
    """
    low = high = teacher = 0.0
    for arm in spec.arms:
        for share, networks in _dealt(arm, [cost for cost in built if cost.arm == arm.name]):
            passes = share * arm.trials * arm.epochs * examples
            low += STEP_PASSES * passes * min(_student(cost) for cost in networks)
            high += STEP_PASSES * passes * max(_student(cost) for cost in networks)
            teacher += passes * max(_teacher(cost) for cost in networks)
    step = max(STEP_PASSES * _student(cost) + _teacher(cost) for cost in built)
    return TrainingWork(
        examples=examples,
        students=(low, high),
        teacher=teacher,
        teaching=STEP_PASSES * examples * _teaching_flops(spec),
        confirmation=trainings * spec.run.epochs * examples * step,
    )


def _dealt(arm: Arm, networks: Sequence[Cost]) -> Iterator[tuple[float, Sequence[Cost]]]:
    """Each choice of the front with its share of the trials and the networks that it may have; without one, all."""
    points = arm.points or ({},)
    for point in points:
        chosen = [cost for cost in networks if all(cost.params.get(name) == value for name, value in point.items())]
        yield 1.0 / len(points), chosen or networks  # choices of equal networks are built once


def _student(cost: Cost) -> float:
    return float(cost.facts.flops)


def _teacher(cost: Cost) -> float:
    return float(cost.facts.teacher_flops or 0)


def _teaching_flops(spec: StudySpec) -> float:
    """Of forward passes over one example in every epoch of the teacher's recipe."""
    from trainer.dry_run import check

    if not isinstance(spec.run.teacher, NetworkTeacher) or spec.run.teacher.checkpoint is None:
        return 0.0
    run = RunFile(spec.source, spec.run, teach=spec.teach).teacher_run()
    return float(run.epochs * check(run).flops)


def total_work(members: Sequence[TrainingWork], *, teaching: float) -> TrainingWork:
    """The sum over the members of a series. teaching: of each distinct teacher once."""
    return TrainingWork(
        examples=sum(work.examples for work in members),
        students=(sum(work.students[0] for work in members), sum(work.students[1] for work in members)),
        teacher=sum(work.teacher for work in members),
        teaching=teaching,
        confirmation=sum(work.confirmation for work in members),
    )


def describe_work(work: TrainingWork) -> tuple[str, str]:
    """The same in two lines."""
    parts = [f"students {operations_range(work.students)}"]
    if work.teacher:
        parts.append(f"teacher's passes {format_operations(work.teacher)}, which trials side by side share")
    if work.teaching:
        parts.append(f"teaching {format_operations(work.teaching)}")
    parts.append(f"confirmation at most {format_operations(work.confirmation)}")
    return (
        "; ".join(parts),
        "counted with none pruned and without validation; divide by what a device reaches",
    )


def operations_range(pair: Range) -> str:
    """`1.2 PFLOP to 3.4 PFLOP`, or one of them where they are the same."""
    low, high = format_operations(pair[0]), format_operations(pair[1])
    return low if low == high else f"{low} to {high}"


def format_operations(count: float) -> str:
    """Operations for people: 1.25 PFLOP, 310 TFLOP."""
    unit, name = next(((unit, name) for unit, name in _UNITS if count >= unit), _UNITS[-1])
    return f"{count / unit:.3g} {name}"
