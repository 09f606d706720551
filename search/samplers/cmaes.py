"""Covariance matrix adaptation (Hansen 2016, arXiv 1604.00772) whose state is computed anew from the stored trials."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

STATE = "kd_search:cmaes"
"""The system attribute of a proposed trial: `{"generation": 2, "parents": [9, 14, ...]}`. `parents` are the numbers of
the trials of the generation before, the best first, by which the distribution was updated."""
SIGMA = 0.3
"""The first step, in shares of a range (Hansen 2016, appendix A)."""
LEAST = 2
"""Numbers that there have to be."""
SMALLEST = 4
"""Of a population: with fewer the covariance has no rank-mu update."""


def build(seed: int, startup: int, *, population_size: int | None = None) -> BaseSampler:  # noqa: ARG001 - as every one
    """CMA-ES over the numbers that all trials share; `population_size` None: 4 + floor(3 ln n) (equation 48)."""
    if population_size is not None and population_size < SMALLEST:
        raise ValueError(f"sampler.population_size: {population_size} is not at least {SMALLEST}")
    return Adaptation(seed, population_size)


def population(numbers: int) -> int:
    """Trials of a generation for so many numbers, where a file says nothing."""
    return 4 + int(3 * np.log(numbers))


class Adaptation(BaseSampler):
    """A sampler without a state of its own: each proposal repeats the updates of the generations before.

    Trials of the first generation are uniform. A generation is over when as many trials as a population has are
    COMPLETE; which ones these were, and in which order, stands as numbers in the attributes of the trials that
    were proposed from them, so that every worker comes to the same distribution, whatever ends late. Optuna's own
    sampler keeps a pickled object in the database, and opens it there: who can write to the database could run
    code in the workers.
    """

    def __init__(self, seed: int, population_size: int | None) -> None:
        self._seed = seed
        self._population_size = population_size
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 - Optuna's signature
    ) -> dict[str, BaseDistribution]:
        """The numbers that all complete trials share."""
        shared = intersection_search_space(study.get_trials(deepcopy=False))
        return {
            name: distribution
            for name, distribution in shared.items()
            if not distribution.single() and not isinstance(distribution, CategoricalDistribution)
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A draw from the distribution of the newest generation; nothing in the first one."""
        if len(search_space) < LEAST:
            return {}
        size = self._population_size or population(len(search_space))
        seen = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        generation, parents = _newest(seen, search_space, size, study.direction)
        if generation == 0:
            return {}
        study._storage.set_trial_system_attr(trial._trial_id, STATE, {"generation": generation, "parents": parents})
        transform = _SearchSpaceTransform(search_space, transform_0_1=True)
        optimizer = self._first(len(transform.bounds), size)
        by_number = {t.number: t for t in seen}
        for numbers in [*_former(seen, generation), parents]:
            present = [by_number[number] for number in numbers if number in by_number]
            if len(present) == size and all(search_space.keys() <= t.params.keys() for t in present):
                points = [transform.transform({name: t.params[name] for name in search_space}) for t in present]
                optimizer.tell([(point, float(rank)) for rank, point in enumerate(points)])
        return transform.untransform(optimizer.ask())

    def _first(self, numbers: int, size: int) -> Any:
        from cmaes import CMA  # nobody else needs it

        bounds = np.array([[0.0, 1.0]] * numbers)
        return CMA(np.full(numbers, 0.5), SIGMA, bounds=bounds, seed=self._seed, population_size=size)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Uniform: the first generation, and what is no number."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _newest(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], size: int, direction: StudyDirection
) -> tuple[int, list[int]]:
    """The generation that a new trial belongs to, and the numbers of its parents, the best first."""
    newest = max((_generation(t) for t in trials), default=0)
    done = [t for t in trials if t.state == TrialState.COMPLETE and _generation(t) == newest]
    done = [t for t in done if space.keys() <= t.params.keys()]
    if len(done) < size:
        return newest, _parents(trials, newest)
    # Those that ended first: one that ends later changes nothing any more.
    done = sorted(done, key=lambda t: (t.datetime_complete is None, t.datetime_complete, t.number))[:size]
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
    return newest + 1, [t.number for t in sorted(done, key=lambda t: (sign * t.values[0], t.number))]


def _former(trials: Sequence[FrozenTrial], generation: int) -> list[list[int]]:
    """The parents of the generations before, from the first update on."""
    return [_parents(trials, before) for before in range(1, generation)]


def _parents(trials: Sequence[FrozenTrial], generation: int) -> list[int]:
    """The parents of a generation, as its first trial has them."""
    of_it = (t for t in trials if _generation(t) == generation and STATE in t.system_attrs)
    first = min(of_it, key=lambda t: t.number, default=None)
    return [] if first is None else [int(number) for number in first.system_attrs[STATE]["parents"]]


def _generation(trial: FrozenTrial) -> int:
    return int(trial.system_attrs.get(STATE, {}).get("generation", 0))
