"""Deep residual U-Net (Zhang, Liu and Wang 2018, arXiv 1711.10684, figure 2 and table I), in two forms."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import check_size, double_conv, level_taps, strided
from models.output import Output, Segmenter

LEVELS = 4


class ResUNet(Segmenter):
    """Four levels of width, 2 width, 4 width and 8 width channels, each a residual block, joined by concatenation.

    Form `zh320` (zh320's distillation code) differs from the paper in that normalisation and ReLU follow the
    convolutions (the paper puts them before), the shortcut has no normalisation, and a level goes up by bilinear
    interpolation to the skip's size, so that any size works. Form `awesome` (Awesome-U-Net) has the paper's order, a
    3 x 3 shortcut with normalisation in every block, biases, and goes up by a 2 x 2 transposed convolution.

    Parameters for 3 channels and 2 classes: zh320 2,055,936 at width 32 and 8,216,064 at the paper's 64; awesome
    13,043,074 at 64.

    Taps: `enc1`..`enc3`, `mid` (the paper's bridge), `dec3`..`dec1`, each after the sum of its block.
    """

    def __init__(self, *, width: int, in_channels: int, classes: int, form: str = "zh320") -> None:
        super().__init__()
        after = form == "zh320"
        self.stride = 1 if after else 2 ** (LEVELS - 1)
        widths = [width * 2**level for level in range(LEVELS)]
        upwards = widths[::-1]
        block = _Residual if after else _PreActivated
        first = _Residual if after else _First
        self.encoders = nn.ModuleList(
            (block if level else first)(above, here, stride=2 if level else 1)
            for level, (above, here) in enumerate(pairwise([in_channels, *widths]))
        )
        self.ups = nn.ModuleList() if after else nn.ModuleList(nn.ConvTranspose2d(d, d, 2, 2) for d in upwards[:-1])
        self.decoders = nn.ModuleList(block(deep + here, here) for deep, here in pairwise(upwards))
        self.head = nn.Conv2d(width, classes, 1, bias=not after)
        self.taps = level_taps(widths)

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), of any size (zh320) or of multiples of 8, to logits (N, classes, H, W). Raises
        ValueError."""
        check_size(images, self.stride, self.name)
        maps: list[Tensor] = []
        x = images
        for encoder in self.encoders:
            x = encoder(x)
            maps.append(x)
        skips = maps[-2::-1]
        for level, (decoder, skip) in enumerate(zip(self.decoders, skips, strict=True)):
            up = self.ups[level](x) if len(self.ups) else _resized(x, skip)
            x = decoder(torch.cat([up, skip], dim=1))
            maps.append(x)
        return Output(self.head(x), dict(zip(self.taps, maps, strict=True)))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


class _Residual(nn.Module):
    """Two convolutions plus a shortcut, 1 x 1 where the shape changes; no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = double_conv(inputs, outputs, stride)
        self.stride = stride
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Taken before the branch is computed: the order of the parts of x's gradient, and so its last bits, is that.
        seen = strided(x, self.stride)
        total: Tensor = self.branch(x) + self.shortcut(seen)
        return total


class _PreActivated(nn.Module):
    """Twice normalisation, ReLU and convolution (equation 3) plus a 3 x 3 shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            # Not in place: the shortcut reads the same map.
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total


class _First(nn.Module):
    """The first block, which sees the image as it is: nothing is normalised before its first convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total
