"""What a data set's pictures and masks are, known from its settings before a file is opened: classes, their colours,
channels, and how pictures are normalised. Importing this needs no torch.
"""

from typing import Literal, NamedTuple

from models.normalisation import Normalisation, normalisation_for
from trainer.config import ClassConfig, DataConfig, PictureData, VolumeData

Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (0, 158, 115), (230, 159, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178),
    (148, 103, 189), (140, 86, 75), (188, 189, 34), (23, 190, 207), (255, 152, 150), (174, 199, 232), (152, 223, 138),
)  # fmt: skip
"""Colours of labels 1, 2, ... where a data set gives none: the seven of Okabe and Ito (2008), which the colour-blind
tell apart, then others; they start again after the last."""
GROUND: Colour = (0, 0, 0)


class LabelClass(NamedTuple):
    """A class by its place: label n of a mask is the n-th."""

    name: str
    colour: Colour


TWO_CLASSES = (LabelClass("background", GROUND), LabelClass("foreground", PALETTE[0]))
"""The classes of data sets that name none."""


def classes_of(config: DataConfig) -> tuple[LabelClass, ...]:
    """What a network for a data set gives, in the order of its output: the classes by their labels, of which the first
    is the ground, and at least one follows; or the regions, none of which is the ground."""
    if not isinstance(config, PictureData | VolumeData):
        return TWO_CLASSES
    if config.regions:
        return tuple(LabelClass(known.name, _colour(known, at)) for at, known in enumerate(config.regions, 1))
    return tuple(LabelClass(known.name, _colour(known, label)) for label, known in enumerate(config.classes))


def overlaps(config: DataConfig) -> bool:
    """Whether a data set has regions, which overlap, in place of classes."""
    return isinstance(config, PictureData | VolumeData) and bool(config.regions)


def foreground_of(config: DataConfig) -> tuple[LabelClass, ...]:
    """What scores are of: the classes without the ground, or the regions."""
    return classes_of(config)[ground(overlaps(config)) :]


def ground(regions: bool) -> int:
    """How many of a network's outputs are of the ground: none of regions, else the first."""
    return 0 if regions else 1


def channels_of(config: DataConfig) -> int:
    """Channels of a data set's pictures or volumes."""
    if isinstance(config, VolumeData):
        return config.channels if isinstance(config.channels, int) else len(config.channels)
    return config.channels if isinstance(config, PictureData) else 3


def dims_of(config: DataConfig) -> Literal[2, 3]:
    """Axes of space that a data set has: 2 of pictures, 3 of volumes."""
    return 3 if isinstance(config, VolumeData) else 2


def input_text(config: DataConfig) -> str:
    """What a network takes of a data set, in words: images at 352 x 352, or patches of 96 x 96 x 96."""
    sides = " x ".join(map(str, input_sides(config)))
    return f"patches of {sides}" if dims_of(config) == 3 else f"images at {sides}"


def size_of(config: DataConfig) -> int | tuple[int, int, int]:
    """What `models.build` takes as the size of a network's input: the side of pictures, or the sides of a patch."""
    return config.patch if isinstance(config, VolumeData) else config.size


def input_sides(config: DataConfig) -> tuple[int, ...]:
    """The sides of what a network sees in training, in pixels or voxels along each axis of space."""
    return config.patch if isinstance(config, VolumeData) else (config.size, config.size)


def opening_work(config: DataConfig) -> str:
    """What takes long where a data set is opened for the first time, for a line of progress."""
    return "preparing cases" if isinstance(config, VolumeData) else "decoding pictures"


def bits_of(config: DataConfig) -> int:
    """Bits of a channel as pictures are kept: 8 or 16."""
    return config.bits if isinstance(config, PictureData) else 8


def normalisation_of(config: DataConfig) -> Normalisation:
    """How pictures are normalised for a network that says nothing of it: as the data says; else ImageNet's way where
    they have three channels, and values from 0 to 1 where they have not."""
    if isinstance(config, PictureData) and config.mean is not None and config.std is not None:
        return Normalisation(config.mean, config.std)
    return normalisation_for(channels_of(config))


def numbered(classes: tuple[LabelClass, ...], count: int) -> tuple[LabelClass, ...]:
    """The classes where there are as many; else `count` that no data set names: the ground and `class 1`, `class 2`."""
    if len(classes) == count:
        return classes
    others = (LabelClass(f"class {label}", palette_colour(label)) for label in range(1, count))
    return TWO_CLASSES if count == 2 else (TWO_CLASSES[0], *others)


def rgb(text: str) -> Colour:
    """#rrggbb as numbers."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def hexadecimal(colour: Colour) -> str:
    """Numbers as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def palette_colour(label: int) -> Colour:
    """The colour of a label whose data set gives none."""
    return GROUND if label == 0 else PALETTE[(label - 1) % len(PALETTE)]


def _colour(known: ClassConfig, label: int) -> Colour:
    if known.colour is not None:
        return rgb(known.colour)
    if isinstance(known.value, str) and known.value.startswith("#"):
        return rgb(known.value)
    return palette_colour(label)
