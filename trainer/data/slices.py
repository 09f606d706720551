"""Slices of volumes as pictures: `.npz` of one slice, `.h5#17` of a volume, and `.nii.gz#17` of NIfTI.

A `.npz` has the arrays `image` and `label` of one slice, a `.h5` the data sets `image` and `label` with slices first,
so that one path stands for both. A NIfTI file has one of the two; its slices are those of its last axis. Slices are
counted from 0. Of NIfTI the first axis goes across and the second down; across is towards the right, the front or the
head, down the opposite of these, as the file's affine says, whatever the order in which it is stored. h5py and nibabel
are imported where such a file is read.
"""

import math
import re
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import Picture
from trainer.data.files import BadFile, MaskPicture, array_read, file_hash
from trainer.errors import DataError

Kind = Literal["image", "label"]
Window = tuple[float, float]

_NUMBERED = re.compile(r"(.+\.(?:h5|hdf5|nii|nii\.gz))#(\d+)", re.IGNORECASE | re.DOTALL)
_NIFTI = (".nii", ".nii.gz")
_KEPT = 4
"""NIfTI volumes in memory: two images with their labels."""
_BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zlib.error, zipfile.BadZipFile)
EXTRA = "pip install 'kd-search[volumes]'"


class SlicePlace(NamedTuple):
    """Where a slice is."""

    file: Path
    number: int | None
    """From 0; None where the file is one slice."""

    def __str__(self) -> str:
        return str(self.file) if self.number is None else f"{self.file}#{self.number}"


def slice_place(path: Path) -> SlicePlace | None:
    """The file and the slice that a path stands for; None where it is a picture."""
    match = _NUMBERED.fullmatch(str(path))
    if match is not None:
        return SlicePlace(Path(match[1]), int(match[2]))
    return SlicePlace(path, None) if path.suffix.lower() == ".npz" else None


def file_of(path: Path) -> Path:
    """The file that has to be there for a path: of a slice its volume, else the path itself."""
    place = slice_place(path)
    return path if place is None else place.file


def holds_both(path: Path) -> bool:
    """Whether one path is image and mask: `.npz`, and slices of `.h5`."""
    place = slice_place(path)
    return place is not None and not _is_nifti(place.file)


def order_of(name: str) -> str:
    """What names are sorted by: those of slices by their numbers (2 before 10), others as they are."""
    if slice_place(Path(name)) is None:
        return name
    return re.sub(r"\d+", lambda digits: digits[0].zfill(9), name)


def slice_hash(place: SlicePlace, digests: Mapping[Path, str] | None = None) -> str:
    """What tells a slice apart: the sha256 of its file, with the number where the file has several.

    digests: of files that were hashed already. Raises DataError.
    """
    digest = (digests or {}).get(place.file) or file_hash(place.file)
    return digest if place.number is None else f"{digest}#{place.number}"


def slices_in(path: Path) -> int:
    """How many slices a `.h5` or NIfTI file has. Raises DataError."""
    if _is_nifti(path):
        return _nifti_header(path).shape[2]
    with _hdf5(path) as file:
        return int(_dataset(path, file, "image").shape[0])


def slices_of(path: Path) -> list[Path]:
    """The slices of a file, each as a path; none where it is no file of slices. Raises DataError."""
    if path.suffix.lower() == ".npz":
        return [path]
    numbered = slice_place(Path(f"{path}#0")) is not None
    return [Path(f"{path}#{number}") for number in range(slices_in(path))] if numbered else []


def spacing_of(path: Path) -> tuple[float, float, float] | None:
    """Millimetres between slices, between rows and between columns; None where the file does not say it. Raises
    DataError."""
    place = slice_place(path)
    if place is None or not _is_nifti(place.file):
        return None
    across, down, between = _nifti_header(place.file).zooms
    known = all(0 < length < math.inf for length in (across, down, between))
    return (between, down, across) if known else None


