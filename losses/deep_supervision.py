"""Deep supervision (Lee et al. 2015, Deeply-Supervised Nets, arXiv 1409.5185, equation 3): further heads of a network
learn the labels as well."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from losses.term import Loss, Term
from models.output import Output


class DeepSupervision(Loss):
    """`main` times a loss of the logits plus the sum over heads of weight times the same loss of a head's logits.

    Where a loss keeps other voxels of each head (ohem), each part is divided by its own count on this rank before it is
    weighted; elsewhere all counts are equal and the ranks' parts add up as those of the plain loss do.
    """

    reads_heads = True

    def __init__(self, plain: Loss, *, heads: Sequence[float], main: float) -> None:
        """plain: a loss that reads logits alone. heads: a weight for each head of the student, the shallowest first."""
        nn.Module.__init__(self)  # it has no options of a loss of its own
        self.plain = plain
        self.heads, self.main = tuple(heads), main

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """As the plain loss does."""
        self.plain.begin_epoch(epoch, epochs)

    def forward(self, student: Output, teacher: Output | None, target: Tensor) -> Term:
        """Total and count of the plain loss's kind. Raises ValueError where the output has another number of heads."""
        parts = zip((self.main, *self.heads), (student.logits, *student.heads), strict=True)
        weighted = [(weight, self.plain(Output(logits, {}), teacher, target)) for weight, logits in parts if weight > 0]
        count = weighted[0][1].count
        values = [
            weight * term.total * (count / term.count.clamp(min=1.0)).to(term.total.dtype) for weight, term in weighted
        ]
        return Term(torch.stack(values).sum(), count)
