"""The options of every network, free of torch, so that a study file is checked before anything heavy is imported."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from models.normalisation import IMAGENET, Normalisation, pretrained_input

Channels = tuple[Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)], ...]
"""A number for each channel of an image."""


class Frozen(BaseModel):
    """A value that people write in files: unknown keys are refused, and it never changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, serialize_by_alias=True)


def _absent(value: object) -> bool:
    """Whether a field is left out of what is written: runs that lack it stay the runs that they were."""
    return value is None


class PlainNetwork(Frozen):
    """A network of plain convolutions, as wide as asked for."""

    name: Literal["unet", "resunet"]
    width: PositiveInt = Field(
        default=32, le=4096, description="channels of the first stage; each deeper stage doubles them"
    )
    checkpoint: str | None = Field(default=None, description="safetensors file with the weights to start from")


class SmpNetwork(Frozen):
    """A network of segmentation-models-pytorch (the `smp` extra)."""

    name: Literal["smp-unet", "smp-deeplabv3plus"]
    encoder: str = Field(description="an encoder name of segmentation-models-pytorch, such as resnet101")
    weights: str | None = Field(default=None, description="pretrained encoder weights, such as imagenet; none: random")
    checkpoint: str | None = Field(default=None, description="safetensors file with the weights to start from")
    normalisation: Literal["encoder", "imagenet"] | None = Field(
        default=None,
        exclude=True,
        description="a word for mean and std: encoder: what the pretrained weights expect; imagenet: ImageNet's. In a "
        "study file encoder is the default of the student, and of a teacher that `trainer teach` trains",
    )
    mean: Channels | None = Field(
        default=None,
        exclude_if=_absent,
        description="of red, green and blue in [0, 1], taken from the input; none: ImageNet's",
    )
    std: Channels | None = Field(
        default=None, exclude_if=_absent, description="of the same, what the rest is divided by; none: ImageNet's"
    )

    @property
    def expects(self) -> Normalisation:
        """How its images are normalised."""
        if self.mean is None or self.std is None:
            return IMAGENET
        (red, green, blue), (red_std, green_std, blue_std) = self.mean, self.std
        return Normalisation((red, green, blue), (red_std, green_std, blue_std))

    @model_validator(mode="before")
    @classmethod
    def _word_becomes_numbers(cls, values: Any) -> Any:
        """A word for the normalisation becomes what it stands for, so that a run that was read says it by itself."""
        if not isinstance(values, Mapping) or values.get("normalisation") not in ("encoder", "imagenet"):
            return values
        plain = {key: value for key, value in values.items() if key != "normalisation"}
        given = [name for name in ("mean", "std") if plain.get(name) is not None]
        if given:
            raise ValueError(f"normalisation = {values['normalisation']!r}: beside {given[0]}; keep one of them")
        encoder, weights, known = plain.get("encoder"), plain.get("weights"), None
        if values["normalisation"] == "encoder" and isinstance(encoder, str) and isinstance(weights, str):
            known = pretrained_input(encoder, weights)
        mean, std = known or (None, None)
        return {**plain, "mean": mean, "std": std}

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"{'std' if self.std is None else 'mean'}: missing; mean and std are given together")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != len(IMAGENET.mean):
                raise ValueError(f"{name} = {list(values)}: expected three values, for red, green and blue")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std = {list(self.std)}: expected values above 0")
        if (self.mean, self.std) == IMAGENET:
            # What is as it always was is not written down, so that it stays the same run.
            object.__setattr__(self, "mean", None)
            object.__setattr__(self, "std", None)
        return self


NetworkConfig = Annotated[PlainNetwork | SmpNetwork, Field(discriminator="name")]


class Teacher(Frozen):
    """What every teacher has."""

    min_dice: float = Field(default=0.0, ge=0.0, le=1.0, description="validation Dice below which nothing is searched")

    def placeless(self) -> dict[str, Any]:
        """The settings as JSON values, without those that change no logit: where files lie, and the floor."""
        return self.model_dump(mode="json", exclude={"checkpoint", "min_dice", "trust"})


class WeightsTeacher(Teacher):
    """A network of ours by name, with weights from a file."""

    checkpoint: str | None = Field(
        default=None,
        description="safetensors file that `trainer teach` writes, or another program's state dict (safetensors, .pt)",
    )
    keys: tuple[tuple[str, str], ...] = Field(
        default=(),
        description="of another program's state dict: pairs [theirs, ours], in order; a key that begins with the first "
        "begins with the second instead",
    )


class PlainTeacher(WeightsTeacher, PlainNetwork):
    """A plain network as teacher."""


class SmpTeacher(WeightsTeacher, SmpNetwork):
    """A network of segmentation-models-pytorch as teacher."""


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
        default=None, description="by channel, taken from its input; none: ImageNet's, or 0 where pixels are 0-255"
    )
    std: Channels | None = Field(
        default=None, description="by channel, what the rest is divided by; none: ImageNet's, or 1 where 0-255"
    )
    colours: Literal["rgb", "bgr"] = Field(default="rgb", description="the order of its input's channels")

    @model_validator(mode="after")
    def _deviations_are_positive(self) -> Self:
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std = {list(self.std)}: expected values above 0")
        return self


class MapsTeacher(Teacher):
    """Stored probabilities of the foreground, a file an image of train and validation. It has no taps."""

    name: Literal["maps"]
    checkpoint: str | None = Field(
        default=None,
        description="the folder; below it the images' paths with the suffix .png (8 or 16 bit) or .npy (0 to 1)",
    )


MemberTeacher = Annotated[PlainTeacher | SmpTeacher | ExportedTeacher, Field(discriminator="name")]


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


NetworkTeacher = PlainTeacher | SmpTeacher
"""Teachers that are built by name, and have taps."""

TeacherConfig = Annotated[
    PlainTeacher | SmpTeacher | ExportedTeacher | MapsTeacher | EnsembleTeacher, Field(discriminator="name")
]
