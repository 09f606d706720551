"""The front, sampler and pruner of an arm, from what its study file says."""

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from search import pruners, samplers
from search.proposing.ranges import distributions
from search.spec.arms import Arm
from search.spec.proposals import cells
from search.spec.strategies import FinishedTrialsRule, PausingConfig


def front_of(arm: Arm) -> samplers.FrontChoice | None:
    """What the trials of an arm are dealt over."""
    return samplers.FrontChoice(arm.points, arm.sampler.seed) if arm.front else None


def sampler_of(arm: Arm, older: samplers.Older | None = None) -> BaseSampler:
    """The sampler of an arm; older: trials of another study that inform it."""
    given = arm.sampler
    options = given.options.model_dump(exclude_defaults=True)
    return samplers.sampler(
        samplers.SamplerSettings(given.name, given.seed, given.startup, options),
        study_purpose=(arm.name,),
        front=front_of(arm),
        space=distributions(arm),
        cells=cells(arm) if given.name == "grid" else (),
        older=older,
    )


def pruner_of(arm: Arm, *, exact: bool) -> BasePruner:
    """The pruner of an arm; exact: whether hyperband has a bracket for each rung (`PrunerSettings`)."""
    given = arm.pruner.model_dump()
    if isinstance(arm.pruner, FinishedTrialsRule):
        given["warmup_epochs"] = arm.pruner.warmup(arm.epochs)
    if isinstance(arm.pruner, PausingConfig):
        given["min_epochs"] = arm.pruner.first_rung(arm.epochs)
        del given["keep_paused"]
    return pruners.pruner(pruners.PrunerSettings(epochs=arm.epochs, exact=exact, **given))
