"""CASCADE (Rahman and Marculescu 2023, WACV): a cascaded attention decoder on a hierarchical encoder (figure 2)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import check_size
from models.fixed_size import check_side, square_side
from models.nearest import OptionError, nearest
from models.output import Output, Segmenter, Tap
from models.pretrained import load_pretrained, timm_module
from models.transunet import PUBLISHED_SIZE, R50ViT

ENCODERS = tuple(f"pvt_v2_b{size}" for size in range(6))


class _Cascade(Segmenter):
    """Encoder maps, the deepest first, through attention by channel and by place; a head a level.

    Each level's logits are enlarged to the input's size. The network's logits are the sum of the four; in training mode
    the four are its `heads` too, the shallowest (finest) first. The authors train the sum of the four losses, and
    predict by the sum of the logits.

    Images of one channel go through a 1 x 1 convolution to three; other counts go into the encoder. That convolution is
    built for any number of channels, as the authors do, so that parameters are as many; it takes part for one alone.

    Taps: those of the encoder, and `dec<k>` of each of the decoder's levels, before its head.
    """

    deep_heads = 4

    def _decoded_by(self, channels: Sequence[int], hidden: Sequence[int], classes: int) -> None:
        """channels: of the encoder's maps, the deepest first; hidden: of the gates."""
        self.gray = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
        self.decoder = _Decoder(channels, hidden)
        self.outputs = nn.ModuleList(nn.Conv2d(count, classes, 1) for count in channels)

    def _coloured(self, images: Tensor) -> Tensor:
        coloured: Tensor = self.gray(images) if images.shape[1] == 1 else images
        return coloured

    def _output(self, images: Tensor, maps: Sequence[Tensor]) -> Output:
        """The output from the encoder's maps, the finest first, in the order of its taps."""
        decoded = self.decoder(maps[::-1])
        heads = [
            F.interpolate(head(level), size=images.shape[-2:], mode="bilinear", align_corners=False)
            for head, level in zip(self.outputs, decoded, strict=True)
        ]
        taps = dict(zip(self.taps, [*maps, *decoded], strict=True))
        return Output(torch.stack(heads).sum(dim=0), taps, tuple(heads[::-1]) if self.training else ())


