"""Attention-corrected feature distillation of ACF-BCKD (Yu et al. 2025, Expert Systems with Applications 262:125670,
section 3.2): features and the branches of residual units, corrected by an attention that the student learns."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.at import attention_distance
from losses.config import Acfd
from losses.labels import in_float32
from losses.tap_pairs import TapPairs, pointwise
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def hidden_width(channels: int) -> int:
    """A sixteenth of the channels as the nearest multiple of 8, at least 8, and never less than nine tenths of it."""
    near = max(8, int(channels / 16 + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels / 16 else near


class Attention(nn.Module):
    """A of a map (N, C, *S): a factor 0 to 1 for each channel times one for each place.

    Channels: hard sigmoid of two linear layers, with a ReLU between them, of the mean over space. Places: hard sigmoid
    of a convolution of side 7 of the mean over channels. hard sigmoid(x) = min(max((x + 3) / 6, 0), 1).
    """

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        width = hidden_width(channels)
        self.squeeze, self.excite = nn.Linear(channels, width), nn.Linear(width, channels)
        kind: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv2d if dims == 2 else nn.Conv3d
        self.places = kind(1, 1, 7, padding=3)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, *S) to the same shape."""
        pooled = feature.flatten(2).mean(2)
        by_channel = F.hardsigmoid(self.excite(F.relu(self.squeeze(pooled))))
        by_place = F.hardsigmoid(self.places(feature.mean(1, keepdim=True)))
        factor: Tensor = by_channel.view(*by_channel.shape, *[1] * (feature.ndim - 2)) * by_place
        return factor


class AttentionCorrected(Loss):
    """Mean over images of alpha AFD + beta CFD, summed over pairs of taps; at least 0.

    AFD is `losses.at.attention_distance` of f A and the teacher's feature, CFD that of a learned 1x1 convolution of A
    and the teacher's `residuals`. A is the attention of the student's feature f, one for AFD and CFD. Where `residuals`
    are not named they are the features: with SegResNet, whose units add in place, the published numbers had that too,
    since what was recorded as the branch was the unit's output by then. All that is learned here trains with the
    student and is not exported. Gradients are bounded as those of attention transfer. Maps have no label: ignored
    voxels take part, every image counts.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: Acfd, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where a tap is missing, sizes differ and `resize` names nothing, or residuals do not match
        taps."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.alpha, self.beta = config.alpha, config.beta
        networks = {"student": student, "teacher": teacher, "classes": classes}
        self.features = TapPairs("acfd", config.taps, config.resize, **networks)  # type: ignore[arg-type]
        count = len(self.features.names)
        if config.residuals is not None and len(config.residuals) != count:
            raise ValueError(
                f"losses.acfd.residuals: {len(config.residuals)} taps of the teacher for {count} pairs; "
                "name one for each pair of taps"
            )
        ours = [name for name, _ in self.features.names]
        branches = config.residuals or tuple(theirs for _, theirs in self.features.names)
        pairs = list(zip(ours, branches, strict=True))
        self.residuals = TapPairs("acfd", pairs, config.resize, **networks)  # type: ignore[arg-type]
        widths = [channels for channels, _ in self.features.channels]
        self.attention = nn.ModuleList(Attention(dims, width) for width in widths)
        self.mix = nn.ModuleList(pointwise(dims, width, width) for width in widths)

    def student_taps(self) -> frozenset[str]:
        """The student's taps of the pairs."""
        return self.features.student_taps()

    def teacher_taps(self) -> frozenset[str]:
        """The teacher's taps of the pairs, and its residuals."""
        return self.features.teacher_taps() | self.residuals.teacher_taps()

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over images; taps (N, C, *S)."""
        features = self.features.given(student, taught(teacher))
        residuals = self.residuals.given(student, taught(teacher))
        each = []
        for learn, mix, (ours, theirs), (_, branch) in zip(self.attention, self.mix, features, residuals, strict=True):
            with in_float32(ours):
                factor = learn(ours)
                mixed = mix(factor)
            each.append(self.alpha * attention_distance(ours * factor, theirs, self.features.resize))
            each.append(self.beta * attention_distance(mixed, branch, self.residuals.resize))
        return Term(torch.stack(each).sum(), target.new_full((), len(target), dtype=torch.float64))
