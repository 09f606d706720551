"""The options of teachers: the networks as teachers, and what has logits alone."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from models.config.convolutional import (
    AttentionUNetNetwork,
    DuckNetNetwork,
    MultiResUNetNetwork,
    ResUNetNetwork,
    ResUNetPlusPlusNetwork,
    SmallUNetNetwork,
    UNetNetwork,
    UNetPlusPlusNetwork,
)
from models.config.network import Channels, Frozen
from models.config.packaged import DeepLabV3Network, SmpNetwork
from models.config.transformers import (
    CascadePvtNetwork,
    CascadeTransUNetNetwork,
    HiFormerNetwork,
    MISSFormerNetwork,
    SwinUnetNetwork,
    TransUNetNetwork,
    UCTransNetNetwork,
)
from models.config.volumes import (
    EspNetNetwork,
    LcovNetNetwork,
    MobileUNetNetwork,
    ResidualUNet3dNetwork,
    SegResNetNetwork,
)


class Teacher(Frozen):
    """What every teacher has."""

    min_dice: float = Field(default=0.0, ge=0.0, le=1.0, description="validation Dice below which nothing is searched")

    def placeless(self) -> dict[str, Any]:
        """The settings as JSON values, without those that change no logit: where files lie, and the floor."""
        return self.model_dump(mode="json", exclude={"checkpoint", "min_dice", "trust", "initialisation"})


class WeightsTeacher(Teacher):
    """A network of ours by name, with weights from a file."""

    checkpoint: str | None = Field(
        default=None,
        description="safetensors file that `trainer teach` writes, or another program's state dict (safetensors, .pt)",
    )
    keys: tuple[tuple[str, str], ...] | Literal["monai"] = Field(
        default=(),
        description="of another program's state dict: pairs [theirs, ours], in order; a key that begins with the first "
        "begins with the second instead; monai: those of MONAI's UNet and SegResNet",
    )


class UNetTeacher(WeightsTeacher, UNetNetwork):
    """U-Net as teacher."""


class AttentionUNetTeacher(WeightsTeacher, AttentionUNetNetwork):
    """Attention U-Net as teacher."""


class UNetPlusPlusTeacher(WeightsTeacher, UNetPlusPlusNetwork):
    """U-Net++ as teacher."""


class MultiResUNetTeacher(WeightsTeacher, MultiResUNetNetwork):
    """MultiResUNet as teacher."""


class ResUNetTeacher(WeightsTeacher, ResUNetNetwork):
    """Residual U-Net as teacher."""


class ResUNetPlusPlusTeacher(WeightsTeacher, ResUNetPlusPlusNetwork):
    """ResUNet++ as teacher."""


class DuckNetTeacher(WeightsTeacher, DuckNetNetwork):
    """DUCK-Net as teacher."""


class SmallUNetTeacher(WeightsTeacher, SmallUNetNetwork):
    """A small student of a study that distils U-Net variants as teacher."""


class DeepLabV3Teacher(WeightsTeacher, DeepLabV3Network):
    """DeepLabV3 of torchvision as teacher."""


class TransUNetTeacher(WeightsTeacher, TransUNetNetwork):
    """TransUNet as teacher."""


class UCTransNetTeacher(WeightsTeacher, UCTransNetNetwork):
    """UCTransNet as teacher."""


class MISSFormerTeacher(WeightsTeacher, MISSFormerNetwork):
    """MISSFormer as teacher."""


class SwinUnetTeacher(WeightsTeacher, SwinUnetNetwork):
    """Swin-Unet as teacher."""


class HiFormerTeacher(WeightsTeacher, HiFormerNetwork):
    """HiFormer as teacher."""


class CascadePvtTeacher(WeightsTeacher, CascadePvtNetwork):
    """CASCADE on a PVTv2 as teacher."""


class CascadeTransUNetTeacher(WeightsTeacher, CascadeTransUNetNetwork):
    """CASCADE on TransUNet's encoder as teacher."""


class SmpTeacher(WeightsTeacher, SmpNetwork):
    """A network of segmentation-models-pytorch as teacher."""


class ResidualUNet3dTeacher(WeightsTeacher, ResidualUNet3dNetwork):
    """The residual U-Net for volumes, or the one without residual units, as teacher."""


class SegResNetTeacher(WeightsTeacher, SegResNetNetwork):
    """SegResNet as teacher."""


class EspNetTeacher(WeightsTeacher, EspNetNetwork):
    """ESPNetV2 for volumes as teacher."""


