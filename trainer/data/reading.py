"""How the files of a data set become a picture and its labels, whatever their format.

Pictures and masks are files of their own, slices of volumes (`trainer.data.slices`), outlines (`.xml`) or single cells
of a picture (SegPC-2021). A cell is cut out around its nucleus: the nucleus' box grown by round(2.5 * side / 2) on each
side, black beyond the picture; the fourth channel is the nucleus, 255 where it is. The study that made this cut known
resized the picture to 1440 x 1080 before; here its own pixels are kept.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.config import CellReader, DataConfig, PictureData
from trainer.data.dataset import Picture, Pixels
from trainer.data.files import (
    CLASS,
    BadFile,
    MaskPicture,
    file_hash,
    read_channels,
    read_image,
    read_mask_picture,
    read_outlines,
)
from trainer.data.letterbox import IGNORED
from trainer.data.masks import (
    BACKGROUND,
    BLACK_AND_WHITE,
    GROUND,
    OBJECT,
    Coding,
    MaskValues,
    coding_of_classes,
    labels_of,
    refuse_other_size,
    regions_of_files,
    regions_of_values,
    values_of,
)
from trainer.data.slices import (
    read_slice,
    read_slice_labels,
    refuse_other_orientation,
    slice_hash,
    slice_place,
)
from trainer.errors import DataError


@dataclass(frozen=True)
class Reading:
    """How pairs of one source are read."""

    coding: Coding | None = BLACK_AND_WHITE
    """What masks hold; None: a file a class."""
    classes: tuple[str, ...] = BLACK_AND_WHITE.names
    channels: int = 3
    bits: int = 8
    window: tuple[float, float] | None = None
    cells: CellReader | None = None
    """What a row is where it is one cell of a picture."""
    overlap: bool = False
    """Whether files of classes are those of regions: bit n of a label is set where the mask of region n is."""

    @property
    def key(self) -> str:
        """What tells two readings of the same files apart; empty for pictures in RGB with black and white masks."""
        if self == PLAIN:
            return ""
        window = "" if self.window is None else f"{self.window[0]!r} to {self.window[1]!r}"
        plain = (self.channels, self.bits, window) == (3, 8, "")
        coding = ",".join(self.classes) if self.coding is None else str(self.coding)
        coding += "\x1doverlap" if self.overlap else ""
        indices = self.coding is not None and self.coding.indices
        if plain and not indices:
            return coding
        key = f"{coding}\x1d{self.channels}\x1d{self.bits}\x1d{window}\x1d{indices}"
        return key if self.cells is None else f"{key}\x1d{self.cells}"

    def image(self, path: Path) -> Picture:
        """(H, W, channels); of cells the whole picture in RGB, since a mask says where a cell is. Raises DataError."""
        if self.cells is not None:
            return read_image(path)
        if slice_place(path) is not None:
            return read_slice(path, channels=self.channels, bits=self.bits, window=self.window)
        return read_channels(path, self.channels, self.bits)

    def mask(self, path: Path, image: Path | None = None) -> Pixels:
        """(H, W) labels, 255 where ignored; of a cell those of its cut. image: its picture, whose size outlines need.

        Raises DataError.
        """
        if self.coding is None and slice_place(path) is None and path.suffix.lower() != OUTLINES:
            return self._from_files(path)
        return labels_of(self.mask_picture(path, image), self._coding_of(path), path)

    def mask_picture(self, path: Path, image: Path | None = None) -> MaskPicture:
        """A mask before its values are looked up; arguments are those of `mask`. Raises DataError."""
        if self.cells is not None:
            return MaskPicture(_cell(read_mask_picture(path), path, self.cells).target, lossy=False)
        if slice_place(path) is not None:
            return read_slice_labels(path)
        coding = self._coding_of(path)
        if path.suffix.lower() == OUTLINES:
            if image is None:
                raise DataError(f"{path}: outlines have no size of their own, and no picture was named beside them")
            return _outlined(path, read_image(image).shape[:2], coding)
        return read_mask_picture(path, indices=coding.indices)

    def pair(self, image: Path, mask: Path) -> tuple[Picture, Pixels]:
        """A picture and its labels, of equal size. Raises DataError."""
        if self.cells is not None:
            return _cut_out(image, mask, self.cells)
        refuse_other_orientation(image, mask)
        pixels, labels = self.image(image), self.mask(mask, image)
        refuse_other_size(image, pixels, mask, labels)
        return pixels, labels

    def _coding_of(self, path: Path) -> Coding:
        if self.coding is None:
            raise DataError(
                f"{path}: one file has all classes, and data.classes give none of them a value; write value = 0, ..."
            )
        return self.coding

    def _from_files(self, path: Path) -> Pixels:
        labels: Pixels | None = None
        for label, file in enumerate(class_files(path, self.classes), 1):
            where = object_of(read_mask_picture(file), file)
            labels = np.zeros(where.shape, np.uint8) if labels is None else labels
            if where.shape != labels.shape:
                raise BadFile(file, "has another size than the mask of the class before it")
            if self.overlap:
                labels[where] |= 1 << (label - 1)
                continue
            if bool((labels[where] != 0).any()):
                other = self.classes[int(labels[where].max())]
                raise BadFile(
                    file,
                    f"covers pixels that are {other} already; classes that overlap cannot be told apart, "
                    "data.regions can",
                )
            labels[where] = label
        if labels is None:
            raise DataError(f"{path}: no class has a mask")
        return labels


PLAIN = Reading()
"""RGB with black and white masks."""

OUTLINES = ".xml"
"""Of masks that are polygons."""
CYTOPLASM, NUCLEUS = 20, 40
"""The least values of both in SegPC's masks; what is below the first is another cell's or nobody's, and is 0."""
GROWN = 2.5
"""How much a nucleus' box grows to become a cell's cut, in sides of the box, half of it on each side."""


