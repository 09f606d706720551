"""SegResNet (Myronenko 2018, arXiv 1810.11654, table 1), without the branch of its autoencoder."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import check_size, level_taps
from models.output import Output, Segmenter, Tap

DOWN = (1, 2, 2, 4)
"""Residual blocks of each level on the way down; on the way up there is one."""
GROUPS = 8


class SegResNet(Segmenter):
    """Levels of width, 2, 4 and 8 width channels (width 32 in the paper, 16 in ACF-BCKD); a level down begins with a
    convolution of stride 2, one up with a 1 x 1 x 1 convolution and trilinear interpolation, plus the skip.

    A block is normalisation in 8 groups, ReLU and a 3 x 3 x 3 convolution without bias, twice, plus its input. Unlike
    in MONAI's code nothing is added in place: what is recorded of a branch stays the branch. There the branch that a
    hook keeps is overwritten with the sum, so that what was published as a comparison with the branch is one with the
    sum. Patches are multiples of 8. 4,701,118 parameters at width 16 for 1 channel and 14 classes.

    Taps: `enc1`..`enc3` (what the skips carry), `mid`, `dec3`..`dec1` (after the block of a level), and before each of
    these `dec<k>.residual`, the block's second convolution before the sum. `dec1` is what the head normalises.
    """

    dims = 3
    stride = 2 ** (len(DOWN) - 1)

    def __init__(self, *, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(len(DOWN))]
        self.stem = _convolution(in_channels, width)
        self.downs = nn.ModuleList(_convolution(a, b, stride=2) for a, b in pairwise(widths))
        self.encoders = nn.ModuleList(
            nn.ModuleList(_Block(each) for _ in range(blocks)) for each, blocks in zip(widths, DOWN, strict=True)
        )
        self.ups = nn.ModuleList(nn.Conv3d(deep, skip, 1, bias=False) for deep, skip in pairwise(widths[::-1]))
        self.decoders = nn.ModuleList(_Block(each) for each in widths[-2::-1])
        self.head = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.ReLU(), nn.Conv3d(width, classes, 1))
        self.taps: dict[str, Tap] = {}
        for name, tap in level_taps(widths).items():
            self.taps |= {f"{name}.residual": tap, name: tap} if name.startswith("dec") else {name: tap}

    def forward(self, images: Tensor) -> Output:
        """Patches (N, in_channels, X, Y, Z), sides multiples of `stride`, to logits (N, classes, X, Y, Z). Raises
        ValueError."""
        check_size(images, self.stride, self.name)
        maps: list[Tensor] = []
        x = self.stem(images)
        for level, blocks in enumerate(self.encoders):
            x = self.downs[level - 1](x) if level else x
            for block in blocks:  # type: ignore[attr-defined]  # torch calls a list of lists modules
                _, x = block(x)
            maps.append(x)
        for up, decoder, skip in zip(self.ups, self.decoders, maps[-2::-1], strict=True):
            x = F.interpolate(up(x), scale_factor=2, mode="trilinear") + skip
            branch, x = decoder(x)
            maps += [branch, x]
        return Output(self.head(x), dict(zip(self.taps, maps, strict=True)))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class _Block(nn.Module):
    """To the branch, and the sum of that and the block's input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        halves = [(nn.GroupNorm(GROUPS, width), nn.ReLU(), _convolution(width, width)) for _ in range(2)]
        self.branch = nn.Sequential(*(layer for half in halves for layer in half))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        branch: Tensor = self.branch(x)
        return branch, branch + x
