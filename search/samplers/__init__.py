"""Samplers by the name that a study file gives them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from search.samplers import cmaes, gp, grid, nsga2, qmc, tpe, uniform
from search.samplers.front import FrontChoice, Point, choice_for, choice_of, given_of, point_of
from search.samplers.open_front import open_choice
from search.samplers.per_trial import FINISHED, OWN_AFTER, Older, PerTrial, view_of
from search.samplers.storage_view import Scalar
from trainer.errors import nearest

__all__ = [
    "PLACES",
    "SAMPLERS",
    "FrontChoice",
    "Older",
    "Point",
    "SamplerSettings",
    "choice_for",
    "choice_of",
    "given_of",
    "open_choice",
    "point_of",
    "sampler",
    "view_of",
]

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": tpe.build,
    "random": uniform.build,
    "gp": gp.build,
    "cmaes": cmaes.build,
    "nsga2": nsga2.build,
}
"""Name to build(seed, startup, **options), seed in [0, 2**32). The options are its keyword-only parameters. Each is
made anew for every trial and draws from what it is shown (`PerTrial`)."""

PLACES: dict[str, Callable[..., BaseSampler]] = {"qmc": qmc.by_number, "grid": grid.by_number}
"""Name to by_number(seed, study_purpose, space, front, cells): samplers that know the whole space and give each trial
the place of its number."""

WARM: dict[str, Callable[..., BaseSampler]] = {"tpe": tpe.warm}
"""Name to warm(seed, startup, weight, **options): samplers that weigh trials of another study against their own."""

_FULL = (TrialState.COMPLETE,)
LEARNS_FROM = {"gp": _FULL, "nsga2": _FULL}
"""By name, the finished trials that tell a sampler something, where pruned ones do not."""
NEVER_OWN = ("cmaes",)
"""Samplers that always see the trials of all choices: their generations go on from one trial to the next."""


@dataclass(frozen=True)
class SamplerSettings:
    """A sampler by name. `startup`: random until so many trials are finished. `options`: keywords of SAMPLERS[name]."""

    name: str
    seed: int
    startup: int = 10
    options: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _known("sampler.name", self.name, {**SAMPLERS, **PLACES})
        if self.startup < 0:
            raise ValueError(f"sampler.startup: {self.startup} is not at least 0")
        build = SAMPLERS.get(self.name)
        parameters = () if build is None else inspect.signature(build).parameters.values()
        options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        for option in self.options:
            _known(f"sampler ({self.name})", option, options)
        if build is not None and self.options:
            build(0, self.startup, **self.options)  # an option out of its range is refused here, not at a trial

    @property
    def own_after(self) -> int | None:
        """Finished trials of a choice from which on they alone guide the next of that choice; None: they never do."""
        if self.name in NEVER_OWN:
            return None
        population = self.options.get("population_size", nsga2.POPULATION) if self.name == "nsga2" else 0
        return max(OWN_AFTER, self.startup, int(population))  # fewer would be drawn at random when seen alone


def sampler(
    settings: SamplerSettings,
    *,
    study_purpose: tuple[str, ...] = (),
    front: FrontChoice | None = None,
    space: Mapping[str, BaseDistribution] | None = None,
    cells: Sequence[Point] = (),
    older: Older | None = None,
) -> BaseSampler:
    """The sampler of one arm's study. `study_purpose` sets its draws apart from those of arms with the same seed.

    space: all parameters by name, and cells: every combination of them, for those in PLACES. older: trials of another
    study that inform it, of a sampler in WARM.
    """
    if settings.name in PLACES:
        if space is None:
            raise ValueError(f"sampler.name: {settings.name!r} needs to know the space")
        return PLACES[settings.name](settings.seed, study_purpose, space, front, cells)
    if older is not None and settings.name not in WARM:
        raise ValueError(f"warm_start: sampler {settings.name!r} takes no trials of another study")
    return PerTrial(
        partial(_build, settings) if older is None else partial(_build_warm, settings, older.weight),
        seed=settings.seed,
        study_purpose=study_purpose,
        front=front,
        own_after=settings.own_after,
        learns_from=LEARNS_FROM.get(settings.name, FINISHED),
        older=older,
    )


def _build(settings: SamplerSettings, seed: int) -> BaseSampler:
    return SAMPLERS[settings.name](seed, settings.startup, **settings.options)


def _build_warm(settings: SamplerSettings, weight: float, seed: int) -> BaseSampler:
    return WARM[settings.name](seed, settings.startup, weight, **settings.options)


def _known(field_name: str, value: str, known: Mapping[str, object] | list[str]) -> None:
    if value not in known:
        hint = nearest(value, known) if known else "; known: no options"
        raise ValueError(f"{field_name}: unknown {value!r}{hint}")
