"""Samplers by the name that a study file gives them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from optuna.samplers import BaseSampler

from search.samplers import tpe, uniform
from search.samplers.front import FrontChoice, Point, choice_for, choice_of
from search.samplers.per_trial import OWN_AFTER, PerTrial
from search.samplers.storage_view import Scalar
from trainer.errors import nearest

__all__ = ["SAMPLERS", "FrontChoice", "Point", "SamplerSettings", "choice_for", "choice_of", "sampler"]

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {"tpe": tpe.build, "random": uniform.build}
"""Name to build(seed, startup, **options), seed in [0, 2**32). The options are its keyword-only parameters."""


@dataclass(frozen=True)
class SamplerSettings:
    """A sampler by name. `startup`: random until so many trials are finished. `options`: keywords of SAMPLERS[name]."""

    name: str
    seed: int
    startup: int = 10
    options: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _known("sampler.name", self.name, SAMPLERS)
        if self.startup < 0:
            raise ValueError(f"sampler.startup: {self.startup} is not at least 0")
        parameters = inspect.signature(SAMPLERS[self.name]).parameters.values()
        options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        for option in self.options:
            _known(f"sampler ({self.name})", option, options)
        SAMPLERS[self.name](
            0, self.startup, **self.options
        )  # an option out of its range is refused here, not at a trial


def sampler(
    settings: SamplerSettings, *, study_purpose: tuple[str, ...] = (), front: FrontChoice | None = None
) -> BaseSampler:
    """The sampler of one arm's study. `study_purpose` sets its draws apart from those of arms with the same seed."""
    build = partial(_build, settings)
    own_after = max(OWN_AFTER, settings.startup)  # fewer would be drawn at random when seen alone
    return PerTrial(build, seed=settings.seed, study_purpose=study_purpose, front=front, own_after=own_after)


def _build(settings: SamplerSettings, seed: int) -> BaseSampler:
    return SAMPLERS[settings.name](seed, settings.startup, **settings.options)


def _known(field_name: str, value: str, known: Mapping[str, object] | list[str]) -> None:
    if value not in known:
        hint = nearest(value, known) if known else "; known: no options"
        raise ValueError(f"{field_name}: unknown {value!r}{hint}")
