"""Intra-class feature variation distillation (Wang et al. 2020, ECCV, section 3.2, equations 1 and 2)."""

import torch
from torch import Tensor

from losses.config import Ifvd
from losses.labels import amount, in_float32, known_labels, one_hot, valid_voxels, widened
from losses.pooling import nearest_to
from losses.tap_pairs import FAINT, TapPairs, directions
from losses.term import Loss, Term, taught
from models.output import Output, Taps


def nearness(feature: Tensor, labels: Tensor, classes: int, least: float = 0.0) -> Tensor:
    """Cosine between each voxel's features and the mean of its class in its image: (N, C, *S), (N, *S) to (N, *S).

    Ignored voxels belong to no class, and have no meaning in the result. The mean takes a gradient as its voxels do.
    least: as `losses.tap_pairs.directions` has it, of voxels and of means.
    """
    members = one_hot(labels, classes).to(feature.dtype).flatten(2)
    flat = feature.flatten(2)
    with in_float32(flat):
        centres = (flat @ members.transpose(1, 2)) / members.sum(2).clamp(min=1.0).unsqueeze(1)
    place = known_labels(labels).flatten(1).unsqueeze(1).expand(-1, flat.shape[1], -1)
    cosine = (directions(flat, 1, least) * directions(centres, 1, least).gather(2, place)).sum(1)
    return cosine.view(labels.shape)


def variation_distance(student: Tensor, teacher: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Squared difference of `nearness` for each voxel, 0 where ignored: (N, C, *S), (N, C', *S) to (N, *S); 0 to 4."""
    ours = nearness(widened(student), labels, classes, FAINT)
    return (ours - nearness(widened(teacher.detach()), labels, classes)).square() * valid_voxels(labels)


class FeatureVariation(Loss):
    """Mean over a map's valid voxels of the squared difference, summed over pairs of taps; at least 0, 0 in agreement.

    Labels take a map's size by nearest neighbours; every class counts, the background too. Channels may differ. In the
    authors' code an ignored voxel is its own centre and adds a 0 to the mean; here it does not count, which is the same
    where nothing is ignored. Where a class has one voxel in an image its cosine is 1 in both. The pairs' means have one
    count, the valid voxels of the first.
    """

    needs_teacher = True

    def __init__(
        self, config: Ifvd, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where a tap is missing, sizes differ and `resize` names nothing, or a map has one channel,
        whose cosines are 1 or -1 and have no gradient."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        self.classes = classes
        self.pairs = TapPairs("ifvd", config.taps, config.resize, student=student, teacher=teacher, classes=classes)
        for (name, _), (channels, _) in zip(self.pairs.names, self.pairs.channels, strict=True):
            if channels == 1:
                raise ValueError(f"losses.ifvd.taps: {name!r} has one channel, whose cosines have no gradient; drop it")

    def student_taps(self) -> frozenset[str]:
        """The student's taps of the pairs."""
        return self.pairs.student_taps()

    def teacher_taps(self) -> frozenset[str]:
        """The teacher's taps of the pairs."""
        return self.pairs.teacher_taps()

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total over voxels of the first pair's maps; taps (N, C, *S), target (N, *S)."""
        totals, counts = [], []
        for ours, theirs in self.pairs.maps(student, taught(teacher)):
            labels = nearest_to(target, ours.shape[2:])
            totals.append(variation_distance(ours, theirs, labels, self.classes).sum())
            counts.append(amount(valid_voxels(labels)))
        shares = [(counts[0] / count.clamp(min=1.0)).to(totals[0].dtype) for count in counts]
        return Term(torch.stack([t * s for t, s in zip(totals, shares, strict=True)]).sum(), counts[0])
