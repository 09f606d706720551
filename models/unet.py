"""U-Net (Ronneberger, Fischer and Brox 2015, arXiv 1505.04597, figure 1) with batch normalisation."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.blocks import check_size, double_conv, level_taps
from models.output import Output, Segmenter

LEVELS = 5


class UNet(Segmenter):
    """Five levels of width, 2 width, ... 16 width channels, joined by concatenation.

    It differs from the paper in three ways: convolutions are padded, so that the logits have the input's size; a level
    goes down by max pooling over 3 x 3 with stride 2; it goes up by a 3 x 3 transposed convolution with batch
    normalisation and ReLU. 8,634,432 parameters at width 32 for 3 channels and 2 classes.

    Taps: `enc1`..`enc4` (what the skips carry), `mid`, `dec4`..`dec1` (after both convolutions of a level).
    """

    stride = 2 ** (LEVELS - 1)

    def __init__(self, *, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        upwards = widths[::-1]
        self.encoders = nn.ModuleList(double_conv(above, here) for above, here in pairwise([in_channels, *widths]))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.ups = nn.ModuleList(_up(deep, here) for deep, here in pairwise(upwards))
        self.decoders = nn.ModuleList(double_conv(2 * here, here) for here in upwards[1:])
        self.head = nn.Conv2d(width, classes, 1, bias=False)
        self.taps = level_taps(widths)

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of 16, to logits (N, classes, H, W). Raises ValueError."""
        check_size(images, self.stride, "unet")
        maps: list[Tensor] = []
        x = images
        for level, encoder in enumerate(self.encoders):
            x = encoder(self.pool(x) if level else x)
            maps.append(x)
        skips = maps[-2::-1]
        for up, decoder, skip in zip(self.ups, self.decoders, skips, strict=True):
            x = decoder(torch.cat([up(x), skip], dim=1))
            maps.append(x)
        return Output(self.head(x), dict(zip(self.taps, maps, strict=True)))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    """(N, inputs, H, W) to (N, outputs, 2 H, 2 W)."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
