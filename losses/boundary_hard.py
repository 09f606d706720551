"""Hard boundaries of ACF-BCKD (Yu et al. 2025, Expert Systems with Applications 262:125670, section 3.3)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.balance import hard_share
from losses.config import BoundaryHard
from losses.kl import soft_label_kl
from losses.labels import amount, one_hot, valid_images, valid_voxels
from losses.mse import squared_difference
from losses.term import IGNORE, Loss, Term, taught
from models.output import Output, Taps


def boundaries(masks: Tensor) -> Tensor:
    """Where a mask of 0 and 1 has some, but not all, of a voxel's neighbours: (N, K, *S) float to bool.

    Neighbours are the 8 in images and the 26 in volumes that touch it; what lies outside has none. So a boundary is
    about two voxels wide, one on each side, and goes along the image's edge where a class touches that.
    """
    around = masks
    for axis in range(2, masks.ndim):
        sums = F.avg_pool1d(around.movedim(axis, -1).flatten(0, -2).unsqueeze(1), 3, 1, 1) * 3.0
        around = sums.view(around.movedim(axis, -1).shape).movedim(-1, axis)
    count = (around - masks).round()
    some: Tensor = (count > 0) & (count < 3 ** (masks.ndim - 2) - 1)
    return some


def boundary_means(each: Tensor, band: Tensor) -> Tensor:
    """Sum over bands (N, K, *S) of the mean over each band of what (N, *S) has there; an empty band adds 0: to (N,)."""
    weights = band.flatten(2).to(each.dtype)
    sums = (weights * each.flatten(1).unsqueeze(1)).sum(2)
    means: Tensor = sums / weights.sum(2).clamp(min=1.0)
    return means.sum(1)


class HardBoundary(Loss):
    """Mean over images of the sum over classes, the background too, of the divergence along the labels' boundaries,
    times `losses.balance.hard_share`; at least 0, and 0 where both agree.

    The divergence is KL(teacher || student) / C with T = 1; of regions the mean over all of the squared difference of
    sigmoids. Derivatives are at most the number of classes in size for each image. reduction = "batch-sum" is the
    published one: the sum over images; a rank sums its own, and the ranks' sums are averaged by their images. Ignored
    voxels are of no class and in no boundary. A boundary whose only voxel is the first of the map counts, which the
    authors' code leaves out.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: BoundaryHard, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.floor, self.gamma, self.summed = config.floor, config.gamma, config.reduction == "batch-sum"
        self.regions, self.classes = regions, classes
        self._share = 1.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """The share of the term in this epoch."""
        self._share = hard_share(epoch, epochs, floor=self.floor, gamma=self.gamma)

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Value times images with a valid voxel; both logits (N, C, *S), target (N, *S) or regions (N, C, *S)."""
        ours, theirs, valid = student.logits, taught(teacher).logits, valid_voxels(target)
        if self.regions:
            known = valid.to(ours.dtype)
            each = squared_difference(ours, theirs, sigmoids=True) * known
            each = each.sum(1) / known.sum(1).clamp(min=1.0)
            band = boundaries((target == 1).to(each.dtype)) & valid
        else:
            each = soft_label_kl(ours, theirs, 1.0) / self.classes
            band = boundaries(one_hot(target, self.classes)) & (target != IGNORE).unsqueeze(1)
            each = torch.where(valid, each, 0.0)
        images = valid_images(valid)
        total = self._share * boundary_means(each, band).sum()
        return Term(total * images.sum() if self.summed else total, amount(images))
