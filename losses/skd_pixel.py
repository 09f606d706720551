"""Structured distillation by voxel (Liu et al. 2019, CVPR, arXiv 1903.04197, equation 1, as its code has it)."""

from torch import Tensor
from torch.nn import functional as F

from losses.config import SkdPixel
from losses.labels import amount, valid_images, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """- sum over classes of softmax(teacher) log softmax(student) for each voxel: logits (N, C, *S) to (N, *S).

    The paper writes a KL, its code this: the same gradient, and the teacher's entropy where both agree. Derivatives are
    at most 1 in size.
    """
    theirs = widened(teacher.detach()).softmax(1)
    return -(theirs * F.log_softmax(widened(student), 1)).sum(1)


def binary_soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """The same of each region's sigmoid alone, summed over regions: (N, R, *S) twice to (N, R, *S).

    In place of ACF-BCKD's sum of sigmoid(t) sigmoid(s), which is least where the student says no everywhere.
    """
    ours, theirs = widened(student), widened(teacher.detach()).sigmoid()
    return F.binary_cross_entropy_with_logits(ours, theirs, reduction="none")


class PixelCrossEntropy(Loss):
    """Mean over valid voxels of the teacher's soft cross-entropy, of regions summed over them; at least 0.

    reduction = "batch-sum" is the published one: sum over the images of each one's mean over its valid voxels. A rank
    sums its own images, and the ranks' sums are averaged by their images, as they are in the authors' training on
    several GPUs.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: SkdPixel, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.summed, self.regions = config.reduction == "batch-sum", regions

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over valid voxels, or value times images; both logits (N, C, *S), target (N, *S) or regions."""
        valid = valid_voxels(target)
        formula = binary_soft_cross_entropy if self.regions else soft_cross_entropy
        each = formula(student.logits, taught(teacher).logits) * valid
        regions = valid.shape[1] if self.regions else 1
        if not self.summed:
            return Term(each.sum(), amount(valid) / regions)
        number = valid.flatten(1).sum(1).clamp(min=1) / regions
        images = amount(valid_images(valid))
        return Term((each.flatten(1).sum(1) / number).sum() * images.to(each.dtype), images)
