"""Gaussian process with a logarithmic expected improvement (Ament et al. 2023, arXiv 2310.20708), joint over the
parameters that every complete trial has."""

from optuna.samplers import GPSampler


def build(seed: int, startup: int) -> GPSampler:
    """Draws at random until `startup` trials are COMPLETE: pruned ones tell it nothing. It keeps away from what runs.

    What it writes of itself is the proposed values, as JSON, so that other workers know them before they are stored as
    parameters. An ask takes 0.1 to 0.5 s up to 200 complete trials and some seconds at 1000.
    """
    return GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
