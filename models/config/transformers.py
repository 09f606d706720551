"""The options of the networks with transformers, a class for each family."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from models.config.network import NetworkOptions
from models.normalisation import HALF, IMAGENET, Normalisation

Count = Annotated[int, Field(ge=1, le=64)]
"""How many blocks a stage has, or how many heads."""


class TransformerOptions(NetworkOptions):
    """What all of them have."""

    checkpoint: str | None = Field(default=None, description="safetensors file with the weights to start from")


class _WidthScaled(TransformerOptions):
    width: PositiveInt

    @property
    def scale(self) -> str:
        """The width."""
        return f"of width {self.width}"


class _Hybrid(_WidthScaled):
    """A ResNet under a vision transformer."""

    width: PositiveInt = Field(
        default=64,
        le=1024,
        description="channels of its first convolution, a multiple of 8; a token has 12 times as many; 64 is published",
    )
    layers: PositiveInt = Field(default=12, le=48, description="of the vision transformer")
    units: tuple[Count, ...] = Field(
        default=(3, 4, 9), min_length=3, max_length=3, description="residual units of the ResNet's three stages"
    )
    weights: str | None = Field(
        default=None,
        description="of ResNet and transformer: imagenet (ImageNet-21k, from timm's hub) or a file of timm's "
        "vit_base_r50_s16_224; none: random. Images are then normalised by 0.5, as they expect",
    )

    @property
    def expects(self) -> Normalisation:
        """How its images are normalised: as the pretrained weights expect, where there are any."""
        return IMAGENET if self.weights is None else HALF


class TransUNetNetwork(_Hybrid):
    """TransUNet (the `smp` extra has what it needs)."""

    name: Literal["transunet"]
    skips: int = Field(default=3, ge=0, le=3, description="how many maps of the ResNet the decoder sees, deepest first")


class UCTransNetNetwork(_WidthScaled):
    """UCTransNet."""

    name: Literal["uctransnet"]
    width: PositiveInt = Field(default=64, le=1024, description="channels of the first level; 64 is published")
    layers: PositiveInt = Field(default=4, le=48, description="of the channel transformer")
    heads: PositiveInt = Field(default=4, le=64, description="of its attention; each is as wide as all skips together")


class MISSFormerNetwork(_WidthScaled):
    """MISSFormer."""

    name: Literal["missformer"]
    width: PositiveInt = Field(
        default=64, le=1024, description="channels of the first scale; the others have 2, 5 and 8 times as many"
    )
    depths: tuple[Count, ...] = Field(
        default=(2, 2, 2, 2), min_length=4, max_length=4, description="blocks of the encoder's scales, the finest first"
    )
    bridges: PositiveInt = Field(default=4, le=48, description="layers of the bridge over all scales")


class SwinUnetNetwork(_WidthScaled):
    """Swin-Unet (the `smp` extra has what it needs)."""

    name: Literal["swin-unet"]
    width: PositiveInt = Field(
        default=96, le=1536, description="channels of the first stage, a multiple of 3; deeper stages double them"
    )
    depths: tuple[Count, ...] = Field(
        default=(2, 2, 2, 2),
        min_length=4,
        max_length=4,
        description="blocks of the encoder's stages; the decoder's three have those of the first",
    )
    weights: str | None = Field(
        default=None,
        description="of encoder and decoder blocks: imagenet (from timm's hub) or a file of a Swin-T; none: random",
    )


class HiFormerNetwork(_WidthScaled):
    """HiFormer (the `smp` extra has what it needs)."""

    name: Literal["hiformer-s", "hiformer-b", "hiformer-l"]
    width: PositiveInt = Field(
        default=96,
        le=1536,
        description="channels of the first Swin stage, a multiple of 6; deeper stages double them",
    )
    depths: tuple[Count, ...] = Field(
        default=(2, 2, 6), min_length=3, max_length=3, description="blocks of the three Swin stages"
    )
    encoder: str = Field(
        default="resnet34",
        description="the ResNet: resnet18, resnet34 or resnet50; resnet50 is the default of hiformer-b",
    )
    layers: PositiveInt = Field(
        default=1, le=48, description="transformer blocks of the coarse level before the fusion"
    )
    heads: tuple[Count, ...] = Field(
        default=(3, 3), min_length=2, max_length=2, description="of the fusion, fine and coarse level"
    )
    mlp: PositiveInt = Field(default=1, le=16, description="channels of the fusion's MLPs over those of its tokens")
    weights: str | None = Field(
        default=None, description="of the Swin stages: imagenet (from timm's hub) or a file of a Swin-T; none: random"
    )
    cnn_weights: str | None = Field(
        default=None,
        description="of the ResNet: imagenet (torchvision's, from timm's hub) or a file of it; none: random",
    )

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hiformer-s": {"layers": 1, "heads": (3, 3), "mlp": 1},
        "hiformer-b": {"layers": 2, "heads": (6, 12), "mlp": 2},
        "hiformer-l": {"layers": 4, "heads": (6, 6), "mlp": 4},
    }
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"hiformer-b": {"encoder": "resnet50"}}


class CascadePvtNetwork(TransformerOptions):
    """CASCADE on a PVTv2 (the `smp` extra has what it needs). It has no width: the encoder is its size."""

    name: Literal["cascade-pvt"]
    encoder: str = Field(default="pvt_v2_b2", description="pvt_v2_b0 to pvt_v2_b5; b2 is published")
    weights: str | None = Field(
        default=None, description="of the encoder: imagenet (from timm's hub) or a file of it; none: random"
    )

    @property
    def scale(self) -> str:
        """The encoder."""
        return f"on {self.encoder}"


class CascadeTransUNetNetwork(_Hybrid):
    """CASCADE on TransUNet's encoder (the `smp` extra has what it needs)."""

    name: Literal["cascade-transunet"]


TransformerNetwork = (
    TransUNetNetwork
    | UCTransNetNetwork
    | MISSFormerNetwork
    | SwinUnetNetwork
    | HiFormerNetwork
    | CascadePvtNetwork
    | CascadeTransUNetNetwork
)
