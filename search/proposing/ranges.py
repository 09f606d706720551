"""An arm's parameters as Optuna has them: in which order they are drawn, and from what."""

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from search.spec.arms import Arm
from search.spec.space import Choices, FloatRange, Parameter, Scalar, same


def front_first(arm: Arm) -> list[Parameter]:
    """The front's parameters are drawn first: the sampler's view of the other trials follows from it."""
    return sorted(arm.space, key=lambda p: p.path not in arm.front)


def suggest(trial: Trial, parameter: Parameter) -> Scalar:
    """The trial's value of a parameter: the stored one, the wanted one, or what the sampler draws."""
    if isinstance(parameter, Choices):
        chosen = trial.suggest_categorical(parameter.name, list(parameter.choices))
        return next(choice for choice in parameter.choices if same(choice, chosen))
    if isinstance(parameter, FloatRange):
        return trial.suggest_float(
            parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log
        )
    return trial.suggest_int(parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def distributions(arm: Arm) -> dict[str, BaseDistribution]:
    """The ranges of an arm's parameters by name, as Optuna has them."""
    return {parameter.name: _distribution(parameter) for parameter in arm.space}


def _distribution(parameter: Parameter) -> BaseDistribution:
    """The range that `suggest` draws from."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution(parameter.choices)
    if isinstance(parameter, FloatRange):
        return FloatDistribution(parameter.low, parameter.high, step=parameter.step, log=parameter.log)
    return IntDistribution(parameter.low, parameter.high, step=parameter.step, log=parameter.log)
