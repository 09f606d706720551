"""Binary cross-entropy and soft Dice of the foreground, mixed."""

from torch import Tensor
from torch.nn import functional as F

from losses.config import BceDice as Config
from losses.dice import dice_of_images
from losses.labels import amount, foreground, foreground_logits, valid_images, valid_voxels
from losses.term import Loss, Term
from models.output import Output, Taps


def bce_of_images(logit: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean binary cross-entropy over each image's valid voxels, 0 where there are none: three (N, R, *S) to (N,)."""
    each = F.binary_cross_entropy_with_logits(logit, truth, reduction="none") * valid
    return each.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)


class BceDice(Loss):
    """Mean over images of bce * BCE + (1 - bce) * Dice of class 1, or of regions; at least 0.

    The foreground's logit is logit 1 minus logit 0, so that its sigmoid is the softmax probability of class 1. Both
    parts are taken per image, and images without a valid voxel do not count. Dice has the smoothing of `losses.dice`.
    Regions have a sigmoid each; both parts are means over them.
    """

    handles_regions = True

    def __init__(
        self, config: Config, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where there are neither two classes nor regions."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        if classes != 2 and not regions:
            raise ValueError(f"losses.bce-dice: is for 2 classes, the data has {classes}; use ce and dice")
        self.bce, self.regions = config.bce, regions

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Total over images; logits (N, C, *S), target (N, *S) or regions (N, C, *S)."""
        logit = foreground_logits(student.logits, regions=self.regions)
        truth, valid = foreground(target, logit, regions=self.regions)
        overlap = dice_of_images(logit.sigmoid(), truth, valid)
        each = self.bce * bce_of_images(logit, truth, valid) + (1.0 - self.bce) * overlap
        counted = valid_images(valid_voxels(target))
        return Term((each * counted).sum(), amount(counted))