class CascadePvt(_Cascade):
    """PVT-CASCADE: heads at 1/32, 1/16, 1/8 and 1/4.

    encoder: a PVTv2 of timm (arXiv 2106.13797), `pvt_v2_b2` in the paper; the decoder is as wide as its maps. weights:
    `imagenet`, or a file, for the encoder. Any multiples of 32 work. 35,273,823 parameters at 3 channels and 2 classes.

    Taps: `enc3`, `enc4`, `enc5`, `mid` (PVTv2's stages), `dec6`..`dec3`.
    """

    stride = 32

    def __init__(
        self,
        *,
        encoder: str = "pvt_v2_b2",
        weights: str | None = None,
        in_channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise OptionError(f"encoder = {encoder!r}: unknown PVTv2{nearest(encoder, ENCODERS)}")
        self.encoder = timm_module("models").create_model(
            encoder, num_classes=0, in_chans=3 if in_channels == 1 else in_channels, drop_path_rate=0.1
        )
        channels = [int(info["num_chs"]) for info in self.encoder.feature_info]
        names = ["enc3", "enc4", "enc5", "mid"]
        up = ["dec6", "dec5", "dec4", "dec3"]
        down = {name: Tap(count, 4 << place) for place, (name, count) in enumerate(zip(names, channels, strict=True))}
        self.taps = {**down, **dict(zip(up, reversed(down.values()), strict=True))}
        self._decoded_by(channels[::-1], [channels[1], channels[0], 32], classes)
        if weights is not None:
            load_pretrained(
                self.encoder,
                weights,
                known_as=f"{encoder}.in1k",
                first="patch_embed.proj.weight",
                rename=timm_module("models.pvt_v2").checkpoint_filter_fn,
            )

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of 32, to logits (N, classes, H, W). Raises ValueError."""
        check_size(images, self.stride, "cascade-pvt")
        coloured = self._coloured(images)
        return self._output(images, self.encoder.forward_intermediates(coloured, intermediates_only=True))


class CascadeTransUNet(_Cascade):
    """TransCASCADE: TransUNet's encoder, heads at 1/16, 1/8, 1/4 and 1/2.

    width, layers, units, weights: as those of `transunet`. Built for one size, a multiple of 16 (224 in the paper).
    123,476,511 parameters at 3 channels and 2 classes.

    Taps: `enc2`, `enc3`, `enc4`, `mid`, as TransUNet's, `dec5`..`dec2`.
    """

    stride = 16
    takes_size = True

    def __init__(
        self,
        *,
        width: int = 64,
        layers: int = 12,
        units: Sequence[int] = (3, 4, 9),
        weights: str | None = None,
        in_channels: int,
        classes: int,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.side = square_side(size, PUBLISHED_SIZE, self.stride, "cascade-transunet")
        self.encoder = R50ViT(
            width=width,
            layers=layers,
            units=units,
            in_channels=3 if in_channels == 1 else in_channels,
            side=self.side,
            weights=weights,
        )
        channels = [tap.channels for tap in self.encoder.taps.values()][::-1]
        up = ["dec5", "dec4", "dec3", "dec2"]
        self.taps = {**self.encoder.taps, **dict(zip(up, reversed(self.encoder.taps.values()), strict=True))}
        self._decoded_by(channels, [channels[2], channels[3], 32], classes)

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, side, side) to logits (N, classes, side, side). Raises ValueError."""
        check_side(images, self.side, "cascade-transunet")
        return self._output(images, self.encoder(self._coloured(images)))


class _Decoder(nn.Module):
    """Per level: gate the skip by the map from below, join both, attend by channel, then by place, then convolve.

    One attention by place is shared by all levels (section 3.2).
    """

    def __init__(self, channels: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels[0], channels[0], 1)
        self.ups = nn.ModuleList(_up(deep, here) for deep, here in pairwise(channels))
        self.gates = nn.ModuleList(_Gate(count, inner) for count, inner in zip(channels[1:], hidden, strict=True))
        joined = [channels[0], *(2 * count for count in channels[1:])]
        self.by_channel = nn.ModuleList(_ChannelAttention(count) for count in joined)
        self.by_place = _SpatialAttention()
        self.convs = nn.ModuleList(_convs(count, here) for count, here in zip(joined, channels, strict=True))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's maps, the deepest first, to those of the decoder's levels."""
        decoded: list[Tensor] = []
        for level, (skip, by_channel, convs) in enumerate(zip(maps, self.by_channel, self.convs, strict=True)):
            if level == 0:
                x = self.first(skip)
            else:
                up = self.ups[level - 1](decoded[-1])
                x = torch.cat([self.gates[level - 1](up, skip), up], dim=1)
            x = by_channel(x) * x
            x = self.by_place(x) * x
            decoded.append(convs(x))
        return decoded


def _convs(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with bias, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    """(N, inputs, H, W) to (N, outputs, 2 H, 2 W)."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Gate(nn.Module):
    """Attention gate (Oktay et al. 2018, arXiv 1804.03999, equation 1), at the skip's resolution."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.of_below = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden))
        self.of_skip = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden))
        self.weigh = nn.Sequential(nn.Conv2d(hidden, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        gated: Tensor = skip * self.weigh(F.relu(self.of_below(below) + self.of_skip(skip)))
        return gated


class _ChannelAttention(nn.Module):
    """By the mean and the maximum of each channel (CBAM, Woo et al. 2018, equation 2); (N, C, 1, 1) in 0 to 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.shared = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, most = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.shared(mean) + self.shared(most))


class _SpatialAttention(nn.Module):
    """By the mean and the maximum over channels (CBAM, equation 3), a 7 x 7 convolution; (N, 1, H, W) in 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.weigh(seen))
