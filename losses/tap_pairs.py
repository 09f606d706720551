"""Pairs of feature maps, one of the student and one of its teacher, brought to one size and one number of channels.

Nothing is ever broadcast: maps that differ are brought together by what the configuration names, or refused.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from losses.config import TapPair
from losses.labels import widened
from losses.pooling import nearest_to, pool_alike
from losses.presets import Resize, resolved
from models.nearest import nearest
from models.output import Output, Tap, Taps

LOGITS = "logits"
"""Stands for a network's logits where a tap is named."""
FAINT = 1e-3
"""The least root mean square of a student's features that is brought to unit length; fainter ones stay shorter."""


class TapPairs:
    """The pairs that a loss compares.

    Raises ValueError in one line where a network lacks a tap, where sizes differ and `resize` is "none", and where
    channels differ and `alike` says that they may not.
    """

    def __init__(
        self,
        loss: str,
        pairs: str | Sequence[TapPair],
        resize: Resize,
        *,
        student: Taps,
        teacher: Taps | None,
        classes: int,
        alike: bool = False,
    ) -> None:
        self.names = resolved(pairs if isinstance(pairs, str) else tuple(pairs), loss, student)
        self.resize = resize
        places = [
            (_tap(loss, "student", ours, student, classes), _tap(loss, "teacher", theirs, teacher or {}, classes))
            for ours, theirs in self.names
        ]
        self.channels = [(ours.channels, theirs.channels) for ours, theirs in places]
        for (name, other), (ours, theirs) in zip(self.names, places, strict=True):
            between = f"losses.{loss}.taps: {name!r} of the student and {other!r} of the teacher"
            if ours.stride != theirs.stride and resize == "none":
                raise ValueError(
                    f"{between} have strides {ours.stride} and {theirs.stride}; set resize to average, nearest-teacher "
                    "or nearest-student, or pair taps of one stride"
                )
            if alike and ours.channels != theirs.channels:
                raise ValueError(
                    f"{between} have {ours.channels} and {theirs.channels} channels; set adapter = 'conv', or pair "
                    "taps with as many"
                )

    def student_taps(self) -> frozenset[str]:
        """The student's taps among them."""
        return frozenset(ours for ours, _ in self.names) - {LOGITS}

    def teacher_taps(self) -> frozenset[str]:
        """The teacher's taps among them."""
        return frozenset(theirs for _, theirs in self.names) - {LOGITS}

    def given(self, student: Output, teacher: Output) -> Iterator[tuple[Tensor, Tensor]]:
        """Both maps of each pair as they are, float32 at least; the teacher's without gradient."""
        for ours, theirs in self.names:
            yield widened(read(student, ours)), widened(read(teacher, theirs).detach())

    def maps(self, student: Output, teacher: Output) -> Iterator[tuple[Tensor, Tensor]]:
        """The same in one size of space. Raises ValueError where sizes differ after all."""
        for ours, theirs in self.given(student, teacher):
            yield sized_alike(ours, theirs, self.resize)


def _tap(loss: str, role: str, name: str, taps: Taps, classes: int) -> Tap:
    if name == LOGITS:
        return Tap(classes, 1)
    if name not in taps:
        raise ValueError(f"losses.{loss}.taps: the {role} has no tap {name!r}{nearest(name, taps)}")
    return taps[name]


def read(output: Output, tap: str) -> Tensor:
    """The map of that name, (N, C, *S)."""
    return output.logits if tap == LOGITS else output.taps[tap]


def sized_alike(student: Tensor, teacher: Tensor, resize: Resize) -> tuple[Tensor, Tensor]:
    """Both maps in one size of space. Raises ValueError where sizes differ and `resize` is "none"."""
    ours, theirs = student.shape[2:], teacher.shape[2:]
    if ours == theirs:
        return student, teacher
    if resize == "average":
        return pool_alike(student, teacher)
    if resize == "nearest-teacher":
        return student, nearest_to(teacher, ours)
    if resize == "nearest-student":
        return nearest_to(student, theirs), teacher
    raise ValueError(f"resize = none: maps of {tuple(ours)} and {tuple(theirs)} are to be compared")


def directions(x: Tensor, dim: int, least: float = 0.0) -> Tensor:
    """x divided by its length along a dimension. least: a root mean square below it is taken for it, so that the
    gradient is at most 1 / least times that of values of about 1."""
    floor = max(1e-12, least * x.shape[dim] ** 0.5)
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp(min=floor)
    return unit


def pointwise(dims: int, channels: int, out: int) -> nn.Module:
    """A learned 1x1 convolution with bias over that many axes of space."""
    kind: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv2d if dims == 2 else nn.Conv3d
    return kind(channels, out, 1)
