"""Attention U-Net (Oktay et al. 2018, arXiv 1804.03999, figures 1 and 2) in the form of its common PyTorch version."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.blocks import check_size, convolution, level_taps
from models.output import Output, Segmenter, Tap

LEVELS = 5


class AttentionUNet(Segmenter):
    """Five levels of width to 16 width channels, whose skips are multiplied by a gate (equation 1: additive attention).

    It differs from the paper in that the gating signal is the upsampled decoder map, at the skip's own size, and that
    batch normalisation stands behind every convolution, each of which has a bias all the same. A level goes up by
    nearest interpolation and a 3 x 3 convolution. 34,878,638 parameters at width 64, the usual one, for 3 channels and
    2 classes.

    Taps: `enc1`..`enc4`, `mid`, and by level `gate<k>`, (N, 1, ...) between 0 and 1, and `dec<k>`.
    """

    stride = 2 ** (LEVELS - 1)

    def __init__(self, *, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        upwards = widths[::-1]
        self.encoders = nn.ModuleList(_double(above, here) for above, here in pairwise([in_channels, *widths]))
        self.pool = nn.MaxPool2d(2)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), *convolution(deep, here, bias=True))
            for deep, here in pairwise(upwards)
        )
        self.gates = nn.ModuleList(_Gate(here) for here in upwards[1:])
        self.decoders = nn.ModuleList(_double(2 * here, here) for here in upwards[1:])
        self.head = nn.Conv2d(width, classes, 1)
        self.taps = _with_gates(level_taps(widths))

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of 16, to logits (N, classes, H, W). Raises ValueError."""
        check_size(images, self.stride, self.name)
        maps: list[Tensor] = []
        x = images
        for level, encoder in enumerate(self.encoders):
            x = encoder(self.pool(x) if level else x)
            maps.append(x)
        skips = maps[-2::-1]
        for up, gate, decoder, skip in zip(self.ups, self.gates, self.decoders, skips, strict=True):
            wider = up(x)
            share = gate(wider, skip)
            x = decoder(torch.cat([skip * share, wider], dim=1))
            maps += [share, x]
        return Output(self.head(x), dict(zip(self.taps, maps, strict=True)))


class _Gate(nn.Module):
    """How much of a skip passes, by pixel: (N, width, H, W) twice to (N, 1, H, W) between 0 and 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        between = max(width // 2, 1)
        self.signal = convolution(width, between, 1, bias=True, relu=False)
        self.skip = convolution(width, between, 1, bias=True, relu=False)
        self.share = convolution(between, 1, 1, bias=True, relu=False)

    def forward(self, signal: Tensor, skip: Tensor) -> Tensor:
        share: Tensor = self.share((self.signal(signal) + self.skip(skip)).relu()).sigmoid()
        return share


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(convolution(inputs, outputs, bias=True), convolution(outputs, outputs, bias=True))


def _with_gates(taps: dict[str, Tap]) -> dict[str, Tap]:
    """A gate before each map of the decoder."""
    gated: dict[str, Tap] = {}
    for name, tap in taps.items():
        if name.startswith("dec"):
            gated[f"gate{name[3:]}"] = Tap(1, tap.stride)
        gated[name] = tap
    return gated
