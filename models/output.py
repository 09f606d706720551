"""What every network returns, and what it promises."""

from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Output(NamedTuple):
    """One forward pass over N images of spatial size S.

    logits: (N, classes, *S) before softmax, at the input's size; classes >= 2, a binary task has two.
    taps: the named features that the network promises in `tap_channels`: (N, C, *(S / tap stride)).
    """

    logits: Tensor
    taps: dict[str, Tensor]


def whole(output: Output, taps: frozenset[str]) -> Output:
    """Logits and these taps of an output in float32, so that every loss is computed in it; other taps are let go."""
    return Output(output.logits.float(), {name: tap.float() for name, tap in output.taps.items() if name in taps})


class Network(Protocol):
    """The contract of a network: an `nn.Module` with these attributes.

    Input: (N, in_channels, *S), S a multiple of `stride`.
    """

    stride: int
    tap_channels: dict[str, int]
    """Channels of each tap, in the order from the input to the output of the network."""

    def __call__(self, images: Tensor) -> Output: ...


class Segmenter(nn.Module):
    """An `nn.Module` that keeps the `Network` contract; networks derive from it."""

    stride: int
    tap_channels: dict[str, int]

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, *S) to logits and taps."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")
