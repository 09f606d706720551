"""Soft labels (Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2)."""

from torch import Tensor
from torch.nn import functional as F

from losses.config import Kl
from losses.labels import amount, masked, valid_images, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def soft_label_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) for each voxel: logits (N, C, *S) to (N, *S)."""
    log_student = F.log_softmax(widened(student) / temperature, dim=1)
    log_teacher = F.log_softmax(widened(teacher.detach()) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)


def bernoulli_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL between the sigmoids of teacher / T and student / T of each region alone: (N, R, *S) twice, and out.

    The same as `soft_label_kl` of the two logits (0, s) and (0, t).
    """
    ours, theirs = widened(student) / temperature, widened(teacher.detach()) / temperature
    yes = theirs.sigmoid() * (F.logsigmoid(theirs) - F.logsigmoid(ours))
    no = (-theirs).sigmoid() * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
    return temperature**2 * (yes + no)


class SoftLabels(Loss):
    """KL from the teacher's to the student's softened classes, times T^2; at least 0.

    `reduction` says what the sum over valid voxels is divided by, which decides what a weight means: voxel-mean: valid
    voxels; element-mean: valid voxels times classes; image-mean: images with a valid voxel. Of regions it is the sum of
    `bernoulli_kl` over them.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: Kl, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.temperature = config.temperature
        self.reduction = config.reduction
        self.regions = regions

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over the reduction's unit; both logits (N, C, *S), target (N, *S) or regions (N, C, *S)."""
        valid, classes = valid_voxels(target), student.logits.shape[1]
        formula = bernoulli_kl if self.regions else soft_label_kl
        total = masked(formula(student.logits, taught(teacher).logits, self.temperature), valid).sum()
        if self.reduction == "image-mean":
            return Term(total, amount(valid_images(valid)))
        elements = amount(valid) if self.regions else amount(valid) * classes
        return Term(total, elements if self.reduction == "element-mean" else elements / classes)
