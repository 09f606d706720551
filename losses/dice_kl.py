"""Dice of the labels and soft labels, mixed: the loss of the skin-lesion study (Distilled-UNet).

Its README names Dice and KL, and its notebook cannot be had. So this mixes the soft Dice of Milletari et al. 2016
(arXiv 1606.04797) and the soft labels of Hinton et al. 2015 (arXiv 1503.02531, section 2); share and temperature are
options.
"""

from torch import Tensor

from losses.config import DiceKl
from losses.dice import dice_of_images
from losses.kl import bernoulli_kl, soft_label_kl
from losses.labels import amount, foreground, foreground_logits, one_hot, valid_images, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps


class DiceAndSoftLabels(Loss):
    """Mean over images of (1 - alpha) Dice + alpha T^2 KL(teacher || student), the KL a mean over valid voxels; >= 0.

    Of two classes, Dice is that of the foreground's sigmoid; of regions, the mean over them, with a Bernoulli KL each;
    of more classes, the mean over all. Of two classes the KL over both is the Bernoulli KL of the foreground.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: DiceKl, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.alpha, self.temperature, self.regions = config.alpha, config.temperature, regions

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over images with a valid voxel; both logits (N, C, *S), target (N, *S) or regions (N, C, *S)."""
        ours, theirs, valid = student.logits, taught(teacher).logits, valid_voxels(target)
        kl = bernoulli_kl if self.regions else soft_label_kl
        apart = (kl(ours, theirs, self.temperature) * valid).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)
        if self.regions or ours.shape[1] == 2:
            probability = foreground_logits(ours, regions=self.regions).sigmoid()
            overlap = dice_of_images(probability, *foreground(target, probability, regions=self.regions))
        else:
            overlap = dice_of_images(widened(ours).softmax(1), one_hot(target, ours.shape[1]), valid)
        images = valid_images(valid)
        return Term((((1.0 - self.alpha) * overlap + self.alpha * apart) * images).sum(), amount(images))
