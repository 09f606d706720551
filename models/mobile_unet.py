"""Mobile U-Net (Jing et al. 2022, Textile Research Journal 92:30, doi 10.1177/0040517520928604), in three dimensions,
as ACF-BCKD (Yu et al. 2025) trains it.

Its encoder is MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381, table 2).
"""

from itertools import pairwise

from torch import Tensor, nn

from models.blocks import check_size
from models.output import Output, Segmenter, Tap

STAGES = ((1, 2, 1, 1), (6, 3, 2, 2), (6, 4, 3, 2), (6, 8, 4, 2), (6, 12, 3, 1), (6, 20, 3, 2), (6, 40, 1, 1))
"""Expansion, channels in halves of the width, bottlenecks, and stride of the first one."""
SKIPS = {0: 2, 1: 3, 2: 4, 4: 5}
"""Stage -> the level at which the decoder adds it."""
DEEPEST = 80
"""Channels of the bottom, in widths."""
EXPANSION = 6


class MobileUNet3d(Segmenter):
    """MobileNetV2's inverted bottlenecks down to 1/32 of the size, and four of them up again, whose depthwise
    convolution is a transposed one of 4 x 4 x 4; skips are added. A last transposed convolution of each channel alone
    and a 1 x 1 x 1 convolution give the logits.

    The stem is a depthwise convolution of stride 2 with batch normalisation and ReLU6, and a 1 x 1 x 1 one. As in the
    reference every bottleneck has a 1 x 1 x 1 shortcut, which is used where it keeps the size and changes the channels;
    where both stay its input is added, and else nothing: 230,208 of 13,883,132 parameters (width 16, 1 channel, 14
    classes) are never used. Patches are multiples of 32.

    Taps: `enc2`..`enc5` (what the skips carry), `mid` (the 1 x 1 x 1 convolution behind the encoder), `dec5`..`dec2`
    (a bottleneck plus its skip), `dec1` (the last transposed convolution).
    """

    dims = 3
    stride = 32

    def __init__(self, *, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        inputs = 2 * width
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels),
            nn.BatchNorm3d(in_channels),
            nn.ReLU6(inplace=True),
            nn.Conv3d(in_channels, inputs, 1),
        )
        self.stages = nn.ModuleList()
        channels: dict[int, int] = {}
        for number, (expansion, halves, count, stride) in enumerate(STAGES):
            outputs = halves * width // 2
            firsts = [(inputs, stride), *[(outputs, 1)] * (count - 1)]
            self.stages.append(nn.Sequential(*(_Bottleneck(each, outputs, expansion, s) for each, s in firsts)))
            inputs = outputs
            if number in SKIPS:
                channels[SKIPS[number]] = outputs
        deepest = DEEPEST * width
        self.bottom = nn.Conv3d(inputs, deepest, 1)
        above = [deepest, *(channels[level] for level in (5, 4, 3, 2))]
        self.ups = nn.ModuleList(_Bottleneck(a, b, EXPANSION, 2, up=True) for a, b in pairwise(above))
        self.last = nn.ConvTranspose3d(width, width, 4, stride=2, padding=1, groups=width, bias=False)
        self.head = nn.Conv3d(width, classes, 1)
        levels = {level: Tap(each, 2 ** (level - 1)) for level, each in channels.items()}
        self.taps = {f"enc{level}": tap for level, tap in levels.items()}
        self.taps["mid"] = Tap(deepest, self.stride)
        self.taps |= {f"dec{level}": tap for level, tap in reversed(levels.items())}
        self.taps["dec1"] = Tap(width, 1)

    def forward(self, images: Tensor) -> Output:
        """Patches (N, in_channels, X, Y, Z), sides multiples of `stride`, to logits (N, classes, X, Y, Z). Raises
        ValueError."""
        check_size(images, self.stride, self.name)
        maps: list[Tensor] = []
        x = self.stem(images)
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in SKIPS:
                maps.append(x)
        skips = maps[::-1]
        x = self.bottom(x)
        maps.append(x)
        for up, skip in zip(self.ups, skips, strict=True):
            x = up(x) + skip
            maps.append(x)
        x = self.last(x)
        return Output(self.head(x), dict(zip(self.taps, [*maps, x], strict=True)))


class _Bottleneck(nn.Module):
    """An inverted bottleneck: expansion, a depthwise convolution, and a projection without activation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, *, up: bool = False) -> None:
        super().__init__()
        wide = expansion * inputs
        if up:
            depthwise: nn.Module = nn.ConvTranspose3d(wide, wide, 4, stride=stride, padding=1, groups=wide, bias=False)
        else:
            depthwise = nn.Conv3d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False)
        self.branch = nn.Sequential(
            nn.Conv3d(inputs, wide, 1, bias=False),
            nn.BatchNorm3d(wide),
            nn.ReLU6(inplace=True),
            depthwise,
            nn.BatchNorm3d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv3d(wide, outputs, 1, bias=False),
            nn.BatchNorm3d(outputs),
        )
        self.shortcut = nn.Conv3d(inputs, outputs, 1, bias=False)
        self.sized, self.same = stride == 1, inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.branch(x)
        if not self.sized:
            return branch
        return branch + (x if self.same else self.shortcut(x))
