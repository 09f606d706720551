"""Pictures and masks from files: the right colours, or an error that names the file and what is wrong with it.

Formats: JPEG, PNG, BMP, TIFF; 8 bits a channel. The stored pixels are used and an EXIF orientation is obeyed neither in
the image nor in the mask: viewers that obey it turn one of the two only. TIFFs go through tifffile, because the frames
of CVC-ClinicDB say "grey" and hold three colours: Pillow refuses them and OpenCV reads them as grey without a word.
"""

import hashlib
import io
import re
import struct
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import tifffile
from PIL import Image

from trainer.data.dataset import Pixels
from trainer.errors import DataError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})

_ORIENTATION = 0x0112
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


def read_image(path: Path) -> Pixels:
    """(H, W, 3) RGB; grey pictures get three equal channels. Raises DataError."""
    pixels = _decode(path)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels)


def read_mask(path: Path) -> Pixels:
    """(H, W) labels: 1 where the file is brighter than 127, else 0. Raises DataError.

    JPEG masks have grey rims, hence the threshold in the middle. A mask of 0 and 1 would turn out empty and is refused.
    """
    pixels = _decode(path)
    if pixels.ndim == 3:
        if int((pixels.max(axis=2) - pixels.min(axis=2)).max()) > _COLOURED:
            raise DataError(
                f"{path}: the mask is coloured; expected black and white (is it an image in the masks' place?)"
            )
        pixels = pixels.mean(axis=2).round().astype(np.uint8)
    brightest = int(pixels.max())
    if 0 < brightest <= 127:
        raise DataError(
            f"{path}: the mask's brightest value is {brightest}; expected 0 and 255 (multiply a mask of 0 and 1 by 255)"
        )
    return (pixels > 127).astype(np.uint8)


def read_pair(image: Path, mask: Path) -> tuple[Pixels, Pixels]:
    """Image (H, W, 3) and mask (H, W) of equal size. Raises DataError."""
    pixels, labels = read_image(image), read_mask(mask)
    if pixels.shape[:2] != labels.shape:
        mistake = f"{image} is {_size(pixels)} but its mask {mask.name} is {_size(labels)} (width x height)"
        turned = orientation(image)
        if turned > 4 and pixels.shape[:2] == labels.shape[::-1]:
            mistake += f"; the image carries EXIF orientation {turned}: save it upright without that tag"
        raise DataError(mistake)
    return pixels, labels


def orientation(path: Path) -> int:
    """The EXIF orientation of a JPEG, PNG or BMP, 1 (upright) where there is none."""
    try:
        with Image.open(path, formats=("JPEG", "PNG", "BMP")) as picture:
            return int(picture.getexif().get(_ORIENTATION, 1))
    except _BROKEN:  # no such tag in a TIFF's place or a broken file, which reading it names
        return 1


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


def _decode(path: Path) -> Pixels:
    """(H, W) or (H, W, 3), 8 bits."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; known: {', '.join(sorted(SUFFIXES))}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not data:
        raise DataError(f"{path}: the file is empty (0 bytes)")
    try:
        pixels = (
            _tiff(path, data) if data[:4] in (b"II*\x00", b"MM\x00*") else _pillow(path, data, ("JPEG", "PNG", "BMP"))
        )
    except _BROKEN as error:
        reason = re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(error)).split("\n")[0]
        raise DataError(f"{path}: damaged or no picture ({reason}; {len(data)} bytes)") from error
    if 0 in pixels.shape:
        raise DataError(f"{path}: the picture has no pixels")
    return pixels


def _pillow(path: Path, data: bytes, formats: tuple[str, ...]) -> Pixels:
    with Image.open(io.BytesIO(data), formats=formats) as file:
        picture: Image.Image = file
        deep = file.format == "PNG" and data[24] == 16  # Pillow silently drops the lower byte of deep colours
        if deep or picture.mode.startswith(("I", "F")):
            raise DataError(f"{path}: more than 8 bits a channel; how to window them is your choice: save it with 8")
        picture.load()
        if picture.mode == "P" or picture.mode == "PA":
            see_through = "transparency" in picture.info or picture.mode == "PA"
            picture = picture.convert("RGBA" if see_through else "RGB")
        if picture.mode == "1":
            picture = picture.convert("L")
        if picture.mode not in ("L", "LA", "RGB", "RGBA", "RGBX"):
            raise DataError(f"{path}: colours are stored as {picture.mode}; save it as RGB or grey")
        return _opaque(path, np.asarray(picture))


def _tiff(path: Path, data: bytes) -> Pixels:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) != 1:
            raise DataError(f"{path}: the TIFF holds {len(file.pages)} pages; expected one picture a file")
        page = file.pages.first
        if page.bitspersample > 8:
            raise DataError(f"{path}: more than 8 bits a channel; how to window them is your choice: save it with 8")
        plain = page.compression in (
            tifffile.COMPRESSION.NONE,
            tifffile.COMPRESSION.ADOBE_DEFLATE,
            tifffile.COMPRESSION.DEFLATE,
        )
        known = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        if not (plain and known):
            if page.tags.valueof(274, 1) != 1:
                raise DataError(f"{path}: a packed TIFF with an orientation tag; save it upright without the tag")
            return _pillow(path, data, ("TIFF",))
        pixels = np.asarray(page.asarray())
        axes = page.axes
    if axes == "SYX":
        pixels, axes = np.moveaxis(pixels, 0, 2), "YXS"
    if axes not in ("YX", "YXS"):
        raise DataError(f"{path}: a TIFF with axes {axes}; expected a flat picture")
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        raise DataError(f"{path}: pixels are {pixels.dtype}; save it with 8 bits a channel")
    return _opaque(path, pixels)


def _opaque(path: Path, pixels: Pixels) -> Pixels:
    """Without the alpha channel, which must not hide anything."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        if int(pixels[..., -1].min()) < 255:
            raise DataError(f"{path}: parts of the picture are see-through; save it without an alpha channel")
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        raise DataError(f"{path}: {pixels.shape[2]} channels; expected 1 or 3")
    return pixels


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
