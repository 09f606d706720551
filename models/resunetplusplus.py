"""ResUNet++ (Jha et al. 2019, arXiv 1911.07067, figure 2), in the form of zh320's distillation code.

`models.resunetplusplus_author` has the authors' form, whose blocks are others.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import convolution, strided
from models.output import Output, Segmenter, Tap

GATE = 128
"""Channels in which a gate compares its two maps, whatever the width."""
RATES = (1, 6, 12, 18)
REDUCTION = 16


class ResUNetPlusPlus(Segmenter):
    """Four residual blocks of width to 8 width channels, each of which halves the size; the first three are followed by
    squeeze and excitation. Between them and the decoder, and before the head, stands a pyramid of dilated convolutions;
    the decoder's map is multiplied by an attention gate before it goes up.

    Logits are computed at half the size and brought to the input's by bilinear interpolation. Any size works. 3,926,894
    parameters at width 32 for 3 channels and 2 classes.

    Taps: `enc2`..`enc4` (before squeeze and excitation; what the skips carry), `enc5.block` (the fourth block), `mid`
    (the pyramid behind it), and by level `gate<k>` (N, 1, ...) and `dec<k>`; `dec2` is the last, before its pyramid.
    """

    stride = 1

    def __init__(self, *, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.encoders = nn.ModuleList(_Residual(a, b, stride=2) for a, b in pairwise([in_channels, *widths]))
        self.excitations = nn.ModuleList(_Excitation(each) for each in widths[:-1])
        self.bridge = _Pyramid(widths[-1], widths[-1])
        upwards = widths[::-1]
        self.gates = nn.ModuleList(_Gate(skip, deep) for deep, skip in pairwise(upwards))
        self.decoders = nn.ModuleList(_Residual(deep + skip, skip) for deep, skip in pairwise(upwards))
        self.pyramid = _Pyramid(width, width)
        self.head = nn.Conv2d(width, classes, 1, bias=False)
        self.taps = {f"enc{level}": Tap(each, 2 ** (level - 1)) for level, each in enumerate(widths[:-1], start=2)}
        self.taps |= {"enc5.block": Tap(widths[-1], 16), "mid": Tap(widths[-1], 16)}
        for level, each in zip((4, 3, 2), upwards[1:], strict=True):
            self.taps |= {f"gate{level + 1}": Tap(1, 2**level), f"dec{level}": Tap(each, 2 ** (level - 1))}

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W) of any size to logits (N, classes, H, W)."""
        maps: list[Tensor] = []
        x = images
        for level, encoder in enumerate(self.encoders):
            x = encoder(x)
            maps.append(x)
            if level < len(self.excitations):
                x = self.excitations[level](x)
        skips = maps[-2::-1]
        x = self.bridge(x)
        maps.append(x)
        for gate, decoder, skip in zip(self.gates, self.decoders, skips, strict=True):
            share = gate(skip, x)
            up = _resized(x * share, skip)
            x = decoder(torch.cat([up, skip], dim=1))
            maps += [share, x]
        return Output(_resized(self.head(self.pyramid(x)), images), dict(zip(self.taps, maps, strict=True)))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


class _Residual(nn.Module):
    """Two convolutions plus a 1 x 1 convolution, each with normalisation and ReLU; no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        first = convolution(inputs, outputs)
        first[0] = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.branch = nn.Sequential(first, convolution(outputs, outputs))
        self.shortcut = convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branch(x) + self.shortcut(strided(x, self.stride))
        return total


class _Excitation(nn.Module):
    """Squeeze and excitation (Hu, Shen and Sun 2018, arXiv 1709.01507, equations 2 to 4): a weight for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        between = max(width // REDUCTION, 1)
        self.weigh = nn.Sequential(nn.Linear(width, between), nn.ReLU(inplace=True), nn.Linear(between, width))

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.weigh(x.mean((2, 3))).sigmoid()
        return x * weights[:, :, None, None]


class _Pyramid(nn.Module):
    """Four dilated 3 x 3 convolutions and the mean over the image, a fifth of the channels each, joined by a 3 x 3
    convolution (Chen et al. 2017, arXiv 1706.05587, figure 5)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        each = max(outputs // 5, 1)
        self.branches = nn.ModuleList(convolution(inputs, each, dilation=rate) for rate in RATES)
        self.pooled = convolution(inputs, each, 1)
        self.fuse = convolution((len(RATES) + 1) * each, outputs)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        fused: Tensor = self.fuse(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))
        return fused


class _Gate(nn.Module):
    """How much of a decoder's map passes, by pixel: (N, 1, H, W) between 0 and 1, from the skip and that map."""

    def __init__(self, skip: int, deep: int) -> None:
        super().__init__()
        self.skip, self.deep = convolution(skip, GATE), convolution(deep, GATE)
        self.share = convolution(GATE, 1, relu=False)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        seen = F.interpolate(self.skip(skip), size=deep.shape[-2:], mode="nearest")
        share: Tensor = self.share(seen + self.deep(deep)).sigmoid()
        return share
