"""What every loss returns."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from models.output import Output

IGNORE = 255
"""Voxels with this label are left out of every loss and score."""


class Term(NamedTuple):
    """One term over this rank's images, before it is divided.

    The term's value is the sum of `total` over all ranks divided by the sum of `count` over all ranks, so that a run
    means the same on one rank and on eight.
    """

    total: Tensor
    """Scalar with gradient: the sum over this rank's units (voxels, elements or images)."""
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a term
    """Scalar float64 without gradient: how many units that were."""


class Loss(nn.Module):
    """The contract of a loss; losses derive from it. Gradients flow to the student only."""

    needs_teacher: ClassVar[bool] = False

    def taps(self) -> frozenset[str]:
        """The taps that the loss reads from student and teacher."""
        return frozenset()

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Compare the student's output with the target (N, *S) int64, and where `needs_teacher` with the teacher's."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")


Taps = Mapping[str, int]
"""Channels of each tap of a network, as `tap_channels` promises them."""
