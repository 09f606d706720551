"""Data sets of pictures, as a study file describes them."""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from models.config import Channels, Frozen
from trainer.config.classes import (
    MOST_CLASSES,
    MOST_FILES,
    ClassConfig,
    ClassValue,
    Intensity,
    RegionConfig,
    listed_regions,
)

MOST_PIXELS = 8192
"""The longest side of a picture: beyond it a single batch fills the memory of any machine."""
MOST_PICTURES = 100_000
"""That are drawn; all of them are kept in memory."""
LARGEST_SEED = 2**53
"""Databases and JSON keep whole numbers up to it exactly."""


class Pictures(Frozen):
    """What every data set has. Images are brought to size x size for the network; scores are taken at native size."""

    size: PositiveInt = Field(
        default=352,
        le=MOST_PIXELS,
        description="side of the network's input in pixels, a multiple of the networks' strides: multiples of 32 suit "
        "every network",
    )
    fit: Literal["letterbox", "stretch"] = Field(
        default="letterbox", description="letterbox keeps the sides' ratio and pads; stretch fills the square"
    )
    padding: Literal["ignored", "background"] = Field(
        default="ignored",
        exclude_if=lambda padding: padding == "ignored",  # runs of before, and their hashes, have no such key
        description="what a letterbox adds: ignored by losses, or learned as background; it is never scored",
    )
    augment: str = Field(default="standard", description="a named preset of changes to the training images")
    views: PositiveInt | None = Field(
        default=None,
        le=1000,
        description="fixed augmentations of each image, one an epoch in turn, whose teacher logits are stored; none: "
        "new ones in every epoch",
    )


class BlobsData(Pictures):
    """Drawn ellipses on noise; no files. A share of the images has no ellipse at all."""

    name: Literal["blobs"]
    size: PositiveInt = Field(
        default=64, le=MOST_PIXELS, description="side of the drawn pictures and of the network's input in pixels"
    )
    train: PositiveInt = Field(default=96, le=MOST_PICTURES, description="pictures to train on")
    validation: PositiveInt = Field(default=32, le=MOST_PICTURES, description="pictures that choose epochs and trials")
    test: PositiveInt = Field(default=32, le=MOST_PICTURES, description="pictures that only an opened test sees")
    seed: NonNegativeInt = Field(default=0, le=LARGEST_SEED, description="of what is drawn")
    loose: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        exclude_if=lambda loose: loose == 0,  # runs of before, and their hashes, have no such key
        description="by which share of their radii the ellipses are wider in the masks to train on than in the "
        "pictures, as where a person outlines in a hurry; validation and test masks are exact",
    )


class PolypData(Pictures):
    """Polyp images with masks, chosen by a split file `source,image,mask,group,split`."""

    name: Literal["polyp"]
    root: str = Field(description="folder that the split file's paths start from; $VARIABLES come from the environment")
    split: str = Field(description="the split file, written by `search init` or `trainer data split`")
    near_duplicates: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="near-identical pictures in two parts: an error, or a leak that you know of and that is said",
    )
    labels: str | None = Field(
        default=None,
        exclude_if=lambda labels: labels is None,  # runs of before, and their hashes, have no such key
        description='what the values of all masks mean, such as "0: background, 1-2: object, 255: ignored"; '
        "none: black is the background, and the one other value or colour of a source the object",
    )


CellReader = Literal["segpc-cell", "segpc-cytoplasm"]


