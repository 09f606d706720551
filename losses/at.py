"""Attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928, equation 2 with p = 2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.config import At
from losses.labels import widened
from losses.pooling import pool_alike
from losses.term import Loss, Term
from models.output import Output, Taps

FAINT = 1e-3
"""The least root mean square of a student's map that is brought to unit length; a fainter one stays shorter."""


def attention(feature: Tensor, least: float = 0.0) -> Tensor:
    """The mean over channels of the squared map, as a vector of unit length: (N, C, *S) to (N, M).

    least: a map whose root mean square is below it is divided as if it had that. The gradient of a unit length is as of
    one over the map's values, so that it is at most 1 / least times that of a map whose values are about 1.
    """
    energy = widened(feature).square().mean(1).flatten(1)
    return F.normalize(energy, dim=1, eps=max(1e-12, least**2 * energy.shape[1] ** 0.5))


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over space of the squared difference of attention: (N, C, *S) and (N, C', *S') to (N,); 0 to 2 / M.

    Channels may differ; where sizes differ, the larger map is averaged down to the smaller first.
    """
    ours, theirs = pool_alike(widened(student), widened(teacher.detach()))
    return (attention(ours, FAINT) - attention(theirs)).square().mean(1)


class AttentionTransfer(Loss):
    """Mean over images of the sum over taps of `attention_distance`; at least 0.

    The paper takes the length of the difference, its authors' code and this the mean square, which is why usual weights
    are in the thousands. Attention has no label: ignored voxels take part, every image counts.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: At, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self._taps = config.taps

    def student_taps(self) -> frozenset[str]:
        """The taps that the configuration lists."""
        return frozenset(self._taps)

    def teacher_taps(self) -> frozenset[str]:
        """The same taps of the teacher."""
        return frozenset(self._taps)

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over images; every tap (N, C, *S) in both."""
        if teacher is None:
            raise TypeError("at compares with a teacher's output")
        each = [attention_distance(student.taps[tap], teacher.taps[tap]) for tap in self._taps]
        images = target.new_full((), len(target), dtype=torch.float64)
        return Term(torch.stack(each).sum(), images)
