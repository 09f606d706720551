"""ResUNet++ (Jha et al. 2019, arXiv 1911.07067, figure 2), in the form of the authors' PyTorch version."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import check_size, strided
from models.output import Output, Segmenter, Tap

RATES = (1, 6, 12, 18)
REDUCTION = 8


class ResUNetPlusPlusAuthor(Segmenter):
    """A stem of width channels and three residual blocks of 2, 4 and 8 width, pre-activated and followed by squeeze and
    excitation; pyramids of dilated convolutions, which are summed, behind them (16 width) and before the head.

    The decoder's map is multiplied by attention (one weight a channel and pixel, no sigmoid) before it goes up by
    nearest interpolation. Everything has a bias but squeeze and excitation. 4,062,993 parameters at width 16 for 3
    channels and 1 class (4,063,010 for 2).

    Taps: `enc1`..`enc3`, `enc4.block` (8 width), `mid` (the pyramid behind it), `dec3`..`dec1` (before the last one).
    """

    stride = 8

    def __init__(self, *, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        deepest = 16 * width
        self.encoders = nn.ModuleList(
            _Residual(above, here, stride=2 if level else 1, activated=level > 0)
            for level, (above, here) in enumerate(pairwise([in_channels, *widths]))
        )
        self.bridge = _Pyramid(widths[-1], deepest)
        self.attentions, self.decoders = nn.ModuleList(), nn.ModuleList()
        returned = [widths[3], widths[2], widths[1]]
        for deep, skip, here in zip([deepest, *returned], widths[2::-1], returned, strict=False):
            self.attentions.append(_Attention(skip, deep))
            self.decoders.append(_Residual(skip + deep, here))
        self.pyramid = _Pyramid(widths[1], width)
        self.head = nn.Conv2d(width, classes, 1)
        self.taps = {f"enc{level + 1}": Tap(each, 2**level) for level, each in enumerate(widths[:-1])}
        self.taps |= {"enc4.block": Tap(widths[-1], 8), "mid": Tap(deepest, 8)}
        self.taps |= {
            f"dec{level}": Tap(each, 2 ** (level - 1)) for level, each in zip((3, 2, 1), returned, strict=True)
        }

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of 8, to logits (N, classes, H, W). Raises ValueError."""
        check_size(images, self.stride, self.name)
        maps: list[Tensor] = []
        x = images
        for encoder in self.encoders:
            x = encoder(x)
            maps.append(x)
        skips = maps[-2::-1]
        x = self.bridge(x)
        maps.append(x)
        for attention, decoder, skip in zip(self.attentions, self.decoders, skips, strict=True):
            up = F.interpolate(attention(skip, x), scale_factor=2, mode="nearest")
            x = decoder(torch.cat([up, skip], dim=1))
            maps.append(x)
        return Output(self.head(self.pyramid(x)), dict(zip(self.taps, maps, strict=True)))


class _Residual(nn.Module):
    """Two 3 x 3 convolutions plus a 1 x 1 shortcut with normalisation, then a weight for each channel."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, activated: bool = True) -> None:
        """activated: whether normalisation and ReLU stand before the first convolution; not where it sees the image."""
        super().__init__()
        # Not in place: the shortcut reads the same map.
        before = [nn.BatchNorm2d(inputs), nn.ReLU()] if activated else []
        self.branch = nn.Sequential(
            *before,
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.stride = stride
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        between = max(outputs // REDUCTION, 1)
        self.weigh = nn.Sequential(
            nn.Linear(outputs, between, bias=False), nn.ReLU(inplace=True), nn.Linear(between, outputs, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        total = self.branch(x) + self.shortcut(strided(x, self.stride))
        weights = self.weigh(total.mean((2, 3))).sigmoid()
        weighted: Tensor = total * weights[:, :, None, None]
        return weighted


class _Pyramid(nn.Module):
    """Four dilated 3 x 3 convolutions with normalisation, summed, and a 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate), nn.BatchNorm2d(outputs))
            for rate in RATES
        )
        self.fuse = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        fused: Tensor = self.fuse(torch.stack([branch(x) for branch in self.branches]).sum(0))
        return fused


class _Attention(nn.Module):
    """A decoder's map times weights from it and the skip, which has twice its size."""

    def __init__(self, skip: int, deep: int) -> None:
        super().__init__()
        self.skip = nn.Sequential(_activated(skip, deep), nn.MaxPool2d(2))
        self.deep = _activated(deep, deep)
        self.weights = _activated(deep, deep)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        attended: Tensor = deep * self.weights(self.skip(skip) + self.deep(deep))
        return attended


def _activated(inputs: int, outputs: int) -> nn.Sequential:
    # Not in place: its input is read again.
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
