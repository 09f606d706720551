"""Soft labels (Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2)."""

from torch import Tensor
from torch.nn import functional as F

from losses.config import Kl
from losses.labels import amount, valid_images, valid_voxels, widened
from losses.term import Loss, Term
from models.output import Output, Taps


def soft_label_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) for each voxel: logits (N, C, *S) to (N, *S)."""
    log_student = F.log_softmax(widened(student) / temperature, dim=1)
    log_teacher = F.log_softmax(widened(teacher.detach()) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)


class SoftLabels(Loss):
    """KL from the teacher's to the student's softened classes, times T^2; at least 0.

    `reduction` says what the sum over valid voxels is divided by, which decides what a weight means: voxel-mean: valid
    voxels; element-mean: valid voxels times classes; image-mean: images with a valid voxel.
    """

    needs_teacher = True

    def __init__(
        self, config: Kl, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.temperature = config.temperature
        self.reduction = config.reduction

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over the reduction's unit; both logits (N, C, *S), target (N, *S)."""
        if teacher is None:
            raise TypeError("kl compares with a teacher's output")
        valid = valid_voxels(target)
        total = (soft_label_kl(student.logits, teacher.logits, self.temperature) * valid).sum()
        if self.reduction == "image-mean":
            return Term(total, amount(valid_images(valid)))
        per_voxel = student.logits.shape[1] if self.reduction == "element-mean" else 1
        return Term(total, amount(valid) * per_voxel)
