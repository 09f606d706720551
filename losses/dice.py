"""Soft Dice of the labels (Milletari, Navab and Ahmadi 2016, arXiv 1606.04797, section 3), in four forms."""

from torch import Tensor

from losses.config import Dice as Config
from losses.config import DiceForm
from losses.labels import amount, foreground, foreground_logits, masked, one_hot, valid_images, valid_voxels, widened
from losses.term import Loss, Term
from models.output import Output, Taps

SMOOTH = 1e-5


def dice_of_images(probability: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """1 - mean over channels of (2 sum(p y) + SMOOTH) / (sum(p) + sum(y) + SMOOTH): (N,) from (N, K, *S) twice.

    Sums go over an image's valid voxels, (N, *S) or by channel (N, K, *S). A channel without truth and without
    probability scores 1.
    """
    probability, truth = masked(probability, valid), masked(truth, valid)
    common = (probability * truth).flatten(2).sum(2)
    both = probability.flatten(2).sum(2) + truth.flatten(2).sum(2)
    return 1.0 - ((2.0 * common + SMOOTH) / (both + SMOOTH)).mean(1)


def dice_of_batch(probability: Tensor, truth: Tensor, valid: Tensor, *, squared: bool) -> Tensor:
    """1 - mean over channels of the Dice of all images together, scalar; shapes as in `dice_of_images`.

    squared: (2 I + 1e-5) / (sum p^2 + sum y^2 + 1e-5), as the code of TransUNet, Swin-Unet and SelfReg-UNet has it;
    else 2 I / (sum p + sum y + 1e-6), as that of Awesome-U-Net, where an absent class costs 1 whatever is predicted.
    """
    p, y = (masked(x, valid).transpose(0, 1).flatten(1) for x in (probability, truth))
    common = 2.0 * (p * y).sum(1)
    if squared:
        score = (common + SMOOTH) / (p.square().sum(1) + y.square().sum(1) + SMOOTH)
    else:
        score = common / (p.sum(1) + y.sum(1) + 1e-6)
    return 1.0 - score.mean()


def flat_dice(probability: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """1 - (2 I + 1e-6) / (sum p + sum y + 1e-6) over all channels, images and voxels together, scalar."""
    p, y = masked(probability, valid), masked(truth, valid)
    return 1.0 - (2.0 * (p * y).sum() + 1e-6) / (p.sum() + y.sum() + 1e-6)


def dice_term(form: DiceForm, logits: Tensor, target: Tensor, *, regions: bool) -> Term:
    """A form of Dice of logits (N, C, *S) and a target (N, *S) or regions (N, C, *S).

    Forms that pool the batch are computed per rank and averaged by images. Images without a valid voxel do not count.
    """
    images = valid_images(valid_voxels(target))
    if regions or form == "sigmoid":
        probability = foreground_logits(logits, regions=regions).sigmoid()
        truth, valid = foreground(target, probability, regions=regions)
    else:
        probability, truth, valid = widened(logits).softmax(1), one_hot(target, logits.shape[1]), valid_voxels(target)
    if form == "image":
        return Term((dice_of_images(probability, truth, valid) * images).sum(), amount(images))
    pooled = (
        flat_dice(probability, truth, valid)
        if form == "sigmoid"
        else dice_of_batch(probability, truth, valid, squared=form == "batch-squared")
    )
    return Term(pooled * images.sum(), amount(images))


def check_form(loss: str, form: DiceForm, *, classes: int, regions: bool) -> None:
    """Raise ValueError in one line where a form of Dice is not for that many classes."""
    if form == "sigmoid" and not regions and classes != 2:
        raise ValueError(
            f"losses.{loss}.form = 'sigmoid': is for 2 classes or regions, the data has {classes} classes; use "
            "'image', 'batch' or 'batch-squared'"
        )


class Dice(Loss):
    """1 - soft Dice in the form that the configuration names; 0 to 1, and 0 where the labels are hit but for smoothing.

    image (MONAI's DiceLoss with softmax): mean over images and all classes, background included, with denominators that
    are not squared and nothing pooled over the batch, so that a term means the same on any number of ranks. batch,
    batch-squared: `dice_of_batch`. sigmoid: `flat_dice` of the foreground. Of regions every form takes sigmoids.
    """

    handles_regions = True

    def __init__(
        self, config: Config, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where the form is not for that many classes."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        check_form("dice", config.form, classes=classes, regions=regions)
        self.form, self.regions = config.form, regions

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Value times images; logits (N, C, *S), target (N, *S) or regions (N, C, *S)."""
        return dice_term(self.form, student.logits, target, regions=self.regions)
