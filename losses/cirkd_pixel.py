"""Cross-image distillation between the voxels of a batch, CIRKD (Yang et al. 2022, CVPR, arXiv 2204.06986, equations 3
to 5)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.config import CirkdPixel
from losses.labels import in_float32
from losses.pooling import averaged_to_grid
from losses.tap_pairs import FAINT, TapPairs, directions
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def row_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL between the softmax of each row, teacher first: (..., R, Q) twice to (..., R)."""
    log_student, log_teacher = F.log_softmax(student, -1), F.log_softmax(teacher.detach(), -1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)


def relations_across(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over ordered pairs of images, an image with itself too, and over the first one's places, of the divergence
    of its cosines with the other's places over the temperature: (N, C, *S), (N, C', *S) to a scalar, at least 0.

    A derivative is at most about 2 / (temperature FAINT) times one by values of about 1. Pairs are taken an image at a
    time.
    """
    ours, theirs = directions(student.flatten(2), 1, FAINT), directions(teacher.detach().flatten(2), 1)
    rows = []
    for n in range(len(ours)):
        with in_float32(ours):
            near_s, near_t = (x[n].transpose(0, 1) @ x / temperature for x in (ours, theirs))
        rows.append(row_divergence(near_s, near_t).mean())
    return torch.stack(rows).mean()


class PixelRelations(Loss):
    """Sum over pairs of taps of `relations_across` of a rank's images; 0 where both agree.

    Computed per rank, averaged by images. Maps are averaged down to at most `grid` places an axis before that, so that
    memory is bounded by images^2 x grid^4 (volumes: grid^6) numbers; the authors average by 4 where a side is at least
    256. images = "first" takes a rank's first image alone, as ACF-BCKD does. There is no factor T^2, as in the paper.
    Maps have no label: ignored voxels take part.
    """

    needs_teacher = True
    handles_regions = True

    def __init__(
        self, config: CirkdPixel, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where a tap is missing, or sizes differ and `resize` names nothing."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.temperature, self.grid, self.first = config.temperature, config.grid, config.images == "first"
        self.pairs = TapPairs(
            "cirkd-pixel", config.taps, config.resize, student=student, teacher=teacher, classes=classes
        )

    def student_taps(self) -> frozenset[str]:
        """The student's taps of the pairs."""
        return self.pairs.student_taps()

    def teacher_taps(self) -> frozenset[str]:
        """The teacher's taps of the pairs."""
        return self.pairs.teacher_taps()

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Value times images; taps (N, C, *S)."""
        images = 1 if self.first else len(target)
        each = [
            relations_across(
                averaged_to_grid(ours[:images], self.grid),
                averaged_to_grid(theirs[:images], self.grid),
                self.temperature,
            )
            for ours, theirs in self.pairs.maps(student, taught(teacher))
        ]
        return Term(torch.stack(each).sum() * len(target), target.new_full((), len(target), dtype=torch.float64))