def gaps_in(names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of slices between which others are missing, by the last number of their names; none where names have no
    numbers, or two the same."""
    ends = [re.findall(r"\d+", PurePath(name).stem if "#" not in name else name) for name in names]
    numbers = sorted(int(known[-1]) for known in ends if known)
    if len(numbers) < len(names) or len(set(numbers)) < len(numbers):
        return []
    return [(one, other) for one, other in pairwise(numbers) if other - one > 1]


def forget_volumes() -> None:
    """Free the memory of the volumes that were read last; they are read again where they are asked for."""
    _VOLUMES.forget()


def read_slice(path: Path, *, channels: int, bits: int, window: Window | None) -> Picture:
    """(H, W, channels) of a slice, 8 or 16 bits a channel. Raises DataError.

    window: the intensities that become black and white. Floats from 0 to 1 in `.npz` and `.h5` are taken for values
    that went through a window already. Without a window, whole numbers of as many bits are taken as they are.
    """
    place = _place(path)
    values = _array(place, "image")
    if values.dtype.kind not in "buif":
        raise BadFile(path, f"the image holds {values.dtype}; expected numbers")
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise BadFile(path, f"the image has {values.ndim} axes; expected height and width")
    if values.shape[2] == 1 and channels == 3:
        values = np.repeat(values, 3, axis=2)
    if values.shape[2] != channels:
        raise BadFile(path, f"has {values.shape[2]} channels, and data.channels = {channels}")
    return _as_picture(place, values, bits, window)


def read_slice_labels(path: Path) -> MaskPicture:
    """(H, W) whole numbers from 0 to 255 as the file has them. Raises DataError."""
    values = _array(_place(path), "label")
    if values.ndim != 2:
        raise BadFile(path, f"the label has {values.ndim} axes; expected height and width")
    if values.dtype.kind not in "buif":
        raise BadFile(path, f"the label holds {values.dtype}; expected whole numbers")
    if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
        raise BadFile(path, "the label holds values that are no numbers (nan or inf)")
    labels = values.astype(np.uint8) if float(values.min()) >= 0 and float(values.max()) <= 255 else None
    if labels is None or not bool((labels == values).all()):
        raise BadFile(path, "the label holds other values than whole numbers from 0 to 255")
    return MaskPicture(np.ascontiguousarray(labels), lossy=False)


def refuse_other_orientation(image: Path, mask: Path) -> None:
    """Raise DataError where the files of an image and of its mask are stored in different orientations."""
    ours, theirs = slice_place(image), slice_place(mask)
    if ours is None or theirs is None or not (_is_nifti(ours.file) and _is_nifti(theirs.file)):
        return
    first, second = _nifti_header(ours.file), _nifti_header(theirs.file)
    if first.codes != second.codes or first.shape != second.shape:
        raise BadFile(
            image,
            "image and mask are stored in different orientations or sizes",
            f"{''.join(first.codes)} {_by(first.shape)}, its mask {mask.name} {''.join(second.codes)} "
            f"{_by(second.shape)}; resample one of them",
        )


def _place(path: Path) -> SlicePlace:
    place = slice_place(path)
    if place is None:
        raise BadFile(path, "is no slice of a volume; expected FILE.npz, FILE.h5#NUMBER or FILE.nii.gz#NUMBER")
    return place


def _as_picture(place: SlicePlace, values: NDArray[Any], bits: int, window: Window | None) -> Picture:
    path, most = Path(str(place)), 2**bits - 1
    kind = np.uint16 if bits > 8 else np.uint8
    if 0 in values.shape:
        raise BadFile(path, "the slice has no pixels")
    if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
        raise BadFile(path, "the image holds intensities that are no numbers (nan or inf)")
    low, high = float(values.min()), float(values.max())
    shares = values.dtype.kind == "f" and low >= 0.0 and high <= 1.0
    if shares and (window is None or not _is_nifti(place.file)):
        window = (0.0, 1.0)
    if window is not None:
        scaled = (values.astype(np.float64) - window[0]) / (window[1] - window[0])
        return np.asarray(np.rint(np.clip(scaled, 0.0, 1.0) * most), kind)
    if values.dtype != kind:
        raise BadFile(
            path,
            f"holds {values.dtype}, which are no {bits} bits: say which intensities are black and white, such as "
            "data.window = [-125, 275]",
            f"values from {low:g} to {high:g}",
        )
    return np.ascontiguousarray(values)


def _array(place: SlicePlace, kind: Kind) -> NDArray[Any]:
    if place.number is None:
        return _of_npz(place.file, kind)
    return _of_nifti(place) if _is_nifti(place.file) else _of_hdf5(place, kind)


def _of_npz(path: Path, kind: Kind) -> NDArray[Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if kind not in arrays:
                known = ", ".join(sorted(arrays)) or "nothing"
                raise BadFile(path, f"has no array {kind!r}; a slice has image and label", f"it has {known}")
            return np.asarray(array_read(lambda: arrays[kind]))
    except _BROKEN as error:
        raise _damaged(path, error) from error


def _of_hdf5(place: SlicePlace, kind: Kind) -> NDArray[Any]:
    path = place.file
    with _hdf5(path) as file:
        shapes = {name: tuple(_dataset(path, file, name).shape) for name in ("image", "label")}
        if shapes["image"][:3] != shapes["label"]:
            raise BadFile(path, "image and label differ in size", f"{_by(shapes['image'])} and {_by(shapes['label'])}")
        number = _within(place, shapes["image"][0])
        try:
            return np.asarray(file[kind][number])
        except _BROKEN as error:
            raise _damaged(path, error) from error


def _hdf5(path: Path) -> Any:
    """An open file, to be closed. Raises DataError."""
    h5py = _library("h5py", path)
    try:
        return h5py.File(path, "r")
    except _BROKEN as error:
        raise _damaged(path, error) from error


def _dataset(path: Path, file: Any, name: Kind) -> Any:
    if name not in file:
        known = ", ".join(sorted(file)) or "nothing"
        raise BadFile(path, f"has no data set {name!r}; a volume has image and label", f"it has {known}")
    axes = getattr(file[name], "ndim", 0)
    if axes != 3:
        raise BadFile(path, f"the data set {name!r} has {axes} axes; expected slices, height, width")
    return file[name]


class _Header(NamedTuple):
    """What is known of a NIfTI file before its voxels are read."""

    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]
    codes: tuple[str, str, str]
    """Where each axis goes: R or L, A or P, S or I."""


def _nifti_header(path: Path) -> _Header:
    nibabel = _library("nibabel", path)
    try:
        volume = nibabel.load(path)
        shape = tuple(map(int, volume.shape))
        zooms = tuple(float(length) for length in volume.header.get_zooms())
        codes = tuple(code or "?" for code in nibabel.aff2axcodes(volume.affine))
    except (*_BROKEN, nibabel.filebasedimages.ImageFileError) as error:
        raise _damaged(path, error) from error
    if len(shape) != 3:
        raise BadFile(path, f"has {len(shape)} axes; expected width, height, slices", _by(shape))
    return _Header(shape, zooms[:3], codes)  # type: ignore[arg-type]  # of three each, as was just checked


class _Volumes:
    """The volumes that were read last: a packed file is unpacked once for all its slices, whichever thread asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, int, int], NDArray[Any]] = OrderedDict()

    def voxels(self, path: Path) -> NDArray[Any]:
        """All voxels as stored, scaled as the header says. Raises DataError."""
        try:
            stat = path.stat()
        except OSError as error:
            raise BadFile(path, "cannot be read", str(error.strerror or error)) from error
        key = path, stat.st_mtime_ns, stat.st_size
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._read(path)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def forget(self) -> None:
        """Keep none."""
        with self._lock:
            self._kept.clear()

    @staticmethod
    def _read(path: Path) -> NDArray[Any]:
        nibabel = _library("nibabel", path)
        try:
            proxy = nibabel.load(path).dataobj
            scaled = (proxy.slope, proxy.inter) != (1, 0)
            voxels: NDArray[Any] = np.asarray(proxy, np.float32) if scaled else np.asarray(proxy.get_unscaled())
        except (*_BROKEN, nibabel.filebasedimages.ImageFileError) as error:
            raise _damaged(path, error) from error
        return voxels


_VOLUMES = _Volumes()
_BACKWARDS = "LPI"
"""Where rows go; columns go the other way."""


def _of_nifti(place: SlicePlace) -> NDArray[Any]:
    header = _nifti_header(place.file)
    number = _within(place, header.shape[2])
    turned = _VOLUMES.voxels(place.file)[:, :, number].T
    across, down = (code in _BACKWARDS for code in header.codes[:2])
    return turned[:: 1 if down else -1, :: -1 if across else 1]


def _within(place: SlicePlace, count: int) -> int:
    number = place.number or 0
    if number >= count:
        raise BadFile(Path(str(place)), f"the volume has {count} slices, counted from 0")
    return number


def _is_nifti(path: PurePath) -> bool:
    return path.name.lower().endswith(_NIFTI)


def _library(name: Literal["h5py", "nibabel"], path: Path) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise DataError(f"{path}: is read with {name}, which is not installed; {EXTRA}") from error


def _damaged(path: Path, error: Exception) -> BadFile:
    if isinstance(error, BadFile):
        return error
    if isinstance(error, FileNotFoundError):
        return BadFile(path, "no such file")
    return BadFile(path, "damaged or no such volume", str(error).split("\n")[0])


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
