"""The measured time of a student, from the table that [limits] latency_ms names. Free of torch."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, product

from search.spec.arms import Arm
from search.spec.config import Latency
from search.spec.load import StudySpec
from search.spec.space import IntRange, Parameter, Scalar
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.profiling import latency_table

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
    found: dict[tuple[str, str, int], RunConfig] = {}
    for arm in spec.arms:
        for params in _shapes(arm):
            run = arm.resolve(params)
            found.setdefault((run.student.name, latency_table.options_of(run.student), run.data.size), run)
    return list(found.values())


def refuse_unmeasured(spec: StudySpec) -> None:
    """Raise UserError where the study has a bound on the time and its table lacks a network of the space."""
    if spec.limits.latency_ms is not None:
        for run in networks(spec):
            milliseconds(spec.limits.latency_ms, run)


def _shapes(arm: Arm) -> Iterator[dict[str, Scalar]]:
    shaping = [p for p in arm.space if p.path.startswith("student.") or p.path == "data.size"]
    values = [[(p.name, value) for value in _values(p)] for p in shaping]
    for world in arm.worlds():
        every = list(islice(product(*values), MOST_SIZES + 1))
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
