"""Masks as labels: which values their files hold, what each of them means, and the labels that follow.

What the values of a data set mean is its `Coding`. A data set that names its classes says it (`coding_of_classes`);
else two values name themselves: black is the background, and the one other value or colour of all masks of a source is
the object, be it 255, 1, or the red of a palette. Whatever is more than that is said by a person (`coding_from`), and a
value that nobody named is an error, never rounded. JPEG alone
does not keep values: a grey goes to the nearest that is named, where at least NEAR_SHARE of a file's pixels lie within
NEAR of one.

A mask keeps one label a pixel also where a data set has regions, which overlap: the label says in which of them the
pixel is (`Regions`). So masks are read, cached, bent and padded as those of classes are, whatever the number of regions
and of dimensions, and become one mask a region where a loss or a score asks for it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.config import ClassConfig, ClassValue, DataConfig, PictureData, VolumeData
from trainer.data.dataset import Picture, Pixels
from trainer.data.files import BadFile, MaskPicture, orientation, shape_text, some
from trainer.data.letterbox import IGNORED
from trainer.errors import DataError, nearest, received

if TYPE_CHECKING:
    from torch import Tensor

BACKGROUND, OBJECT = 0, 1
MEANINGS = {"background": BACKGROUND, "object": OBJECT, "ignored": IGNORED}
"""What a value can mean; what is ignored is neither learned nor scored."""
NEAR = 16
"""Grey levels between a pixel of a JPEG and the value that was saved there, at most; rims are farther away."""
NEAR_SHARE = 0.95
"""Share of the pixels of a JPEG mask that lie within NEAR of a named value, at least."""
KEPT = 256
"""Values of a file that are counted one by one, the commonest first; a photograph has more."""
FLAG = "--labels"

_GREY = 0x010101
_UNNAMED = 254
_SHOWN = 5
_VALUE = re.compile(r"(?:(\d{1,3})(?:\s*-\s*(\d{1,3}))?|#([0-9a-fA-F]{6}))")
_ENTRY = re.compile(r"\s*(?:(\d{1,3})(?:\s*-\s*(\d{1,3}))?|#([0-9a-fA-F]{6}))\s*:\s*(\w+)\s*")


@dataclass(frozen=True)
class MaskValues:
    """How many pixels of a mask have which value; a value is 0xRRGGBB, with three equal bytes where it is grey."""

    counts: Mapping[int, int]
    """Pixels by value, of the KEPT commonest."""
    pixels: int
    lossy: bool
    """Whether the file is a JPEG, so that values are only near what was saved."""


@dataclass(frozen=True)
class Coding:
    """What the values of some masks mean: pairs of value (0xRRGGBB) and label, sorted."""

    labels: tuple[tuple[int, int], ...]
    names: tuple[str, ...] = ("background", "object")
    """The names of labels 0, 1, ..."""
    indices: bool = False
    """Whether the values of a palette's file are its indices, not its colours."""
    regions: "Regions | None" = None
    """In which regions labels are, where these overlap."""

    @cached_property
    def exact(self) -> dict[int, int]:
        """Label by value."""
        return dict(self.labels)

    @cached_property
    def greys(self) -> NDArray[np.int64]:
        """The grey levels that have a label, ascending."""
        return np.array([value // _GREY for value, _ in self.labels if is_grey(value)], np.int64)

    @property
    def values(self) -> tuple[int, ...]:
        """What files of grey values hold of labels 0, 1, ...: the lowest of each, or the label itself."""
        lowest = {label: value // _GREY for value, label in reversed(self.labels) if is_grey(value)}
        return tuple(lowest.get(label, label) for label in range(len(self.names)))

    def nearest_greys(self) -> NDArray[np.int64]:
        """The named grey level nearest to each of 0 to 255, the lower of two."""
        distance = np.abs(np.arange(256)[:, None] - self.greys[None, :])
        nearest_at: NDArray[np.int64] = self.greys[distance.argmin(axis=1)]
        return nearest_at

    def table(self, *, lossy: bool) -> Pixels:
        """The label of each grey level, (256,)."""
        table = np.full(256, _UNNAMED, np.uint8)
        if lossy and len(self.greys):
            table[:] = [self.exact[int(grey) * _GREY] for grey in self.nearest_greys()]
        for grey in self.greys:
            table[grey] = self.exact[int(grey) * _GREY]
        return table

    def pixels(self, values: MaskValues) -> Counter[int]:
        """How many of a file's pixels have each label."""
        table = self.table(lossy=values.lossy)
        labelled: Counter[int] = Counter()
        for value, count in values.counts.items():
            label = table[value // _GREY] if is_grey(value) else self.exact.get(value, _UNNAMED)
            labelled[int(label)] += count
        return labelled

    def share(self, values: MaskValues, label: int = OBJECT) -> float:
        """Share of a file's pixels that have the label, 0 to 1."""
        return self.pixels(values)[label] / values.pixels

    def foreground(self, values: MaskValues) -> float:
        """Share of a file's pixels that have a label and are not the ground, 0 to 1."""
        labelled = self.pixels(values)
        return sum(labelled[label] for label in range(1, len(self.names))) / values.pixels

    def moved(self, values: MaskValues) -> int:
        """Pixels of a JPEG that no name fits exactly, and that go to the nearest one."""
        return sum(count for value, count in values.counts.items() if values.lossy and value not in self.exact)

    def far(self, values: MaskValues) -> float:
        """Share of a JPEG's pixels that lie farther than NEAR from every named value, 0 to 1."""
        away = np.abs(np.arange(256) - self.nearest_greys()) if len(self.greys) else np.full(256, 256)
        return sum(count for value, count in values.counts.items() if away[value // _GREY] > NEAR) / values.pixels

    def __str__(self) -> str:
        return ", ".join(f"{value:06x}={label}" for value, label in self.labels)


BLACK_AND_WHITE = Coding(((0, BACKGROUND), (255 * _GREY, OBJECT)))
"""What values mean in the masks of most data sets."""


def coding_from(text: str, field: str) -> Coding:
    """The meaning of values as a person writes it: `0: background, 1-3: object, 255: ignored`, colours as #RRGGBB.

    field: where it was written, for messages. Raises DataError.
    """
    labels: dict[int, int] = {}
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise DataError(f"{field} = {received(text)}: {entry.strip()!r} is no VALUE: MEANING; write {EXAMPLE}")
        low, high, colour, meaning = match.groups()
        if meaning not in MEANINGS:
            raise DataError(f"{field} = {received(text)}: unknown meaning {meaning!r}{nearest(meaning, MEANINGS)}")
        first, last = (int(colour, 16),) * 2 if colour else (int(low), int(high or low))
        if not colour and not first <= last <= 255:
            raise DataError(f"{field} = {received(text)}: {entry.strip()!r}: values go from 0 to 255")
        for value in (first,) if colour else range(first * _GREY, last * _GREY + 1, _GREY):
            if labels.setdefault(value, MEANINGS[meaning]) != MEANINGS[meaning]:
                raise DataError(f"{field} = {received(text)}: {value_text(value)} has two meanings; keep one")
    for meaning, label in (("background", BACKGROUND), ("object", OBJECT)):
        if label not in labels.values():
            raise DataError(f"{field} = {received(text)}: no value is the {meaning}; write {EXAMPLE}")
    return Coding(tuple(sorted(labels.items())))


def coding_of_classes(classes: Sequence[ClassConfig], ignore: ClassValue) -> Coding | None:
    """What the values of masks mean where a data set names its classes; None where each class has a file of its own.

    Raises DataError for a value that is none, or that two classes have.
    """
    if classes[0].value is None:
        return None
    labels: dict[int, int] = {}
    names = tuple(known.name for known in classes)
    entries = [(f"classes.{known.name}.value", known.value, label) for label, known in enumerate(classes)]
    for field, value, label in [*entries, ("ignore", ignore, IGNORED)]:
        for number in values_from(value, f"data.{field}"):
            if labels.setdefault(number, label) != label:
                other = names[labels[number]]
                raise DataError(f"data.{field} = {received(value)}: {value_text(number)} is {other} already; keep one")
    pairs = tuple(sorted(labels.items()))
    return Coding(pairs, names, indices=all(is_grey(value) for value, _ in pairs))


def values_from(value: ClassValue, field: str) -> list[int]:
    """The values (0xRRGGBB) that a number, a range `1-3`, a colour `#RRGGBB` or a list of such stands for.

    field: where it was written, for messages. Raises DataError.
    """
    if value is None:
        return []
    if isinstance(value, tuple):
        return [number for entry in value for number in values_from(entry, field)]
    match = _VALUE.fullmatch(str(value))
    low, high, colour = match.groups() if match else (None, None, None)
    if colour is not None:
        return [int(colour, 16)]
    first, last = int(low or 1), int(high or low or 0)
    if not first <= last <= 255:
        raise DataError(
            f'{field} = {received(value)}: expected a number from 0 to 255, a range "1-3", a colour "#800000", or a '
            "list of such"
        )
    return list(range(first * _GREY, last * _GREY + 1, _GREY))


EXAMPLE = "'0: background, 1-3: object, 255: ignored' (colours as '#800000: object')"


def values_of(mask: MaskPicture) -> MaskValues:
    """The values of a mask that was read."""
    pixels = mask.pixels
    if pixels.ndim == 2:
        counts = np.bincount(pixels.ravel(), minlength=256)
        return MaskValues({int(v) * _GREY: int(counts[v]) for v in np.flatnonzero(counts)}, pixels.size, mask.lossy)
    colours, counts = np.unique(_colours(pixels), return_counts=True)
    commonest = sorted(zip(counts.tolist(), colours.tolist(), strict=True), reverse=True)[:KEPT]
    return MaskValues({colour: count for count, colour in commonest}, int(counts.sum()), mask.lossy)


def labels_of(mask: MaskPicture, coding: Coding, path: Path) -> Pixels:
    """(H, W) labels of a mask that was read. Raises DataError for a value that the coding does not name."""
    pixels = mask.pixels
    if pixels.ndim == 2:
        labels = coding.table(lossy=mask.lossy)[pixels]
    else:
        colours, at = np.unique(_colours(pixels), return_inverse=True)
        table = np.array([coding.exact.get(int(colour), _UNNAMED) for colour in colours], np.uint8)
        labels = table[at.reshape(pixels.shape[:2])]
    if (labels == _UNNAMED).any():
        raise BadFile(path, f"the mask holds values that nobody named; expected {meaning_text(coding)}")
    return np.ascontiguousarray(labels)


def refuse_other_size(image: Path, pixels: Picture, mask: Path, labels: Pixels) -> None:
    """Raise DataError where a mask has not the size of its image."""
    if pixels.shape[:2] == labels.shape[:2]:
        return
    detail = f"{image.name} is {shape_text(pixels)}, its mask {mask.name} is {shape_text(labels)}, width x height"
    turned = orientation(image)
    if turned > 4 and pixels.shape[:2] == labels.shape[1::-1]:
        detail += f"; the image carries EXIF orientation {turned}: save it upright without that tag"
    raise BadFile(image, "image and mask differ in size", detail)


def coding_of(
    masks: Mapping[str, MaskValues], source: str, *, given: Coding | None = None, remedy: str = FLAG
) -> Coding:
    """The meaning of a source's masks, by name: what is given, or what two values say by themselves.

    remedy: where a person says what values mean. Raises DataError with values, shares and files, where a value has no
    name.
    """
    coding = given or _named_by_themselves(masks.values())
    odd = [name for name, values in masks.items() if not covered(values, coding)]
    if odd:
        raise DataError(_unnamed(masks, odd, coding, source, given is not None, remedy))
    return coding


def _named_by_themselves(masks: Iterable[MaskValues]) -> Coding:
    """Black, and the one other value that most lossless masks hold, else the commonest bright one of the JPEGs."""
    files: Counter[int] = Counter()
    bright: Counter[int] = Counter()
    for values in masks:
        if values.lossy:
            # Below, the pixels near the two values could not be told apart.
            bright.update({value // _GREY: count for value, count in values.counts.items() if value > 2 * NEAR * _GREY})
        else:
            others = [value for value in values.counts if value]
            # A file with several values says nothing of what one of them means.
            files.update(others if len(others) == 1 else ())
    if files:
        return Coding(((0, BACKGROUND), (max(files, key=lambda value: (files[value], value)), OBJECT)))
    commonest = max(bright, key=lambda grey: (bright[grey], grey), default=255)
    top = commonest if commonest < 255 - NEAR else 255
    return Coding(((0, BACKGROUND), (top * _GREY, OBJECT)))


def covered(values: MaskValues, coding: Coding) -> bool:
    """Whether the coding names all values of a file; of a JPEG, those near which nearly all of its pixels lie."""
    if values.lossy:
        return coding.far(values) <= 1 - NEAR_SHARE
    return all(value in coding.exact for value in values.counts)


def _unnamed(
    masks: Mapping[str, MaskValues], odd: Sequence[str], coding: Coding, source: str, given: bool, remedy: str
) -> str:
    """The one line: what the masks hold, in which files, and how to say what it means."""
    pooled: Counter[int] = Counter()
    holders: Counter[int] = Counter()
    for name in odd:
        pooled.update(masks[name].counts)
        holders.update(masks[name].counts.keys())
    total = sum(masks[name].pixels for name in odd)
    most = [value for value, _ in pooled.most_common(_SHOWN)]
    shares = ", ".join(
        f"{value_text(value)} ({pooled[value] / total:.2%}"
        + (")" if holders[value] == len(odd) else f", in {holders[value]} of them)")
        for value in sorted(most)
    )
    more = f" and {len(pooled) - len(most)} other values" if len(pooled) > len(most) else ""
    lossy = all(masks[name].lossy for name in odd)
    far = f"are JPEGs of which more than {1 - NEAR_SHARE:.0%} is near no named value"
    why = far if lossy else "hold values that nobody named"
    photographs = all(len(masks[name].counts) == KEPT for name in odd) or (lossy and len(pooled) > 200)
    hint = "; are they images in the masks' place?" if photographs else ""
    named_as = f"; {meaning_text(coding)}" if given or len(odd) < len(masks) else ""
    asked = (
        f"say what each value means, such as {remedy} {_suggested(sorted(pooled))}; two classes are trained, so that "
        "several values may be object; for more, name classes"
        if coding.names == BLACK_AND_WHITE.names
        else f"name them in {remedy}"
    )
    return f"{source}: {len(odd)} of {len(masks)} masks {why}: {shares}{more} ({some(odd)}){named_as}{hint}; {asked}"


def _suggested(values: Sequence[int]) -> str:
    """What a person could have meant, to be corrected."""
    if len(values) > 2 * _SHOWN and all(map(is_grey, values)):
        return '"0-127: background, 128-255: object"'
    void = 255 * _GREY if len(values) > 2 and 255 * _GREY in values and all(map(is_grey, values)) else None
    meanings = ["ignored" if value == void else "object" if value else "background" for value in values[: 2 * _SHOWN]]
    if "background" not in meanings:
        meanings[0] = "background"
    shown = ", ".join(f"{value_text(value)}: {meaning}" for value, meaning in zip(values, meanings, strict=False))
    return f'"{shown}"'


def meaning_text(coding: Coding) -> str:
    """What a coding names, for messages: `0 is background, 255 object`."""
    meanings = {**{name: label for label, name in enumerate(coding.names)}, "ignored": IGNORED}
    by_label = {
        meaning: [value for value, label in coding.labels if label == known] for meaning, known in meanings.items()
    }
    return ", ".join(f"{_values_text(values)} is {meaning}" for meaning, values in by_label.items() if values)


def value_text(value: int) -> str:
    """A grey level as a number, a colour as #RRGGBB."""
    return str(value // _GREY) if is_grey(value) else f"#{value:06x}"


def _values_text(values: Sequence[int]) -> str:
    shown = [value_text(value) for value in values]
    if len(values) > 1 and all(later - value == _GREY for value, later in pairwise(values)):
        return f"{shown[0]}-{shown[-1]}"
    return " ".join(shown[: 2 * _SHOWN]) + (" ..." if len(shown) > 2 * _SHOWN else "")


def is_grey(value: int) -> bool:
    """Whether a value (0xRRGGBB) is a grey level."""
    return value % _GREY == 0 and value <= 255 * _GREY


def _colours(pixels: Pixels) -> NDArray[np.int32]:
    """(H, W, 3) RGB as (H, W) 0xRRGGBB."""
    wide = pixels.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


GROUND = "background"
"""What a label in no region is called where no class says it."""


@dataclass(frozen=True)
class Regions:
    """The regions of a data set in the order of the network's output."""

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    """Of each label the places of the regions that it is in; label 0 is in none."""

    @cached_property
    def table(self) -> Pixels:
        """(256, regions): 1 where a label is in a region, 0 where it is not, 255 where it is ignored."""
        table = np.zeros((IGNORED + 1, len(self.names)), np.uint8)
        for label, places in enumerate(self.members):
            table[label, list(places)] = 1
        table[IGNORED] = IGNORED
        return table

    @cached_property
    def order(self) -> tuple[int, ...] | None:
        """Places of the regions from the outermost in, where each lies in the one before whatever a mask holds; else
        None, and of regions in files of their own, of which nobody knows it."""
        inside = [{label for label, places in enumerate(self.members) if at in places} for at in range(len(self.names))]
        order = tuple(sorted(range(len(self.names)), key=lambda at: -len(inside[at])))
        return order if all(inside[later] <= inside[at] for at, later in pairwise(order)) else None

    def masks(self, labels: Pixels) -> Pixels:
        """Labels (*S) as one mask a region, (regions, *S) uint8: 1 inside, 0 outside, 255 ignored."""
        return np.ascontiguousarray(np.moveaxis(self.table[labels], -1, 0))

    def targets(self, labels: "Tensor") -> "Tensor":
        """The same of a batch on any device: (N, *S) to (N, regions, *S) uint8."""
        import torch

        table = torch.from_numpy(self.table).to(labels.device, non_blocking=True)
        return table[labels.long()].movedim(-1, 1).contiguous()


def regions_of(config: DataConfig) -> Regions | None:
    """The regions of a data set; None where every pixel has one class. Raises DataError."""
    if not isinstance(config, PictureData | VolumeData) or not config.regions:
        return None
    if isinstance(config, PictureData) and config.regions[0].value is None:
        return regions_of_files(config)
    return regions_of_values(config)[1]


def regions_of_files(config: PictureData) -> Regions:
    """Regions in files of their own: bit n of a label says whether the pixel is in region n."""
    names = tuple(known.name for known in config.regions)
    codes = range(2 ** len(names))
    return Regions(names, tuple(tuple(at for at in range(len(names)) if code >> at & 1) for code in codes))


def regions_of_values(config: PictureData | VolumeData) -> tuple[Coding, Regions]:
    """What the values of masks mean, and in which regions each label is: one label for all that lies in the same ones.

    Without classes 0 is in no region unless one has it. Raises DataError for what is no value and no class, and for
    what two classes have.
    """
    classes = {known.name: values_from(known.value, f"data.classes.{known.name}.value") for known in config.classes}
    class_of = _class_of(classes) if classes else {0: GROUND}
    inside: dict[int, list[int]] = {value: [] for value in class_of}
    for at, known in enumerate(config.regions):
        field = f"data.regions.{known.name}"
        for value in dict.fromkeys(_values(known.value, classes, field)):
            if classes and value not in class_of:
                raise DataError(f"{field} = {received(known.value)}: no class of data.classes has {value_text(value)}")
            inside.setdefault(value, []).append(at)
    members = tuple(dict.fromkeys([(), *map(tuple, inside.values())]))
    label_of = {places: label for label, places in enumerate(members)}
    labels = {value: label_of[tuple(places)] for value, places in inside.items()}
    for value in values_from(config.ignore, "data.ignore"):
        if value in labels:
            raise DataError(f"data.ignore = {received(config.ignore)}: {value_text(value)} has a class or a region")
        labels[value] = IGNORED
    regions = tuple(known.name for known in config.regions)
    names = tuple(
        _label_name(label, labels, class_of, [regions[at] for at in members[label]], bool(classes))
        for label in range(len(members))
    )
    made = Regions(regions, members)
    return Coding(tuple(sorted(labels.items())), names, all(map(is_grey, labels)), made), made


def _class_of(classes: dict[str, list[int]]) -> dict[int, str]:
    """The class of each value. Raises DataError where two have one."""
    class_of: dict[int, str] = {}
    for name, values in classes.items():
        for value in values:
            if class_of.setdefault(value, name) != name:
                raise DataError(
                    f"data.classes.{name}.value: {value_text(value)} is {class_of[value]} already; keep one"
                )
    return class_of


def _values(value: ClassValue, classes: dict[str, list[int]], field: str) -> list[int]:
    """The values that a region has, whose entries may be names of classes. Raises DataError."""
    if isinstance(value, tuple):
        return [number for entry in value for number in _values(entry, classes, field)]
    if isinstance(value, str) and value in classes:
        return classes[value]
    return values_from(value, field)


def _label_name(label: int, labels: dict[int, int], class_of: dict[int, str], regions: list[str], named: bool) -> str:
    """What a label is called: its classes, else its regions."""
    if named:
        own = dict.fromkeys(class_of[value] for value, known in labels.items() if known == label)
        return "+".join(own) or GROUND
    return "+".join(regions) if label != BACKGROUND else GROUND
