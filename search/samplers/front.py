"""How the trials of a study are dealt out along its front: evenly over the choices of one parameter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from search.samplers.storage_view import Scalar
from trainer.seeds import derive


@dataclass(frozen=True)
class FrontChoice:
    """The parameter `path` that the front goes along, its choices in the study file's order, and the study's seed."""

    path: str
    choices: tuple[Scalar, ...]
    seed: int

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError(f"front.along: {self.path!r} has no choices")


def choice_for(front: FrontChoice, number: int) -> Scalar:
    """The choice of trial `number` (from 0): element n mod k of a permutation of the k choices drawn for block n div k.

    Each block of k trials has every choice once, whoever asks and whatever became of other trials.
    """
    block, place = divmod(number, len(front.choices))
    # Sorted by hash: a permutation that no library's version can change.
    order = sorted(range(len(front.choices)), key=lambda index: derive(front.seed, "front", block, index))
    return front.choices[order[place]]


def choice_of(front: FrontChoice, trial: FrozenTrial) -> Scalar:
    """The choice that the trial has, or was enqueued with, or will be dealt."""
    fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    for given in (trial.params, fixed):
        if front.path in given:
            choice: Scalar = given[front.path]
            return choice
    return choice_for(front, trial.number)
