"""Structured distillation by pairs of places (Liu et al. 2019, CVPR, arXiv 1903.04197, equations 2 and 3)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.config import SkdPair
from losses.labels import in_float32
from losses.tap_pairs import FAINT, TapPairs
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def pooled(feature: Tensor, scale: float) -> Tensor:
    """The greatest value of each window: (N, C, *S) to (N, C, K). Along each axis of length L a window and its step are
    floor(scale L), and 1 at least; the last may be shorter. A scale of 0.5 gives 2 windows an axis where L is even."""
    window = [max(1, math.floor(scale * length)) for length in feature.shape[2:]]
    pool = F.max_pool2d if feature.ndim == 4 else F.max_pool3d
    return pool(feature, window, window, ceil_mode=True).flatten(2)


def similarities(nodes: Tensor, least: float = 0.0) -> Tensor:
    """Cosines between all places: (N, C, K) to (N, K, K). The lengths take no gradient and 1e-8 more, as in the
    authors' code. least: a root mean square below it is taken for it, so that a gradient is at most 1 / least times
    that of values of about 1."""
    floor = least * nodes.shape[1] ** 0.5
    unit: Tensor = nodes / (torch.linalg.vector_norm(nodes.detach(), dim=1, keepdim=True) + 1e-8).clamp(min=floor)
    with in_float32(unit):
        return unit.transpose(1, 2) @ unit


def pairwise_distance(student: Tensor, teacher: Tensor, scale: float) -> Tensor:
    """Mean over pairs of places of the squared difference of similarity: (N, C, *S), (N, C', *S) to (N,); 0 to 4."""
    ours, theirs = similarities(pooled(student, scale), FAINT), similarities(pooled(teacher.detach(), scale))
    return (ours - theirs).square().mean((1, 2))


class PairwiseSimilarity(Loss):
    """Mean over images of the sum over pairs of taps of `pairwise_distance`; at least 0, and 0 where both agree.

    Channels may differ. Where sizes do, ACF-BCKD's code compares one window of the student with eight of its teacher,
    which teaches nothing; here `resize` says how they are brought together, and without it they are refused. Maps have
    no label: ignored voxels take part, every image counts.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: SkdPair, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where a tap is missing, or sizes differ and `resize` names nothing."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.scale = config.scale
        self.pairs = TapPairs("skd-pair", config.taps, config.resize, student=student, teacher=teacher, classes=classes)

    def student_taps(self) -> frozenset[str]:
        """The student's taps of the pairs."""
        return self.pairs.student_taps()

    def teacher_taps(self) -> frozenset[str]:
        """The teacher's taps of the pairs."""
        return self.pairs.teacher_taps()

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over images; taps (N, C, *S)."""
        each = [pairwise_distance(*maps, self.scale) for maps in self.pairs.maps(student, taught(teacher))]
        return Term(torch.stack(each).sum(), target.new_full((), len(target), dtype=torch.float64))
