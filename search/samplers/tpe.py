"""Tree-structured Parzen estimator (Bergstra et al. 2011), joint over each group of parameters that occur together."""

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler


def build(seed: int, startup: int, *, n_ei_candidates: int = 24) -> TPESampler:
    """TPE that draws at random until `startup` trials are finished and keeps away from what runs (constant liar)."""
    if n_ei_candidates < 1:
        raise ValueError(f"sampler.n_ei_candidates: {n_ei_candidates} is not at least 1")
    with warnings.catch_warnings():
        # `group` is experimental since 2021; without it conditional parameters are drawn one by one.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            seed=seed,
            n_startup_trials=startup,
            n_ei_candidates=n_ei_candidates,
            multivariate=True,
            group=True,
            constant_liar=True,
        )
