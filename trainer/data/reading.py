"""How the files of a data set become a picture and its labels, whatever their format."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.config import PictureData
from trainer.data.dataset import Picture, Pixels
from trainer.data.files import CLASS, BadFile, MaskPicture, file_hash, read_channels, read_mask_picture
from trainer.data.letterbox import IGNORED
from trainer.data.masks import (
    BLACK_AND_WHITE,
    Coding,
    MaskValues,
    coding_of_classes,
    labels_of,
    refuse_other_size,
    values_of,
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

    @property
    def key(self) -> str:
        """What tells two readings of the same files apart; empty for pictures in RGB with black and white masks."""
        if self == PLAIN:
            return ""
        window = "" if self.window is None else f"{self.window[0]!r} to {self.window[1]!r}"
        plain = (self.channels, self.bits, window) == (3, 8, "")
        coding = ",".join(self.classes) if self.coding is None else str(self.coding)
        indices = self.coding is not None and self.coding.indices
        return (
            coding if plain and not indices else f"{coding}\x1d{self.channels}\x1d{self.bits}\x1d{window}\x1d{indices}"
        )

    def image(self, path: Path) -> Picture:
        """(H, W, channels). Raises DataError."""
        return read_channels(path, self.channels, self.bits)

    def mask(self, path: Path) -> Pixels:
        """(H, W) labels, 255 where ignored. Raises DataError."""
        if self.coding is None:
            return self._from_files(path)
        return labels_of(read_mask_picture(path, indices=self.coding.indices), self.coding, path)

    def pair(self, image: Path, mask: Path) -> tuple[Picture, Pixels]:
        """A picture and its labels, of equal size. Raises DataError."""
        pixels, labels = self.image(image), self.mask(mask)
        refuse_other_size(image, pixels, mask, labels)
        return pixels, labels

    def _from_files(self, path: Path) -> Pixels:
        labels: Pixels | None = None
        for label, file in enumerate(class_files(path, self.classes), 1):
            where = object_of(read_mask_picture(file), file)
            labels = np.zeros(where.shape, np.uint8) if labels is None else labels
            if where.shape != labels.shape:
                raise BadFile(file, "has another size than the mask of the class before it")
            if bool((labels[where] != 0).any()):
                other = self.classes[int(labels[where].max())]
                raise BadFile(
                    file, f"covers pixels that are {other} already; classes that overlap cannot be told apart"
                )
            labels[where] = label
        if labels is None:
            raise DataError(f"{path}: no class has a mask")
        return labels


PLAIN = Reading()
"""RGB with black and white masks."""


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
    """What the masks of a data set that names its classes hold; None: a file a class. Raises DataError."""
    return coding_of_classes(config.classes, config.ignore)


def reading_of(config: PictureData, coding: Coding | None) -> Reading:
    """How the pairs of a data set that names its classes are read."""
    names = tuple(known.name for known in config.classes)
    return Reading(coding, names, config.channels, config.bits, config.window)


def read_mask_values(path: Path, reading: Reading) -> MaskValues:
    """How many pixels of a mask have which value; of files of classes, which label. Raises DataError."""
    if reading.coding is None:
        return values_of(MaskPicture(reading.mask(path), lossy=False))
    return values_of(read_mask_picture(path, indices=reading.coding.indices))


def label_coding(classes: Sequence[str]) -> Coding:
    """The coding of masks that hold labels."""
    grey = 0x010101
    pairs = [(label * grey, label) for label in range(len(classes))]
    return Coding((*pairs, (IGNORED * grey, IGNORED)), tuple(classes), indices=True)


def content_hash(path: Path, classes: Sequence[str]) -> str:
    """sha256 of a file, of several as one where a path stands for a file a class. Raises DataError."""
    files = class_files(path, classes)
    if len(files) == 1:
        return file_hash(files[0])
    return hashlib.sha256("\n".join(map(file_hash, files)).encode()).hexdigest()
