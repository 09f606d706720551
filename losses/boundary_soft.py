"""Soft boundaries of ACF-BCKD (Yu et al. 2025, Expert Systems with Applications 262:125670, section 3.3), after the
Hausdorff distance loss of Karimi and Salcudean 2019 (arXiv 1904.10030, equation 8)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.balance import hard_share
from losses.config import BoundarySoft
from losses.distance import squared_distances
from losses.labels import amount, valid_images, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def soft_boundary(probability: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """log(1 + mean of (p - y)^2 (d(p)^2 + d(y)^2)) over channels, images and valid voxels together; scalar, at least 0.

    probability, truth, valid: (N, K, *S). d: the distance to the nearest voxel on the other side of 1/2, in voxels of
    the map and without gradient; 0 for a channel that is on one side everywhere. Ignored voxels are on no side. A
    derivative by p is at most 4 D^2 / (number of valid voxels and channels), D the map's diagonal.
    """
    sides = torch.cat([(probability.detach() > 0.5) & valid, (truth > 0.5) & valid])
    far = squared_distances(sides.flatten(0, 1)).view(sides.shape)
    weights = (far[: len(truth)] + far[len(truth) :]) * valid
    mean = ((probability - truth).square() * weights).sum() / valid.sum().clamp(min=1)
    return torch.log1p(mean)


class SoftBoundary(Loss):
    """`soft_boundary` between the student's probabilities and the teacher's decisions, times 1 - `hard_share`.

    Of classes: those without the background, against the teacher's most probable one; of regions: all, against its
    sigmoid of at least 1/2. The labels say only which voxels are ignored, as in the authors' code. In the first epoch
    the term has no weight, and no distance is computed. Computed per rank, averaged by images. The student's distances
    are computed in each step: on a CPU that is most of what the term costs.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: BoundarySoft, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.floor, self.gamma, self.regions = config.floor, config.gamma, regions
        self._share = 0.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """The share of the term in this epoch."""
        self._share = 1.0 - hard_share(epoch, epochs, floor=self.floor, gamma=self.gamma)

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Value times images with a valid voxel; both logits (N, C, *S), target (N, *S) or regions (N, C, *S)."""
        ours, theirs, valid = widened(student.logits), taught(teacher).logits.detach(), valid_voxels(target)
        images = valid_images(valid)
        if self._share == 0.0:
            return Term(ours.new_zeros(()), amount(images))
        if self.regions:
            probability, truth = ours.sigmoid(), (theirs >= 0).to(ours.dtype)
        else:
            chosen = F.one_hot(theirs.argmax(1), theirs.shape[1]).movedim(-1, 1)
            probability, truth = ours.softmax(1)[:, 1:], chosen[:, 1:].to(ours.dtype)
            valid = valid.unsqueeze(1).expand_as(probability)
        return Term(self._share * soft_boundary(probability, truth, valid) * images.sum(), amount(images))
