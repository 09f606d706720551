"""UCTransNet (Wang et al. 2022, AAAI, arXiv 2109.04335): a U-Net whose skips are attended to by channel (figure 2)."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import level_taps
from models.fixed_size import check_side, square_side
from models.nearest import OptionError
from models.output import Output, Segmenter

STRIDE = 16
PUBLISHED_SIZE = 224
SKIPS = 4


class UCTransNet(Segmenter):
    """Levels of width, 2, 4, 8 and 8 width channels; a channel transformer over all four skips at once.

    width: channels of the first level (64 in the paper). layers: of the transformer (4). heads: of its attention (4).
    Built for one size, a multiple of 16 (224 in the paper): each skip becomes (size / 16)^2 tokens by patches of 16, 8,
    4 and 2 pixels, with a learned table of positions. Any number of channels goes into the first convolution. Its
    logits are logits for any number of classes: the authors' code has a sigmoid in the network for one class.
    66,430,722 parameters at 3 channels and 2 classes.

    Taps: `enc1`..`enc4` (the U-Net's), `enc1.ctrans`..`enc4.ctrans` (the same after the transformer, as the decoder's
    cross attention sees them), `mid`, `dec4`..`dec1`.
    """

    stride = STRIDE
    takes_size = True

    def __init__(
        self,
        *,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        in_channels: int,
        classes: int,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if layers < 1 or heads < 1:
            raise OptionError(f"layers = {layers}, heads = {heads}: expected one of each at least")
        self.side = square_side(size, PUBLISHED_SIZE, STRIDE, "uctransnet")
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.stem = _conv(in_channels, width)
        self.downs = nn.ModuleList(_convs(above, here) for above, here in pairwise(widths))
        self.transformer = _ChannelTransformer(widths[:SKIPS], self.side // STRIDE, layers, heads)
        upwards = [8 * width, 4 * width, 2 * width, width, width]
        self.ups = nn.ModuleList(_Up(2 * deep, here) for deep, here in pairwise(upwards))
        self.head = nn.Conv2d(width, classes, 1)
        taps = level_taps(widths)
        crossed = {f"enc{level}.ctrans": taps[f"enc{level}"] for level in range(1, SKIPS + 1)}
        up = {f"dec{4 - k}": taps[f"enc{4 - k}"]._replace(channels=upwards[k + 1]) for k in range(SKIPS)}
        self.taps = {
            **{name: tap for name, tap in taps.items() if name[:3] == "enc"},
            **crossed,
            "mid": taps["mid"],
            **up,
        }

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, side, side) to logits (N, classes, side, side). Raises ValueError."""
        check_side(images, self.side, "uctransnet")
        maps = [self.stem(images)]
        for down in self.downs:
            maps.append(down(F.max_pool2d(maps[-1], 2)))
        skips, x = maps[:SKIPS], maps[-1]
        crossed = self.transformer(skips)
        decoded = []
        for up, skip in zip(self.ups, reversed(crossed), strict=True):
            x = up(x, skip)
            decoded.append(x)
        return Output(self.head(x), dict(zip(self.taps, [*skips, *crossed, maps[-1], *decoded], strict=True)))


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3 convolution with bias, batch normalisation, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _convs(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs), _conv(outputs, outputs))


class _Up(nn.Module):
    """Channel-wise cross attention (section 3.2, equations 5 and 6) of the skip, joined with the map from below."""

    def __init__(self, joined: int, outputs: int) -> None:
        super().__init__()
        half = joined // 2
        self.of_skip = nn.Linear(half, half)
        self.of_below = nn.Linear(half, half)
        self.convs = _convs(joined, outputs)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        up = F.interpolate(below, scale_factor=2, mode="nearest")
        gate = torch.sigmoid((self.of_skip(skip.mean(dim=(2, 3))) + self.of_below(up.mean(dim=(2, 3)))) / 2)
        gated = F.relu(skip * gate[:, :, None, None])
        joined: Tensor = self.convs(torch.cat([gated, up], dim=1))
        return joined


