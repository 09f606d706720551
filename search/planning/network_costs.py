"""Parameters and GFLOP of the networks that a study can build, counted on the meta device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, product
from typing import TYPE_CHECKING, NamedTuple

from search.spec.arms import Arm
from search.spec.load import StudySpec
from search.spec.space import Parameter, Scalar
from trainer.config import RunConfig
from trainer.errors import UserError, one_line

if TYPE_CHECKING:
    from trainer.dry_run import Facts

MOST_STRUCTURES = 256
"""Combinations of what decides over the cost that are built for one arm; of a larger space, the first so many."""


@dataclass(frozen=True)
class Cost:
    """One of the networks that an arm may train, with the losses it trains with."""

    arm: str
    params: Mapping[str, Scalar]
    run: RunConfig
    facts: "Facts"

    @property
    def params_m(self) -> float:
        """Parameters of the student that training uses, millions."""
        return self.facts.params / 1e6

    @property
    def gflops(self) -> float:
        """GFLOP of the student's forward pass over one image."""
        return self.facts.flops / 1e9


def costs(spec: StudySpec, *, ranks: int = 1) -> list[Cost]:
    """Every distinct combination of student, teacher, losses and data that the arms may train, built without weights.

    ranks: that train a trial together. Raises UserError in one line for the first that cannot be built or trained: a
    size that the network does not take, a loss that does not find its taps, an unknown encoder or preset.
    """
    every = []
    for arm in spec.arms:
        seen: set[str] = set()
        for params in _structures(arm):
            run = arm.resolve(params)
            key = _structure(run)
            if key not in seen:
                seen.add(key)
                every.append(Cost(arm.name, params, run, _checked(run, arm, params, ranks)))
    return every


def _checked(run: RunConfig, arm: Arm, params: Mapping[str, Scalar], ranks: int) -> "Facts":
    from trainer.dry_run import check

    with _named(arm, params):
        return check(run, ranks=ranks)


@contextmanager
def _named(arm: Arm, params: Mapping[str, Scalar]) -> Iterator[None]:
    """What is wrong with a run, as a mistake in the file, with what was chosen."""
    try:
        yield
    except ValueError as error:
        chosen = f" (with {', '.join(f'{name} = {value}' for name, value in params.items())})" if params else ""
        raise UserError(f"{arm.where}: run.{one_line(error)}{chosen}") from error


def refuse_large_batches(spec: StudySpec, images: int) -> None:
    """Raise UserError in one line where a batch of some arm, at any choice or end of a range, is larger than the
    training part."""
    from trainer.dry_run import refuse_large_batch

    for arm in spec.arms:
        for params in arm.probes():
            sizes = {name: value for name, value in params.items() if arm.parameter(name).path == "batch_size"}
            with _named(arm, sizes):
                refuse_large_batch(arm.resolve(params), images)


def sizing_parameters(arm: Arm) -> list[Parameter]:
    """The parameters that decide over what a student costs."""
    return [p for p in arm.space if p.path.startswith(("student.", "data."))]


def _structures(arm: Arm) -> Iterator[dict[str, Scalar]]:
    """Parameters that show every value, and all combinations of those that decide over the cost."""
    yield from arm.probes()
    yield from map(arm.complete, arm.points)
    values = {p.name: [(p.name, value) for value in p.probes()] for p in sizing_parameters(arm)}
    for world in arm.worlds():
        live = arm.complete(world)
        every = product(*(values[name] for name in values if name in live))
        for combination in islice(every, MOST_STRUCTURES):
            yield arm.complete({**world, **dict(combination)})


def _structure(run: RunConfig) -> str:
    """Equal for runs that build the same networks and losses: numbers that only scale are left out."""
    terms = {name: term.model_dump_json(exclude={"weight", "temperature"}) for name, term in run.live_terms().items()}
    teacher = run.teacher.model_dump_json() if run.teacher and run.methods() else None
    return repr(
        (run.student.model_dump_json(), teacher, run.data.model_dump_json(), run.batch_size, sorted(terms.items()))
    )


def refuse_absent_weights(spec: StudySpec) -> None:
    """Fetch the pretrained weights that students of some arm start from. Raises UserError in one line."""
    from trainer import dry_run

    seen: set[str] = set()
    for arm in spec.arms:
        for params in arm.probes():
            run = arm.resolve(params)
            student = run.student.model_dump_json()
            if student not in seen:
                seen.add(student)
                with _named(arm, {}):
                    dry_run.refuse_absent_weights(run)


class NetworkSize(NamedTuple):
    """What one network costs."""

    params: int
    gflops: float
    """Cost of a forward pass over one image."""

    @property
    def params_m(self) -> float:
        """Parameters in millions."""
        return self.params / 1e6


def student_size(run: RunConfig) -> NetworkSize:
    """The size of a run's student. Raises ValueError where it cannot be built; what was built once is remembered."""
    # What the student costs does not depend on its teacher, and building one takes long.
    bare = run.model_copy(update={"method": "none", "teacher": None, "seed": 0})
    return _student_size(bare.model_dump_json())


@lru_cache(maxsize=1024)
def _student_size(run: str) -> NetworkSize:
    from trainer.dry_run import check

    facts = check(RunConfig.model_validate_json(run))
    return NetworkSize(facts.params, facts.flops / 1e9)


def teacher_size(run: RunConfig) -> NetworkSize:
    """The size of a run's teacher; zeros for one that is no single network of ours. Raises ValueError."""
    from trainer.dry_run import check

    facts = check(run)
    return NetworkSize(facts.teacher_params or 0, (facts.teacher_flops or 0) / 1e9)
