"""Deep residual U-Net (Zhang, Liu and Wang 2018, arXiv 1711.10684, figure 2 and table I)."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import double_conv, level_taps
from models.output import Output, Segmenter

LEVELS = 4


class ResUNet(Segmenter):
    """Four levels of width, 2 width, 4 width and 8 width channels, each a residual block, joined by concatenation.

    It differs from the paper in that normalisation and ReLU follow the convolutions (the paper puts them before), the
    shortcut has no normalisation, and a level goes up by bilinear interpolation to the skip's size, so that any size
    works. 2,055,936 parameters at width 32 for 3 channels and 2 classes; the paper's width is 64.

    Taps: `enc1`..`enc3`, `mid` (the paper's bridge), `dec3`..`dec1`, each after the sum of its block.
    """

    stride = 1

    def __init__(self, *, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        upwards = widths[::-1]
        self.encoders = nn.ModuleList(
            _Residual(above, here, stride=2 if level else 1)
            for level, (above, here) in enumerate(pairwise([in_channels, *widths]))
        )
        self.decoders = nn.ModuleList(_Residual(deep + here, here) for deep, here in pairwise(upwards))
        self.head = nn.Conv2d(width, classes, 1, bias=False)
        self.taps = level_taps(widths)

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W) of any size to logits (N, classes, H, W)."""
        maps: list[Tensor] = []
        x = images
        for encoder in self.encoders:
            x = encoder(x)
            maps.append(x)
        skips = maps[-2::-1]
        for decoder, skip in zip(self.decoders, skips, strict=True):
            up = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
            x = decoder(torch.cat([up, skip], dim=1))
            maps.append(x)
        return Output(self.head(x), dict(zip(self.taps, maps, strict=True)))


class _Residual(nn.Module):
    """Two convolutions plus a shortcut, 1 x 1 where the shape changes; no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = double_conv(inputs, outputs, stride)
        self.stride = stride
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # A strided 1 x 1 convolution sees every stride-th pixel; it is fed these. Given the stride, oneDNN 3 writes
        # past its workspace in the backward pass of channels-last maps with fewer than 16 channels (its issue 6035).
        seen = x if self.stride == 1 else x[..., :: self.stride, :: self.stride]
        total: Tensor = self.branch(x) + self.shortcut(seen)
        return total
