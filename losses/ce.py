"""Cross-entropy of the labels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.config import Ce, Weighted
from losses.labels import amount, valid_voxels, widened
from losses.term import IGNORE, Loss, Term
from models.output import Output, Taps


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """-log softmax(logits)[label] for each voxel, 0 where the label is ignored: (N, C, *S) and (N, *S) to (N, *S).

    weight: (C,), what a voxel of each class counts; None: 1.
    """
    wide = widened(logits)
    weight = None if weight is None else weight.to(wide.dtype)
    return F.cross_entropy(wide, target, weight=weight, ignore_index=IGNORE, reduction="none")


class CrossEntropy(Loss):
    """Mean cross-entropy over the valid voxels; at least 0. With weights of classes it is the weighted mean, as
    torch's."""

    def __init__(
        self,
        config: Weighted,
        *,
        student: Taps,
        teacher: Taps | None,
        classes: int,
        regions: bool,
        dims: int,
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        given = config.class_weights if isinstance(config, Ce) else None
        if isinstance(given, tuple) and len(given) != classes:
            raise ValueError(
                f"losses.ce.class_weights = {list(given)}: {len(given)} weights for {classes} classes; give one a "
                "class, the background first"
            )
        self._counted = given != "balanced"
        weight = torch.tensor(given, dtype=torch.float64) if isinstance(given, tuple) else None
        self.weight: Tensor | None
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Total over voxels; logits (N, C, *S), target (N, *S).

        Raises ValueError where the weights are still to be counted (`trainer.engine.class_counts.counted_weights`).
        """
        if not self._counted:
            raise ValueError("losses.ce.class_weights = 'balanced': was not counted on the training part")
        valid = valid_voxels(target)
        if self.weight is None:
            return Term(cross_entropy(student.logits, target).sum(), amount(valid))
        count = self.weight[torch.where(valid, target, 0)].mul(valid).sum(dtype=torch.float64)
        return Term(cross_entropy(student.logits, target, self.weight).sum(), count)
