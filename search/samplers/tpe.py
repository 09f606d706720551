"""Tree-structured Parzen estimator (Bergstra et al. 2011), joint over each group of parameters that occur together."""

import warnings
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


def build(seed: int, startup: int, *, n_ei_candidates: int = 24) -> TPESampler:
    """TPE that draws at random until `startup` trials are finished and keeps away from what runs (constant liar)."""
    made: TPESampler = _made(TPESampler, seed, startup, n_ei_candidates)
    return made


def warm(seed: int, startup: int, weight: float, *, n_ei_candidates: int = 24) -> TPESampler:
    """The same, where some of the trials that it is shown are of another study: those with a number below 0.

    Each counts as `weight` of an own one in the two densities, as the likelihood of historical data is raised to a
    power in [0, 1] (Ibrahim and Chen 2000, power priors), and less with every own trial that is finished:
    weight / (1 + own / startup). So what the other study got wrong is outweighed by what this one sees.
    """
    sampler: Weighed = _made(Weighed, seed, startup, n_ei_candidates)
    sampler.weight, sampler.startup = weight, max(1, startup)
    return sampler


class Weighed(TPESampler):
    """TPE with a weight for trials of another study."""

    weight = 1.0
    startup = 10

    def _build_parzen_estimator(
        self, study: Study, search_space: dict[str, BaseDistribution], trials: list[FrozenTrial], handle_below: bool
    ) -> _ParzenEstimator:
        if not any(trial.number < 0 for trial in trials):
            return super()._build_parzen_estimator(study, search_space, trials, handle_below)
        present = [t for t in trials if search_space.keys() <= self._get_params(t, study).keys()]
        finished = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED), use_cache=False)
        own = sum(trial.number >= 0 for trial in finished)
        older = np.array([trial.number < 0 for trial in present], dtype=bool)
        weights = np.full(len(present), self.weight / (1.0 + own / self.startup))
        weights[~older] = self._parzen_estimator_parameters.weights(int((~older).sum()))
        observations = self._get_internal_repr(present, search_space, study)
        return self._parzen_estimator_cls(observations, search_space, self._parzen_estimator_parameters, weights)


def _made(kind: Any, seed: int, startup: int, n_ei_candidates: int) -> Any:
    if n_ei_candidates < 1:
        raise ValueError(f"sampler.n_ei_candidates: {n_ei_candidates} is not at least 1")
    with warnings.catch_warnings():
        # `group` is experimental since 2021; without it conditional parameters are drawn one by one.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return kind(
            seed=seed,
            n_startup_trials=startup,
            n_ei_candidates=n_ei_candidates,
            multivariate=True,
            group=True,
            constant_liar=True,
        )
