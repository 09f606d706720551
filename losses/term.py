"""What every loss returns."""

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from losses.config import Weighted
from models.output import Output, Taps

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
    """The contract of a loss; losses derive from it. Gradients flow to the student only.

    config: the loss's options. student, teacher: the taps that the two networks have; None without a teacher. classes:
    channels of the logits. regions: whether the target is one mask a channel, which may overlap, in place of one label
    a voxel. dims: axes of space, 2 for images and 3 for volumes. Every loss has this constructor, so that
    `losses.build` needs to know none of them.
    """

    needs_teacher: ClassVar[bool] = False
    handles_regions: ClassVar[bool] = False
    """Whether it works where `regions` is true."""
    handles_dims: ClassVar[frozenset[int]] = frozenset({2, 3})
    offer_size: int = 0
    """How many numbers `offer` returns; 0: it has no memory that the ranks share."""
    reads_heads: ClassVar[bool] = False
    """Whether it reads the student's `heads`."""

    def __init__(
        self,
        config: Weighted,  # noqa: ARG002 - a loss without options reads none of them
        *,
        student: Taps,  # noqa: ARG002
        teacher: Taps | None,  # noqa: ARG002
        classes: int,  # noqa: ARG002
        regions: bool,  # noqa: ARG002
        dims: int,  # noqa: ARG002
    ) -> None:
        super().__init__()

    def student_taps(self) -> frozenset[str]:
        """The student's taps that the loss reads."""
        return frozenset()

    def teacher_taps(self) -> frozenset[str]:
        """The teacher's taps that the loss reads."""
        return frozenset()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """The run's epoch `epoch` (1 to `epochs`) begins; called before its first step, also after a resume.

        A loss that changes over the run reads here, and only here, how far the run is.
        """

    def offer(self) -> Tensor | None:
        """What this rank's newest step adds to a memory that is equal on all ranks, (offer_size,); None for nothing.

        Called once after each step's forward pass, where `offer_size` is above 0.
        """
        return None

    def absorb(self, gathered: Tensor) -> None:
        """Take into memory what all ranks offered, (ranks, offer_size), with zeros of a rank that had nothing.

        Memory lies in buffers: they are in the checkpoint, and are equal on all ranks.
        """

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Compare the student's output with the target, and where `needs_teacher` with the teacher's.

        target: labels (N, *S) int64; with regions (N, regions, *S) uint8, 1 inside and 0 outside.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward")


def taught(teacher: Output | None) -> Output:
    """The output of a teacher that has to be there. Raises TypeError where it is not."""
    if teacher is None:
        raise TypeError("the loss compares with a teacher's output, and got none")
    return teacher
