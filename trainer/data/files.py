"""Pictures and masks from files: the right colours, or an error that names the file and what is wrong with it.

Formats: JPEG, PNG, BMP, TIFF; 8 bits a channel. The stored pixels are used and an EXIF orientation is obeyed neither in
the image nor in the mask: viewers that obey it turn one of the two only. TIFFs go through tifffile, because the frames
of CVC-ClinicDB say "grey" and hold three colours: Pillow refuses them and OpenCV reads them as grey without a word.
"""

import contextlib
import hashlib
import io
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from xml.etree import ElementTree

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from trainer.data.dataset import Picture, Pixels
from trainer.errors import DataError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})

CLASS = "{class}"
"""In the name of a mask's file: the name of each class but the first stands in its place, in a file of its own."""
CHANNEL = "{channel}"
"""In the path of a volume's image: the name of each channel stands in its place, in a file of its own."""

NEGATIVE = "NegativeROA"
"""The attribute of a polygon in an ImageScope file that makes a hole of it."""

TRIES = 10
"""How often an array file is read where the parser of its header fails."""
_T = TypeVar("_T")

_ORIENTATION = 0x0112
_FARTHEST = 1e6
"""Pixels; a vertex beyond is none."""
_COLOURED = 48
"""A mask whose channels differ by more than this is a picture; JPEG compression of grey stays far below."""
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class BadFile(DataError):
    """A file that cannot be used. Files of one cause are named together (`trainer.data.file_check.summarised`)."""

    def __init__(self, path: Path, cause: str, detail: str = "") -> None:
        super().__init__(f"{path}: {cause}{detail and f' ({detail})'}")
        self.path, self.cause, self.detail = path, cause, detail


class MaskPicture(NamedTuple):
    """The pixels of a file before their meaning is known."""

    pixels: Pixels
    """(H, W) grey or indices, or (H, W, 3) RGB."""
    lossy: bool
    """Whether its values are near what was saved, and not the same: JPEG, also inside a TIFF."""


def read_image(path: Path) -> Pixels:
    """(H, W, 3) RGB; grey pictures get three equal channels. Raises DataError."""
    pixels = _decode(path).pixels
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels)


def read_channels(path: Path, channels: int, bits: int) -> Picture:
    """(H, W, channels) of 1, 3 or 4 channels with 8 or 16 bits. Grey pictures get three equal channels where three are
    wanted; nothing else is made up or left out. Raises DataError."""
    if (channels, bits) == (3, 8):
        return read_image(path)
    pixels: Picture = _deep_picture(path) if bits > 8 else _decode(path, see_through=channels == 4).pixels
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 3 and channels == 1 and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., :1]
    if pixels.shape[2] == 1 and channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] != channels:
        raise BadFile(path, f"has {pixels.shape[2]} channels, and data.channels = {channels}")
    contiguous: Picture = np.ascontiguousarray(pixels)
    return contiguous


def _deep_picture(path: Path) -> NDArray[np.uint16]:
    """(H, W) or (H, W, C) with 16 bits, as a PNG or TIFF stores them. Raises DataError."""
    flags = cv2.IMREAD_UNCHANGED
    tiff = path.suffix.lower() in (".tif", ".tiff")
    try:
        pixels: Any = tifffile.imread(path) if tiff else cv2.imdecode(np.fromfile(path, np.uint8), flags)
    except (*_BROKEN, cv2.error) as error:
        raise BadFile(path, "damaged or no picture", str(error).split("\n")[0]) from error
    if pixels is None:
        raise BadFile(path, "damaged or no picture")
    if pixels.dtype != np.uint16:
        raise BadFile(path, f"holds {pixels.dtype}, and data.bits = 16 wants 16 whole bits a channel")
    if not tiff and pixels.ndim == 3:
        order = [2, 1, 0, 3][: pixels.shape[2]]  # OpenCV has blue first
        pixels = pixels[..., order]
    if pixels.ndim not in (2, 3):
        raise BadFile(path, f"has {pixels.ndim} axes; expected a flat picture")
    return np.asarray(pixels, np.uint16)


