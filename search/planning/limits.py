"""The [limits] of a study: which students break them, and which choices can never keep them. Imports torch when needed.

The time of a student is looked up in the table that `latency_ms` names.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice, product

from search.planning.network_costs import Cost, sizing_parameters, student_size
from search.spec.arms import Arm
from search.spec.config import Latency, Limits
from search.spec.front import Point, choice_shown
from search.spec.load import StudySpec
from search.spec.space import Choices, IntRange, Parameter, Scalar
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.profiling import latency_table


def breach(limits: Limits) -> Callable[[RunConfig], str | None]:
    """A function that says which limit a run breaks, in words; None where it keeps them all."""

    def broken(run: RunConfig) -> str | None:
        if limits == Limits():
            return None
        size = student_size(run)
        return _broken(limits, size.params_m, size.gflops, run)

    return broken


def _broken(limits: Limits, params_m: float, gflops: float, run: RunConfig) -> str | None:
    broken = []
    if limits.params_m is not None and params_m > limits.params_m:
        broken.append(f"{params_m:.3g} M parameters of at most {limits.params_m:g} M")
    if limits.gflops is not None and gflops > limits.gflops:
        broken.append(f"{gflops:.3g} GFLOP of at most {limits.gflops:g}")
    if limits.latency_ms is not None and (time := milliseconds(limits.latency_ms, run)) > limits.latency_ms.max:
        broken.append(f"{time:.3g} ms of at most {limits.latency_ms.max:g} ms")
    return ", ".join(broken) or None


def verdict(limits: Limits, cost: Cost) -> str | None:
    """The limit that a network breaks, in words; None where it keeps them all."""
    return _broken(limits, cost.params_m, cost.gflops, cost.run)


def refuse_hopeless(spec: StudySpec, costs: list[Cost]) -> None:
    """Raise UserError for an arm, or a choice in its space, with which no network keeps the limits, and for a network
    whose time is bounded and was not measured."""
    refuse_unmeasured(spec)
    for arm in spec.arms:
        of_arm = [cost for cost in costs if cost.arm == arm.name]
        if all(verdict(spec.limits, cost) for cost in of_arm):
            raise UserError(
                f"{arm.where}: limits: every network is beyond them, the smallest has "
                f"{_least(spec.limits, of_arm)}; raise them"
            )
        for parameter in (p for p in sizing_parameters(arm) if isinstance(p, Choices)):
            for value in parameter.choices:
                _refuse_choice(spec, arm, {parameter.name: value}, f"space.{parameter.name}.choices: {value!r}", of_arm)
        if len(arm.front) > 1:
            for point in arm.points:
                _refuse_choice(spec, arm, point, f"front.along: {choice_shown(list(point.values()))}", of_arm)


def _refuse_choice(spec: StudySpec, arm: Arm, wanted: Point, what: str, of_arm: list[Cost]) -> None:
    with_it = [cost for cost in of_arm if all(cost.params.get(name) == value for name, value in wanted.items())]
    if with_it and all(verdict(spec.limits, cost) for cost in with_it):
        raise UserError(
            f"{arm.where}: {what} breaks the limits with {_least(spec.limits, with_it)}; remove it or raise the limit"
        )


def _least(limits: Limits, costs: list[Cost]) -> str:
    smallest = min(costs, key=lambda cost: (cost.params_m, cost.gflops))
    return str(verdict(limits, smallest))


MOST_SIZES = 256
"""Networks that a table may have to hold for one arm."""


def milliseconds(bound: Latency, run: RunConfig) -> float:
    """What the table says of one picture through a run's student.

    The table is read once a process. Raises UserError where it cannot be read, or does not say it.
    """
    what = (run.student.name, latency_table.options_of(run.student), run.data.size)
    return latency_table.looked_up(_rows(bound.table), what, f"limits.latency_ms.table = {bound.table!r}")


@lru_cache(maxsize=8)
def _rows(table: str) -> tuple[latency_table.Row, ...]:
    return tuple(latency_table.read(latency_table.located(table)))


def networks(spec: StudySpec) -> list[RunConfig]:
    """A run for every student at every size that the arms may train, each once.

    Raises UserError for an arm with more than MOST_SIZES of them: no table holds a range without gaps.
    """
    runs: dict[tuple[str, str, int], RunConfig] = {}
    for arm in spec.arms:
        for params in _shapes(arm):
            run = arm.resolve(params)
            runs.setdefault((run.student.name, latency_table.options_of(run.student), run.data.size), run)
    return list(runs.values())


def refuse_unmeasured(spec: StudySpec) -> None:
    """Raise UserError where the study has a bound on the time and its table lacks a network of the space."""
    if spec.limits.latency_ms is not None:
        for run in networks(spec):
            milliseconds(spec.limits.latency_ms, run)


def _shapes(arm: Arm) -> Iterator[dict[str, Scalar]]:
    shaping = [p for p in arm.space if p.path.startswith("student.") or p.path == "data.size"]
    values = {p.name: [(p.name, value) for value in _values(p)] for p in shaping}
    for world in arm.worlds():
        live = arm.complete(world)
        every = list(islice(product(*(values[name] for name in values if name in live)), MOST_SIZES + 1))
        if len(every) > MOST_SIZES:
            raise UserError(
                f"{arm.where}: more than {MOST_SIZES} networks to measure; give student's parameters a step or choices"
            )
        for combination in every:
            yield arm.complete({**world, **dict(combination)})


def _values(parameter: Parameter) -> tuple[Scalar, ...]:
    if isinstance(parameter, IntRange):
        return tuple(range(parameter.low, parameter.high + 1, parameter.step))
    return parameter.probes()
