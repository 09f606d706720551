"""HiFormer (Heidari et al. 2023, WACV, arXiv 2207.08518): a ResNet and Swin stages added level by level, then fused."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.fixed_size import check_side, square_side
from models.nearest import OptionError, nearest
from models.output import Output, Segmenter, Tap
from models.pretrained import load_pretrained, timm_module
from models.swinunet import PRETRAINED as SWIN
from models.swinunet import draw_as_swin, of_swin

STRIDE = 16
PUBLISHED_SIZE = 224
WINDOW = 7
HEADS = (3, 6, 12)
DECODED, LAST = 128, 16
"""Channels of the decoder, and of the map that its head sees."""
RESNETS: Mapping[str, str] = {
    "resnet18": "resnet18.tv_in1k",
    "resnet34": "resnet34.tv_in1k",
    "resnet50": "resnet50.tv_in1k",
}
"""CNN by name -> timm's name of torchvision's weights for it."""


class HiFormer(Segmenter):
    """A pyramid of ResNet and Swin maps (figure 2 b), its finest and coarsest level fused by double-level fusion
    (figure 3: cross attention of each level's mean token to the other's tokens), and a small convolutional decoder.

    width: channels of the first Swin stage, a multiple of 6 (96 in the paper; the others have 2 and 4 times as many, in
    3, 6 and 12 heads). depths: blocks of the three Swin stages (2, 2, 6). encoder: the ResNet, up to its third stage;
    resnet34 (S, L) or resnet50 (B); layers, heads and mlp: of the fusion, fixed by the name: 1, (3, 3), 1 for S; 2,
    (6, 12), 2 for B; 4, (6, 6), 4 for L. Built for one size, a multiple of 16 (224 in the paper), because tokens have a
    table of positions; windows are 7 x 7, or the map where that is smaller, with smaller tables. weights, cnn_weights:
    of the Swin stages and of the ResNet, `imagenet` or a file.

    Gray images are repeated to three channels, as the authors do; other counts go into the ResNet. The decoder has 128
    and 16 channels at any width. At 3 channels and 2 classes S has 23,253,340 parameters, B 25,511,100, L 29,518,204.

    Taps: `enc2` (the ResNet's first map), `enc3`, `enc4`, `mid` (the pyramid's sums at 1/4, 1/8, 1/16), the same with
    `.cnn` (the ResNet's own), `enc3.dlf`, `mid.dlf` (after the fusion), `dec3` (both levels added), `dec1`.
    """

    stride = STRIDE
    takes_size = True

    def __init__(
        self,
        *,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6),
        encoder: str = "resnet34",
        layers: int = 1,
        heads: Sequence[int] = (3, 3),
        mlp: int = 1,
        weights: str | None = None,
        cnn_weights: str | None = None,
        in_channels: int,
        classes: int,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if encoder not in RESNETS:
            raise OptionError(f"encoder = {encoder!r}: unknown ResNet{nearest(encoder, RESNETS)}")
        self.side = square_side(size, PUBLISHED_SIZE, STRIDE, "hiformer")
        self.pyramid = _Pyramid(width, depths, encoder, self.side, in_channels)
        dims = (width, 4 * width)
        grids = (self.side // 4, self.side // STRIDE)
        self.positions = nn.ParameterList(
            torch.zeros(1, 1 + grid * grid, dim) for grid, dim in zip(grids, dims, strict=True)
        )
        self.fusion = timm_module("models.crossvit").MultiScaleBlock(
            dim=dims,
            patches=tuple(grid * grid for grid in grids),
            depth=(1, layers, 0),
            num_heads=tuple(heads),
            mlp_ratio=(mlp, mlp),
            qkv_bias=True,
            drop_path=[0.0] * max(1, layers),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.fusion.apply(draw_as_swin)
        self.pyramid.swin.apply(draw_as_swin)
        for positions in self.positions:
            nn.init.trunc_normal_(positions, std=0.02)
        self.fine = _conv_gn_relu(dims[0], DECODED)
        self.coarse = nn.ModuleList([_conv_gn_relu(dims[1], DECODED), _conv_gn_relu(DECODED, DECODED)])
        self.narrow = nn.Conv2d(DECODED, LAST, 1)
        self.head = nn.Conv2d(LAST, classes, 3, padding=1)
        fused = {"enc3.dlf": Tap(dims[0], 4), "mid.dlf": Tap(dims[1], STRIDE)}
        down = {**self.pyramid.taps, **fused}
        order = sorted(down, key=lambda name: name.startswith("mid"))
        self.taps = {**{name: down[name] for name in order}, "dec3": Tap(DECODED, 4), "dec1": Tap(LAST, 1)}
        if weights is not None:
            load_pretrained(self.pyramid.stages_alone(), weights, known_as=SWIN, rename=_of_stages)
        if cnn_weights is not None:
            load_pretrained(
                self.pyramid.cnn,
                cnn_weights,
                known_as=RESNETS[encoder],
                first="conv1.weight",
                rename=lambda state, _: state,
                option="cnn_weights",
            )

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, side, side) to logits (N, classes, side, side). Raises ValueError."""
        check_side(images, self.side, "hiformer")
        maps = self.pyramid(images)
        tokens = [
            torch.cat([mean[:, None], maps[name].flatten(2).transpose(1, 2)], dim=1) + position
            for (name, mean), position in zip(self.pyramid.means(maps).items(), self.positions, strict=True)
        ]
        levels: list[Tensor] = []
        for values, norm in zip(self.fusion(tokens), self.norms, strict=True):
            kept = norm(values)[:, 1:].transpose(1, 2)
            grid = maps["enc3" if not levels else "mid"].shape[-2:]
            levels.append(kept.unflatten(2, grid))
        x = levels[1]
        for convolve in self.coarse:
            x = F.interpolate(convolve(x), scale_factor=2, mode="bilinear", align_corners=False)
        summed = self.fine(levels[0]) + x
        last = F.interpolate(F.relu(self.narrow(summed)), scale_factor=4, mode="bilinear", align_corners=False)
        taps = {**maps, "enc3.dlf": levels[0], "mid.dlf": levels[1], "dec3": summed, "dec1": last}
        return Output(self.head(last), {name: taps[name] for name in self.taps})


class _Pyramid(nn.Module):
    """Section 3.1: at each of three levels the Swin stage's map and the ResNet's, made as wide by 1 x 1, are added."""

    def __init__(self, width: int, depths: Sequence[int], encoder: str, side: int, in_channels: int) -> None:
        super().__init__()
        if width % 6 or width < 6:
            raise OptionError(f"width = {width}: expected a multiple of 6, such as 96 (published) or 24")
        if len(depths) != len(HEADS) or min(depths) < 1:
            raise OptionError(f"depths = {list(depths)}: expected three numbers of blocks, none of them 0")
        self.cnn = timm_module("models").create_model(
            encoder, features_only=True, out_indices=(0, 1, 2, 3), in_chans=3 if in_channels == 1 else in_channels
        )
        swin = timm_module("models.swin_transformer")
        dims = [width, 2 * width, 4 * width]
        rising = iter(torch.linspace(0, 0.1, sum(depths), device="cpu").tolist())
        rates = [[next(rising) for _ in range(depth)] for depth in depths]
        self.swin = nn.ModuleList(
            swin.SwinTransformerStage(
                dim=dims[max(0, stage - 1)],
                out_dim=dims[stage],
                input_resolution=(side // 4 >> max(0, stage - 1),) * 2,
                depth=depths[stage],
                downsample=stage > 0,
                num_heads=HEADS[stage],
                window_size=WINDOW,
                drop_path=rates[stage],
            )
            for stage in range(len(HEADS))
        )
        channels = self.cnn.feature_info.channels()
        self.wide = nn.ModuleList(nn.Conv2d(own, dim, 1) for own, dim in zip(channels[1:], dims, strict=True))
        self.norms = nn.ModuleDict({"enc3": nn.LayerNorm(dims[0]), "mid": nn.LayerNorm(dims[2])})
        names = ("enc3", "enc4", "mid")
        cnn = {f"{name}.cnn": Tap(own, 4 << k) for k, (name, own) in enumerate(zip(names, channels[1:], strict=True))}
        both = {name: Tap(dim, 4 << k) for k, (name, dim) in enumerate(zip(names, dims, strict=True))}
        self.taps = {"enc2": Tap(channels[0], 2), **cnn, **both}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, in_channels, side, side) to the maps of `taps`."""
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        maps: list[Tensor] = self.cnn(images)
        sums: list[Tensor] = []
        for stage, wide, own in zip(self.swin, self.wide, maps[1:], strict=True):
            local = wide(own).permute(0, 2, 3, 1)
            sums.append(local + stage(sums[-1] if sums else local))
        shown = [*maps, *(values.permute(0, 3, 1, 2) for values in sums)]
        return dict(zip(self.taps, shown, strict=True))

    def means(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean tokens (N, C) of finest and coarsest level, which stand for class tokens in the fusion."""
        return {name: norm(maps[name].permute(0, 2, 3, 1)).mean(dim=(1, 2)) for name, norm in self.norms.items()}

    def stages_alone(self) -> nn.Module:
        """The Swin stages by the names of a Swin transformer."""
        return nn.ModuleDict({"layers": self.swin})


def _of_stages(state: Mapping[str, Tensor], stages: nn.Module) -> Mapping[str, Tensor]:
    """Of a whole Swin-T what belongs to its first three stages."""
    layers: Any = stages.get_submodule("layers")
    names = tuple(f"layers.{stage}." for stage in range(len(layers)))
    return of_swin({key: value for key, value in state.items() if key.startswith(names)}, stages)


def _conv_gn_relu(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3 convolution without bias, group normalisation of 32 groups, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(32, outputs), nn.ReLU(inplace=True))
