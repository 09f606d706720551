"""LCOV-Net (Zhao, Wang and Wang 2021, ISBI; Zhao et al. 2023, IEEE TMI 42:2513), in the form that ACF-BCKD (Yu et al.
2025) trains."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import check_size, level_taps
from models.output import Output, Segmenter

LEVELS = 5


class LcovNet(Segmenter):
    """Five levels of width to 16 width channels, joined by concatenation; max pooling down, a 1 x 1 x 1 convolution and
    trilinear interpolation up.

    A block convolves through the slices (1 x 1 x 3) and then within them (3 x 3 x 1, at the deepest level depthwise),
    and adds to that the first result times a calibration: a sigmoid of a 1 x 1 x 1 convolution of the map at half its
    size. So **the last axis has to be the one through the slices**. Convolutions are without bias, followed by batch
    normalisation and ReLU6. The published code has biases, dropout of 0.2 and other widths (32 to 256, the last two
    equal), which ACF-BCKD left out. Patches are multiples of 16, 32 at least. 815,984
    parameters at width 16 for 1 channel and 14 classes, of which 3,136 stand in the heads of the coarser levels: they
    train with `deep_supervision` alone.

    Taps: `enc1`..`enc4`, `mid`, `dec4`..`dec1` (a level's block).
    """

    dims = 3
    stride = 2 ** (LEVELS - 1)
    least = 4 * 2 ** (LEVELS - 2)  # the last map that is averaged, in windows of 4

    def __init__(self, *, width: int, in_channels: int, classes: int, deep_supervision: bool = False) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.encoders = nn.ModuleList(
            _Block(a, b, deepest=level == LEVELS - 1) for level, (a, b) in enumerate(pairwise([in_channels, *widths]))
        )
        self.ups = nn.ModuleList(_convolved(deep, skip, (1, 1, 1)) for deep, skip in pairwise(widths[::-1]))
        self.decoders = nn.ModuleList(_Block(2 * skip, skip) for skip in widths[-2::-1])
        self.heads = nn.ModuleList(nn.Conv3d(each, classes, 1, bias=False) for each in widths[:-1])
        self.deep_heads = LEVELS - 2 if deep_supervision else 0
        self.taps = level_taps(widths)

    def forward(self, images: Tensor) -> Output:
        """Patches (N, in_channels, X, Y, Z), z through the slices, sides multiples of `stride`, to logits (N, classes,
        X, Y, Z). Raises ValueError."""
        check_size(images, self.stride, self.name)
        maps: list[Tensor] = []
        x = images
        for level, encoder in enumerate(self.encoders):
            x = encoder(F.max_pool3d(x, 2) if level else x)
            maps.append(x)
        decoded: list[Tensor] = []
        for up, decoder, skip in zip(self.ups, self.decoders, maps[-2::-1], strict=True):
            x = decoder(torch.cat([_doubled(up(x)), skip], dim=1))
            decoded.append(x)
        finest, *coarser = zip(self.heads, reversed(decoded), strict=True)
        heads = coarser if self.training and self.deep_heads else []
        return Output(
            finest[0](finest[1]),
            dict(zip(self.taps, [*maps, *decoded], strict=True)),
            tuple(F.interpolate(head(x), size=images.shape[2:], mode="trilinear") for head, x in heads),
        )


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="trilinear")


def _convolved(inputs: int, outputs: int, kernel: tuple[int, int, int], groups: int = 1) -> nn.Sequential:
    padding = tuple(side // 2 for side in kernel)
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, kernel, padding=padding, groups=groups, bias=False),  # type: ignore[arg-type]
        nn.BatchNorm3d(outputs),
        nn.ReLU6(inplace=True),
    )


class _Block(nn.Module):
    """At the deepest level the calibration is a ReLU6 of the map at its own size, before the sigmoid."""

    def __init__(self, inputs: int, outputs: int, *, deepest: bool = False) -> None:
        super().__init__()
        self.through = _convolved(inputs, outputs, (1, 1, 3))
        self.within = _convolved(outputs, outputs, (3, 3, 1), groups=outputs if deepest else 1)
        convolve, norm, relu = _convolved(outputs, outputs, (1, 1, 1))
        around = nn.AvgPool3d(4, stride=2, padding=1)
        self.calibrate = nn.Sequential(*((convolve, norm, relu) if deepest else (around, convolve, norm)))
        self.deepest = deepest

    def forward(self, x: Tensor) -> Tensor:
        x = self.through(x)
        share = self.calibrate(x)
        total: Tensor = self.within(x) + (share if self.deepest else _doubled(share)).sigmoid() * x
        return total