class _ChannelTransformer(nn.Module):
    """CTrans (section 3.1): four skips to tokens, attention over their channels, and back, added to the skips."""

    def __init__(self, widths: Sequence[int], grid: int, layers: int, heads: int) -> None:
        super().__init__()
        self.grid = grid
        patches = [STRIDE // 2**level for level in range(len(widths))]
        self.embeddings = nn.ModuleList(
            nn.Conv2d(width, width, patch, stride=patch) for width, patch in zip(widths, patches, strict=True)
        )
        self.positions = nn.ParameterList(torch.zeros(1, grid * grid, width) for width in widths)
        self.layers = nn.ModuleList(_Layer(widths, heads) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in widths)
        self.dropout = nn.Dropout(0.1)
        self.rebuilt = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for width in widths
        )

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        tokens = [
            self.dropout(embed(skip).flatten(2).transpose(1, 2) + position)
            for embed, skip, position in zip(self.embeddings, skips, self.positions, strict=True)
        ]
        for layer in self.layers:
            tokens = layer(tokens)
        crossed = []
        for skip, values, norm, rebuilt in zip(skips, tokens, self.norms, self.rebuilt, strict=True):
            grid = norm(values).transpose(1, 2).unflatten(2, (self.grid, self.grid))
            # Repeating pixels before the convolution, as the authors do, gives the same at up to 256 times the cost.
            crossed.append(skip + F.interpolate(rebuilt(grid), size=skip.shape[-2:], mode="nearest"))
        return crossed


class _Layer(nn.Module):
    """One layer of the transformer: channel cross attention and an MLP a skip, each with its residual."""

    def __init__(self, widths: Sequence[int], heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in widths)
        self.norm_all = nn.LayerNorm(sum(widths), eps=1e-6)
        self.attention = _ChannelAttention(widths, heads)
        self.mlp_norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in widths)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width), nn.Dropout(0.1)
            )
            for width in widths
        )

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        queries = [norm(values) for norm, values in zip(self.norms, tokens, strict=True)]
        attended = self.attention(queries, self.norm_all(torch.cat(list(tokens), dim=2)))
        summed = [values + change for values, change in zip(tokens, attended, strict=True)]
        return [values + mlp(norm(values)) for values, norm, mlp in zip(summed, self.mlp_norms, self.mlps, strict=True)]


class _ChannelAttention(nn.Module):
    """Equations 2 to 4: queries of each skip, keys and values of all four together; (C_i x C_all) scores.

    Each head has queries, keys and values of full width; scores are instance-normalised, and heads averaged.
    """

    def __init__(self, widths: Sequence[int], heads: int) -> None:
        super().__init__()
        self.heads, self.total = heads, sum(widths)
        self.queries = nn.ModuleList(nn.Linear(width, heads * width, bias=False) for width in widths)
        self.keys = nn.Linear(self.total, heads * self.total, bias=False)
        self.values = nn.Linear(self.total, heads * self.total, bias=False)
        self.norm = nn.InstanceNorm2d(heads)
        self.dropout = nn.Dropout(0.1)
        self.outputs = nn.ModuleList(nn.Linear(width, width, bias=False) for width in widths)

    def _by_head(self, values: Tensor) -> Tensor:
        """(N, tokens, heads x C) to (N, heads, C, tokens)."""
        return values.view(*values.shape[:2], self.heads, -1).permute(0, 2, 3, 1)

    def forward(self, queries: Sequence[Tensor], everything: Tensor) -> list[Tensor]:
        keys = self._by_head(self.keys(everything)).transpose(2, 3)
        values = self._by_head(self.values(everything))
        attended = []
        for values_of, project, output in zip(queries, self.queries, self.outputs, strict=True):
            scores = self._by_head(project(values_of)) @ keys / sqrt(self.total)
            weights = self.dropout(self.norm(scores).softmax(dim=-1))
            attended.append(self.dropout(output((weights @ values).mean(dim=1).transpose(1, 2))))
        return attended
