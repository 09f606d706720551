"""The options of the networks of plain convolutions, a class for each family."""

from typing import Literal

from pydantic import Field, PositiveInt

from models.config.network import WideNetwork


def _plain(value: object) -> bool:
    """Whether an option is what it always was: runs that lack it stay the runs that they were."""
    return value in ("transposed", "zh320")


class UNetNetwork(WideNetwork):
    """U-Net: `unet` (zh320's form, 5 levels) and, by name, the forms of Awesome-U-Net (4 levels, bilinear), of
    SelfReg-UNet (width 64, bilinear) and its variant that goes up by transposed convolutions. They are for images
    and for volumes."""

    DIMS = frozenset({2, 3})

    PRESETS = {  # noqa: RUF012 - pydantic leaves a class variable alone
        "unet-awesome": {"form": "awesome", "up": "interpolated"},
        "unet-selfreg": {"form": "selfreg", "up": "interpolated"},
        "unet-selfreg-transposed": {"form": "selfreg", "up": "transposed-2x2"},
    }
    DEFAULTS = {  # noqa: RUF012
        "unet-selfreg": {"width": 64},
        "unet-selfreg-transposed": {"width": 64},
    }

    name: Literal["unet", "unet-awesome", "unet-selfreg", "unet-selfreg-transposed"]
    up: Literal["transposed", "transposed-2x2", "transposed-4x4", "bilinear", "interpolated"] = Field(
        default="transposed",
        exclude_if=_plain,
        description="how a level goes up: a 3 x 3 transposed convolution, which leaves a comb at edges; one of 2 x 2 "
        "or 4 x 4, or bilinear interpolation and a convolution, which do not; or interpolation alone, which keeps the "
        "channels",
    )
    form: Literal["zh320", "awesome", "selfreg"] = Field(
        default="zh320",
        exclude_if=_plain,
        description="whose code the rest follows; zh320's head has no bias, and a student of few channels may then "
        "give no pixel a probability above 0.5",
    )


class AttentionUNetNetwork(WideNetwork):
    """Attention U-Net: a gate for each skip."""

    name: Literal["attention-unet"]
    width: PositiveInt = Field(
        default=64, le=4096, description="channels of the first stage; each deeper stage doubles them"
    )


class UNetPlusPlusNetwork(WideNetwork):
    """U-Net++ in zh320's form or, by name, that of Awesome-U-Net."""

    PRESETS = {"unetplusplus-awesome": {"form": "awesome"}}  # noqa: RUF012

    name: Literal["unetplusplus", "unetplusplus-awesome"]
    form: Literal["zh320", "awesome"] = Field(default="zh320", description="whose code it follows")
    deep_supervision: bool = Field(
        default=False, description="three further heads in training; losses read them where they name `heads`"
    )


class MultiResUNetNetwork(WideNetwork):
    """MultiResUNet in the authors' form or, by name, that of Awesome-U-Net."""

    PRESETS = {"multiresunet-awesome": {"form": "awesome"}}  # noqa: RUF012

    name: Literal["multiresunet", "multiresunet-awesome"]
    width: PositiveInt = Field(
        default=32,
        le=4096,
        description="filters of the U-Net's first stage that the first block stands for (it has 51 channels for 32); "
        "each deeper stage doubles them",
    )
    form: Literal["author", "awesome"] = Field(default="author", description="whose code it follows")


class ResUNetNetwork(WideNetwork):
    """Residual U-Net in zh320's form or, by name, that of Awesome-U-Net (width 64)."""

    PRESETS = {"resunet-awesome": {"form": "awesome"}}  # noqa: RUF012
    DEFAULTS = {"resunet-awesome": {"width": 64}}  # noqa: RUF012

    name: Literal["resunet", "resunet-awesome"]
    form: Literal["zh320", "awesome"] = Field(default="zh320", exclude_if=_plain, description="whose code it follows")


class ResUNetPlusPlusNetwork(WideNetwork):
    """ResUNet++ in zh320's form or, by name, that of its authors (width 16)."""

    DEFAULTS = {"resunetplusplus-author": {"width": 16}}  # noqa: RUF012

    name: Literal["resunetplusplus", "resunetplusplus-author"]


class DuckNetNetwork(WideNetwork):
    """DUCK-Net; `ducknet-17` and `ducknet-34` are the paper's two sizes."""

    PRESETS = {"ducknet-17": {"width": 17}, "ducknet-34": {"width": 34}}  # noqa: RUF012

    name: Literal["ducknet", "ducknet-17", "ducknet-34"]
    width: PositiveInt = Field(
        default=17, le=4096, description="channels of the first level; each of five deeper ones doubles them"
    )


class SmallUNetNetwork(WideNetwork):
    """The students of a study that distils U-Net variants, by shape: two double convolutions, an encoder with a tail of
    transposed convolutions (three of these), and a U-Net of three levels."""

    PRESETS = {  # noqa: RUF012
        "small-double": {"shape": "double"},
        "small-tail-attention": {"shape": "tail-attention"},
        "small-tail-wide": {"shape": "tail-wide"},
        "small-tail-residual": {"shape": "tail-residual"},
        "small-skips": {"shape": "skips"},
    }

    name: Literal["small-double", "small-tail-attention", "small-tail-wide", "small-tail-residual", "small-skips"]
    shape: Literal["double", "tail-attention", "tail-wide", "tail-residual", "skips"] = Field(
        default="double", description="what the name says"
    )


ConvolutionalNetwork = (
    UNetNetwork
    | AttentionUNetNetwork
    | UNetPlusPlusNetwork
    | MultiResUNetNetwork
    | ResUNetNetwork
    | ResUNetPlusPlusNetwork
    | DuckNetNetwork
    | SmallUNetNetwork
)
