"""Losses by name. Free of torch until one is built."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from losses.config import Weighted
from models.nearest import nearest

if TYPE_CHECKING:
    from losses.term import Loss, Taps

LOSSES: Mapping[str, str] = {
    "ce": "losses.ce:CrossEntropy",
    "ohem": "losses.ohem:HardCrossEntropy",
    "dice": "losses.dice:Dice",
    "bce-dice": "losses.bce_dice:BceDice",
    "kl": "losses.kl:SoftLabels",
    "cwd": "losses.cwd:ChannelWise",
    "dist": "losses.dist:Relations",
    "at": "losses.at:AttentionTransfer",
    "selfreg": "losses.selfreg:SelfRegularisation",
}
"""Name in a study file -> module:class. A class asks by name for what it needs of `config`, `student` and `classes`."""


def build(name: str, config: Weighted, *, student: "Taps", teacher: "Taps | None", classes: int) -> "Loss":
    """The loss `name` between a student and a teacher with these taps (`tap_channels`; no teacher: None).

    `config.weight` is the caller's to apply. Raises ValueError in one line where the loss cannot work with these
    networks or this number of classes.
    """
    if name not in LOSSES:
        raise ValueError(f"losses.{name}: unknown loss{nearest(name, LOSSES)}")
    module, _, kind = LOSSES[name].partition(":")
    made: type[Loss] = getattr(import_module(module), kind)
    if made.needs_teacher and teacher is None:
        raise ValueError(
            f"losses.{name}: compares with a teacher, and there is none; add [run.teacher] or drop the term"
        )
    offered: dict[str, Any] = {"config": config, "student": student, "classes": classes}
    asked = inspect.signature(made).parameters
    loss = made(**{word: value for word, value in offered.items() if word in asked})
    _check_taps(name, loss, "student", student)
    if made.needs_teacher and teacher is not None:
        _check_taps(name, loss, "teacher", teacher)
    return loss


def _check_taps(name: str, loss: "Loss", role: str, taps: "Taps") -> None:
    for tap in sorted(loss.taps()):
        if tap not in taps:
            raise ValueError(f"losses.{name}.taps: the {role} has no tap {tap!r}{nearest(tap, taps)}")
