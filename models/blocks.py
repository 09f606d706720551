"""What several networks share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.output import Tap


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
    kernel: int | tuple[int, int] = 3,
    *,
    dilation: int = 1,
    bias: bool = False,
    norm: bool = True,
    relu: bool = True,
) -> nn.Sequential:
    """A convolution of stride 1 that keeps the size (odd kernels), then batch normalisation and ReLU, unless they are
    not wanted."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (high - 1) // 2, dilation * (wide - 1) // 2)
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, (high, wide), padding=padding, dilation=dilation, bias=bias)]
    layers += [nn.BatchNorm2d(outputs)] if norm else []
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
    """Raises ValueError where height or width of images (N, C, H, W) is no multiple of the stride."""
    # A traced network has its size fixed, and comparing traced sizes would warn.
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # torch leaves its jit untyped
        return
    height, width = images.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f"data.size: {name} takes multiples of {stride}, got images of {height} x {width}; choose such a size"
        )
