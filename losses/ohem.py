"""Cross-entropy over the hard voxels, after online hard example mining (Shrivastava et al. 2016, section 4)."""

import math

import torch
from torch import Tensor

from losses.ce import cross_entropy
from losses.config import Ohem
from losses.labels import amount, valid_voxels
from losses.term import Loss, Term
from models.output import Output, Taps


def hard_cross_entropy(logits: Tensor, target: Tensor, threshold: float, min_share: float) -> Term:
    """Sum and number of the kept voxels; logits (N, C, *S), target (N, *S).

    A voxel is hard where its cross-entropy is above -ln(threshold), that is, where the probability of its label is
    below the threshold. All hard voxels are kept; if they are fewer than floor(min_share * valid voxels), or than one,
    then that many voxels (or one) of the greatest cross-entropy.
    """
    valid = valid_voxels(target)
    each = cross_entropy(logits, target)
    hard = valid & (each > -math.log(threshold))
    # The sizes stay on the device: reading one here would stop the host in the middle of every step.
    most = max(1, int(valid.numel() * min_share))
    least = torch.clamp((amount(valid) * min_share).floor(), min=1.0).minimum(amount(valid))
    greatest = each.masked_fill(~valid, -1.0).flatten().topk(most).values
    chosen = torch.arange(most, device=each.device) < least
    enough = amount(hard) >= least
    total = torch.where(enough, each.masked_fill(~hard, 0.0).sum(), greatest.masked_fill(~chosen, 0.0).sum())
    return Term(total, torch.where(enough, amount(hard), least))


class HardCrossEntropy(Loss):
    """Mean cross-entropy over the kept voxels; at least 0. Each rank keeps among its own voxels."""

    def __init__(
        self, config: Ohem, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.threshold = config.threshold
        self.min_share = config.min_share

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Total over kept voxels; logits (N, C, *S), target (N, *S)."""
        return hard_cross_entropy(student.logits, target, self.threshold, self.min_share)
