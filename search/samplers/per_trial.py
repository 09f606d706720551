"""A sampler made anew for every trial and seeded by its number, which sees trials within their choice of the front."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.samplers.front import FrontChoice, choice_of, turns
from search.samplers.storage_view import Change, everything, quantiles_within, same_choice, study_through
from trainer.seeds import derive

OWN_AFTER = 10
"""Finished trials of a choice from which on they alone may guide the next trial of that choice."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The trials that count as finished, unless a sampler learns from COMPLETE ones alone."""


@dataclass(frozen=True)
class Older:
    """Finished trials of another study, in this one's parameters, which inform the sampler and nobody else."""

    trials: tuple[FrozenTrial, ...]
    """Numbered from below 0 up to -1; their values are quantiles, in the direction of this study."""
    weight: float
    """What each counts beside a trial of this study before there are any."""


def view_of(front: FrontChoice | None, number: int) -> tuple[int, bool]:
    """What, beside the others themselves, decides how a trial of this number sees them: its place along the front, and
    whether its block is a second one (without a front: whether its number is odd)."""
    if front is None:
        return 0, number % 2 == 1
    return turns(front, number)[0], number // len(front.points) % 2 == 1


class PerTrial(BaseSampler):
    """Wraps the samplers that `build(seed)` makes; one instance a study.

    Two workers with the same seed never draw the same: every draw is seeded by the trial's number, parameters that
    are drawn one by one by their name as well. The same number with the same history gives the same parameters again.
    Nothing is kept from one call to the next but between `infer_relative_search_space` and `sample_relative` of one
    trial, so several trials may be asked for in any order.

    With a front, its parameters are dealt out (`choice_for`) and the inner sampler sees a view: in every second block
    of k trials only the trials of the same choice, once `own_after` of them are in a state of `learns_from`, else all
    trials with their values as quantiles within their choice. `own_after` None: always all.

    With `older` trials of another study, they stand before the own ones in every first block, or without a front for
    every trial of an even number; the own values are quantiles there, too, since scores on other data are not to be
    compared and ranks are. The other half of the trials sees none of them, so that where the other study misleads, a
    search of half the budget goes on beside it (`benchmarks/RESULTS.md`, an older study).

    The study must not carry a Hyperband pruner, with which Optuna hides most trials from any sampler.
    """

    def __init__(
        self,
        build: Callable[[int], BaseSampler],
        *,
        seed: int,
        study_purpose: tuple[str, ...] = (),
        front: FrontChoice | None = None,
        own_after: int | None = OWN_AFTER,
        learns_from: Collection[TrialState] = FINISHED,
        older: Older | None = None,
    ) -> None:
        self._build = build
        self._seed = seed
        self._study_purpose = study_purpose
        self._front = front
        self._own_after = own_after
        self._learns_from = learns_from
        self._older = older
        self._begun: dict[int, tuple[BaseSampler, Study]] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What the inner sampler draws jointly; never the front's parameters."""
        inner, seen = self._inner(trial), self._seen(study, trial)
        self._begun[trial.number] = (inner, seen)
        space = inner.infer_relative_search_space(seen, trial)
        if self._front is not None:
            for name in self._front.names:
                space.pop(name, None)
        return space

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002 - Optuna's signature; the draw keeps to what its search space was inferred from
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The joint draw, by the sampler that inferred the space."""
        inner, seen = self._begun.pop(trial.number)
        return inner.sample_relative(seen, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The dealt value for the front's parameters, a draw of its own for any other."""
        if self._front is not None and param_name in self._front.names:
            return choice_of(self._front, trial)[param_name]
        inner = self._inner(trial, param_name)
        return inner.sample_independent(self._seen(study, trial), trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Nothing: Optuna asks for it so that threads draw differently, and here no two trials draw the same."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Passed on to a sampler of this trial."""
        self._inner(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Passed on to a sampler of this trial."""
        self._inner(trial).after_trial(study, trial, state, values)

    def _inner(self, trial: FrozenTrial, *purpose: str) -> BaseSampler:
        return self._build(derive(self._seed, *self._study_purpose, trial.number, *purpose) % 2**32)

    def _seen(self, study: Study, trial: FrozenTrial) -> Study:
        if self._front is not None:
            change = self._within(self._front, trial)
        elif self._older is not None and not view_of(None, trial.number)[1]:
            change = self._behind_older(quantiles_within())
        else:
            change = everything
        return study_through(study, change, once=True)

    def _within(self, front: FrontChoice, trial: FrozenTrial) -> Change:
        least = self._own_after
        _, second_block = view_of(front, trial.number)
        own_choice = same_choice(choice_of(front, trial))
        all_ranked = quantiles_within(*front.names)

        def change(trials: list[FrozenTrial]) -> list[FrozenTrial]:
            if not second_block:
                return self._behind_older(all_ranked)(trials)
            own = own_choice(trials)
            finished = sum(t.state in self._learns_from for t in own)
            return own if least is not None and finished >= least else all_ranked(trials)

        return change

    def _behind_older(self, ranked: Change) -> Change:
        """The own trials, ranked, behind those of the other study if there are any."""
        older = () if self._older is None else self._older.trials
        return lambda trials: [*older, *ranked(trials)]
