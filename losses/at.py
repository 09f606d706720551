"""Attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928, equation 2 with p = 2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.config import At
from losses.pooling import pool_alike
from losses.term import Loss, Term
from models.output import Output, Taps


def attention(feature: Tensor) -> Tensor:
    """The mean over channels of the squared map, as a vector of unit length: (N, C, *S) to (N, M)."""
    return F.normalize(feature.float().square().mean(1).flatten(1), dim=1, eps=1e-12)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over space of the squared difference of attention: (N, C, *S) and (N, C', *S') to (N,); 0 to 2 / M.

    Channels may differ; where sizes differ, the larger map is averaged down to the smaller first.
    """
    ours, theirs = pool_alike(student.float(), teacher.detach().float())
    return (attention(ours) - attention(theirs)).square().mean(1)


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
