"""How the trials of a study are dealt out along its front: the choices of one parameter, or pairs; evenly by number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from optuna.trial import FrozenTrial

from search.samplers.storage_view import Scalar
from trainer.seeds import derive

Point = Mapping[str, Scalar]
"""One choice of a front: a value for each of its parameters that is live there, by the parameter's name."""


@dataclass(frozen=True)
class FrontChoice:
    """What trials are dealt over, in the study file's order, and the study's seed. No point holds another."""

    points: tuple[Point, ...]
    seed: int

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("front.along: has no choices")

    @classmethod
    def along(cls, name: str, choices: Sequence[Scalar], *, seed: int) -> Self:
        """A front over the choices of one parameter."""
        return cls(tuple({name: choice} for choice in choices), seed)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that are dealt, each once."""
        return tuple(dict.fromkeys(name for point in self.points for name in point))


def choice_for(front: FrontChoice, number: int) -> Point:
    """The choice of trial `number` (from 0): element n mod k of a permutation of the k choices drawn for block n div k.

    Each block of k trials has every choice once, whoever asks and whatever became of other trials. Of a front that is
    dealt otherwise (`search.samplers.open_front`) a trial has its choice as parameters before anybody asks.
    """
    return front.points[turns(front, number)[0]]


def choice_of(front: FrontChoice, trial: FrozenTrial) -> Point:
    """The choice that the trial has, or was enqueued with, or will be dealt.

    Of a pair one part may be given: then the next in its block's permutation that has this part.
    """
    given = given_of(front, trial)
    return next(
        (front.points[place] for place in turns(front, trial.number) if fits(front.points[place], given)),
        given or choice_for(front, trial.number),
    )


def given_of(front: FrontChoice, trial: FrozenTrial) -> dict[str, Any]:
    """The front's parameters that the trial has, or was enqueued with."""
    fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    return {name: value for name, value in {**fixed, **trial.params}.items() if name in front.names}


def point_of(front: FrontChoice, trial: FrozenTrial) -> Point | None:
    """The choice that the trial has, or was enqueued with, in all its parts; None while a part is open."""
    given = given_of(front, trial)
    return next((point for point in front.points if fits(given, point) and fits(point, given)), None)


def fits(point: Point, given: Mapping[str, Any]) -> bool:
    """Whether a choice has all of these parameters, with these values."""
    return all(name in point and _same(point[name], value) for name, value in given.items())


def _same(one: Scalar, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def turns(front: FrontChoice, number: int) -> list[int]:
    """The permutation of a trial's block, as places in `front.points`, rotated to begin with the trial's own turn."""
    block, place = divmod(number, len(front.points))
    # Sorted by hash: a permutation that no library's version can change.
    order = sorted(range(len(front.points)), key=lambda index: derive(front.seed, "front", block, index))
    return [*order[place:], *order[:place]]
