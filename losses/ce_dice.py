"""Cross-entropy and soft Dice, mixed, as segmentation networks are usually trained (Isensee et al. 2018, nnU-Net, arXiv
1809.10486, section 2.2).

ce = 0.5: Awesome-U-Net (form "batch") and TransUNet ("batch-squared"); 0.4: SelfReg-UNet, Swin-Unet and HiFormer
("batch-squared"); 0.3: CASCADE ("batch-squared", at each head); MONAI's DiceCELoss is weight = 2 with 0.5 ("image").
"""

from torch import Tensor

from losses.ce import cross_entropy
from losses.config import CeDice as Config
from losses.dice import check_form, dice_term
from losses.labels import amount, valid_voxels
from losses.term import Loss, Term
from models.output import Output, Taps


class CeDice(Loss):
    """ce times the mean cross-entropy over valid voxels plus (1 - ce) times Dice; at least 0.

    Each part is a mean over this rank's own units, and the ranks are averaged by their images with a valid voxel.
    """

    def __init__(
        self, config: Config, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where the form of Dice is not for that many classes."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        check_form("ce-dice", config.form, classes=classes, regions=regions)
        self.ce, self.form = config.ce, config.form

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Value times images; logits (N, C, *S), target (N, *S)."""
        overlap = dice_term(self.form, student.logits, target, regions=False)
        voxels = amount(valid_voxels(target)).clamp(min=1.0)
        each = cross_entropy(student.logits, target).sum() * (overlap.count / voxels).float()
        return Term(self.ce * each + (1.0 - self.ce) * overlap.total, overlap.count)
