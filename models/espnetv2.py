"""ESPNetV2 (Mehta et al. 2019, arXiv 1811.11431, figures 1 and 2) in three dimensions, as
ACF-BCKD (Yu et al. 2025) trains it, with the decoder of its authors' later code for segmentation (EdgeNets)."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import check_size
from models.output import Output, Segmenter, Tap

GROUPS = 4
"""Of the 1 x 1 x 1 convolutions of a unit, and its branches."""
DILATIONS = (1, 2, 3, 4)
LAST_DILATIONS = (1, 1, 2, 3)
"""Of the units of the last stage, whose kernels may span 7 voxels along an axis, elsewhere 9 and more."""
REPEATS = (0, 3, 7)
"""Units behind the step down of each of the last three stages."""
SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
LEAST = 5
"""Voxels along an axis of a pyramid's map."""


class EspNetV2(Segmenter):
    """Four stages of width to 8 width channels, each of which halves the size; the image, averaged down, is added to
    the last three. The decoder has 2, 1.5 and 1 times the width and then a channel a class, adds its skips, and gives
    logits at half the size, which trilinear interpolation brings to the input's.

    A unit is a pyramid of depthwise dilated convolutions, each added to the one of the next smaller dilation, between
    1 x 1 x 1 convolutions of four groups. The decoder has pyramids of depthwise convolutions at five scales, of as many
    channels as half of the classes, and at most half the width, so that parameters do not grow evenly with the classes;
    their maps have 5 voxels along an axis at least. Patches are multiples of 16, 32 at least. 284,438
    parameters at width 32 for 1 channel and 14 classes, of which 224 are never used: the activations of units that a
    step down has.

    Taps: `enc2`..`enc4`, `mid`, `dec5` (the pyramid of that), and `dec4`, `dec3`, `dec2`: a decoder's map plus its
    skip, normalised, with PReLU.
    """

    dims = 3
    stride = 16
    least = 32  # at an eighth of it windows of 3 are averaged, and 16 leave 2
    voxels_last = True
    """A step at 48 x 48 x 48, batch 2, takes 0.74 s of one core so, and 0.88 s otherwise (width 32). Of the others
    Mobile U-Net takes 0.73 s instead of 0.35 at 32 x 32 x 32, the rest between 15 % less and 15 % more."""

    def __init__(self, *, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.stem = _convolved(in_channels, width, 3, stride=2)
        self.downs = nn.ModuleList(_Down(a, b, in_channels) for a, b in pairwise(widths))
        dilations = (DILATIONS, DILATIONS, LAST_DILATIONS)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Residual(each, each, rates) for _ in range(repeats)))
            for each, rates, repeats in zip(widths[1:], dilations, REPEATS, strict=True)
        )
        half = width // 2
        outs = [4 * half, 3 * half, 2 * half]
        between = min(classes // 2, half)
        self.pyramids = nn.ModuleList(
            nn.Sequential(_Pyramid(a, between, b), _activated(b)) for a, b in pairwise([widths[-1], *outs])
        )
        self.head = _Pyramid(outs[-1], between, classes, bias=True)
        self.skips = nn.ModuleList(_Skip(skip, out) for skip, out in zip(widths[-2::-1], outs, strict=True))
        self.sums = nn.ModuleList(_activated(out) for out in outs)
        self.taps = {f"enc{level}": Tap(each, 2 ** (level - 1)) for level, each in enumerate(widths[:-1], start=2)}
        self.taps |= {"mid": Tap(widths[-1], 16), "dec5": Tap(outs[0], 16)}
        self.taps |= {f"dec{level}": Tap(out, 2 ** (level - 1)) for level, out in zip((4, 3, 2), outs, strict=True)}

    def forward(self, images: Tensor) -> Output:
        """Patches (N, in_channels, X, Y, Z), sides multiples of `stride`, to logits (N, classes, X, Y, Z). Raises
        ValueError."""
        check_size(images, self.stride, self.name)
        x = self.stem(images)
        maps, small = [x], _halved(images)
        for down, stage in zip(self.downs, self.stages, strict=True):
            small = _halved(small)
            x = stage(down(x, small))
            maps.append(x)
        skips = maps[-2::-1]
        decoder = zip(self.pyramids, self.skips, self.sums, skips, strict=True)
        for level, (pyramid, skip, total, beside) in enumerate(decoder):
            x = pyramid(x)
            if level == 0:
                maps.append(x)
            x = total(F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True) + skip(beside))
            maps.append(x)
        logits = F.interpolate(self.head(x), size=images.shape[2:], mode="trilinear", align_corners=True)
        return Output(logits, dict(zip(self.taps, maps, strict=True)))


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool3d(x, 3, stride=2, padding=1)


def _activated(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm3d(channels), nn.PReLU(channels))


