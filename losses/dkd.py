"""Decoupled distillation (Zhao et al. 2022, CVPR, arXiv 2203.08679, equations 4 to 7), for each voxel."""

import torch
from torch import Tensor

from losses.classes_apart import label_log_odds, log_other_classes, other_classes
from losses.config import Dkd
from losses.labels import amount, known_labels, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def decoupled_distillation(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """T^2 (alpha KL(b_t || b_s) + beta KL(q_t || q_s)) for each voxel.

    Logits (N, C, *S) twice, labels (N, *S) in 0..C-1, to (N, *S). b = (p[y], 1 - p[y]) of the softmax of logits / T, q
    its other C - 1 classes among themselves, for which the authors' code takes 1000 from the label's logit. With two
    classes q is 1 and the second part exactly 0. Derivatives are at most 2 T (alpha + beta) in size.
    """
    ours, theirs = widened(student) / temperature, widened(teacher.detach()) / temperature
    sure = zip(label_log_odds(theirs, labels), label_log_odds(ours, labels), strict=True)
    binary = torch.stack([log_t.exp() * (log_t - log_s) for log_t, log_s in sure]).sum(0)
    log_t, log_s = log_other_classes(theirs, labels), log_other_classes(ours, labels)
    others = (other_classes(log_t, labels) * (log_t - log_s)).sum(1)
    return temperature**2 * (alpha * binary + beta * others)


class DecoupledDistillation(Loss):
    """Mean over valid voxels of `decoupled_distillation`; at least 0, and 0 where both agree.

    With `warmup` W the term is multiplied by min(e / W, 1) in epoch e (1, 2, ...), as the authors' training on CIFAR
    does with W = 20.
    """

    needs_teacher = True

    def __init__(
        self, config: Dkd, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.temperature, self.alpha, self.beta = config.temperature, config.alpha, config.beta
        self.warmup = config.warmup
        self._share = 1.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:  # noqa: ARG002 - the ramp is counted in epochs
        """The share of the term in this epoch."""
        self._share = min(epoch / self.warmup, 1.0) if self.warmup else 1.0

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over valid voxels; both logits (N, C, *S), target (N, *S)."""
        valid = valid_voxels(target)
        each = decoupled_distillation(
            student.logits, taught(teacher).logits, known_labels(target), self.temperature, self.alpha, self.beta
        )
        return Term(self._share * torch.where(valid, each, 0.0).sum(), amount(valid))
