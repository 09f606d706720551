"""The options of every network, free of torch, so that a study file is checked before anything heavy is imported."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class Frozen(BaseModel):
    """A value that people write in files: unknown keys are refused, and it never changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, serialize_by_alias=True)


class PlainNetwork(Frozen):
    """A network of plain convolutions, as wide as asked for."""

    name: Literal["unet", "resunet"]
    width: PositiveInt = Field(default=32, description="channels of the first stage; each deeper stage doubles them")
    checkpoint: str | None = Field(default=None, description="safetensors file with the weights to start from")


class SmpNetwork(Frozen):
    """A network of segmentation-models-pytorch (the `smp` extra)."""

    name: Literal["smp-unet", "smp-deeplabv3plus"]
    encoder: str = Field(description="an encoder name of segmentation-models-pytorch, such as resnet101")
    weights: str | None = Field(default=None, description="pretrained encoder weights, such as imagenet; none: random")
    checkpoint: str | None = Field(default=None, description="safetensors file with the weights to start from")


NetworkConfig = Annotated[PlainNetwork | SmpNetwork, Field(discriminator="name")]


class Teacher(Frozen):
    """What a network needs to be a teacher."""

    checkpoint: str | None = Field(default=None, description="safetensors file that `trainer teach` writes")
    min_dice: float = Field(default=0.0, ge=0.0, le=1.0, description="validation Dice below which nothing is searched")


class PlainTeacher(Teacher, PlainNetwork):
    """A plain network as teacher."""


class SmpTeacher(Teacher, SmpNetwork):
    """A network of segmentation-models-pytorch as teacher."""


TeacherConfig = Annotated[PlainTeacher | SmpTeacher, Field(discriminator="name")]
