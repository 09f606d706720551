"""The classes and regions of a data set, as a study file names them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StrictInt

from models.config import Frozen
from models.config.network import absent

MOST_CLASSES = 254
"""A mask keeps labels in 8 bits, of which 255 is what is ignored."""
MOST_FILES = 7
"""Regions in files of their own: a label says in which of them a pixel is, and 255 is what is ignored."""

_TEXT = r"^[^\x00-\x1f\x7f\\]{1,64}$"
"""A DICOM text of one line, in which a backslash begins the next value."""

Level = Annotated[StrictInt, Field(ge=0, le=255)]
ClassValue = Level | str | tuple[Level | str, ...] | None
"""What stands for a class in a mask. Numbers are strict: pydantic takes the text "0-19" for the number -19."""


Intensity = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class Code(Frozen):
    """A concept of a terminology, as DICOM names it (Part 3, 8.8)."""

    scheme: str = Field(
        pattern=r"^[A-Za-z0-9_.-]{1,16}$",
        description="the terminology: SCT is SNOMED CT, 99... one of your own",
    )
    value: str = Field(pattern=_TEXT, description="the concept's code there")
    meaning: str = Field(pattern=_TEXT, description="the same for people")


class ClassCode(Code):
    """What a class is, and what kind of thing that is."""

    category: Code | None = Field(
        default=None,
        exclude_if=absent,
        description='what kind of thing it is; none: SCT 123037004 "Anatomical Structure"; a lesion has SCT 49755003 '
        '"Morphologically Altered Structure"',
    )


class ClassConfig(Frozen):
    """One class of a data set: its name, what stands for it in a mask, and its colour in pictures."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        max_length=60,
        description="letters, digits, - and _; scores have it behind a dot: dice.liver",
    )
    value: ClassValue = Field(
        default=None,
        description='what masks hold: a number, a range "1-3", a colour "#800000", or a list of such; none: masks are '
        "a file a class, whose paths have {class} in the place of the name",
    )
    colour: str | None = Field(
        default=None,
        pattern=r"^#[0-9a-fA-F]{6}$",
        description="#rrggbb in pictures; none: the value's colour where it has one, else one of a fixed palette",
    )
    code: ClassCode | None = Field(
        default=None,
        exclude_if=absent,
        description='of volumes, for DICOM SEG: { scheme = "SCT", value = "10200004", meaning = "Liver" }; none: the '
        "name in a private scheme; no number depends on it, and it may be added later",
    )


class RegionConfig(ClassConfig):
    """One region of a data set: an object that may overlap others, with an output and scores of its own."""

    value: ClassValue = Field(
        default=None,
        description='what of a mask is in it: names of data.classes, numbers, ranges "1-3", colours "#800000"; none: '
        "masks are a file a region, whose paths have {class} in the place of the name",
    )


def listed_regions(regions: Any) -> Any:
    """`{ whole = [1, 2] }` as a list of tables, which is how runs keep it: their order is that of the output."""
    if not isinstance(regions, Mapping):
        return regions
    return [
        {"name": name, **entry} if isinstance(entry, Mapping) else {"name": name, "value": entry}
        for name, entry in regions.items()
    ]
