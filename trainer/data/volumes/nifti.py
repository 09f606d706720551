"""NIfTI files (.nii, .nii.gz) as arrays with their grid, or one line that names the file and what is wrong with it.

An image is one file of three axes, one of four whose last are the channels, or a file a channel, whose path has
CHANNEL in the place of the channel's name. nibabel is imported where a file is read.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.files import CHANNEL, BadFile
from trainer.data.masks import Coding, meaning_text
from trainer.data.slices import EXTRA
from trainer.data.volumes.geometry import Grid, Labels
from trainer.errors import DataError

SUFFIXES = (".nii", ".nii.gz")
APART = 0.1
"""Share of a voxel's shortest side that corners of two equal grids may lie apart."""

_HEADER = 348
"""Bytes, of the shorter of the two kinds."""
_UNPACKED = 1100
"""Bytes that deflate makes of one, at most."""
_SINGULAR = 1e-6
_BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, MemoryError, zlib.error, struct.error)

Channels = int | Sequence[str]


class Stored(NamedTuple):
    """A file that was opened and not yet read."""

    path: Path
    proxy: Any
    """nibabel's."""
    shape: tuple[int, ...]
    grid: Grid


def is_nifti(name: str) -> bool:
    """Whether a file's name ends as NIfTI's do."""
    return name.lower().endswith(SUFFIXES)


def channel_files(image: Path, channels: Channels) -> tuple[Path, ...]:
    """The files of an image: itself, or one a channel. Raises DataError where path and channels do not fit."""
    named = CHANNEL in str(image)
    if isinstance(channels, int):
        if named:
            raise DataError(f"{image}: has {CHANNEL} in its path, and data.channels = {channels}; name the channels")
        return (image,)
    if not named:
        return (image,)
    return tuple(Path(str(image).replace(CHANNEL, name)) for name in channels)


def opened(path: Path) -> Stored:
    """The header of a file, whose grid can be used. Raises DataError."""
    nibabel = _nibabel(path)
    try:
        size = path.stat().st_size
        lengths = _stored_lengths(path)
        if min(abs(length) for length in lengths) == 0:  # nibabel would read 1 in their place
            shown = " x ".join(f"{length:g}" for length in lengths)
            raise BadFile(path, "the spacing is 0 along an axis; write the true lengths into the header", f"{shown} mm")
        file = nibabel.load(path)
        shape = tuple(map(int, file.shape))
        matrix = np.array(file.affine, np.float64)
        bytes_claimed = math.prod(shape) * int(file.header.get_data_dtype().itemsize)
        proxy = file.dataobj
    except FileNotFoundError as error:
        raise BadFile(path, "no such file") from error
    except BadFile:
        raise
    except (*_BROKEN, nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise _damaged(path, error) from error
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise BadFile(path, f"has {len(shape)} axes ({_by(shape)}); expected x, y, z, or these and channels")
    if shape[2] == 1:
        raise BadFile(path, f"is one slice ({_by(shape)}) and no volume; slices are read with data.name = 'pictures'")
    if bytes_claimed > size * _UNPACKED:
        raise BadFile(path, f"damaged: its header speaks of {_by(shape)} voxels, and the file has {size} bytes")
    _refuse_bad_affine(path, matrix)
    return Stored(path, proxy, shape, Grid.of(shape[:3], matrix))


def stored_file(path: Path) -> tuple[Any, Any]:
    """nibabel, and a file as it opens it. Raises DataError."""
    nibabel = _nibabel(path)
    try:
        return nibabel, nibabel.load(path)
    except (*_BROKEN, nibabel.filebasedimages.ImageFileError) as error:
        raise _damaged(path, error) from error


def new_file(grid: Grid) -> tuple[Any, Any]:
    """nibabel, and an empty file on a grid, in millimetres of the scanner's axes."""
    nibabel = _nibabel(Path("labels.nii.gz"))
    file = nibabel.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.matrix)
    file.header.set_xyzt_units("mm")
    for code in (file.set_qform, file.set_sform):
        code(grid.matrix, code="scanner")
    return nibabel, file


