"""Several teachers as one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.output import Output, Segmenter


class Ensemble(Segmenter):
    """The arithmetic mean of the members' probabilities at temperature 1 (Hinton, Vinyals and Dean 2015,
    arXiv 1503.02531), given as its logarithm, so that softmax of these logits is that mean; no taps.

    A temperature of a loss softens the mean, not the members.
    """

    def __init__(self, members: Sequence[Segmenter]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.stride = math.lcm(*(member.stride for member in members))
        self.tap_channels = {}

    def forward(self, images: Tensor) -> Output:
        """Normalised images (N, C, S, S) to logits (N, classes, S, S) float32."""
        said = torch.stack([member(images).logits.float().log_softmax(1) for member in self.members])
        return Output(said.logsumexp(0) - math.log(len(self.members)), {})
