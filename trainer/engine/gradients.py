"""What each loss term moves: its share of the gradient, on the first batch of an epoch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.output import Output


class Shares:
    """Norms of the gradients of a student's weighted loss terms, once an epoch; nothing waits for the device.

    Where every term reads the logits alone the gradient is with respect to them, which costs no pass through the
    network. Where one reads taps it is with respect to the network's weights, the only thing that all terms move; that
    costs a backward pass a term. Neither draws a random number or touches the gradient that is trained with.
    """

    def __init__(self, terms: int, device: torch.device) -> None:
        self.norms = torch.zeros(terms, dtype=torch.float64, device=device)
        """Of each term on this rank's images; zero before the first batch."""
        self._wanted = True
        self._leaves: list[Tensor] = []

    def begin(self) -> None:
        """An epoch begins."""
        self.norms = torch.zeros_like(self.norms)
        self._wanted, self._leaves = True, []

    def listen(self, output: Output, network: nn.Module, *, taps: bool) -> None:
        """Before the terms of a batch are computed from the student's output. taps: whether one reads taps."""
        if self._wanted:
            weights: list[Tensor] = [weight for weight in network.parameters() if weight.requires_grad]
            self._leaves = weights if taps else [output.logits]

    def measure(self, terms: Sequence[Tensor | None]) -> None:
        """The weighted terms of the batch, before they go backward; None for one of weight zero."""
        leaves, self._leaves = self._leaves, []
        if self._wanted:
            self._wanted = False
            self.norms = torch.stack([_norm(term, leaves, self.norms) for term in terms])


def _norm(term: Tensor | None, leaves: Sequence[Tensor], like: Tensor) -> Tensor:
    if term is None or not term.requires_grad:
        return like.new_zeros(())
    found = torch.autograd.grad(term, leaves, retain_graph=True, allow_unused=True)
    squares = [gradient.double().square().sum() for gradient in found if gradient is not None]
    return torch.stack(squares).sum().sqrt() if squares else like.new_zeros(())


def shares(norms: Sequence[float]) -> list[float]:
    """Each norm over the sum of all; nothing where that is zero or not finite."""
    total = sum(norms)
    return [norm / total for norm in norms] if 0 < total < float("inf") else []
