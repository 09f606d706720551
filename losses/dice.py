"""Soft Dice of the labels (Milletari, Navab and Ahmadi 2016, arXiv 1606.04797, section 3), per image and class."""

from torch import Tensor

from losses.labels import amount, one_hot, valid_images, valid_voxels, widened
from losses.term import Loss, Term
from models.output import Output

SMOOTH = 1e-5


def dice_of_images(probability: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """1 - mean over channels of (2 sum(p y) + SMOOTH) / (sum(p) + sum(y) + SMOOTH): (N,) from (N, K, *S) twice.

    Sums go over an image's valid voxels (N, *S). A channel without truth and without probability scores 1.
    """
    probability = probability * valid.unsqueeze(1)
    truth = truth * valid.unsqueeze(1)
    common = (probability * truth).flatten(2).sum(2)
    both = probability.flatten(2).sum(2) + truth.flatten(2).sum(2)
    return 1.0 - ((2.0 * common + SMOOTH) / (both + SMOOTH)).mean(1)


class Dice(Loss):
    """Mean over images of 1 - mean over all classes, background included, of soft Dice; 0 to 1.

    The form of MONAI's DiceLoss with softmax: denominators are not squared, nothing is pooled over the batch, so that a
    term means the same on any number of ranks. Images without a valid voxel do not count.
    """

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Total over images; logits (N, C, *S), target (N, *S)."""
        valid = valid_voxels(target)
        truth = one_hot(target, student.logits.shape[1])
        each = dice_of_images(widened(student.logits).softmax(1), truth, valid)
        counted = valid_images(valid)
        return Term((each * counted).sum(), amount(counted))
