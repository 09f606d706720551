"""Channel-wise distillation (Shu et al. 2021, arXiv 2011.13256, equations 2 to 4)."""

from torch import Tensor
from torch.nn import functional as F

from losses.config import Cwd
from losses.labels import amount, valid_images, valid_voxels, widened
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def channel_kl(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over channels of KL between the maps' softmax over space: (N, C, *S) twice to (N,).

    The softmax goes over an image's valid voxels, (N, *S) or of each channel (N, C, *S); a map without one yields 0.
    """
    kept = (valid if valid.ndim == student.ndim else valid.unsqueeze(1)).flatten(2)
    some = kept.any(2, keepdim=True)
    # A softmax over nothing has no value: maps without a valid voxel keep all voxels here and are zeroed at the end.
    left_out = ~kept & some
    log_student = _log_softmax(student, left_out, temperature)
    log_teacher = _log_softmax(teacher.detach(), left_out, temperature)
    each = log_teacher.exp().masked_fill(left_out, 0.0) * (log_teacher - log_student)
    return temperature**2 * (each * some).sum(2).mean(1)


def _log_softmax(maps: Tensor, left_out: Tensor, temperature: float) -> Tensor:
    """Over space, (N, C, M); 0 where left out, so that no infinity meets a zero."""
    flat = (widened(maps) / temperature).flatten(2).masked_fill(left_out, float("-inf"))
    return F.log_softmax(flat, dim=2).masked_fill(left_out, 0.0)


class ChannelWise(Loss):
    """Mean over images and classes of T^2 KL(teacher || student), each logit map a distribution over space."""

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: Cwd, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.temperature = config.temperature

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over images with a valid voxel; both logits (N, C, *S), target (N, *S) or regions."""
        valid = valid_voxels(target)
        each = channel_kl(student.logits, taught(teacher).logits, valid, self.temperature)
        return Term(each.sum(), amount(valid_images(valid)))
