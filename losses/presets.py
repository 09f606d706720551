"""Pairs of taps by name: those of ACF-BCKD (Yu et al. 2025, Expert Systems with Applications 262:125670), a set for
each of its two teachers. Free of torch."""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel

Resize = Literal["none", "average", "nearest-teacher", "nearest-student"]
PairsPreset = Literal["acf-bckd-t1", "acf-bckd-t2"]
"""t1: the teacher is a residual U-Net, t2: SegResNet."""
Pair = str | tuple[str, str]


class Reference(NamedTuple):
    """What a preset stands for in one loss."""

    pairs: tuple[tuple[tuple[str, ...], str], ...]
    """Taps of the student, of which the first that it has is taken, and the teacher's."""
    resize: Resize
    residuals: tuple[str, ...] | None = None


def _pairs(*names: tuple[str, str]) -> tuple[tuple[tuple[str, ...], str], ...]:
    return tuple(((ours,), theirs) for ours, theirs in names)


DECODED = ("dec2.conv", "dec1", "dec2")
"""What ACF-BCKD corrects of a student: of the tiny U-Net the convolution of its last stage but one before it is
normalised, of LCOV-Net and Mobile U-Net the last decoder map, of ESPNetV2 the last sum with a skip."""
LEVELS = ("enc2", "enc3", "enc4", "mid", "dec3", "dec2", "logits")
JOINED = "dec2.joined"

PRESETS: Mapping[PairsPreset, Mapping[str, Reference]] = {
    "acf-bckd-t1": {
        "acfd": Reference(((DECODED, "dec2"),), "nearest-student", ("dec2.residual",)),
        "at": Reference(_pairs(*((level, level) for level in LEVELS)), "nearest-teacher"),
        "ifvd": Reference(_pairs(("dec2", "dec2")), "nearest-teacher"),
        "skd-pair": Reference(_pairs((JOINED, JOINED)), "nearest-teacher"),
        "cirkd": Reference(_pairs((JOINED, JOINED)), "nearest-teacher"),
    },
    "acf-bckd-t2": {
        # The published branch is the sum: SegResNet's code adds in place, so that what it recorded was that by then.
        "acfd": Reference(((DECODED, "dec1"),), "nearest-student", ("dec1",)),
        "at": Reference(
            _pairs(*zip(LEVELS, ("enc1", "enc2", "enc3", "mid", "dec3", "dec2", "dec1"), strict=True)),
            "nearest-teacher",
        ),
        "ifvd": Reference(_pairs(("dec2", "dec1")), "nearest-teacher"),
        "skd-pair": Reference(_pairs((JOINED, "dec1")), "nearest-teacher"),
        "cirkd": Reference(_pairs((JOINED, "dec1")), "nearest-teacher"),
    },
}


def reference(name: object, loss: str) -> Reference | None:
    """What a preset stands for in a loss; None where the text is no preset, but a tap."""
    if not (isinstance(name, str) and name in get_args(PairsPreset)):
        return None
    return PRESETS[name]["cirkd" if loss.startswith("cirkd") else loss]  # type: ignore[index]  # it is one of them


def fill(term: BaseModel, loss: str) -> None:
    """Set what a preset in the place of a term's pairs stands for beside them, where the term was not given it."""
    known = reference(getattr(term, "taps", None) or getattr(term, "tap", None), loss)
    for option in ("resize", "residuals") if known is not None else ():
        if option in type(term).model_fields and option not in term.model_fields_set:
            object.__setattr__(term, option, getattr(known, option))


def resolved(pairs: "Pair | tuple[Pair, ...]", loss: str, student: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Pairs [student, teacher], those of a preset with the first of its taps that the student has; where it has none of
    them, the last, so that the message names one."""
    known = reference(pairs, loss)
    if known is not None:
        return tuple(
            (next((tap for tap in taps if tap in student or tap == "logits"), taps[-1]), theirs)
            for taps, theirs in known.pairs
        )
    listed = (pairs,) if isinstance(pairs, str) else pairs
    return tuple((pair, pair) if isinstance(pair, str) else pair for pair in listed)
