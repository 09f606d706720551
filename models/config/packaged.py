"""The options of networks that other packages bring."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from models.config.network import Channels, NetworkOptions, absent
from models.normalisation import IMAGENET, Normalisation, pretrained_input


class SmpNetwork(NetworkOptions):
    """A network of segmentation-models-pytorch (the `smp` extra)."""

    name: Literal[
        "smp-unet",
        "smp-unetplusplus",
        "smp-manet",
        "smp-linknet",
        "smp-fpn",
        "smp-pspnet",
        "smp-pan",
        "smp-deeplabv3",
        "smp-deeplabv3plus",
        "smp-upernet",
        "smp-segformer",
    ]
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
        exclude_if=absent,
        description="of red, green and blue in [0, 1], taken from the input; none: ImageNet's",
    )
    std: Channels | None = Field(
        default=None, exclude_if=absent, description="of the same, what the rest is divided by; none: ImageNet's"
    )

    def options(self) -> dict[str, Any]:
        """What the network is built with; its name says the architecture."""
        return {"architecture": self.name, "encoder": self.encoder, "weights": self.weights}

    @property
    def scale(self) -> str:
        """The encoder."""
        return f"on {self.encoder}"

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


class DeepLabV3Network(NetworkOptions):
    """DeepLabV3 of torchvision (the `smp` extra)."""

    name: Literal["deeplabv3"]
    backbone: Literal["resnet50", "resnet101"] = Field(default="resnet101", description="the encoder")
    weights: Literal["imagenet"] | None = Field(
        default=None, description="pretrained encoder weights, torchvision's first on ImageNet; none: random"
    )
    deep_supervision: bool = Field(
        default=False, description="the auxiliary head in training; losses read it where they name `heads`"
    )
    checkpoint: str | None = Field(default=None, description="safetensors file with the weights to start from")

    @property
    def scale(self) -> str:
        """The backbone."""
        return f"on {self.backbone}"


PackagedNetwork = SmpNetwork | DeepLabV3Network
