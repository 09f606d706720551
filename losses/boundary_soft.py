"""Soft boundaries of ACF-BCKD (Yu et al. 2025, Expert Systems with Applications 262:125670, section 3.3), after the
Hausdorff distance loss of Karimi and Salcudean 2019 (arXiv 1904.10030, equation 8)."""

import weakref
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from losses.balance import hard_share
from losses.config import BoundarySoft
from losses.distance import squared_distances
from losses.labels import amount, valid_images, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def distances_of(values: Tensor, valid: Tensor) -> Tensor:
    """Squared distance to the nearest voxel on the other side of 1/2, in voxels of the map; 0 for a channel that is on
    one side everywhere. values, valid: (N, K, *S); ignored voxels are on no side. (N, K, *S) float32, no gradient."""
    sides = (values.detach() > 0.5) & valid
    return squared_distances(sides.flatten(0, 1)).view(sides.shape)


def soft_boundary(probability: Tensor, truth: Tensor, valid: Tensor, truth_distances: Tensor) -> Tensor:
    """log(1 + mean of (p - y)^2 (d(p)^2 + d(y)^2)) over channels, images and valid voxels together; scalar, at least 0.

    probability, truth, valid, truth_distances: (N, K, *S). d^2 are `distances_of` p and y, those of y given. A
    derivative by p is at most 4 D^2 / (number of valid voxels and channels), D the map's diagonal.
    """
    weights = (distances_of(probability, valid) + truth_distances) * valid
    mean = ((probability - truth).square() * weights).sum() / valid.sum().clamp(min=1)
    return torch.log1p(mean)


class SharedDistances:
    """The distances of what a teacher decided on a batch, for all students that learn from that one output.

    They are kept as long as the teacher's logits are, which is a step, and looked up by these and by the target, both
    as objects that nobody has written to since. What is looked up is what would be computed, bit for bit.
    """

    def __init__(self) -> None:
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __call__(self, logits: Tensor, target: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """`distances_of` the teacher's decisions `truth`, made of its logits and of the target's valid voxels."""
        if logits.is_inference() or target.is_inference():  # such tensors do not count what is written into them
            return distances_of(truth, valid)
        versions = logits._version, target._version
        if logits in self._known:
            known_target, known_versions, shared = self._known[logits]
            if known_target() is target and known_versions == versions:
                return cast("Tensor", shared)
        distances = distances_of(truth, valid)
        self._known[logits] = weakref.ref(target), versions, distances
        return distances


_SHARED = SharedDistances()


class SoftBoundary(Loss):
    """`soft_boundary` between the student's probabilities and the teacher's decisions, times 1 - `hard_share`.

    Of classes: those without the background, against the teacher's most probable one; of regions: all, against its
    sigmoid of at least 1/2. The labels say only which voxels are ignored, as in the authors' code. In the first epoch
    the term has no weight, and no distance is computed. Computed per rank, averaged by images. The student's distances
    are computed in each step, the teacher's once for all students beside each other.
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
        decided, valid = taught(teacher).logits, valid_voxels(target)
        ours, theirs = widened(student.logits), decided.detach()
        images = valid_images(valid)
        if self._share == 0.0:
            return Term(ours.new_zeros(()), amount(images))
        if self.regions:
            probability, truth = ours.sigmoid(), (theirs >= 0).to(ours.dtype)
        else:
            chosen = F.one_hot(theirs.argmax(1), theirs.shape[1]).movedim(-1, 1)
            probability, truth = ours.softmax(1)[:, 1:], chosen[:, 1:].to(ours.dtype)
            valid = valid.unsqueeze(1).expand_as(probability)
        far = _SHARED(decided, target, truth, valid)
        return Term(self._share * soft_boundary(probability, truth, valid, far) * images.sum(), amount(images))
