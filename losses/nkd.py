"""Normalised distillation (Yang et al. 2023, From Knowledge Distillation to Self-Knowledge Distillation, ICCV, arXiv
2303.13005, equations 5 and 6), for each voxel."""

import torch
from torch import Tensor

from losses.classes_apart import label_log_odds, log_other_classes, other_classes
from losses.config import Nkd
from losses.labels import amount, known_labels, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def normalised_distillation(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, gamma: float
) -> Tensor:
    """-p_t[y] log p_s[y] - gamma T^2 sum over the other classes of q_t log q_s, for each voxel.

    Logits (N, C, *S) twice, labels (N, *S) in 0..C-1, to (N, *S). p: softmax, without temperature; q: softmax of logits
    / T over the C - 1 classes that are not the label. A cross-entropy: where both agree it is the teacher's entropy,
    and the first part goes on falling as p_s[y] grows. With two classes the second part is exactly 0. Derivatives are
    at most 1 + 2 gamma T in size.
    """
    soft, sure = widened(student) / temperature, widened(teacher.detach())
    at_label = label_log_odds(sure, labels)[0].exp() * label_log_odds(student, labels)[0]
    theirs = other_classes(log_other_classes(sure / temperature, labels), labels)
    others: Tensor = (theirs * log_other_classes(soft, labels)).sum(1)
    return -at_label - gamma * temperature**2 * others


class NormalisedDistillation(Loss):
    """Mean over valid voxels of `normalised_distillation`; at least 0, and not 0 where both agree."""

    needs_teacher = True

    def __init__(
        self, config: Nkd, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.temperature, self.gamma = config.temperature, config.gamma

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over valid voxels; both logits (N, C, *S), target (N, *S)."""
        valid = valid_voxels(target)
        each = normalised_distillation(
            student.logits, taught(teacher).logits, known_labels(target), self.temperature, self.gamma
        )
        return Term(torch.where(valid, each, 0.0).sum(), amount(valid))
