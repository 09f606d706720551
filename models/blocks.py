"""What several networks share."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.output import Tap

CONVOLUTION: Mapping[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: Mapping[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
BATCH_NORM: Mapping[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL: Mapping[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
LINEAR: Mapping[int, str] = {2: "bilinear", 3: "trilinear"}
"""Axes of space -> the layer, and the name of linear interpolation, for as many."""


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution without bias, batch normalisation, ReLU; the size is divided by the stride and rounded up."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def double_conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Two of `conv_bn_relu`, the first with the stride."""
    return nn.Sequential(conv_bn_relu(inputs, outputs, stride), conv_bn_relu(outputs, outputs))


def convolution(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, ...] = 3,
    *,
    dilation: int = 1,
    bias: bool = False,
    norm: bool = True,
    relu: bool = True,
    dims: int = 2,
) -> nn.Sequential:
    """A convolution of stride 1 that keeps the size (odd kernels), then batch normalisation and ReLU, unless they are
    not wanted. kernel: its side, or one for each of `dims` axes."""
    sides = (kernel,) * dims if isinstance(kernel, int) else kernel
    padding = tuple(dilation * (side - 1) // 2 for side in sides)
    layers: list[nn.Module] = [
        CONVOLUTION[dims](inputs, outputs, sides, padding=padding, dilation=dilation, bias=bias)  # type: ignore[arg-type]
    ]
    layers += [BATCH_NORM[dims](outputs)] if norm else []
    layers += [nn.ReLU(inplace=True)] if relu else []
    return nn.Sequential(*layers)


def level_taps(down: Sequence[int], up: Sequence[int] | None = None, *, first: int = 1) -> dict[str, Tap]:
    """enc1, ..., mid, ..., dec1: the taps of a U-shaped network.

    down: channels by level, the deepest (mid) last. up: channels of the decoder's maps, the deepest first; None: those
    of the levels above the deepest. first: the number of the first level.
    """
    above = list(enumerate(down[:-1], start=first))
    taps = {f"enc{level}": Tap(width, 2 ** (level - 1)) for level, width in above}
    taps["mid"] = Tap(down[-1], 2 ** (first + len(above) - 1))
    for (level, width), other in zip(reversed(above), up or down[-2::-1], strict=True):
        taps[f"dec{level}"] = Tap(width if up is None else other, 2 ** (level - 1))
    return taps


def strided(images: Tensor, stride: int) -> Tensor:
    """Every stride-th pixel of (N, C, H, W): what a strided 1 x 1 convolution sees, which is fed these.

    Given the stride, oneDNN 3 writes past its workspace in the backward pass of channels-last maps with fewer than 16
    channels (its issue 6035).
    """
    return images if stride == 1 else images[..., ::stride, ::stride]


def check_size(images: Tensor, stride: int, name: str) -> None:
    """Raises ValueError where an axis of images (N, C, *S) is no multiple of the stride."""
    # A traced network has its size fixed, and comparing traced sizes would warn.
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # torch leaves its jit untyped
        return
    size = images.shape[2:]
    if any(length % stride for length in size):
        field, kind = ("data.size", "images") if len(size) == 2 else ("data.patch", "patches")
        raise ValueError(
            f"{field}: {name} takes multiples of {stride}, got {kind} of {' x '.join(map(str, size))}; choose such a "
            f"{'size' if len(size) == 2 else 'patch'}"
        )


def check_single(images: Tensor, stride: int, name: str) -> None:
    """Raises ValueError where the deepest map of patches (N, C, *S) has one voxel, which has no deviation of its own
    for a normalisation of each patch alone."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return
    size = images.shape[2:]
    if all(length <= stride for length in size):
        shape = " x ".join(map(str, size))
        raise ValueError(
            f"data.patch: {name} makes one voxel of patches of {shape}, which has no deviation; choose {2 * stride} "
            f"along one axis at least"
        )
