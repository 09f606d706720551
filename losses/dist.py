"""Relations between and within classes: DIST (Huang et al. 2022, arXiv 2205.10536, equations 5 to 10)."""

import torch
from torch import Tensor

from losses.config import Dist
from losses.labels import amount, valid_images, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps

EPS = 1e-8
"""Keeps a correlation from dividing by zero."""
FLAT = 1e-2
"""The least deviation that counts, in units of logits: below it probabilities count as constant."""


def pearson(a: Tensor, b: Tensor, counted: Tensor, dim: int, flat: float) -> Tensor:
    """Pearson's correlation of two arrays of probabilities along `dim`, over the entries that `counted` (0 or 1) marks.

    A constant yields 0. The gradient to `a` is as of one over its deviation, which no value near zero bounds. So the
    deviation of either is taken to be at least `flat` times the mean of p (1 - p), which is what a change of the logits
    by `flat` makes of probabilities p like these, near 0 and 1 too: below it the correlation goes to 0 along a line,
    and the gradient to the logits is at most about 1 / `flat` times that of logits whose deviation is 1. Above it
    nothing changes.
    """
    number = counted.sum(dim, keepdim=True).clamp(min=1.0)
    centred, lengths = [], []
    for p in (a, b):
        slope = ((p * (1.0 - p) * counted).sum(dim, keepdim=True) / number).detach()
        away = (p - (p * counted).sum(dim, keepdim=True) / number) * counted
        least = (flat * slope * number.sqrt()).squeeze(dim)
        centred.append(away)
        lengths.append(torch.linalg.vector_norm(away, dim=dim).maximum(least))
    correlation: Tensor = (centred[0] * centred[1]).sum(dim) / (lengths[0] * lengths[1] + EPS)
    return correlation


def class_relations(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T^2 (1 - mean correlation) between classes of a voxel, and within a class over all valid voxels of the batch.

    Logits (N, C, *S), valid (N, *S); two scalars, each 0 to 2 T^2. Of two classes the probabilities p and 1 - p always
    correlate by 1 or -1, so that the first scalar says in how many voxels both choose the same class, and has no
    gradient.
    """
    ours = (widened(student) / temperature).softmax(1).movedim(1, -1).flatten(0, -2)
    theirs = (widened(teacher.detach()) / temperature).softmax(1).movedim(1, -1).flatten(0, -2)
    counted = valid.flatten().to(ours.dtype).unsqueeze(1)
    voxels = counted.sum().clamp(min=1.0)
    # Without a gradient there is none to bound.
    relating, flat = (ours.detach(), 0.0) if ours.shape[1] == 2 else (ours, FLAT)
    between = (pearson(relating, theirs, torch.ones_like(ours), 1, flat) * counted.squeeze(1)).sum() / voxels
    within = pearson(ours, theirs, counted, 0, FLAT).mean()
    return temperature**2 * (1.0 - between), temperature**2 * (1.0 - within)


def region_relations(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """T^2 (1 - mean correlation) within each region's sigmoid over all its valid voxels of the batch, scalar.

    Logits and valid (N, R, *S). A voxel's regions are no choice among classes, so that there is nothing between them.
    """
    ours, theirs, counted = (
        x.movedim(1, -1).flatten(0, -2)
        for x in (
            (widened(student) / temperature).sigmoid(),
            (widened(teacher.detach()) / temperature).sigmoid(),
            valid.to(widened(student).dtype),
        )
    )
    return temperature**2 * (1.0 - pearson(ours, theirs, counted, 0, FLAT).mean())


class Relations(Loss):
    """beta * between + gamma * within of `class_relations`; 0 to 2 T^2 (beta + gamma).

    Computed per rank, averaged by images: the relation within a class takes all voxels of the rank's images together.
    The factor T^2 keeps gradients of one size when T is searched (the paper has T = 1). With two classes only
    gamma teaches: beta adds to the value, and nothing to the gradient. Of regions it is gamma * `region_relations`.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: Dist, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.temperature = config.temperature
        self.beta = config.beta
        self.gamma = config.gamma
        self.regions = regions

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Value times images with a valid voxel; both logits (N, C, *S), target (N, *S) or regions."""
        ours, theirs, valid = student.logits, taught(teacher).logits, valid_voxels(target)
        images = amount(valid_images(valid))
        if self.regions:
            value = self.gamma * region_relations(ours, theirs, valid, self.temperature)
            return Term(value * images.float(), images)
        between, within = class_relations(ours, theirs, valid, self.temperature)
        return Term((self.beta * between + self.gamma * within) * images.float(), images)
