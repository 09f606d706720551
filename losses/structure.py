"""Structure loss (Fan et al. 2020, PraNet, arXiv 2006.11392, equation 1, with the weights of Wei et al. 2020, F3Net,
arXiv 1911.11445, equations 5 to 8)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.config import Structure
from losses.labels import amount, foreground, foreground_logits, valid_images, valid_voxels
from losses.term import Loss, Term
from models.output import Output, Taps

EMPHASIS = 5.0
"""How many times a voxel counts more whose label differs from all around it."""


def neighbourhood(truth: Tensor, window: int) -> Tensor:
    """Mean of (N, R, *S) over a window of that odd side around each voxel; what lies outside counts as 0."""
    for axis in range(2, truth.ndim):
        moved = truth.movedim(axis, -1)
        lines = F.avg_pool1d(moved.flatten(0, -2).unsqueeze(1), window, 1, window // 2)
        truth = lines.view(moved.shape).movedim(-1, axis)
    return truth


def structure_parts(logit: Tensor, truth: Tensor, valid: Tensor, window: int, *, weighted: bool) -> Tensor:
    """Cross-entropy plus 1 - intersection over union of each image and region: three (N, R, *S) to (N, R).

    A voxel's weight is w = 1 + EMPHASIS |neighbourhood(y) - y|. The union and the intersection have 1 added, so that
    both parts have bounded gradients where truth and prediction are empty. weighted: the cross-entropy is sum(w bce) /
    sum(w), which is the papers'; in PraNet's and CASCADE's code an option of torch that is no more has made it a plain
    mean before the weights come, and so it is where this is false.
    """
    weight = (1.0 + EMPHASIS * (neighbourhood(truth, window) - truth).abs()) * valid
    bce = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
    share = weight if weighted else valid.to(weight.dtype)
    crossed = (bce * share).flatten(2).sum(2) / share.flatten(2).sum(2).clamp(min=1.0)
    probability = logit.sigmoid()
    common = (probability * truth * weight).flatten(2).sum(2)
    both = ((probability + truth) * weight).flatten(2).sum(2)
    return crossed + 1.0 - (common + 1.0) / (both - common + 1.0)


class StructureLoss(Loss):
    """Mean over images and regions of `structure_parts`; at least 0. Of two classes, of the foreground."""

    handles_regions = True

    def __init__(
        self, config: Structure, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where there are more than two classes, or the window has no middle."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        if classes != 2 and not regions:
            raise ValueError(
                f"losses.structure: is for 2 classes or regions, the data has {classes} classes; use ce-dice"
            )
        if config.window % 2 == 0:
            raise ValueError(f"losses.structure.window = {config.window}: has no middle; take {config.window + 1}")
        self.window, self.weighted, self.regions = config.window, config.bce == "weighted", regions

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Total over images with a valid voxel; logits (N, C, *S), target (N, *S) or regions (N, C, *S)."""
        logit = foreground_logits(student.logits, regions=self.regions)
        truth, valid = foreground(target, logit, regions=self.regions)
        each = structure_parts(logit, truth, valid, self.window, weighted=self.weighted)
        images = valid_images(valid_voxels(target))
        return Term(torch.where(images, each.mean(1), 0.0).sum(), amount(images))
