"""Random search (Bergstra and Bengio 2012): uniform over each parameter's range, on a log scale where the range is."""

from optuna.samplers import RandomSampler


def build(seed: int, startup: int) -> RandomSampler:  # noqa: ARG001 - every sampler takes it; this one is all startup
    """Random search."""
    return RandomSampler(seed=seed)
