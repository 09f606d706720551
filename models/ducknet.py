"""DUCK-Net (Dumitru, Peteleaza and Craciun 2023, Scientific Reports 13:9803, arXiv 2311.02239, figures 1 to 4), in the
form of zh320's distillation code."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import check_size, convolution
from models.output import Output, Segmenter, Tap

LEVELS = 5
KERNEL = 7
"""Of the separable branch."""


class DuckNet(Segmenter):
    """Five levels, each a DUCK block: six branches of other depths and dilations, summed.

    Two paths go down side by side and are summed at each level: 3 x 3 convolutions of the blocks' maps, and 2 x 2
    convolutions of the image alone. Skips are added, not concatenated.

    It differs from the authors' code in that normalisation stands before ReLU, the separable branch is 7 pixels long
    (theirs 6), and the path of the blocks goes down by 3 x 3 (theirs 2 x 2). Of a residual branch the facts leave open
    whether the shortcut or the sum is normalised, which is the same number of parameters; here it is the sum, as in the
    authors' code. 40,101,544 parameters at width 17 (the paper's DUCK-Net 17) for 3 channels and 2 classes, 160,284,404
    at 34.

    Taps: `enc1`..`enc5` (the blocks on the way down), `mid`, `dec5`..`dec1`.
    """

    stride = 2**LEVELS

    def __init__(self, *, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS + 1)]
        self.encoders = nn.ModuleList(
            _Duck(above, here) for above, here in zip([in_channels, *widths[1:LEVELS]], widths, strict=False)
        )
        self.downs = nn.ModuleList(_halved(above, here, 3) for above, here in pairwise(widths))
        self.chain = nn.ModuleList(_halved(above, here, 2) for above, here in pairwise([in_channels, *widths[1:]]))
        deepest, above = widths[-1], widths[-2]
        self.middle = nn.Sequential(
            _Residual(deepest, deepest),
            _Residual(deepest, deepest),
            _Residual(deepest, above),
            _Residual(above, above),
        )
        returned = [*widths[LEVELS - 2 :: -1], width]
        self.decoders = nn.ModuleList(_Duck(a, b) for a, b in zip(widths[LEVELS - 1 :: -1], returned, strict=True))
        self.head = nn.Conv2d(width, classes, 1, bias=False)
        self.taps = {f"enc{level + 1}": Tap(each, 2**level) for level, each in enumerate(widths[:-1])}
        self.taps["mid"] = Tap(above, 2**LEVELS)
        self.taps |= {f"dec{LEVELS - at}": Tap(each, 2 ** (LEVELS - 1 - at)) for at, each in enumerate(returned)}

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of 32, to logits (N, classes, H, W). Raises ValueError."""
        check_size(images, self.stride, self.name)
        maps: list[Tensor] = []
        x = image = images
        for encoder, down, small in zip(self.encoders, self.downs, self.chain, strict=True):
            x = encoder(x)
            maps.append(x)
            image = small(image)
            x = down(x) + image
        skips = maps[::-1]
        x = self.middle(x)
        maps.append(x)
        for decoder, skip in zip(self.decoders, skips, strict=True):
            x = decoder(F.interpolate(x, size=skip.shape[-2:], mode="nearest") + skip)
            maps.append(x)
        return Output(self.head(x), dict(zip(self.taps, maps, strict=True)))


def _halved(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """(N, inputs, H, W) to (N, outputs, H / 2, W / 2)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=2, padding=(kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Two 3 x 3 convolutions plus a 1 x 1 convolution, normalised (figure 3)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(convolution(inputs, outputs), convolution(outputs, outputs))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.norm(self.branch(x) + self.shortcut(x))
        return total


class _Duck(nn.Module):
    """Deep Understanding Convolutional Kernel (figure 2): the sum of six branches, normalised before and after."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # Not in place: several branches read the result.
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.branches = nn.ModuleList(
            [
                _dilated(inputs, outputs, 3),
                _dilated(inputs, outputs, 2),
                *(_residuals(inputs, outputs, count) for count in (1, 2, 3)),
                nn.Sequential(convolution(inputs, outputs, (1, KERNEL)), convolution(outputs, outputs, (KERNEL, 1))),
            ]
        )
        self.after = nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        total: Tensor = self.after(torch.stack([branch(x) for branch in self.branches]).sum(0))
        return total


def _dilated(inputs: int, outputs: int, count: int) -> nn.Sequential:
    """3 x 3 convolutions of dilation 1 to count: the widescope (3) and the midscope (2) of figure 4."""
    return nn.Sequential(
        *(convolution(outputs if rate > 1 else inputs, outputs, dilation=rate) for rate in range(1, count + 1))
    )


def _residuals(inputs: int, outputs: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(outputs if at else inputs, outputs) for at in range(count)))
