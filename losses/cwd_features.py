"""Channel-wise distillation of feature maps (Shu et al. 2021, arXiv 2011.13256, equations 2 to 4)."""

import torch
from torch import Tensor, nn

from losses.config import CwdFeatures
from losses.cwd import channel_kl
from losses.labels import in_float32
from losses.tap_pairs import TapPairs, pointwise
from losses.term import Loss, Term, taught
from models.output import Output, Taps


class ChannelWiseFeatures(Loss):
    """Mean over images and channels of T^2 KL(teacher || student), each channel's map a distribution over space, summed
    over pairs of taps; at least 0.

    0 where both maps agree. With adapter = "conv" a pair of unlike channels gets a 1x1 convolution of the student's map
    to as many as its teacher's has, as in the paper. Maps have no label: ignored voxels take part, every image counts.
    Derivatives are at most 2 T in size for each image and channel.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: CwdFeatures, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where a tap is missing, or maps differ in what no option brings together."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.temperature = config.temperature
        self.pairs = TapPairs(
            "cwd-features",
            config.taps,
            config.resize,
            student=student,
            teacher=teacher,
            classes=classes,
            alike=config.adapter == "none",
        )
        self.adapters = nn.ModuleList(
            nn.Identity() if ours == theirs else pointwise(dims, ours, theirs) for ours, theirs in self.pairs.channels
        )

    def student_taps(self) -> frozenset[str]:
        """The student's taps of the pairs."""
        return self.pairs.student_taps()

    def teacher_taps(self) -> frozenset[str]:
        """The teacher's taps of the pairs."""
        return self.pairs.teacher_taps()

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over images; taps (N, C, *S)."""
        each = []
        for adapter, (ours, theirs) in zip(self.adapters, self.pairs.maps(student, taught(teacher)), strict=True):
            everywhere = torch.ones_like(ours[:, 0], dtype=torch.bool)
            with in_float32(ours):
                adapted = adapter(ours)
            each.append(channel_kl(adapted, theirs, everywhere, self.temperature).sum())
        return Term(torch.stack(each).sum(), target.new_full((), len(target), dtype=torch.float64))
