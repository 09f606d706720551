"""MISSFormer (Huang et al. 2022, arXiv 2109.07162): efficient transformers in a U, with a bridge over all scales."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import check_size
from models.nearest import OptionError
from models.output import Output, Segmenter, Tap
from models.swinunet import PatchExpand

STRIDE = 32
FACTORS = (1, 2, 5, 8)
"""Channels of a scale over the width, which is also the number of its heads."""
REDUCTIONS = (8, 4, 2, 1)
"""How many tokens along an axis attention pools into one; what is left is as many tokens as the deepest scale has."""

_BRIDGED = ("enc3.bridge", "enc4.bridge", "enc5.bridge", "mid.bridge")


class MISSFormer(Segmenter):
    """Encoder and decoder of enhanced transformer blocks (figure 2), bridged by attention over all scales' tokens.

    width: channels of the first scale and of a bridge's token (64 in the paper; the scales have 1, 2, 5 and 8 times as
    many, as have their heads). depths: blocks by scale of the encoder (2, 2, 2, 2); the decoder has two a scale.
    bridges: layers of the bridge (4). It has no table of positions, so any multiples of 32 work, though the authors'
    code is for 224 alone. Gray images are repeated to three channels, as the authors do; other counts go into the
    first embedding.

    The authors' code also builds two norms that no feed-forward network of its uses, and blocks and a linear layer at
    the deepest scale of the decoder, where nothing is joined; they are built here too, so that parameters are as
    many, 42,462,082 at 3 channels and 2 classes, of which 7,009,792 take no part and never get a gradient.

    Taps: `enc3`, `enc4`, `enc5`, `mid` (encoder at 1/4 .. 1/32), the same with `.bridge` (behind the bridge), `dec5`,
    `dec4`, `dec3` (decoder blocks), `dec1` (after the fourfold expansion).
    """

    stride = STRIDE

    def __init__(
        self,
        *,
        width: int = 64,
        depths: Sequence[int] = (2, 2, 2, 2),
        bridges: int = 4,
        in_channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        if len(depths) != len(FACTORS) or min(depths) < 1 or bridges < 1:
            raise OptionError(f"depths = {list(depths)}, bridges = {bridges}: expected four depths, none of them 0")
        dims = [width * factor for factor in FACTORS]
        inputs = [3 if in_channels == 1 else in_channels, *dims]
        self.embeddings = nn.ModuleList(
            _Embedding(above, here, stride=2 if place else 4) for place, (above, here) in enumerate(pairwise(inputs))
        )
        self.encoders = nn.ModuleList(
            nn.Sequential(*(_Block(dim, heads, reduction) for _ in range(depth)))
            for dim, heads, reduction, depth in zip(dims, FACTORS, REDUCTIONS, depths, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.bridges = nn.ModuleList(_Bridge(width) for _ in range(bridges))
        self.decoders = nn.ModuleList(
            _Decoder(dim, joined, heads, reduction)
            for dim, joined, heads, reduction in zip(
                dims[::-1], _joined(dims), FACTORS[::-1], REDUCTIONS[::-1], strict=True
            )
        )
        self.ups = nn.ModuleList(PatchExpand(dim, 2, dim // 2) for dim in dims[:0:-1])
        self.last = PatchExpand(width, 4, width)
        self.head = nn.Conv2d(width, classes, 1)
        names = ["enc3", "enc4", "enc5", "mid"]
        scales = {name: Tap(dim, 4 * 2**place) for place, (name, dim) in enumerate(zip(names, dims, strict=True))}
        down = {name: scales[name.partition(".")[0]] for name in (*names[:3], *_BRIDGED[:3], "mid", _BRIDGED[3])}
        up = {"dec5": scales["enc5"], "dec4": scales["enc4"], "dec3": scales["enc3"], "dec1": Tap(width, 1)}
        self.taps = {**down, **up}

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of 32, to logits (N, classes, H, W). Raises ValueError."""
        check_size(images, STRIDE, "missformer")
        x = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        maps = []
        for embed, blocks, norm in zip(self.embeddings, self.encoders, self.norms, strict=True):
            x = embed(x)
            x = norm(blocks(x))
            maps.append(x)
            x = x.permute(0, 3, 1, 2)
        bridged = maps
        for bridge in self.bridges:
            bridged = bridge(bridged)
        decoded = []
        x = self.ups[0](bridged[-1])
        for place, skip in enumerate(bridged[-2::-1], start=1):
            x = self.decoders[place](x, skip)
            decoded.append(x)
            x = self.last(x) if place == len(self.ups) else self.ups[place](x)
        down = (*maps[:3], *bridged[:3], maps[3], bridged[3])
        taps = [values.permute(0, 3, 1, 2) for values in (*down, *decoded, x)]
        return Output(self.head(taps[-1]), dict(zip(self.taps, taps, strict=True)))


