"""Attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928, equation 2 with p = 2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.config import At
from losses.labels import widened
from losses.presets import Resize
from losses.tap_pairs import FAINT, TapPairs, sized_alike
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def attention(feature: Tensor, least: float = 0.0) -> Tensor:
    """The mean over channels of the squared map, as a vector of unit length: (N, C, *S) to (N, M).

    least: a map whose root mean square is below it is divided as if it had that. The gradient of a unit length is as of
    one over the map's values, so that it is at most 1 / least times that of a map whose values are about 1.
    """
    energy = widened(feature).square().mean(1).flatten(1)
    return F.normalize(energy, dim=1, eps=max(1e-12, least**2 * energy.shape[1] ** 0.5))


def attention_distance(student: Tensor, teacher: Tensor, resize: Resize = "average") -> Tensor:
    """Mean over space of the squared difference of attention: (N, C, *S) and (N, C', *S') to (N,); 0 to 2 / M.

    Channels may differ; where sizes differ, `resize` brings them together first. 0 where both agree.
    """
    ours, theirs = sized_alike(widened(student), widened(teacher.detach()), resize)
    return (attention(ours, FAINT) - attention(theirs)).square().mean(1)


class AttentionTransfer(Loss):
    """Mean over images of the sum over pairs of taps of `attention_distance`; at least 0.

    The paper takes the length of the difference, its authors' code and this the mean square, which is why usual weights
    are in the thousands. Attention has no label: ignored voxels take part, every image counts.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: At, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self._pairs = TapPairs("at", config.taps, config.resize, student=student, teacher=teacher, classes=classes)

    def student_taps(self) -> frozenset[str]:
        """The student's taps of the pairs."""
        return self._pairs.student_taps()

    def teacher_taps(self) -> frozenset[str]:
        """The teacher's taps of the pairs."""
        return self._pairs.teacher_taps()

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over images; taps (N, C, *S)."""
        each = [attention_distance(*maps) for maps in self._pairs.maps(student, taught(teacher))]
        images = target.new_full((), len(target), dtype=torch.float64)
        return Term(torch.stack(each).sum(), images)