def _stored_lengths(path: Path) -> tuple[float, float, float]:
    """The lengths of voxels as the header has them; 1 where it is no header that is known here, which nibabel says.

    Raises what reading a file raises.
    """
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        header = file.read(_HEADER)
    for order in "<>":
        for size, kind, at in ((348, "3f", 80), (540, "3d", 112)):
            if len(header) == _HEADER and struct.unpack_from(f"{order}i", header)[0] == size:
                x, y, z = struct.unpack_from(f"{order}{kind}", header, at)
                return x, y, z
    return 1.0, 1.0, 1.0


def _refuse_bad_affine(path: Path, matrix: NDArray[np.float64]) -> None:
    if not bool(np.isfinite(matrix).all()):
        raise BadFile(path, "the affine holds values that are no numbers (nan or inf); write the true one")
    lengths = np.sqrt((matrix[:3, :3] ** 2).sum(axis=0))
    if float(lengths.min()) <= 0:
        shown = " x ".join(f"{length:g}" for length in lengths)
        raise BadFile(path, "the affine's spacing is 0 along an axis; write the true one", f"{shown} mm")
    if abs(float(np.linalg.det(matrix[:3, :3] / lengths))) < _SINGULAR:
        raise BadFile(path, "the affine cannot be inverted: two of its axes go the same way; write the true one")


def read_image(files: Sequence[Path], channels: Channels) -> tuple[list[NDArray[Any]], Stored]:
    """The channels of an image, each (X, Y, Z) as stored and scaled as the header says, and the first
    file's header.

    files: what `channel_files` gives. Raises DataError: channels that are missing or lie on another grid, intensities
    that are no numbers.
    """
    wanted = channels if isinstance(channels, int) else len(channels)
    stored = [opened(path) for path in files]
    first = stored[0]
    if len(stored) == 1 and (first.shape[3] if len(first.shape) == 4 else 1) != wanted:
        has = first.shape[3] if len(first.shape) == 4 else 1
        raise BadFile(first.path, f"has {has} of the {wanted} channels that data.channels name")
    if len(stored) > 1:
        for other in stored:
            if len(other.shape) != 3:
                raise BadFile(other.path, f"has {other.shape[3]} channels; expected one a file")
            refuse_other_grid(first, other, "two channels")
    arrays = []
    for file in stored:
        voxels = _voxels(file)
        if voxels.dtype.kind == "f" and not bool(np.isfinite(voxels).all()):
            count = int(voxels.size - np.isfinite(voxels).sum())
            raise BadFile(file.path, "holds intensities that are no numbers (nan or inf)", f"{count} voxels")
        arrays += [voxels] if voxels.ndim == 3 else [voxels[..., at] for at in range(voxels.shape[3])]
    return arrays, first


def channel_of(stored: Stored, channel: int) -> NDArray[np.float32]:
    """One channel (X, Y, Z) of a file of three or four axes, scaled as the header says; no other is kept in memory.

    Raises DataError.
    """
    nibabel = _nibabel(stored.path)
    beside = (0,) * (len(stored.proxy.shape) - 4)  # an axis of one before the channels
    place = (..., *beside, channel) if len(stored.shape) == 4 else (..., *beside, 0) if beside else ...
    try:
        values = np.asarray(stored.proxy[place], np.float32)
    except (*_BROKEN, nibabel.filebasedimages.ImageFileError) as error:
        raise _damaged(stored.path, error) from error
    return values.reshape(stored.shape[:3], order="F")