def _joined(dims: Sequence[int]) -> list[int]:
    """Channels that each decoder scale joins, the deepest (which joins nothing) as the authors' code builds it."""
    return [2 * dims[-1], *(deep // 2 + skip for deep, skip in pairwise(dims[::-1]))]


class _Embedding(nn.Module):
    """Overlapping patches (section 3.1): images or maps (N, C, H, W) to (N, H / stride, W / stride, outputs)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        kernel = 2 * stride - 1
        self.project = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.project(x).permute(0, 2, 3, 1))
        return normed


class _Block(nn.Module):
    """Efficient self-attention and an enhanced Mix-FFN, each with its residual (figure 2, section 3.1)."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = _Attention(dim, heads, reduction)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _EnhancedMixFfn(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to the same."""
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class _Attention(nn.Module):
    """Self-attention whose keys and values are pooled by a strided convolution (equation 1)."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.pool = nn.Conv2d(dim, dim, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(dim) if reduction > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to the same."""
        seen = x
        if self.pool is not None and self.norm is not None:
            seen = self.norm(self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        attended = attend(self.q(x).flatten(1, 2), self.kv(seen).flatten(1, 2), self.heads)
        result: Tensor = self.proj(attended).view_as(x)
        return result


def attend(queries: Tensor, keys_and_values: Tensor, heads: int) -> Tensor:
    """Queries (N, T, C) over keys and values (N, S, 2 C), in heads of C / heads channels each; (N, T, C)."""
    keys, values = keys_and_values.chunk(2, dim=2)
    query, key, value = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class _EnhancedMixFfn(nn.Module):
    """Mix-FFN with a skip around its depthwise convolution and a norm behind (equation 3, one recursion)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 4 * dim
        self.fc1 = nn.Linear(dim, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(hidden) for _ in range(3))
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to the same."""
        hidden = self.fc1(x)
        mixed = self.depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        result: Tensor = self.fc2(F.gelu(self.norm1(mixed + hidden)))
        return result


class _Bridge(nn.Module):
    """One layer of the enhanced transformer context bridge (section 3.2, figure 4).

    All scales as tokens of `width` channels, a pixel of a scale giving as many as its factor; attention over them, its
    keys and values pooled to the deepest scale's grid; then a feed-forward network a scale.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        dims = [width * factor for factor in FACTORS]
        self.width = width
        self.norm_in = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.pools = nn.ModuleList(
            nn.Conv2d(dim, dim, reduction, stride=reduction)
            for dim, reduction in zip(dims[:-1], REDUCTIONS[:-1], strict=True)
        )
        self.norm_pooled = nn.LayerNorm(width)
        self.norm_out = nn.LayerNorm(width)
        self.mlps = nn.ModuleList(_EnhancedMixFfn(dim) for dim in dims)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, H, W, C) of all scales to the same."""
        tokens = self._tokens(maps)
        normed = self.norm_in(tokens)
        pooled = self.norm_pooled(self._tokens(self._pooled(self._maps(normed, maps))))
        tokens = tokens + self.proj(attend(self.q(normed), self.kv(pooled), heads=1))
        parts = self._maps(self.norm_out(tokens), maps)
        change = self._tokens([mlp(part) for mlp, part in zip(self.mlps, parts, strict=True)])
        return self._maps(tokens + change, maps)

    def _tokens(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat([values.reshape(values.shape[0], -1, self.width) for values in maps], dim=1)

    def _maps(self, tokens: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        counts = [values[0].numel() // self.width for values in like]
        return [
            part.reshape(values.shape) for part, values in zip(torch.split(tokens, counts, dim=1), like, strict=True)
        ]

    def _pooled(self, maps: Sequence[Tensor]) -> list[Tensor]:
        pools = zip(self.pools, maps[:-1], strict=True)
        return [*(pool(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for pool, values in pools), maps[-1]]


class _Decoder(nn.Module):
    """A scale of the decoder: what came from below and the bridge's map, made one by a linear layer, and two blocks."""

    def __init__(self, dim: int, joined: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.join = nn.Linear(joined, dim)
        self.blocks = nn.Sequential(_Block(dim, heads, reduction), _Block(dim, heads, reduction))

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        result: Tensor = self.blocks(self.join(torch.cat([below, skip], dim=3)))
        return result
