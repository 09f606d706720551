"""The options of the networks for volumes, a class for each family: the teachers and students of ACF-BCKD (Yu et al.
2025, Expert Systems with Applications 262:125670). Each has one number that sets its width."""

from typing import Literal

from pydantic import Field

from models.config.network import WideNetwork


class VolumeNetwork(WideNetwork):
    """A network for three axes of space."""

    DIMS = frozenset({3})

    initialisation: Literal["torch", "he"] = Field(
        default="torch",
        exclude_if=lambda kind: kind == "torch",
        description="how weights are drawn: as torch's layers do, or he, as ACF-BCKD has it: convolutions normal by "
        "their outputs (Kaiming, gain of ReLU), biases 0",
    )


class ResidualUNet3dNetwork(VolumeNetwork):
    """The residual U-Net of Kerfoot et al. 2018 as MONAI's `UNet` has it, with two subunits a stage (width 64), and the
    plain one with none, `tiny-unet-3d` (width 32)."""

    PRESETS = {"residual-unet-3d": {"units": 2}, "tiny-unet-3d": {"units": 0}}  # noqa: RUF012
    DEFAULTS = {"residual-unet-3d": {"width": 64}}  # noqa: RUF012

    name: Literal["residual-unet-3d", "tiny-unet-3d"]
    units: Literal[0, 2] = Field(default=0, description="residual subunits of a stage; what the name says")


class SegResNetNetwork(VolumeNetwork):
    """SegResNet without its autoencoder branch."""

    name: Literal["segresnet"]
    width: int = Field(
        default=16,
        ge=8,
        le=4096,
        multiple_of=8,
        description="channels of the first level, a multiple of the 8 groups of a normalisation; each of three deeper "
        "ones doubles them",
    )


class EspNetNetwork(VolumeNetwork):
    """ESPNetV2 with its decoder, in three dimensions."""

    name: Literal["espnetv2-3d"]
    width: int = Field(
        default=32,
        ge=16,
        le=4096,
        multiple_of=16,
        description="channels of the first stage, a multiple of 16 because of four groups in four branches; each of "
        "three deeper ones doubles them",
    )


class MobileUNetNetwork(VolumeNetwork):
    """Mobile U-Net in three dimensions."""

    name: Literal["mobile-unet-3d"]
    width: int = Field(
        default=16,
        ge=2,
        le=4096,
        multiple_of=2,
        description="channels of the first bottleneck, even; every other one is a fixed multiple of it",
    )


class LcovNetNetwork(VolumeNetwork):
    """LCOV-Net."""

    name: Literal["lcovnet"]
    width: int = Field(
        default=16, ge=1, le=4096, description="channels of the first level; each of four deeper ones doubles them"
    )
    deep_supervision: bool = Field(
        default=False,
        description="the heads of the three coarser levels give logits in training; losses read them where they name "
        "`heads`. Without it nothing trains these heads, which count in the published size",
    )


VolumetricNetwork = ResidualUNet3dNetwork | SegResNetNetwork | EspNetNetwork | MobileUNetNetwork | LcovNetNetwork