def read_labels(path: Path, coding: Coding) -> tuple[Labels, Stored]:
    """(X, Y, Z) labels as the coding has them, 255 where ignored, and the file's header. Raises DataError, also for a
    value that the coding does not name."""
    stored, values = stored_labels(path)
    table = coding.table(lossy=False)
    labels = table[values]
    unnamed = [value for value in np.flatnonzero(np.bincount(values.ravel(), minlength=256)) if table[value] == 254]
    if unnamed:
        count = int(np.isin(values, unnamed).sum())
        shown = ", ".join(map(str, unnamed[:5]))
        raise BadFile(path, f"holds labels that no class has: {shown}; {meaning_text(coding)}", f"{count} voxels")
    return np.ascontiguousarray(labels), stored


def stored_labels(path: Path) -> tuple[Stored, Labels]:
    """The values of a label file, (X, Y, Z) whole numbers from 0 to 255. Raises DataError."""
    stored = opened(path)
    if len(stored.shape) != 3:
        raise BadFile(path, f"has {stored.shape[3]} channels; a label file holds one number a voxel")
    values = _voxels(stored)
    if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
        raise BadFile(path, "the label holds values that are no numbers (nan or inf)")
    values = _whole_where_scaled(stored, values)
    low, high = float(values.min()), float(values.max())
    labels = values.astype(np.uint8) if low >= 0 and high <= 255 else None
    if labels is None or not bool((labels == values).all()):
        raise BadFile(path, "the label holds other values than whole numbers from 0 to 255", f"{low:g} to {high:g}")
    return stored, labels


COARSEST = 0.2
"""Labels that a header scales by more than this are taken as they come: rounding could change which label is meant."""


def _whole_where_scaled(stored: Stored, values: NDArray[Any]) -> NDArray[Any]:
    """The whole numbers that a header's scale has put beside themselves; other values as they are.

    Who stores labels as floats under the header of an integer file gets them spread over the integers that there are
    (nibabel), so that a 9 comes back as 8.96: each is as near to a whole number as the steps of the scale let it be.
    """
    step = abs(float(stored.proxy.slope))
    if step > COARSEST or values.dtype.kind != "f":
        return values
    whole: NDArray[Any] = np.rint(values)
    return whole if float(np.abs(values - whole).max()) <= step / 2 + 1e-4 else values


def refuse_other_grid(image: Stored, other: Stored, what: str = "image and label") -> None:
    """Raise DataError where two files do not lie on the same grid."""
    if image.shape[:3] != other.shape[:3]:
        raise BadFile(
            image.path,
            f"{what} differ in size",
            f"{_by(image.shape[:3])}, {other.path.name} {_by(other.shape[:3])}; resample one of them",
        )
    apart, most = image.grid.distance(other.grid), APART * min(image.grid.spacing)
    if apart > most:
        raise BadFile(
            image.path,
            f"{what} lie on different grids",
            f"corners of {other.path.name} are up to {apart:.3g} mm away, and voxels are "
            f"{min(image.grid.spacing):.3g} mm; resample one of them, or mend the wrong header",
        )


def _voxels(stored: Stored) -> NDArray[Any]:
    """As stored where the header scales nothing, else float32. Raises DataError."""
    nibabel = _nibabel(stored.path)
    proxy = stored.proxy
    try:
        scaled = (proxy.slope, proxy.inter) != (1, 0)
        voxels: NDArray[Any] = np.asarray(proxy, np.float32) if scaled else np.asarray(proxy.get_unscaled())
        if voxels.dtype.kind not in "buif":
            raise BadFile(stored.path, f"holds {voxels.dtype}; expected numbers")
        voxels = voxels.reshape(stored.shape, order="F")
    except (*_BROKEN, nibabel.filebasedimages.ImageFileError) as error:
        raise _damaged(stored.path, error) from error
    return voxels


def _nibabel(path: Path) -> Any:
    try:
        return import_module("nibabel")
    except ImportError as error:
        raise DataError(f"{path}: is read with nibabel, which is not installed; {EXTRA}") from error


def _damaged(path: Path, error: Exception) -> BadFile:
    return BadFile(path, "damaged or no NIfTI volume", " ".join(str(error).split())[:120] or type(error).__name__)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
