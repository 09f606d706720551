"""Cross-entropy of the labels."""

from torch import Tensor
from torch.nn import functional as F

from losses.labels import amount, valid_voxels, widened
from losses.term import IGNORE, Loss, Term
from models.output import Output


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax(logits)[label] for each voxel, 0 where the label is ignored: (N, C, *S) and (N, *S) to (N, *S)."""
    return F.cross_entropy(widened(logits), target, ignore_index=IGNORE, reduction="none")


class CrossEntropy(Loss):
    """Mean cross-entropy over the valid voxels; at least 0."""

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Total over voxels; logits (N, C, *S), target (N, *S)."""
        return Term(cross_entropy(student.logits, target).sum(), amount(valid_voxels(target)))