def _convolved(
    inputs: int, outputs: int, side: int, *, stride: int = 1, groups: int = 1, prelu: bool = True
) -> nn.Sequential:
    """A convolution without bias, batch normalisation and, if wanted, a PReLU of each channel."""
    first = nn.Conv3d(inputs, outputs, side, stride=stride, padding=side // 2, groups=groups, bias=False)
    return nn.Sequential(first, nn.BatchNorm3d(outputs), *([nn.PReLU(outputs)] if prelu else []))


class _Unit(nn.Module):
    """Extremely efficient spatial pyramid: reduce, split, transform, merge; before its activation."""

    def __init__(self, inputs: int, outputs: int, dilations: Sequence[int], stride: int = 1) -> None:
        super().__init__()
        each = outputs // GROUPS
        self.reduce = _convolved(inputs, each, 1, groups=GROUPS)
        self.branches = nn.ModuleList(
            nn.Conv3d(each, each, 3, stride=stride, padding=rate, dilation=rate, groups=each, bias=False)
            for rate in dilations
        )
        self.merged = _activated(outputs)
        self.expand = _convolved(outputs, outputs, 1, groups=GROUPS, prelu=False)
        self.activation = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        sums: list[Tensor] = []
        for branch in self.branches:
            y = branch(x)
            sums.append(y + sums[-1] if sums else y)
        expanded: Tensor = self.expand(self.merged(torch.cat(sums, dim=1)))
        return expanded


class _Residual(_Unit):
    """A unit plus its input, activated."""

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.activation(super().forward(x) + x)
        return activated


class _Down(nn.Module):
    """A step down: the map averaged, beside a unit of stride 2, plus two convolutions of the image of that size."""

    def __init__(self, inputs: int, outputs: int, image_channels: int) -> None:
        super().__init__()
        self.unit = _Unit(inputs, outputs - inputs, DILATIONS, stride=2)
        self.image = nn.Sequential(
            _convolved(image_channels, image_channels, 3), _convolved(image_channels, outputs, 1, prelu=False)
        )
        self.activation = nn.PReLU(outputs)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        both = torch.cat([_halved(x), self.unit(x)], dim=1)
        activated: Tensor = self.activation(both + self.image(image))
        return activated


class _Skip(nn.Module):
    """A skip with the decoder's channels, each times a sigmoid of the skip's mean over the patch."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolve = _convolved(inputs, outputs, 3, groups=gcd(inputs, outputs))
        self.weigh = nn.Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weighed: Tensor = self.convolve(x) * self.weigh(x.mean((2, 3, 4), keepdim=True)).sigmoid()
        return weighed


class _Pyramid(nn.Module):
    """Efficient pyramid pooling: depthwise convolutions of the map at five scales, joined channel by channel."""

    def __init__(self, inputs: int, between: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.project = _convolved(inputs, between, 1)
        self.scales = nn.ModuleList(
            nn.Conv3d(between, between, 3, padding=1, groups=between, bias=False) for _ in SCALES
        )
        self.merge = nn.Sequential(
            _activated(len(SCALES) * between),
            _convolved(len(SCALES) * between, between, 3, groups=between),
            nn.Conv3d(between, outputs, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        size = [int(length) for length in x.shape[2:]]
        maps = [_at_scale(x, size, scale, convolve) for scale, convolve in zip(SCALES, self.scales, strict=True)]
        merged: Tensor = self.merge(torch.stack(maps, dim=2).flatten(1, 2))
        return merged


def _at_scale(x: Tensor, size: Sequence[int], scale: float, convolve: nn.Module) -> Tensor:
    """What a convolution makes of (N, C, *size) in another size, brought back to this one."""
    other = [max(ceil(length * scale), LEAST) for length in size]
    y: Tensor = x
    if scale < 1.0:
        y = F.interpolate(convolve(averaged(x, other)), size=list(size), mode="trilinear", align_corners=True)
    elif scale > 1.0:
        y = averaged(convolve(F.interpolate(x, size=other, mode="trilinear", align_corners=True)), size)
    else:
        y = convolve(x)
    return y


def averaged(x: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive average pooling of (N, C, X, Y, Z) to any size, larger ones too; ONNX has none, so axis by axis: the
    entry i of m is the mean of floor(i n / m) to ceil((i + 1) n / m) of n."""
    for axis, outputs in enumerate(size, start=2):
        inputs = int(x.shape[axis])
        if inputs != outputs:
            places, entries = torch.arange(inputs, device=x.device), torch.arange(outputs, device=x.device).unsqueeze(1)
            begin, end = entries * inputs // outputs, ((entries + 1) * inputs + outputs - 1) // outputs
            weights = ((places >= begin) & (places < end)).to(x.dtype) / (end - begin)
            x = (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return x