class _Cell(NamedTuple):
    """One cell of a picture."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    """Where the cut begins and ends; it may reach beyond the picture."""
    nucleus: Pixels
    """(h, w) of the cut, 255 where the nucleus is."""
    target: Pixels
    """(h, w) labels of the cut."""


def _cell(mask: MaskPicture, path: Path, kind: CellReader) -> _Cell:
    """The cut of a cell from its mask. Raises DataError."""
    values = mask.pixels if mask.pixels.ndim == 2 else np.ascontiguousarray(mask.pixels[..., 0])
    odd = np.unique(values[(values > 0) & (values < CYTOPLASM)])
    if len(odd):
        shown = ", ".join(map(str, odd[:5]))
        raise BadFile(path, f"holds the values {shown}; a cell has 0, cytoplasm from 20 and nucleus from 40")
    nucleus = values >= NUCLEUS
    if not nucleus.any():
        raise BadFile(path, "the cell has no nucleus (no value from 40), so that nothing says where to cut")
    rows, columns = (_grown(np.flatnonzero(nucleus.any(axis=axis))) for axis in (1, 0))
    target = (values > 0) if kind == "segpc-cell" else (values > 0) & ~nucleus
    shown_nucleus, cut = (
        _cut(each, rows, columns) for each in (nucleus.astype(np.uint8) * 255, target.astype(np.uint8))
    )
    return _Cell(rows, columns, shown_nucleus, cut)


def _grown(lines: "np.ndarray[tuple[int], np.dtype[np.intp]]") -> tuple[int, int]:
    first, end = int(lines[0]), int(lines[-1]) + 1
    margin = round(GROWN * (end - first) / 2)
    return first - margin, end + margin


def _cut(pixels: Pixels, rows: tuple[int, int], columns: tuple[int, int]) -> Pixels:
    """A part of (H, W, ...), 0 beyond the edges."""
    out = np.zeros((rows[1] - rows[0], columns[1] - columns[0], *pixels.shape[2:]), pixels.dtype)
    inside = pixels[max(rows[0], 0) : rows[1], max(columns[0], 0) : columns[1]]
    top, left = max(-rows[0], 0), max(-columns[0], 0)
    out[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return out


def _cut_out(image: Path, mask: Path, kind: CellReader) -> tuple[Picture, Pixels]:
    """A cell's cut of four channels, and its labels. Raises DataError."""
    picture, values = read_image(image), read_mask_picture(mask)
    refuse_other_size(image, picture, mask, values.pixels)
    cell = _cell(values, mask, kind)
    cut = _cut(picture, cell.rows, cell.columns)
    return np.concatenate([cut, cell.nucleus[..., None]], axis=2), cell.target


