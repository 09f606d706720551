"""Genetic algorithm with an elite (NSGA-II of Deb et al. 2002, which with one objective ranks by the score)."""

from optuna.samplers import NSGAIISampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

POPULATION = 20
"""Complete trials of a generation where a file says nothing; Optuna's own 50 would be random in most budgets."""


def build(seed: int, startup: int, *, population_size: int = POPULATION) -> NSGAIISampler:  # noqa: ARG001 - as every one
    """Draws at random until `population_size` trials are COMPLETE, then crosses the best of former generations."""
    if population_size < 2:
        raise ValueError(f"sampler.population_size: {population_size} is not at least 2")
    return Generations(seed=seed, population_size=population_size)


class Generations(NSGAIISampler):
    """NSGA-II whose parents follow from the trials that it is shown.

    Optuna keeps the parents of a generation in an attribute of the study, for whoever asks first. Here different trials
    see different parts of a study (`PerTrial`), and a trial that is late may still be among the best.
    """

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The best trials of the generations before this one; trials that another sampler proposed are before all."""
        if generation == 0:
            return []
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        before = [t for t in complete if t.system_attrs.get(self._get_generation_key(), -1) < generation]
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        return sorted(before, key=lambda t: (sign * t.values[0], t.number))[: self.population_size]
