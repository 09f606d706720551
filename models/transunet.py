"""TransUNet (Chen et al. 2021, arXiv 2102.04306, figure 1): a ResNet and a ViT under a U-Net's decoder."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import gcd, isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import conv_bn_relu
from models.fixed_size import check_side, square_side
from models.nearest import OptionError
from models.output import Output, Segmenter, Tap
from models.pretrained import load_pretrained, timm_module

STRIDE = 16
PUBLISHED_SIZE = 224
HEADS = 12
PRETRAINED = "vit_base_r50_s16_224.orig_in21k"
"""timm's name of the weights that the paper starts from (R50+ViT-B/16, ImageNet-21k)."""


class TransUNet(Segmenter):
    """R50-ViT-B/16 and four decoder blocks, each bilinear up, joined with a map of the ResNet, and two convolutions.

    width: channels of the ResNet's first convolution, a multiple of 8. All else follows it: ResNet stages of 4, 8 and
    16 width, tokens of 12 width with 12 heads, MLPs of 48 width, decoder 8, 4, 2, 1 and 1/4 width. 64 is the paper's
    (tokens of 768). layers: of the ViT (12). units: residual units by stage of the ResNet (3, 4, 9). skips: how many
    maps of the ResNet the decoder sees, the deepest first (3; 0 to 3). weights: `imagenet`, or a file, for ResNet and
    ViT; published widths only.

    The ResNet is that of the ViT paper (arXiv 2010.11929, section 4.1; timm's `vit_base_r50_s16_224`): padded as
    TensorFlow does, and group normalisation of 32 groups on its shortcuts, which is what the pretrained weights were
    trained with. Authors' code pads symmetrically, and has one group a channel there; parameters are as many.
    Gray images are repeated to three channels, as the authors do; other counts go into the first convolution as
    they are. 105,276,066 parameters at 3 channels and 2 classes.

    Taps: `enc2`, `enc3`, `enc4` (ResNet at 1/2, 1/4, 1/8), `mid` (the ViT's tokens as a map at 1/16), `dec4`..`dec1`.
    """

    stride = STRIDE
    takes_size = True

    def __init__(
        self,
        *,
        width: int = 64,
        layers: int = 12,
        units: Sequence[int] = (3, 4, 9),
        skips: int = 3,
        weights: str | None = None,
        in_channels: int,
        classes: int,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.side = square_side(size, PUBLISHED_SIZE, STRIDE, "transunet")
        self.encoder = R50ViT(
            width=width, layers=layers, units=units, in_channels=in_channels, side=self.side, weights=weights
        )
        if not 0 <= skips <= 3:
            raise OptionError(f"skips = {skips}: expected 0 to 3, the maps of the ResNet that the decoder sees")
        widths = [8 * width, 4 * width, 2 * width, width, width // 4]
        seen = [8 * width, 4 * width, width][:skips]
        joined = [*seen, *[0] * (4 - skips)]
        self.bottleneck = conv_bn_relu(12 * width, widths[0])
        self.decoders = nn.ModuleList(
            nn.Sequential(conv_bn_relu(deep + skip, here), conv_bn_relu(here, here))
            for (deep, here), skip in zip(pairwise(widths), joined, strict=True)
        )
        self.skips = skips
        self.head = nn.Conv2d(widths[-1], classes, 3, padding=1)
        up = {f"dec{level}": Tap(widths[5 - level], 2 ** (level - 1)) for level in (4, 3, 2, 1)}
        self.taps = {**self.encoder.taps, **up}

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, side, side) to logits (N, classes, side, side). Raises ValueError."""
        check_side(images, self.side, "transunet")
        maps = self.encoder(images)
        taps = dict(zip(self.encoder.taps, maps, strict=True))
        x = self.bottleneck(maps[-1])
        skips = [taps["enc4"], taps["enc3"], taps["enc2"]][: self.skips]
        for place, decoder in enumerate(self.decoders):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = decoder(torch.cat([x, skips[place]], dim=1) if place < self.skips else x)
            taps[f"dec{4 - place}"] = x
        return Output(self.head(x), taps)


class R50ViT(nn.Module):
    """The encoder: a ResNet to 1/16, and a ViT over its map, one token a pixel (figure 1 b of the paper).

    Its `taps` are those of TransUNet's encoder; `forward` gives their maps in that order.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        units: Sequence[int],
        in_channels: int,
        side: int,
        weights: str | None,
    ) -> None:
        super().__init__()
        if width % 8 or width < 8:
            raise OptionError(f"width = {width}: expected a multiple of 8, such as 64 (published) or 16")
        if len(units) != 3 or min(units) < 1 or layers < 1:
            raise OptionError(f"units = {list(units)}, layers = {layers}: expected three units and a layer at least")
        resnet, hybrid = timm_module("models.resnetv2"), timm_module("models.vision_transformer")
        parts = timm_module("layers")
        channels = 3 if in_channels == 1 else in_channels
        self.cnn = resnet.ResNetV2(
            list(units),
            channels=tuple(width * factor for factor in (4, 8, 16)),
            num_classes=0,
            in_chans=channels,
            global_pool="",
            stem_chs=width,
            stem_type="same",
            preact=False,
            norm_layer=partial(parts.GroupNormAct, num_groups=gcd(32, width)),
            conv_layer=partial(parts.StdConv2dSame, eps=1e-8),
        )
        self.vit = hybrid.VisionTransformer(
            img_size=side // STRIDE,
            patch_size=1,
            in_chans=16 * width,
            num_classes=0,
            global_pool="",
            class_token=False,
            embed_dim=12 * width,
            depth=layers,
            num_heads=HEADS,
            pos_drop_rate=0.1,
            proj_drop_rate=0.1,
        )
        self.taps = {
            "enc2": Tap(width, 2),
            "enc3": Tap(4 * width, 4),
            "enc4": Tap(8 * width, 8),
            "mid": Tap(12 * width, STRIDE),
        }
        if weights is not None:
            load_pretrained(self, weights, known_as=PRETRAINED, first="cnn.stem.conv.weight", rename=_of_hybrid)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, in_channels, side, side) to the ResNet's maps at 1/2, 1/4 and 1/8, and the tokens' at 1/16."""
        x = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        stem = self.cnn.stem.norm(self.cnn.stem.conv(x))
        maps = [stem]
        x = self.cnn.stem.pool(stem)
        for stage in self.cnn.stages:
            x = stage(x)
            maps.append(x)
        tokens = self.vit.forward_features(x)
        maps[-1] = tokens.transpose(1, 2).unflatten(2, x.shape[-2:])
        return maps


def _of_hybrid(state: Mapping[str, Tensor], encoder: nn.Module) -> Mapping[str, Tensor]:
    """timm's hybrid has the ResNet in its patch embedding, and a class token; tables of another size are resampled."""
    named = {}
    for key, value in state.items():
        if key.startswith("patch_embed.backbone."):
            named["cnn." + key.removeprefix("patch_embed.backbone.")] = value
        else:
            named["vit." + key] = value
    positions, classes = named.get("vit.pos_embed"), int("cls_token" in state)
    ours = encoder.get_parameter("vit.pos_embed")
    if positions is not None:
        positions = positions[:, classes:]
        if positions.shape[1] != ours.shape[1]:
            resample = timm_module("layers").resample_abs_pos_embed
            positions = resample(positions, [isqrt(ours.shape[1])] * 2, num_prefix_tokens=0)
        named["vit.pos_embed"] = positions
    return named
