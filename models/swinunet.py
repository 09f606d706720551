"""Swin-Unet (Cao et al. 2021, arXiv 2105.05537): Swin transformer blocks down and up a U (figure 1)."""

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.fixed_size import check_side, square_side
from models.nearest import OptionError
from models.output import Output, Segmenter, Tap
from models.pretrained import load_pretrained, timm_module

STRIDE = 32
PUBLISHED_SIZE = 224
WINDOW = 7
HEADS = (3, 6, 12, 24)
PRETRAINED = "swin_tiny_patch4_window7_224.ms_in1k"
"""timm's name of the weights that the paper starts from (Swin-T, ImageNet-1k)."""
_TABLE = "relative_position_bias_table"
_BLOCK = re.compile(r"^layers\.(\d+)\.blocks\.(\d+)\.")


class SwinUnet(Segmenter):
    """Swin-T's encoder and a decoder of the same blocks, whose patches expand where the encoder's merge (section 3).

    width: channels of a patch's embedding, a multiple of 3 (96 in the paper); stages have 1, 2, 4 and 8 times as many,
    in 3, 6, 12 and 24 heads. depths: blocks by stage, shallow first, of the encoder, and of the decoder's three stages
    with blocks (2, 2, 2, 2 in the paper). Built for one size, a multiple of 32 (224 in the paper): windows are 7 x 7;
    maps that 7 does not divide are padded to the next multiple; below 224, windows of the deepest stages are as large
    as their map, with smaller tables. weights: `imagenet`, or a file, of Swin-T for encoder and decoder blocks (as the
    authors do); the table of positions is resampled where windows are smaller.

    A skip is what goes into the encoder stage's blocks, as in the authors' code, which the paper's figure leaves open.
    Gray images are repeated to three channels, as the authors do; other counts go into the embedding.
    27,168,228 parameters at 3 channels and 2 classes and size 224.

    Taps: `enc3`, `enc4`, `enc5`, `mid` (encoder at 1/4 .. 1/32), `dec5`, `dec4`, `dec3`, each behind the last block of
    its stage, before patches merge or expand; the same with `.first` behind the first block and with `.last`, as
    SelfReg-UNet (arXiv 2406.14896) names them; `dec1`, after the fourfold expansion.
    """

    stride = STRIDE
    takes_size = True

    def __init__(
        self,
        *,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        weights: str | None = None,
        in_channels: int,
        classes: int,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if width % HEADS[0] or width < HEADS[0]:
            raise OptionError(f"width = {width}: expected a multiple of 3, such as 96 (published) or 24")
        if len(depths) != len(HEADS) or min(depths) < 1:
            raise OptionError(f"depths = {list(depths)}: expected four numbers of blocks, none of them 0")
        self.side = square_side(size, PUBLISHED_SIZE, STRIDE, "swin-unet")
        swin = timm_module("models.swin_transformer")
        self.encoder = swin.SwinTransformer(
            img_size=self.side,
            in_chans=3 if in_channels == 1 else in_channels,
            num_classes=0,
            embed_dim=width,
            depths=tuple(depths),
            num_heads=HEADS,
            window_size=WINDOW,
            drop_path_rate=0.2,
        )
        dims = [width * 2**stage for stage in range(len(HEADS))]
        self.joins = nn.ModuleList(nn.Linear(2 * dim, dim) for dim in dims[2::-1])
        self.decoders = nn.ModuleList(
            swin.SwinTransformerStage(
                dim=dims[stage],
                out_dim=dims[stage],
                input_resolution=(self.side // 4 >> stage,) * 2,
                depth=depths[stage],
                downsample=False,
                num_heads=HEADS[stage],
                window_size=WINDOW,
                drop_path=0.1,
            )
            for stage in (2, 1, 0)
        )
        self.ups = nn.ModuleList(PatchExpand(dim, 2, dim // 2) for dim in dims[:0:-1])
        self.norm = nn.LayerNorm(width)
        self.last = PatchExpand(width, 4, width)
        self.head = nn.Conv2d(width, classes, 1, bias=False)
        for part in (self.joins, self.decoders, self.ups, self.last):
            part.apply(draw_as_swin)
        stages = {f"enc{stage + 3}": Tap(dims[stage], 4 << stage) for stage in range(3)}
        up = {f"dec{stage + 3}": Tap(dims[stage], 4 << stage) for stage in (2, 1, 0)}
        all_stages = {**stages, "mid": Tap(dims[3], STRIDE), **up}
        self.taps = {
            **{name + place: tap for name, tap in all_stages.items() for place in ("", ".first", ".last")},
            "dec1": Tap(width, 1),
        }
        if weights is not None:
            self._load(weights)

    def _load(self, weights: str) -> None:
        first = "patch_embed.proj.weight"
        load_pretrained(self.encoder, weights, known_as=PRETRAINED, first=first, rename=of_swin)
        decoders: Any = self.decoders
        for decoder, stage in zip(decoders, (2, 1, 0), strict=True):
            decoder.blocks.load_state_dict(self.encoder.layers[stage].blocks.state_dict())

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, side, side) to logits (N, classes, side, side). Raises ValueError."""
        check_side(images, self.side, "swin-unet")
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        maps: list[Tensor] = []
        x = self.encoder.patch_embed(images)
        skips: list[Tensor] = []
        for stage in self.encoder.layers:
            skips.append(stage.downsample(x))
            x = _through(stage.blocks, skips[-1], maps)
        x = self.ups[0](self.encoder.norm(x))
        decoders: Any = self.decoders
        for place, (join, decoder) in enumerate(zip(self.joins, decoders, strict=True), start=1):
            x = _through(decoder.blocks, join(torch.cat([x, skips[-1 - place]], dim=3)), maps)
            if place < len(self.ups):
                x = self.ups[place](x)
        maps.append(self.last(self.norm(x)))
        taps = [values.permute(0, 3, 1, 2) for values in maps]
        return Output(self.head(taps[-1]), dict(zip(self.taps, taps, strict=True)))


def _through(blocks: nn.Sequential, x: Tensor, maps: list[Tensor]) -> Tensor:
    """x (N, H, W, C) through the blocks of a stage; what its taps show is put behind `maps`: last, first, last."""
    first: Tensor | None = None
    for block in blocks:
        x = block(x)
        first = x if first is None else first
    maps += [x, x if first is None else first, x]
    return x


class PatchExpand(nn.Module):
    """(N, H, W, C) to (N, factor H, factor W, outputs): channels of a linear layer become pixels (section 3.5)."""

    def __init__(self, dim: int, factor: int, outputs: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(dim, factor * factor * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        count, height, width, _ = x.shape
        pixels = self.expand(x).unflatten(3, (self.factor, self.factor, -1)).permute(0, 1, 3, 2, 4, 5)
        normed: Tensor = self.norm(pixels.reshape(count, self.factor * height, self.factor * width, -1))
        return normed


def draw_as_swin(module: nn.Module) -> None:
    """Linear layers begin as Swin's do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def of_swin(state: Mapping[str, Tensor], encoder: nn.Module) -> Mapping[str, Tensor]:
    """A Swin transformer's tensors for an encoder whose stages `layers` have fewer blocks: the others are left out, the
    authors' names become timm's, and tables of other windows are resampled, bicubically as the authors do."""
    swin = timm_module("models.swin_transformer")
    stages: Any = encoder.get_submodule("layers")
    depths = {str(place): len(stage.blocks) for place, stage in enumerate(stages)}
    kept = {}
    for key, value in state.items():
        block = _BLOCK.match(key)
        if block is None or int(block[2]) < depths.get(block[1], 0):
            kept[key] = _resampled(value, encoder.get_parameter(key)) if key.endswith(_TABLE) else value
    named: Mapping[str, Tensor] = swin.checkpoint_filter_fn(kept, encoder)
    return named


def _resampled(table: Tensor, like: Tensor) -> Tensor:
    """A table of biases by relative position (side squared, heads) for windows of another size."""
    side, wanted = isqrt(table.shape[0]), isqrt(like.shape[0])
    if side == wanted:
        return table
    grid = table.T.reshape(1, -1, side, side)
    larger = F.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False)
    return larger.reshape(-1, wanted * wanted).T