def read_mask_picture(path: Path, *, indices: bool = False) -> MaskPicture:
    """A mask as its file stores it; what its values mean is for `trainer.data.masks`. Raises DataError.

    Of a palette its colours are taken; its indices where they are asked for, or where two of them show one colour.
    """
    decoded = _decode(path, labels=True, indices=indices)
    pixels = decoded.pixels
    if pixels.ndim == 2:
        return decoded
    if bool((pixels == pixels[..., :1]).all()):
        return MaskPicture(np.ascontiguousarray(pixels[..., 0]), decoded.lossy)
    if decoded.lossy:
        if int((pixels.max(axis=2) - pixels.min(axis=2)).max()) > _COLOURED:
            raise BadFile(
                path,
                "the mask is a coloured JPEG, whose colours are not exact; save it as PNG, or is it an image in the "
                "masks' place?",
            )
        return MaskPicture(pixels.mean(axis=2).round().astype(np.uint8), lossy=True)
    return decoded


def read_outlines(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) true inside of any polygon of an Aperio ImageScope file, whose vertices have X and Y in pixels.

    Every `Region` is a polygon; those of fewer than three vertices have no inside. One with `NegativeROA="1"` is a
    hole: its pixels, outline included, are taken out of the polygons of its `Annotation` that are no smaller than it.
    Smaller ones (a nucleus in another's hole) stay, and so do polygons of other annotations. Raises DataError.
    """
    try:
        text = path.read_bytes()
        if b"<!ENTITY" in text or b"<!DOCTYPE" in text:
            raise BadFile(path, "declares entities or a document type, which outlines do not need")
        file = ElementTree.fromstring(text)  # noqa: S314  # entities were refused above
        layers = [_polygons(layer, path) for layer in list(file.iter("Annotation")) or [file]]
    except OSError as error:
        raise BadFile(path, "cannot be read", str(error.strerror or error)) from error
    except ElementTree.ParseError as error:
        raise BadFile(path, "damaged or no XML", str(error)) from error
    except (TypeError, ValueError) as error:
        raise BadFile(path, "a vertex has no numbers X and Y", str(error)) from error
    if not any(layers):
        raise BadFile(
            path, "holds no polygons; expected Annotation / Regions / Region / Vertices / Vertex with X and Y"
        )
    if all(hole for layer in layers for hole, _ in layer):
        raise BadFile(path, 'holds holes alone: every polygon has NegativeROA="1", which takes away from others')
    inside = np.zeros(shape, np.uint8)
    for layer in layers:
        drawn = np.zeros(shape, np.uint8)
        # One by one: together, what lies in two of them would be outside. The sort is stable, holes last among equals.
        for hole, polygon in sorted(layer, key=lambda each: (-cv2.contourArea(each[1]), each[0])):
            cv2.fillPoly(drawn, [polygon], 0 if hole else 1)
        inside |= drawn
    return inside > 0


def _polygons(layer: "ElementTree.Element[str]", path: Path) -> list[tuple[bool, NDArray[np.int32]]]:
    """Whether each polygon is a hole, and its vertices (n, 2) to the pixel. Raises DataError, TypeError, ValueError."""
    polygons = []
    for number, region in enumerate(layer.iter("Region"), 1):
        negative = region.get(NEGATIVE, "0")
        if negative not in ("0", "1"):
            raise BadFile(path, f'region {number} has {NEGATIVE}="{negative}"; known: 0 (an object), 1 (a hole)')
        points = np.array([_point(vertex) for vertex in region.iter("Vertex")])
        if len(points) >= 3:
            polygons.append((negative == "1", np.rint(points).astype(np.int32)))
    return polygons


def _point(vertex: "ElementTree.Element[str]") -> tuple[float, float]:
    x, y = (float(vertex.get(axis, "none")) for axis in ("X", "Y"))
    if not abs(x) + abs(y) < _FARTHEST:
        raise ValueError(f"X={x:g}, Y={y:g}")
    return x, y


def orientation(path: Path) -> int:
    """The EXIF orientation of a JPEG, PNG or BMP, 1 (upright) where there is none."""
    try:
        with Image.open(path, formats=("JPEG", "PNG", "BMP")) as picture:
            return int(picture.getexif().get(_ORIENTATION, 1))
    except _BROKEN:  # no such tag in a TIFF's place or a broken file, which reading it names
        return 1


def array_read(load: Callable[[], _T]) -> _T:
    """What `load` reads by numpy, tried again where Python's parser fails.

    Numpy parses the header of an array file by `ast`, and CPython 3.11 counts how deep that is for all threads together
    (findings/python-depth-of-parsing-in-threads.sh): its SystemError says nothing of the file. Raises what `load` does.
    """
    for _ in range(TRIES - 1):
        with contextlib.suppress(SystemError):
            return load()
    return load()


def file_hash(path: Path) -> str:
    """sha256 of the file's bytes. Raises DataError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def pixel_hash(pixels: Pixels) -> str:
    """sha256 of what a picture shows, whatever the format of its file."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def inside(root: Path, relative: str) -> Path:
    """The path below root. Raises DataError where it is absolute, climbs with `..`, or a link leads out of the root."""
    if not relative or PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
        raise DataError(f"{relative!r}: expected a path below the data root {root}, without `..`")
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{relative!r}: a link leads out of the data root {root}, to {path.resolve()}; "
            "copy the file or widen the root"
        )
    return path


class Listing(NamedTuple):
    """The pictures of a folder, and what was left there."""

    pictures: list[Path]
    """By name."""
    left: list[str]
    """A line a kind of file that is not read, with a count and names; hidden files are not spoken of."""


def listed_pictures(folder: Path, slices: Callable[[Path], Sequence[Path]] = lambda _: ()) -> Listing:
    """What of a folder is read, by the names of its files; folders in it are left alone.

    slices: the paths of the slices of a file that is no picture.
    Raises DataError for a name that no text file can hold, and for a link without a file.
    """
    pictures, others = [], defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix.lower() in SUFFIXES:
            if not path.exists():
                raise DataError(f"{path}: a link that leads to no file, or to itself; remove it")
            if any("\ud800" <= sign <= "\udfff" for sign in path.name):
                raise DataError(f"{path}: the file's name is no UTF-8; rename it")
            pictures.append(path)
        elif inner := slices(path):
            pictures += inner
        else:
            others[path.suffix.lower()].append(path.name)
    left = [
        f"{len(names)} {suffix or 'nameless'} {'file' if len(names) == 1 else 'files'}, of a kind that is not read "
        f"({some(names)})"
        for suffix, names in sorted(others.items())
    ]
    return Listing(pictures, left)


NAMED = 3
"""Files that a line names; of more it says how many."""


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def shape_text(pixels: Picture) -> str:
    """Width x height."""
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _decode(path: Path, *, labels: bool = False, indices: bool = False, see_through: bool = False) -> MaskPicture:
    """(H, W) or (H, W, 3), 8 bits. labels: the file holds labels, not brightness. indices: of palettes, not colours.
    see_through: a fourth channel is taken for what it holds, not for transparency."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadFile(path, f"unknown kind of file {path.suffix!r}; known: {', '.join(sorted(SUFFIXES))}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadFile(path, "cannot be read", str(error.strerror or error)) from error
    if not data:
        raise BadFile(path, "the file is empty (0 bytes)")
    try:
        decoded = (
            _tiff(path, data, labels, see_through=see_through)
            if data[:4] in (b"II*\x00", b"MM\x00*")
            else _pillow(path, data, ("JPEG", "PNG", "BMP"), labels, indices=indices, see_through=see_through)
        )
    except _BROKEN as error:
        reason = re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(error)).split("\n")[0]
        raise BadFile(path, "damaged or no picture", f"{reason}; {len(data)} bytes") from error
    if 0 in decoded.pixels.shape:
        raise BadFile(path, "the picture has no pixels")
    return decoded


