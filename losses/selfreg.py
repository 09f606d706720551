"""Self-regularisation (Zhu et al. 2024, SelfReg-UNet, arXiv 2406.14896): a student learns from its own maps alone.

Internal feature distillation asks a map's weaker half of channels to equal its stronger half; semantic consistency asks
every map to equal the decoder's last one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.config import SelfReg
from losses.labels import widened
from losses.pooling import pool_alike
from losses.term import Loss, Term
from models.nearest import nearest
from models.output import Output, Taps


def internal(x: Tensor) -> Tensor:
    """Mean squared difference between the stronger and the weaker half of the channels of (N, C, *S); scalar.

    Channels are ordered by the mean over images and space of x divided by its length over space; with an odd number the
    one in the middle is left out. The gradient flows into both halves. 0 for a single channel.
    """
    x = widened(x).flatten(2)
    half = x.shape[1] // 2
    if half == 0:
        return x.sum() * 0.0
    strength = F.normalize(x.detach(), dim=2, eps=1e-12).mean((0, 2))
    order = strength.argsort(descending=True, stable=True)
    return (x[:, order[:half]] - x[:, order[-half:]]).square().mean()


def consistency(x: Tensor, last: Tensor) -> Tensor:
    """Mean squared difference between k channels of (N, C, *S) and k of the last map, which takes no gradient; scalar.

    k is the smaller number of channels; both picks are new random ones in every call. The larger map is averaged down
    to the smaller.
    """
    ours, theirs = pool_alike(widened(x), widened(last.detach()))
    k = min(ours.shape[1], theirs.shape[1])
    return (ours[:, _pick(ours, k)] - theirs[:, _pick(theirs, k)]).square().mean()


def _pick(x: Tensor, k: int) -> Tensor:
    # Drawn on the CPU on every device: from one generator, which whoever trains several students swaps between them.
    return torch.randperm(x.shape[1], device="cpu")[:k].to(x.device, non_blocking=True)


class SelfRegularisation(Loss):
    """mean internal(encoder) + mean internal(decoder) + mean consistency(encoder and decoder); at least 0.

    Computed per rank, averaged by images: the order of channels is that of the rank's images. Encoder maps are `mid`
    and every `enc<k>` below full resolution (k >= 2), which for five levels are the paper's e_1..e_4; decoder maps are
    every `dec<k>` but the last (d_1..d_3), and the last is what all are compared with. Further maps of a level
    (`dec1.2`) take no part, but for those of a transformer's stages: where the student shows `<tap>.first` and
    `<tap>.last`, the sum is that over the first and that over the last maps, as the paper's code has it for Swin-Unet.
    A network that shows only its last decoder map has no decoder part. Maps have no label: ignored voxels take part,
    every image counts.
    """

    handles_regions = True

    def __init__(
        self, config: SelfReg, *, student: Taps, teacher: Taps | None, classes: int, regions: bool, dims: int
    ) -> None:
        """Raises ValueError where the student has no encoder or no decoder map."""
        super().__init__(config, student=student, teacher=teacher, classes=classes, regions=regions, dims=dims)
        plain = [tap for tap in student if "." not in tap]
        encoder = [tap for tap in plain if tap == "mid" or (tap.startswith("enc") and tap != "enc1")]
        decoder = [tap for tap in plain if tap.startswith("dec")]
        if not encoder or not decoder:
            lacking = "dec1" if encoder else "mid"
            raise ValueError(
                f"losses.selfreg: the student has no tap {lacking!r}{nearest(lacking, student)}; drop the term"
            )
        *decoder, self._last = decoder
        places = (".first", ".last") if any(tap.endswith(".first") for tap in student) else ("",)
        self._brackets = [
            tuple([tap + place if tap + place in student else tap for tap in maps] for maps in (encoder, decoder))
            for place in places
        ]

    def student_taps(self) -> frozenset[str]:
        """All maps that are compared."""
        return frozenset([self._last, *(tap for bracket in self._brackets for maps in bracket for tap in maps)])

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:  # noqa: ARG002 - as every loss
        """Value times images; taps (N, C, *S)."""
        last = student.taps[self._last]
        parts = []
        for bracket in self._brackets:
            encoder, decoder = ([student.taps[tap] for tap in maps] for maps in bracket)
            parts += [
                _mean([internal(x) for x in encoder]),
                _mean([consistency(x, last) for x in [*encoder, *decoder]]),
            ]
            if decoder:
                parts.append(_mean([internal(x) for x in decoder]))
        images = target.new_full((), len(target), dtype=torch.float64)
        return Term(torch.stack(parts).sum() * len(target), images)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()
