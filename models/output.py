"""What every network returns, and what it promises."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

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
    heads: further logits at the input's size, as many as the network's `deep_heads`, the shallowest first, in training
    mode alone (deep supervision). `logits` is none of them: it is what inference uses.
    """

    logits: Tensor
    taps: dict[str, Tensor]
    heads: tuple[Tensor, ...] = ()


def whole(output: Output, taps: frozenset[str], *, heads: bool = False) -> Output:
    """Logits and these taps of an output in float32, so that every loss is computed in it; other taps are let go, and
    so are the heads that nobody asks for."""
    return Output(
        output.logits.float(),
        {name: tap.float() for name, tap in output.taps.items() if name in taps},
        tuple(head.float() for head in output.heads) if heads else (),
    )


class Network(Protocol):
    """The contract of a network: an `nn.Module` with these attributes.

    Input: (N, in_channels, *S), S a multiple of `stride`, normalised by `normalisation`.
    """

    stride: int
    taps: Taps
    deep_heads: int
    normalisation: Normalisation

    def __call__(self, images: Tensor) -> Output: ...


class Segmenter(nn.Module):
    """An `nn.Module` that keeps the `Network` contract; networks derive from it.

    `models.build` makes it with the options of its configuration, `in_channels`, `classes` and, where `takes_size` is
    true, the side `size` of its images (None: the side of its paper), and where `takes_dims` is true, `dims`.
    """

    takes_size: ClassVar[bool] = False
    """Whether its weights or windows depend on the side of its images."""
    takes_dims: ClassVar[bool] = False
    """Whether it is made for the axes of space that it is told; else it has those of `dims`."""

    dims: int = 2
    """Axes of space: 2 for images, 3 for volumes."""
    voxels_last: bool = False
    """Whether the weights of a network for volumes lie with their channels last, as those for images always do: true
    where that was measured to be faster."""
    alone: bool = False
    """Whether each patch's deepest map is normalised alone: it needs two voxels then."""
    least: int = 1
    """The shortest side of a patch; torch's average pooling refuses maps smaller than its window, padded or not."""
    stride: int
    taps: Taps
    deep_heads: int = 0
    """How many `heads` an output has in training mode."""
    normalisation: Normalisation = IMAGENET
    name: str = ""
    """Its name in a study file, for messages."""
    paper: str = ""
    """Where it was published, where the first line of its file does not say it in brackets."""

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, *S) to logits, taps and, in training mode, heads."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")
