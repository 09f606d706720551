"""Every combination of a finite space once, in an order that is drawn."""

from collections.abc import Mapping
from collections.abc import Sequence as Listing
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.samplers.front import FrontChoice, Point, choice_for
from search.samplers.storage_view import Scalar
from trainer.seeds import derive

CELL = "kd_search:cell"
"""The system attribute of a trial that holds the number of its cell."""


class Cells(BaseSampler):
    """The cells of a grid, each for one trial that does not fail.

    A trial has the cell of its number in the drawn order, unless another trial has that one: then it gets the first
    one that was left out. The cell of a trial that failed is free again. Along a front each turn of the deal has its
    choice, as long as the choice has cells left.

    The cell is chosen from what the database holds, so whoever asks has to be alone in asking: see `StudyAdapter`.
    """

    def __init__(
        self, seed: int, space: Mapping[str, BaseDistribution], cells: Listing[Point], front: FrontChoice | None
    ) -> None:
        if not cells:
            raise ValueError("sampler.name: a grid needs at least one cell")
        self._space = dict(space)
        self._cells = _ordered(cells, seed, front)
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002 - Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """The whole space; what is not live is not asked for."""
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The trial's cell, which is noted before its values are."""
        stored = study._storage.get_all_trials(study._study_id, deepcopy=False)
        given = _given(stored[trial.number])
        number = stored[trial.number].system_attrs.get(CELL)
        if number is None:
            taken = {self._cell_of(t) for t in stored if t.number != trial.number and t.state != TrialState.FAIL}
            number = self._free(trial.number, given, taken)
            if number is None:
                return {}  # a wanted trial that is not on the grid
            study._storage.set_trial_system_attr(trial._trial_id, CELL, number)
        return {name: value for name, value in self._cells[number].items() if name in search_space}

    def _free(self, number: int, given: Point, taken: set[int | None]) -> int | None:
        """The cell of a trial's number if it is free and fits what is given, else the first free one before it, else
        the last one; a cell that others have only where all that fit are taken."""
        fitting = [i for i, cell in enumerate(self._cells) if _holds(cell, given)]
        free = [i for i in fitting if i not in taken]
        if number in free:
            return number
        if free:
            return free[0] if free[0] < number else free[-1]
        return fitting[-1] if fitting else None

    def _cell_of(self, trial: FrozenTrial) -> int | None:
        """The cell that a trial has, or would have as somebody wanted it; None of one that has not chosen yet."""
        if CELL in trial.system_attrs:
            return int(trial.system_attrs[CELL])
        given = _given(trial)
        return next(
            (i for i, cell in enumerate(self._cells) if cell.keys() == given.keys() and _holds(cell, given)), None
        )

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What is left open by a wanted trial that is not on the grid: at random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _given(trial: FrozenTrial) -> dict[str, Scalar]:
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _holds(cell: Point, given: Point) -> bool:
    return all(name in cell and _same(cell[name], value) for name, value in given.items())


def _same(one: Scalar, other: Scalar) -> bool:
    """Equality that keeps true apart from 1, and takes a number for the same after it was stored."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(abs(one), abs(other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _ordered(cells: Listing[Point], seed: int, front: FrontChoice | None) -> list[Point]:
    """The cells in an order that follows from the seed; along a front, those of the dealt choices in turn."""
    drawn = sorted(range(len(cells)), key=lambda i: derive(seed, "grid", i))
    if front is None:
        return [cells[i] for i in drawn]
    left = [[cells[i] for i in drawn if _holds(cells[i], point)] for point in front.points]
    order: list[Point] = []
    for number in range(len(front.points) * max(map(len, left))):
        own = left[front.points.index(choice_for(front, number))]
        if own:
            order.append(own.pop(0))
    return order


def by_number(
    seed: int,
    purpose: tuple[str, ...],  # noqa: ARG001 - arms have grids of their own
    space: Mapping[str, BaseDistribution],
    front: FrontChoice | None,
    cells: Listing[Point],
) -> Cells:
    """The grid of one arm."""
    return Cells(seed, space, cells, front)
