"""MultiResUNet (Ibtehaz and Rahman 2020, arXiv 1902.04049, figures 3 to 5 and table 1)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.blocks import check_size, convolution, level_taps
from models.output import Output, Segmenter, Tap

LEVELS = 5
ALPHA = 1.67
"""Section 4.1: makes the network as large as a U-Net of the same width."""


class MultiResUNet(Segmenter):
    """Five levels of MultiRes blocks for U-Net's width to 16 width channels, whose skips are chains of residual
    convolutions (ResPaths), 4, 3, 2 and 1 long.

    In the form `author` each step of a chain has its own convolutions. In the form `awesome` (Awesome-U-Net) the steps
    behind the first are one shared pair of convolutions that is applied as often as the chain is long, and batch
    normalisation has no weights of its own. The head ends in batch normalisation in both, as in the authors' code.

    Parameters at width 32 for 3 channels and 2 classes: author 7,251,376, awesome 7,821,028.

    Taps: `enc1`..`enc4` (the blocks), `enc<k>.path` (what the skips carry), `mid`, `dec4`..`dec1`.
    """

    stride = 2 ** (LEVELS - 1)

    def __init__(self, *, width: int, in_channels: int, classes: int, form: str = "author") -> None:
        super().__init__()
        own = form == "author"
        plans = [_parts(width * 2**level) for level in range(LEVELS)]
        returned = [sum(parts) for parts in plans]
        paths = [width * 2**level for level in range(LEVELS - 1)]
        self.encoders = nn.ModuleList(
            _MultiRes(above, parts, own) for above, parts in zip([in_channels, *returned[:-1]], plans, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.paths = nn.ModuleList(
            _ResPath(inputs, outputs, LEVELS - 1 - level, own)
            for level, (inputs, outputs) in enumerate(zip(returned[:-1], paths, strict=True))
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(deep, outputs, 2, stride=2)
            for deep, outputs in zip(returned[:0:-1], paths[::-1], strict=True)
        )
        self.decoders = nn.ModuleList(
            _MultiRes(2 * path, parts, own) for path, parts in zip(paths[::-1], plans[-2::-1], strict=True)
        )
        self.head = nn.Sequential(nn.Conv2d(returned[0], classes, 1), nn.BatchNorm2d(classes, affine=own))
        levels = level_taps(returned)
        self.taps = {}
        for name, tap in levels.items():
            self.taps[name] = tap
            if name.startswith("enc"):
                self.taps[f"{name}.path"] = Tap(paths[int(name[3:]) - 1], tap.stride)

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of 16, to logits (N, classes, H, W). Raises ValueError."""
        check_size(images, self.stride, self.name)
        maps: list[Tensor] = []
        skips: list[Tensor] = []
        x = images
        for level, encoder in enumerate(self.encoders):
            x = encoder(self.pool(x) if level else x)
            maps.append(x)
            if level < LEVELS - 1:
                skips.append(self.paths[level](x))
                maps.append(skips[-1])
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            x = decoder(torch.cat([up(x), skip], dim=1))
            maps.append(x)
        return Output(self.head(x), dict(zip(self.taps, maps, strict=True)))


def _parts(filters: int) -> tuple[int, int, int]:
    """Channels of the three convolutions of a block that stands for this many filters of a U-Net (section 3.2)."""
    whole = ALPHA * filters
    first, second, third = (max(int(whole * share), 1) for share in (0.167, 0.333, 0.5))
    return first, second, third


def _conv(inputs: int, outputs: int, kernel: int, own: bool, *, relu: bool = True) -> nn.Sequential:
    layers = convolution(inputs, outputs, kernel, bias=True, relu=relu)
    layers[1] = nn.BatchNorm2d(outputs, affine=own)
    return layers


class _MultiRes(nn.Module):
    """A chain of three 3 x 3 convolutions, which stand for 3 x 3, 5 x 5 and 7 x 7, side by side, plus a shortcut."""

    def __init__(self, inputs: int, parts: tuple[int, int, int], own: bool) -> None:
        super().__init__()
        total = sum(parts)
        self.chain = nn.ModuleList(_conv(above, here, 3, own) for above, here in pairwise([inputs, *parts]))
        self.shortcut = _conv(inputs, total, 1, own, relu=False)
        self.joined = nn.BatchNorm2d(total, affine=own)
        self.summed = nn.BatchNorm2d(total, affine=own)

    def forward(self, x: Tensor) -> Tensor:
        maps, each = [], x
        for conv in self.chain:
            each = conv(each)
            maps.append(each)
        total: Tensor = self.summed(self.joined(torch.cat(maps, dim=1)) + self.shortcut(x)).relu()
        return total


class _ResPath(nn.Module):
    """Steps of a 3 x 3 convolution plus a 1 x 1 shortcut."""

    def __init__(self, inputs: int, outputs: int, length: int, own: bool) -> None:
        super().__init__()
        first = _Step(inputs, outputs, own)
        later = [_Step(outputs, outputs, own) for _ in range(length - 1 if own else 1)]
        self.steps = nn.ModuleList([first, *later])
        self.repeats = 1 if own else length
        """How often the steps behind the first are applied."""

    def forward(self, x: Tensor) -> Tensor:
        first, *later = self.steps
        x = first(x)
        for step in later:
            for _ in range(self.repeats):
                x = step(x)
        return x


class _Step(nn.Module):
    def __init__(self, inputs: int, outputs: int, own: bool) -> None:
        super().__init__()
        self.conv = _conv(inputs, outputs, 3, own)
        self.shortcut = _conv(inputs, outputs, 1, own, relu=False)
        self.norm = nn.BatchNorm2d(outputs, affine=own)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.norm((self.conv(x) + self.shortcut(x)).relu())
        return total
