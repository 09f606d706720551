"""Squared differences of logits (Ba and Caruana 2014, arXiv 1312.6184, equation 1), or of their sigmoids.

The form with sigmoids is what the code of ACF-BCKD (Yu et al. 2025, Expert Systems with Applications 262:125670) has in
its row "KD", with softmax tasks too; there its weight is 10.
"""

from torch import Tensor

from losses.config import Mse
from losses.labels import amount, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def squared_difference(student: Tensor, teacher: Tensor, *, sigmoids: bool) -> Tensor:
    """(s - t)^2 of each element, or (sigmoid s - sigmoid t)^2: (N, C, *S) twice to (N, C, *S).

    Each derivative is at most 2 |s - t|, with sigmoids at most 1/2.
    """
    ours, theirs = widened(student), widened(teacher.detach())
    return ((ours.sigmoid() - theirs.sigmoid()) if sigmoids else (ours - theirs)).square()


class SquaredDifference(Loss):
    """Mean of `squared_difference` over valid voxels and classes; at least 0, and 0 where both agree."""

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: Mse, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.sigmoids, self.regions = config.of == "sigmoids", regions

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over elements; both logits (N, C, *S), target (N, *S) or regions (N, C, *S)."""
        valid = valid_voxels(target)
        each = squared_difference(student.logits, taught(teacher).logits, sigmoids=self.sigmoids)
        if self.regions:
            return Term((each * valid).sum(), amount(valid))
        return Term((each * valid.unsqueeze(1)).sum(), amount(valid) * each.shape[1])