class MobileUNetTeacher(WeightsTeacher, MobileUNetNetwork):
    """Mobile U-Net for volumes as teacher."""


class LcovNetTeacher(WeightsTeacher, LcovNetNetwork):
    """LCOV-Net as teacher."""


class ExportedTeacher(Teacher):
    """A whole network in a file: ONNX (the `onnx` extra) or a torch.export program (.pt2). It has no taps."""

    name: Literal["onnx", "export"]
    checkpoint: str | None = Field(default=None, description="the file")
    trust: bool = Field(
        default=False,
        exclude_if=lambda trust: not trust,  # runs of before have no such key
        description="whether the maker of a .pt2 file is trusted: opening one may run code that it holds",
    )
    output: Literal["logits", "probabilities"] = Field(
        description="what it returns: one channel is the foreground's (sigmoid), several are the classes' (softmax)"
    )
    take: str | None = Field(
        default=None, description="which of several outputs: its name in ONNX, its number from 0 in a program"
    )
    pixels: Literal["0-1", "0-255"] = Field(
        default="0-1", description="the values of black and white from which `mean` is taken"
    )
    mean: Channels | None = Field(
        default=None,
        description="by channel, taken from its input; none: ImageNet's, or 0 where pixels are 0-255 and of volumes",
    )
    std: Channels | None = Field(
        default=None,
        description="by channel, what the rest is divided by; none: ImageNet's, or 1 where 0-255 and of volumes",
    )
    colours: Literal["rgb", "bgr"] = Field(default="rgb", description="the order of its input's channels")

    @model_validator(mode="after")
    def _deviations_are_positive(self) -> Self:
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std = {list(self.std)}: expected values above 0")
        return self


class MapsTeacher(Teacher):
    """Stored probabilities, a file an image of train and validation: of pictures those of the foreground, of volumes
    those of every class or region. It has no taps."""

    name: Literal["maps"]
    checkpoint: str | None = Field(
        default=None,
        description="the folder; below it the images' paths with the suffix .png (8 or 16 bit) or .npy (0 to 1), of "
        "volumes .nii or .nii.gz on the image's grid, classes or regions as the fourth axis",
    )


class NnunetTeacher(Teacher):
    """A results folder of nnU-Net v2, as `trainer teacher convert` writes it (the `nnunet` extra); several folds are
    one teacher. It has no taps."""

    name: Literal["nnunet"]
    checkpoint: str | None = Field(default=None, description="the converted folder")
    mirror: bool = Field(
        default=False,
        description="whether its logits are the mean over mirrored passes, which nnUNetv2_predict takes by default; "
        "false: as with --disable_tta",
    )


NetworkTeacher = (
    UNetTeacher
    | AttentionUNetTeacher
    | UNetPlusPlusTeacher
    | MultiResUNetTeacher
    | ResUNetTeacher
    | ResUNetPlusPlusTeacher
    | DuckNetTeacher
    | SmallUNetTeacher
    | DeepLabV3Teacher
    | TransUNetTeacher
    | UCTransNetTeacher
    | MISSFormerTeacher
    | SwinUnetTeacher
    | HiFormerTeacher
    | CascadePvtTeacher
    | CascadeTransUNetTeacher
    | SmpTeacher
    | ResidualUNet3dTeacher
    | SegResNetTeacher
    | EspNetTeacher
    | MobileUNetTeacher
    | LcovNetTeacher
)
"""Teachers that are built by name, and have taps."""

MemberTeacher = Annotated[NetworkTeacher | ExportedTeacher, Field(discriminator="name")]


class EnsembleTeacher(Teacher):
    """Several teachers as one: the mean of their probabilities (Hinton et al. 2015, section 1). It has no taps."""

    name: Literal["ensemble"]
    members: tuple[MemberTeacher, ...] = Field(min_length=2, description="the teachers, each as [run.teacher] has one")

    def placeless(self) -> dict[str, Any]:
        """The settings as JSON values, without those that change no logit, of all members."""
        return super().placeless() | {"members": [member.placeless() for member in self.members]}

    @model_validator(mode="after")
    def _floor_is_of_all(self) -> Self:
        if any(member.min_dice for member in self.members):
            raise ValueError("members: min_dice is judged of all together; set it beside members")
        return self


TeacherConfig = Annotated[
    NetworkTeacher | ExportedTeacher | MapsTeacher | NnunetTeacher | EnsembleTeacher, Field(discriminator="name")
]
