"""U-Net (Ronneberger, Fischer and Brox 2015, arXiv 1505.04597, figure 1), in the forms of three code bases."""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.blocks import (
    BATCH_NORM,
    CONVOLUTION,
    LINEAR,
    MAX_POOL,
    TRANSPOSED,
    check_size,
    convolution,
    level_taps,
)
from models.output import Output, Segmenter


class _Form(NamedTuple):
    """What the code bases do differently, beside how they go up."""

    levels: int
    pool: tuple[int, int]
    """Kernel and padding of the max pooling of stride 2."""
    norm: bool
    """Batch normalisation, and no bias, in every 3 x 3 convolution."""
    plain_up: bool = False
    """No normalisation and no ReLU behind a transposed convolution."""
    skip_first: bool = False
    """The order of channels where skip and upsampled map are joined."""
    thin: bool = False
    """Where channels are kept on the way up, a level returns half of its skip's, and the deepest level keeps the
    channels of the one above."""
    head_bias: bool = True


FORMS: Mapping[str, _Form] = {
    "zh320": _Form(5, (3, 1), norm=True, head_bias=False),
    "awesome": _Form(4, (2, 0), norm=False),
    "selfreg": _Form(5, (2, 0), norm=True, plain_up=True, skip_first=True, thin=True),
}
"""Name in a study file -> the form: that of zh320's distillation code, of Awesome-U-Net, and of SelfReg-UNet."""


class UNet(Segmenter):
    """Levels of width, 2 width, 4 width, ... channels, joined by concatenation.

    It differs from the paper in that convolutions are padded, so that the logits have the input's size, and in the form
    `zh320` in two more ways: a level goes down by max pooling over 3 x 3 with stride 2, and up by a 3 x 3 transposed
    convolution with batch normalisation and ReLU. That one reaches even and odd pixels differently often, which shows
    as a comb at the edges of masks; `transposed-2x2`, `transposed-4x4` and `bilinear` reach all alike.

    The head of `zh320` has no bias and reads ReLU maps. Where no channel of a narrow network speaks for the object, its
    probability is 0.5 at the most, where all maps are 0: masks at a threshold of 0.5 are empty then, and those at a
    lower one need not be worse than others.

    Parameters for 3 channels and 2 classes: 8,634,432 (zh320, width 32), 1,946,914 (awesome, 32); for 1 channel and 9
    classes: 17,262,345 (selfreg, 64), 31,037,001 (selfreg, 64, going up by transposed convolutions).

    In three dimensions every kernel and pool has one side more of the same length.

    Taps: `enc1`.. (what the skips carry), `mid`, .. `dec1` (after both convolutions of a level).
    """

    takes_dims = True

    def __init__(
        self, *, width: int, in_channels: int, classes: int, up: str = "transposed", form: str = "zh320", dims: int = 2
    ) -> None:
        super().__init__()
        self.dims = dims
        made = FORMS[form]
        kept = up == "interpolated"
        thin = made.thin and kept
        widths = [width * 2**level for level in range(made.levels)]
        widths[-1] = widths[-2] if thin else widths[-1]
        skips = widths[-2::-1]
        returned = [max(skip // 2, width) for skip in skips] if thin else skips
        self.stride = 2 ** (made.levels - 1)
        self.skip_first = made.skip_first
        self.encoders = nn.ModuleList(
            _double(above, here, here, made.norm, dims) for above, here in pairwise([in_channels, *widths])
        )
        kernel, padding = made.pool
        self.pool = MAX_POOL[dims](kernel, stride=2, padding=padding)
        below = [widths[-1], *returned[:-1]]
        self.ups = nn.ModuleList(_up(deep, skip, up, made, dims) for deep, skip in zip(below, skips, strict=True))
        joined = [skip + (deep if kept else skip) for deep, skip in zip(below, skips, strict=True)]
        self.decoders = nn.ModuleList(
            _double(inputs, inputs // 2 if thin else outputs, outputs, made.norm, dims)
            for inputs, outputs in zip(joined, returned, strict=True)
        )
        self.head = CONVOLUTION[dims](width, classes, 1, bias=made.head_bias)
        self.taps = level_taps(widths, returned)

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, *S), sides multiples of `stride`, to logits (N, classes, *S). Raises ValueError."""
        check_size(images, self.stride, self.name)
        maps: list[Tensor] = []
        x = images
        for level, encoder in enumerate(self.encoders):
            x = encoder(self.pool(x) if level else x)
            maps.append(x)
        skips = maps[-2::-1]
        for up, decoder, skip in zip(self.ups, self.decoders, skips, strict=True):
            x = decoder(torch.cat([skip, up(x)] if self.skip_first else [up(x), skip], dim=1))
            maps.append(x)
        return Output(self.head(x), dict(zip(self.taps, maps, strict=True)))


def _double(inputs: int, between: int, outputs: int, norm: bool, dims: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, between, norm=norm, bias=not norm, dims=dims),
        convolution(between, outputs, norm=norm, bias=not norm, dims=dims),
    )


def _up(inputs: int, outputs: int, kind: str, made: _Form, dims: int) -> nn.Module:
    """(N, inputs, *S) to (N, outputs, *2S); `interpolated` keeps the channels."""
    if kind == "interpolated":
        return nn.Upsample(scale_factor=2, mode=LINEAR[dims], align_corners=True)
    if kind == "bilinear":
        return nn.Sequential(
            nn.Upsample(scale_factor=2, mode=LINEAR[dims]),
            *convolution(inputs, outputs, norm=made.norm, bias=not made.norm, dims=dims),
        )
    kernel, padding, extra = {"transposed": (3, 1, 1), "transposed-2x2": (2, 0, 0), "transposed-4x4": (4, 1, 0)}[kind]
    wider = TRANSPOSED[dims](inputs, outputs, kernel, stride=2, padding=padding, output_padding=extra)
    if made.plain_up:
        return wider
    normalised = [BATCH_NORM[dims](outputs)] if made.norm else []
    return nn.Sequential(wider, *normalised, nn.ReLU(inplace=True))
