"""Residual U-Net (Kerfoot et al. 2018, STACOM, doi 10.1007/978-3-030-12029-0_40, figure 1), in the form of MONAI's
`UNet`, and the same without residual units.

ACF-BCKD (Yu et al. 2025) has the first as teacher, of width 64, and the second as student, of width 32.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.blocks import check_single, check_size
from models.output import Output, Segmenter, Tap

LEVELS = 4


class ResidualUNet3d(Segmenter):
    """Four stages of width, 2, 4 and 8 width channels; the first three halve the size, the first one too, and a stage
    up doubles it by a 3 x 3 x 3 transposed convolution of skip and decoder map. The last one gives the logits.

    Convolutions have a bias and are followed by instance normalisation without weights and a PReLU. units = 2: a stage
    down is a residual unit of two convolutions, whose shortcut is a convolution where size or channels change, and each
    stage up ends in a unit of one. units = 0: every stage is one convolution. Patches are multiples of 8, with more
    than 8 voxels along some axis. Parameters for 1 channel and 14 classes: 18,992,149 (units 2, width 64) and
    1,961,012 (0, 32).

    Taps: `enc2`..`enc4` (stages down; what the skips carry), `mid` at the size of `enc4`, `dec3`, `dec2`;
    `dec<k>.residual` is the branch of a stage's residual unit (convolution, normalisation and PReLU) before it is
    added, or with units = 0 `dec<k>.conv`, what its transposed convolution returns, before normalisation; `dec2.joined`
    is what the last stage up reads: `enc2` and `dec2`.
    """

    dims = 3
    stride = 2 ** (LEVELS - 1)
    alone = True

    def __init__(self, *, width: int, in_channels: int, classes: int, units: int = 0) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.downs = nn.ModuleList(
            _stage(a, b, stride=2, units=units) for a, b in pairwise([in_channels, *widths[:-1]])
        )
        self.bottom = _stage(widths[-2], widths[-1], stride=1, units=units)
        below = [widths[-1], *widths[-3::-1]]
        outs = [*widths[-3::-1], classes]
        self.ups = nn.ModuleList(
            _Up(skip + deep, out, units, last=number == LEVELS - 2)
            for number, (skip, deep, out) in enumerate(zip(widths[-2::-1], below, outs, strict=True))
        )
        kind = "residual" if units else "conv"
        self.taps = {f"enc{level}": Tap(each, 2 ** (level - 1)) for level, each in enumerate(widths[:-1], start=2)}
        self.taps["mid"] = Tap(widths[-1], self.stride)
        for level, out in zip((3, 2), outs, strict=False):
            self.taps |= dict.fromkeys((f"dec{level}.{kind}", f"dec{level}"), Tap(out, 2 ** (level - 1)))
        self.taps["dec2.joined"] = Tap(2 * width, 2)

    def forward(self, images: Tensor) -> Output:
        """Patches (N, in_channels, X, Y, Z) to logits (N, classes, X, Y, Z). Raises ValueError for sides that are no
        multiples of `stride`, or all are one."""
        check_size(images, self.stride, self.name)
        check_single(images, self.stride, self.name)
        maps: list[Tensor] = []
        x = images
        for down in self.downs:
            _, x = down(x)
            maps.append(x)
        skips = maps[::-1]
        _, x = self.bottom(x)
        maps.append(x)
        for up, skip in zip(self.ups, skips, strict=True):
            joined = torch.cat([skip, x], dim=1)
            part, x = up(joined)
            maps += [part, x]
        return Output(x, dict(zip(self.taps, [*maps[:-2], joined], strict=True)))


def _convolved(inputs: int, outputs: int, stride: int = 1, *, up: bool = False, bare: bool = False) -> nn.Sequential:
    """A 3 x 3 x 3 convolution, or a transposed one that doubles the size, normalisation and PReLU; bare: it alone."""
    if up:
        first: nn.Module = nn.ConvTranspose3d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    else:
        first = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1)
    return nn.Sequential(first, *([] if bare else [nn.InstanceNorm3d(outputs), nn.PReLU()]))


class _Plain(nn.Sequential):
    """Layers that return what the first one does, and the last."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, *others = self
        part: Tensor = first(x)
        x = part
        for layer in others:
            x = layer(x)
        return part, x


class _Unit(nn.Module):
    """A residual unit: its branch, and the sum of that and the shortcut."""

    def __init__(self, inputs: int, outputs: int, branch: Sequence[nn.Module], stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        side = 3 if stride > 1 else 1
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv3d(inputs, outputs, side, stride=stride, padding=side // 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        branch: Tensor = self.branch(x)
        return branch, branch + self.shortcut(x)


def _stage(inputs: int, outputs: int, *, stride: int, units: int) -> nn.Module:
    if units == 0:
        return _Plain(*_convolved(inputs, outputs, stride))
    steps = [(inputs, outputs, stride), *[(outputs, outputs, 1)] * (units - 1)]
    return _Unit(inputs, outputs, [_convolved(*step) for step in steps], stride)


class _Up(nn.Module):
    """(N, inputs, *S) to two maps (N, outputs, *2S): a part of the stage, and the whole. The last has no activation."""

    def __init__(self, inputs: int, outputs: int, units: int, *, last: bool) -> None:
        super().__init__()
        wider = _convolved(inputs, outputs, up=True, bare=last and units == 0)
        self.wider = wider if units else _Plain(*wider)
        self.unit = _Unit(outputs, outputs, [_convolved(outputs, outputs, bare=last)]) if units else None

    def forward(self, joined: Tensor) -> tuple[Tensor, Tensor]:
        x = self.wider(joined)
        both: tuple[Tensor, Tensor] = x if self.unit is None else self.unit(x)
        return both
