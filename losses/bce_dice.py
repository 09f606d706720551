"""Binary cross-entropy and soft Dice of the foreground, mixed."""

from torch import Tensor
from torch.nn import functional as F

from losses.config import BceDice as Config
from losses.dice import dice_of_images
from losses.labels import amount, valid_images, valid_voxels, widened
from losses.term import Loss, Term
from models.output import Output, Taps


def bce_of_images(logit: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean binary cross-entropy over each image's valid voxels, 0 where there are none: three (N, *S) to (N,)."""
    each = F.binary_cross_entropy_with_logits(logit, truth, reduction="none") * valid
    return each.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)


class BceDice(Loss):
    """Mean over images of bce * BCE + (1 - bce) * Dice of class 1; at least 0.

    The foreground's logit is logit 1 minus logit 0, so that its sigmoid is the softmax probability of class 1. Both
    parts are taken per image, and images without a valid voxel do not count. Dice has the smoothing of `losses.dice`.
    """

    def __init__(
        self, config: Config, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where there are not two classes."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        if classes != 2:
            raise ValueError(f"losses.bce-dice: is for 2 classes, the data has {classes}; use ce and dice")
        self.bce = config.bce

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Total over images; logits (N, 2, *S), target (N, *S)."""
        valid = valid_voxels(target)
        logits = widened(student.logits)
        logit = logits[:, 1] - logits[:, 0]
        truth = (target == 1).to(logits.dtype)
        overlap = dice_of_images(logit.sigmoid().unsqueeze(1), truth.unsqueeze(1), valid)
        each = self.bce * bce_of_images(logit, truth, valid) + (1.0 - self.bce) * overlap
        counted = valid_images(valid)
        return Term((each * counted).sum(), amount(counted))
