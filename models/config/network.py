"""What the options of all networks share. Free of torch, so that a study file is checked before anything heavy is
imported."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from models.normalisation import IMAGENET, Normalisation

Channels = tuple[Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)], ...]
"""A number for each channel of an image."""

NO_OPTIONS = frozenset({"name", "checkpoint", "normalisation", "mean", "std", "min_dice", "keys", "initialisation"})
"""Fields that change nothing of how a network is built; the last one says what its weights begin as."""


PRETRAINED = ("weights", "cnn_weights")
"""Options that name pretrained weights of a network's encoders."""


class Frozen(BaseModel):
    """A value that people write in files: unknown keys are refused, and it never changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, serialize_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """`true` in a number's place is a mistake; Python, and with it pydantic, takes it for 1."""
        for name, field in cls.model_fields.items() if isinstance(values, Mapping) else ():
            value = values.get(field.alias or name)
            given = value if isinstance(value, list | tuple) else [value]
            kinds = set(_kinds(field.annotation)) if any(isinstance(each, bool) for each in given) else set()
            if kinds & {int, float} and not kinds & {bool, Any}:
                error = PydanticCustomError("truth", "expected a number, and no truth value")
                raise ValidationError.from_exception_data(
                    cls.__name__, [{"type": error, "loc": (field.alias or name,), "input": value}]
                )
        return values


def _kinds(annotation: object) -> Iterator[object]:
    """The plain types that an annotation is made of."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for each in inner:
        yield from _kinds(each)


def absent(value: object) -> bool:
    """Whether a field is left out of what is written: runs that lack it stay the runs that they were."""
    return value is None


class NetworkOptions(Frozen):
    """The options of one family of networks. A field that is no option stands in NO_OPTIONS.

    A name of the family may be a preset: it stands for options, which may not be given otherwise. What a program writes
    names them beside the preset, so that a run says itself what it was.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Name -> the options that it stands for."""
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Name -> options that have another default under it, such as the width that its paper gives."""

    DIMS: ClassVar[frozenset[int]] = frozenset({2})
    """Axes of space that the family has forms for: 2 for images, 3 for volumes."""

    name: str

    @model_validator(mode="after")
    def _name_fills_options(self) -> Self:
        for option, value in self.PRESETS.get(self.name, {}).items():
            if option in self.model_fields_set and getattr(self, option) != value:
                others = ", ".join(sorted({*self.names()} - {*self.PRESETS}))
                raise ValueError(
                    f"{option} = {getattr(self, option)!r}: {self.name!r} stands for {option} = {value!r}; leave it "
                    f"out{f', or take name = {others}' if others else ''}"
                )
            object.__setattr__(self, option, value)
        for option, value in self.DEFAULTS.get(self.name, {}).items():
            if option not in self.model_fields_set:
                object.__setattr__(self, option, value)
        return self

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the family."""
        return tuple(cls.model_fields["name"].annotation.__args__)  # type: ignore[union-attr]  # a Literal has them

    def options(self) -> dict[str, Any]:
        """What the network is built with, beside channels, classes and size."""
        return {field: getattr(self, field) for field in type(self).model_fields if field not in NO_OPTIONS}

    @property
    def fetches(self) -> bool:
        """Whether it starts from pretrained weights, which may have to be fetched."""
        return any(getattr(self, option, None) is not None for option in PRETRAINED)

    @property
    def expects(self) -> Normalisation:
        """How its images are normalised."""
        return IMAGENET

    @property
    def scale(self) -> str:
        """How large it is, in words that follow its name, such as `of width 8`; empty where the name says it all."""
        return ""


class WideNetwork(NetworkOptions):
    """A family whose channels all follow from one number."""

    width: PositiveInt = Field(
        default=32, le=4096, description="channels of the first stage; each deeper stage doubles them"
    )
    checkpoint: str | None = Field(default=None, description="safetensors file with the weights to start from")

    @property
    def scale(self) -> str:
        """The width."""
        return f"of width {self.width}"
