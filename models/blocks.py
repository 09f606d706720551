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


def level_taps(widths: Sequence[int]) -> dict[str, Tap]:
    """enc1, ..., mid, ..., dec1: the taps of a U-shaped network with these channels by level, the deepest last."""
    levels = [Tap(width, 2**level) for level, width in enumerate(widths)]
    above = list(enumerate(levels[:-1], start=1))
    down = {f"enc{level}": tap for level, tap in above}
    up = {f"dec{level}": tap for level, tap in reversed(above)}
    return {**down, "mid": levels[-1], **up}


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
