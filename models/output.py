"""What every network returns, and what it promises."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from models.normalisation import IMAGENET, Normalisation


class Tap(NamedTuple):
    """A feature map that a network promises to return."""

    channels: int
    stride: int
    """The input's size over the map's size along each axis of space."""


Taps = Mapping[str, Tap]
"""The taps of a network by name, in the order from its input to its output."""


class Output(NamedTuple):
    """One forward pass over N images of spatial size S.

    logits: (N, classes, *S) before softmax, at the input's size; classes >= 2, a binary task has two.
    taps: the named features that the network promises in its own `taps`: (N, channels, *(S / stride)).
    """

    logits: Tensor
    taps: dict[str, Tensor]


def whole(output: Output, taps: frozenset[str]) -> Output:
    """Logits and these taps of an output in float32, so that every loss is computed in it; other taps are let go."""
    return Output(output.logits.float(), {name: tap.float() for name, tap in output.taps.items() if name in taps})


class Network(Protocol):
    """The contract of a network: an `nn.Module` with these attributes.

    Input: (N, in_channels, *S), S a multiple of `stride`, normalised by `normalisation`.
    """

    stride: int
    taps: Taps
    normalisation: Normalisation

    def __call__(self, images: Tensor) -> Output: ...


class Segmenter(nn.Module):
    """An `nn.Module` that keeps the `Network` contract; networks derive from it."""

    stride: int
    taps: Taps
    normalisation: Normalisation = IMAGENET

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, *S) to logits and taps."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")