def _outlined(path: Path, shape: Sequence[int], coding: Coding) -> MaskPicture:
    """The union of a file's polygons, in the values that the coding has for the ground and for the one object."""
    value_of = {label: value & 0xFF for value, label in reversed(coding.labels) if value % 0x010101 == 0}
    if len(coding.names) != 2 or not {BACKGROUND, OBJECT} <= value_of.keys():
        raise BadFile(
            path,
            f"polygons tell one object from the ground, and data.classes have {len(coding.names)} or no grey values",
        )
    return MaskPicture(
        np.where(read_outlines(path, (shape[0], shape[1])), value_of[OBJECT], value_of[BACKGROUND]).astype(np.uint8),
        lossy=False,
    )


def as_rgb(picture: Picture) -> Pixels:
    """A picture (H, W, C) of any number of channels and bits as (H, W, 3) RGB of 8 bits: grey three times, and of more
    than three channels the first three."""
    pixels = (picture >> 8).astype(np.uint8) if picture.dtype == np.uint16 else picture.astype(np.uint8, copy=False)
    shown = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
    return np.ascontiguousarray(shown)


def object_of(mask: MaskPicture, path: Path) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
    """(H, W) bool of a mask of one class: black, and one other value. Raises DataError."""
    pixels = mask.pixels if mask.pixels.ndim == 2 else mask.pixels.max(axis=2)
    values = np.unique(pixels)
    if mask.lossy:
        return pixels > 127
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        shown = ", ".join(map(str, values[:5]))
        raise BadFile(path, f"holds the values {shown}; the mask of one class holds 0 and one other")
    return pixels > 0


def class_files(mask: Path, classes: Sequence[str]) -> list[Path]:
    """The files that a path with {class} stands for, one a class but the first; the path itself where it has none."""
    if CLASS not in str(mask):
        return [mask]
    return [Path(str(mask).replace(CLASS, name)) for name in classes[1:]]


def named_coding(config: PictureData) -> Coding | None:
    """What the masks of a data set that names its classes or regions hold; None: a file a class. Raises DataError."""
    if not config.regions:
        return coding_of_classes(config.classes, config.ignore)
    return None if config.regions[0].value is None else regions_of_values(config)[0]


def given_coding(config: PictureData) -> Coding:
    """The same, of files of classes or regions what their labels are. Raises DataError."""
    coding = named_coding(config)
    if coding is not None:
        return coding
    if not config.regions:
        return label_coding([known.name for known in config.classes])
    regions = regions_of_files(config)
    names = ["+".join(regions.names[at] for at in places) or GROUND for places in regions.members]
    return replace(label_coding(names), regions=regions)


def reading_of(config: PictureData, coding: Coding | None) -> Reading:
    """How the pairs of a data set that names its classes are read."""
    names = tuple(known.name for known in config.classes)
    if config.regions:
        names = (GROUND, *(known.name for known in config.regions))
    coding = label_coding(names) if config.reader is not None else coding
    overlap = bool(config.regions) and coding is None
    return Reading(coding, names, config.channels, config.bits, config.window, config.reader, overlap)


def images_of(config: DataConfig) -> Reading:
    """How pictures alone, without masks, are read for networks that were trained on the data; cells, which masks cut
    out of pictures, as pictures that were cut already."""
    return replace(reading_of(config, None), cells=None) if isinstance(config, PictureData) else PLAIN


def read_mask_values(path: Path, reading: Reading, image: Path | None = None) -> MaskValues:
    """How many pixels of a mask have which value; of files of classes, which label. image: as in `Reading.mask`.

    Raises DataError.
    """
    if reading.coding is None:
        return values_of(MaskPicture(reading.mask(path, image), lossy=False))
    return values_of(reading.mask_picture(path, image))


def label_coding(classes: Sequence[str]) -> Coding:
    """The coding of masks that hold labels."""
    grey = 0x010101
    pairs = [(label * grey, label) for label in range(len(classes))]
    return Coding((*pairs, (IGNORED * grey, IGNORED)), tuple(classes), indices=True)


def content_hash(path: Path, classes: Sequence[str], digests: Mapping[Path, str] | None = None) -> str:
    """sha256 of a file, of several as one where a path stands for a file a class; of a slice also its number.

    digests: of files that were hashed already. Raises DataError.
    """
    place = slice_place(path)
    if place is not None:
        return slice_hash(place, digests)
    files = class_files(path, classes)
    if len(files) == 1:
        return (digests or {}).get(files[0]) or file_hash(files[0])
    return hashlib.sha256("\n".join(map(file_hash, files)).encode()).hexdigest()