class PictureData(Pictures):
    """Pictures with masks of any number of classes and channels, chosen by a split file as polyps are."""

    name: Literal["pictures"]
    root: str = Field(description="folder that the split file's paths start from; $VARIABLES come from the environment")
    split: str = Field(description="the split file, written by `search init` or `trainer data split`")
    near_duplicates: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="near-identical pictures in two parts: an error, or a leak that you know of and that is said",
    )
    classes: tuple[ClassConfig, ...] = Field(
        default=(),
        max_length=MOST_CLASSES,
        description="in the order of the network's output; the first is ground. With regions: the names that these may "
        "have for what masks hold, or nothing",
    )
    regions: tuple[RegionConfig, ...] = Field(
        default=(),
        max_length=MOST_CLASSES,
        exclude_if=lambda regions: not regions,  # runs of before, and their hashes, have no such key
        description="objects that overlap, in the order of the network's output, such as { whole = [1, 2, 4], core = "
        "[1, 4] }; losses and scores then take each by itself; none: every pixel has one class",
    )
    ignore: ClassValue = Field(
        default=None,
        description="what in a mask is neither learned nor scored, written as a class's value; none: nothing",
    )
    channels: Literal[1, 3, 4] = Field(default=3, description="of a picture: grey, RGB, or RGB and one more")
    bits: Literal[8, 16] = Field(default=8, description="of a channel as the cache keeps it")
    window: tuple[Intensity, Intensity] | None = Field(
        default=None,
        description="of slices of volumes: the intensities that become black and white; none: files hold 0 to 1, or "
        "whole numbers of their own depth",
    )
    reader: CellReader | None = Field(
        default=None,
        exclude_if=lambda reader: reader is None,
        description="a row is one cell of SegPC-2021, cut out around its nucleus, which is the fourth channel; the "
        "object is the whole cell or its cytoplasm; none: a row is a picture",
    )
    mean: Channels | None = Field(
        default=None,
        description="by channel of values in 0 to 1, taken from the input; none: ImageNet's for RGB, else 0",
    )
    std: Channels | None = Field(
        default=None, description="of the same, what the rest is divided by; none: ImageNet's for RGB, else 1"
    )

    @field_validator("regions", mode="before")
    @classmethod
    def _as_list(cls, regions: Any) -> Any:
        return listed_regions(regions)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for field, entries in (("classes", self.classes), ("regions", self.regions)):
            names = [known.name for known in entries]
            double = next((name for name in names if names.count(name) > 1), None)
            if double is not None:
                raise ValueError(f"{field}: two are named {double!r}; rename one")
            valued = [known.name for known in entries if known.value is not None]
            if valued and len(valued) < len(names):
                lacking = next(name for name in names if name not in valued)
                raise ValueError(
                    f"{field}: {lacking!r} has no value and {valued[0]!r} has one; give it to all or to none"
                )
        return self

    @model_validator(mode="after")
    def _codes_are_of_volumes(self) -> Self:
        coded = next((known.name for known in (*self.classes, *self.regions) if known.code is not None), None)
        if coded is not None:
            raise ValueError(f"classes: {coded!r} has a code, which is for DICOM SEG of volumes; leave it out")
        return self

    @model_validator(mode="after")
    def _objects_are_named(self) -> Self:
        if not self.regions:
            if len(self.classes) < 2:
                raise ValueError(
                    f"classes: {len(self.classes)} named, expected 2 or more, the ground first; for objects that "
                    "overlap name regions"
                )
            return self
        if self.reader is not None:
            raise ValueError(f"reader = {self.reader!r}: a cell has no regions; remove one of them")
        if self.regions[0].value is None:
            if self.classes:
                raise ValueError("classes: regions without values are a file each, which have no classes; remove one")
            if len(self.regions) > MOST_FILES:
                raise ValueError(
                    f"regions: {len(self.regions)} in files of their own, {MOST_FILES} at most; give them values of "
                    "one file"
                )
        elif any(known.value is None for known in self.classes):
            raise ValueError("classes: regions take classes by their values; give every class a value")
        return self

    @model_validator(mode="after")
    def _cells_have_their_form(self) -> Self:
        if self.reader is None:
            return self
        for field, value, wanted in (
            ("channels", self.channels, 4), ("bits", self.bits, 8), ("classes", len(self.classes), 2),
        ):  # fmt: skip
            if value != wanted:
                raise ValueError(f"reader = {self.reader!r}: has {wanted} {field}, not {value}; change {field}")
        return self

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"{'std' if self.std is None else 'mean'}: missing; mean and std are given together")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} = {list(values)}: expected {self.channels} values, one a channel")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std = {list(self.std)}: expected values above 0")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window = {list(self.window)}: expected the lower intensity before the higher")
        return self