def _pillow(
    path: Path,
    data: bytes,
    formats: tuple[str, ...],
    labels: bool,
    *,
    indices: bool = False,
    see_through: bool = False,
) -> MaskPicture:
    with Image.open(io.BytesIO(data), formats=formats) as file:
        picture: Image.Image = file
        lossy = file.format == "JPEG" or str(file.info.get("compression", "")).endswith("jpeg")
        deep = file.format == "PNG" and data[24] == 16  # Pillow silently drops the lower byte of deep colours
        if deep or picture.mode.startswith(("I", "F")):
            raise _deep(path, labels)
        picture.load()
        if picture.mode == "P" or picture.mode == "PA":
            see_through = "transparency" in picture.info or picture.mode == "PA"
            numbers = np.asarray(picture) if picture.mode == "P" else None
            picture = picture.convert("RGBA" if see_through else "RGB")
            if labels and numbers is not None and (indices or _ambiguous(numbers, np.asarray(picture))):
                return MaskPicture(numbers, lossy)
        if picture.mode == "1":
            picture = picture.convert("L")
        if picture.mode not in ("L", "LA", "RGB", "RGBA", "RGBX"):
            raise BadFile(path, f"colours are stored as {picture.mode}; save it as RGB or grey")
        if see_through and picture.mode == "RGBA":
            return MaskPicture(np.asarray(picture), lossy)
        return MaskPicture(_opaque(path, np.asarray(picture)), lossy)


