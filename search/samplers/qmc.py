"""Quasi-random search: a scrambled Sobol sequence (Owen 1998; Bergstra and Bengio 2012, section 2.4)."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.samplers.front import FrontChoice, Point, choice_for, choice_of
from search.samplers.storage_view import Scalar
from trainer.seeds import derive


class SobolPoints(BaseSampler):
    """The point of a trial follows from its number alone, so that no two workers propose the same one.

    Each parameter of the space has a coordinate of its own, also where conditions leave it out of a trial. Along a
    front each choice has a sequence of its own, whose points are those of its turns; a trial that somebody gave another
    choice than the dealt one is a point of one more sequence. The point of a trial that fails is not repeated.

    Optuna's sampler counts in an attribute of the study, where two workers may read the same number, takes its space
    from the first trial, and begins with the lower corner.
    """

    def __init__(
        self, seed: int, purpose: tuple[str, ...], space: Mapping[str, BaseDistribution], front: FrontChoice | None
    ) -> None:
        self._seed = seed
        self._purpose = purpose
        self._space = dict(space)
        self._front = front

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002 - Optuna's signature, as below
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """The whole space; what is not live is not asked for."""
        return dict(self._space)

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The point of this trial's number."""
        dealt: Point = {} if self._front is None else choice_of(self._front, trial)
        names = [name for name in self._space if self._front is None or name not in self._front.names]
        values = {name: at(self._space[name], u) for name, u in zip(names, self._unit(trial, len(names)), strict=True)}
        return {name: value for name, value in {**values, **dealt}.items() if name in search_space}

    def _unit(self, trial: FrozenTrial, coordinates: int) -> list[float]:
        from scipy.stats import qmc  # takes half a second

        if not coordinates:
            return []
        sequence, index = self._place(trial)
        engine = qmc.Sobol(coordinates, scramble=True, seed=derive(self._seed, *self._purpose, "qmc", sequence))
        if index:
            engine.fast_forward(index)
        return [float(u) for u in engine.random(1)[0]]

    def _place(self, trial: FrozenTrial) -> tuple[int, int]:
        """The sequence and the place in it."""
        if self._front is None:
            return 0, trial.number
        dealt = choice_for(self._front, trial.number)
        if choice_of(self._front, trial) != dealt:
            return len(self._front.points), trial.number
        return self._front.points.index(dealt), trial.number // len(self._front.points)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of the trial's point."""
        return self.sample_relative(study, trial, {param_name: param_distribution})[param_name]


def at(distribution: BaseDistribution, u: float) -> Scalar:
    """The value of a range at u in [0, 1): choices and steps have equal shares, logarithms are spread evenly."""
    if isinstance(distribution, CategoricalDistribution):
        return cast(
            Scalar, distribution.choices[min(int(u * len(distribution.choices)), len(distribution.choices) - 1)]
        )
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise TypeError(f"{distribution!r} is no range")
    low, high = distribution.low, distribution.high
    if distribution.log:
        half = 0.5 if isinstance(distribution, IntDistribution) else 0.0
        first, last = math.log(low - half), math.log(high + half)
        value = min(max(math.exp(first + u * (last - first)), low), high)
        return round(value) if half else value
    if distribution.step is None:
        return min(low + u * (high - low), high)
    start, step = Decimal(str(low)), Decimal(str(distribution.step))
    count = int((Decimal(str(high)) - start) / step) + 1
    chosen = start + min(int(u * count), count - 1) * step
    return int(chosen) if isinstance(distribution, IntDistribution) else float(chosen)


def by_number(
    seed: int,
    purpose: tuple[str, ...],
    space: Mapping[str, BaseDistribution],
    front: FrontChoice | None,
    cells: object,  # noqa: ARG001 - another one's
) -> SobolPoints:
    """The sequence of one arm."""
    return SobolPoints(seed, purpose, space, front)
