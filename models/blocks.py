"""What several networks share."""

import torch
from torch import Tensor, nn


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


def tap_names(levels: int) -> list[str]:
    """enc1, ..., mid, ..., dec1: the taps of a U-shaped network with `levels` levels, the deepest included."""
    down = [f"enc{level}" for level in range(1, levels)]
    up = [f"dec{level}" for level in range(levels - 1, 0, -1)]
    return [*down, "mid", *up]


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