def _ambiguous(indices: Pixels, colours: Pixels) -> bool:
    """Whether two indices of a palette show one colour, so that only the indices tell them apart."""
    used, first = np.unique(indices, return_index=True)
    shown = colours.reshape(-1, colours.shape[2])[first]
    return len(np.unique(shown, axis=0)) < len(used)


def _deep(path: Path, labels: bool) -> BadFile:
    if labels:
        return BadFile(path, "more than 8 bits a value; a mask holds labels from 0 to 255: save it with 8 bits")
    return BadFile(path, "more than 8 bits a channel; how to window them is your choice: save it with 8")


def _tiff(path: Path, data: bytes, labels: bool, *, see_through: bool = False) -> MaskPicture:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) != 1:
            raise BadFile(path, f"the TIFF holds {len(file.pages)} pages; expected one picture a file")
        page = file.pages.first
        if page.bitspersample > 8:
            raise _deep(path, labels)
        plain = page.compression in (
            tifffile.COMPRESSION.NONE,
            tifffile.COMPRESSION.ADOBE_DEFLATE,
            tifffile.COMPRESSION.DEFLATE,
        )
        known = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        if not (plain and known):
            if page.tags.valueof(274, 1) != 1:
                raise BadFile(path, "a packed TIFF with an orientation tag; save it upright without the tag")
            return _pillow(path, data, ("TIFF",), labels)
        pixels = np.asarray(page.asarray())
        axes = page.axes
    if axes == "SYX":
        pixels, axes = np.moveaxis(pixels, 0, 2), "YXS"
    if axes not in ("YX", "YXS"):
        raise BadFile(path, f"a TIFF with axes {axes}; expected a flat picture")
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        raise BadFile(path, f"pixels are {pixels.dtype}; save it with 8 bits a channel")
    if see_through and pixels.ndim == 3 and pixels.shape[2] == 4:
        return MaskPicture(pixels, lossy=False)
    return MaskPicture(_opaque(path, pixels), lossy=False)


def _opaque(path: Path, pixels: Pixels) -> Pixels:
    """Without the alpha channel, which must not hide anything."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        if int(pixels[..., -1].min()) < 255:
            raise BadFile(path, "parts of the picture are see-through; save it without an alpha channel")
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        raise BadFile(path, f"{pixels.shape[2]} channels; expected 1 or 3")
    return pixels
