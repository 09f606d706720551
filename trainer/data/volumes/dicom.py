"""DICOM series as arrays with their grid, or one line that names the folder or file and what is wrong with it.

A series is a folder of single-frame images. pydicom reads headers and pixels; what makes a volume of them is decided
here, for readers of series take the mean of uneven steps, the first of two series, and the frames of both phases
without a word. The axes are x along a picture's rows, y down its columns, z along the normal (the cross product of
both): the grid is that of SimpleITK and dicom2nifti, and differs from dcm2niix's by the direction of y.

Part 3 of the standard: C.7.6.2 (ImagePositionPatient, ImageOrientationPatient, PixelSpacing, whose first value is the
distance of rows), C.11.1 (modality LUT). pydicom is imported where a file is read.
"""

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.file_check import in_threads
from trainer.data.files import BadFile
from trainer.data.volumes.geometry import Floats, Grid
from trainer.data.volumes.nifti import APART, Channels
from trainer.errors import DataError, counted

EXTRA = "pip install 'kd-search[dicom]'"
SUFFIXES = (".dcm", ".ima")
"""Of files that claim to be DICOM; most have none, and are known by what they begin with."""
DIRECTORY = "DICOMDIR"
"""The name of the file that lists what a disc holds."""
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
"""What says where an image lies."""

_MAGIC_AT, _MAGIC = 128, b"DICM"
_TURNED = 2e-4
"""Difference of two direction cosines that is rounding: over 500 voxels a tenth of one."""
_SAME_PLACE = 1e-3
"""Millimetres."""
_PAUSE = 1.5
"""Of the usual step from slice to slice: from here on a slice is missing."""

Header = Any
"""pydicom's data set, without pixels."""


@dataclass(frozen=True)
class Series:
    """A series whose images make one volume, from the first along the normal to the last."""

    folder: Path
    uid: str
    files: tuple[Path, ...]
    headers: tuple[Header, ...]
    grid: Grid
    """(columns, rows, slices) and the affine, RAS+."""

    def voxels(self) -> NDArray[np.float32]:
        """(X, Y, Z), each slice by its own rescale slope and intercept, or by its LUT. Raises DataError."""
        slices = np.empty(self.grid.shape[::-1], np.float32)

        def fill(at: int) -> None:
            slices[at] = self._slice(at)

        with _quiet():
            in_threads(fill, range(len(self.files)), name="slice")
        return slices.T

    def _slice(self, at: int) -> NDArray[np.float32]:
        """(rows, columns). Raises BadFile."""
        path = self.files[at]
        pydicom, pixels = _pydicom(path), import_module("pydicom.pixels")
        try:
            whole = pydicom.dcmread(path)
            values = np.asarray(pixels.apply_modality_lut(whole.pixel_array, whole), np.float32)
        except Exception as error:  # decoders raise whatever their libraries do
            raise _damaged(path, error) from error
        if values.shape != self.grid.shape[1::-1]:
            raise BadFile(path, "damaged: its pixels have another size than its header says", _by(values.shape))
        if not bool(np.isfinite(values).all()):
            raise BadFile(path, "rescale slope and intercept make intensities that are no numbers (nan or inf)")
        return values


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do, or is named as one."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError:
        return False


def series_folders(root: Path) -> list[Path]:
    """The folder itself and those below it that hold DICOM files, in order; hidden ones are left out."""
    inner = sorted(path for path in root.rglob("*") if path.is_dir() and not _hidden(path, root))
    return [folder for folder in (root, *inner) if any(is_dicom(path) for path in _files(folder))]


def series_in(folder: Path) -> dict[str, list[tuple[Path, Header]]]:
    """The series of a folder by their UIDs, each with its files. Raises DataError for a file that cannot be read."""
    series: dict[str, list[tuple[Path, Header]]] = {}
    for path, header in _headers(folder, [path for path in _files(folder) if is_dicom(path)]):
        series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    return series


def open_series(folder: Path, picked: Collection[str] = ()) -> Series:
    """The series of a folder, or that one of several that is picked by its UID, its images in order.

    Raises DataError where the folder holds other things than the images of one series, and where these are no volume:
    colour, several frames a file, no place in the patient, two sizes, spacings or orientations, two slices at one
    place, gaps, uneven steps, a gantry tilt, or pixels that no decoder here reads.
    """
    series = series_in(folder)
    uid = _chosen(folder, series, picked)
    for path, header in series[uid]:
        _refuse_other_object(path, header)
        _refuse_bad_values(path, header)
    _refuse_differences(series[uid])
    ordered, grid = _placed(folder, series[uid])
    _refuse_unreadable(ordered)
    paths, headers = zip(*ordered, strict=True)
    return Series(folder, uid, paths, headers, grid)


def _chosen(folder: Path, series: Mapping[str, Sequence[tuple[Path, Header]]], picked: Collection[str]) -> str:
    """The UID of the series that is meant. Raises DataError."""
    chosen = [uid for uid in series if uid in picked]
    others = [path for path in _files(folder) if not is_dicom(path)]
    if picked and not chosen:
        raise DataError(f"{folder}: holds no series {', '.join(picked)}; it has {_listed(series)}")
    if not picked and others:
        raise BadFile(
            others[0], "no DICOM file among those of a series; move it elsewhere", counted(len(others), "such file")
        )
    if len(chosen or series) > 1:
        raise DataError(
            f"{folder}: holds {len(series)} series; pick one with --series UID, or give each a folder: "
            f"{_listed(series)}"
        )
    if not series:
        raise DataError(f"{folder}: holds no DICOM image")
    return (chosen or list(series))[0]


def read_series(
    folders: Sequence[Path], channels: Channels, picked: Collection[str] = ()
) -> tuple[list[NDArray[Any]], Series]:
    """The channels of an image, each (X, Y, Z), and the series of the first. folders: one a channel. Raises DataError,
    also where channels lie on different grids."""
    wanted = channels if isinstance(channels, int) else len(channels)
    if len(folders) != wanted:
        raise DataError(f"{folders[0]}: a series is one channel, and the network takes {wanted}; convert it to NIfTI")
    series = [open_series(folder, picked) for folder in folders]
    first = series[0]
    for other in series[1:]:
        if other.grid.shape != first.grid.shape or other.grid.distance(first.grid) > APART * min(first.grid.spacing):
            raise DataError(f"{first.folder}: lies on another grid than {other.folder}; resample one of them")
    return [each.voxels() for each in series], first


def _headers(folder: Path, paths: Sequence[Path]) -> Iterator[tuple[Path, Header]]:
    pydicom = _pydicom(folder)

    def read(path: Path) -> Header:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            for name in (*PLACE, "RescaleSlope"):  # a value that is no number is an error when it is first looked at
                header.get(name)
        except Exception as error:  # of a damaged file: whatever its bytes lead to
            raise _damaged(path, error) from error
        return header

    with _quiet():
        headers = in_threads(read, paths, name="header")
    yield from zip(paths, headers, strict=True)


def _refuse_other_object(path: Path, header: Header) -> None:
    """Raise BadFile for what is no image with one grey frame in the patient."""
    kind = _kind(header)
    if "Rows" not in header or "Columns" not in header:
        raise BadFile(path, f"a DICOM object without an image ({kind}); move it elsewhere")
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise BadFile(
            path, f"{kind} with several frames in one file; convert it to NIfTI or to one file a slice", f"{frames}"
        )
    if header.get("SamplesPerPixel", 1) != 1:
        raise BadFile(path, f"a colour picture ({kind}); expected one intensity a pixel")
    lacking = [name for name in PLACE if not header.get(name)]
    if lacking:
        raise BadFile(path, f"has no {lacking[0]} ({kind}): where its pixels lie in the patient is not known")


def _refuse_bad_values(path: Path, header: Header) -> None:
    """Raise BadFile where what says where an image lies, and what its values mean, cannot be used."""
    spacing, turn = _numbers(header.PixelSpacing), _numbers(header.ImageOrientationPatient)
    place = _numbers(header.ImagePositionPatient)
    if [len(spacing), len(turn), len(place)] != [2, 6, 3] or not np.isfinite([*spacing, *turn, *place]).all():
        raise BadFile(path, "its spacing, orientation or position are no numbers, or not 2, 6 and 3 of them")
    if header.get("RescaleSlope") == 0:
        raise BadFile(path, "its rescale slope is 0: all its intensities would be one; copy the series again")
    if min(spacing) <= 0:
        raise BadFile(path, "the spacing is 0 along an axis; write the true one", f"PixelSpacing {_by(spacing)}")
    rows, columns = turn[:3], turn[3:]
    lengths = [float(np.linalg.norm(each)) for each in (rows, columns)]
    if max(abs(1 - lengths[0]), abs(1 - lengths[1]), abs(float(rows @ columns))) > 1e-3:
        raise BadFile(
            path, "ImageOrientationPatient is not of two directions at right angles", " ".join(f"{v:g}" for v in turn)
        )


def _refuse_differences(images: Sequence[tuple[Path, Header]]) -> None:
    """Raise BadFile where images do not fit on one another."""
    first, known = images[0]
    for path, header in images[1:]:
        for what, of, tolerance in (
            ("sizes", lambda each: [each.Columns, each.Rows], 0.0),
            ("orientations", lambda each: each.ImageOrientationPatient, _TURNED),
            ("pixel spacings", lambda each: each.PixelSpacing, 1e-4),
        ):
            one, other = _numbers(of(known)), _numbers(of(header))
            if np.abs(one - other).max() > tolerance:
                raise BadFile(
                    path, f"slices of different {what} in one series", f"{_by(other)}, {first.name} {_by(one)}"
                )
        frames = [str(each.get("FrameOfReferenceUID", "")) for each in (known, header)]
        if frames[0] != frames[1]:
            raise BadFile(
                path, "slices of different frames of reference in one series", f"{frames[1]}, {first.name} {frames[0]}"
            )


def _placed(folder: Path, images: Sequence[tuple[Path, Header]]) -> tuple[list[tuple[Path, Header]], Grid]:
    """The images in the order of their places along the normal, and the grid. Raises DataError."""
    if len(images) == 1:
        raise BadFile(images[0][0], "is one slice and no volume; its series has no other file here")
    header = images[0][1]
    turn, spacing = _numbers(header.ImageOrientationPatient), _numbers(header.PixelSpacing)
    normal = np.cross(turn[:3], turn[3:])
    places = np.array([_numbers(each.ImagePositionPatient) for _, each in images])
    order = np.argsort(places @ normal, kind="stable")
    ordered, places = [images[at] for at in order], places[order]
    heights = places @ normal
    _refuse_gaps(folder, [path.name for path, _ in ordered], heights)
    step = float(heights[-1] - heights[0]) / (len(heights) - 1)
    _refuse_uneven(folder, heights, places - np.outer(heights, normal), min(*spacing, step))
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = turn[:3] * spacing[1], turn[3:] * spacing[0]
    matrix[:3, 2], matrix[:3, 3] = normal * step, places[0]
    matrix[:2] *= -1  # DICOM counts to the left and to the back
    return ordered, Grid.of((int(header.Columns), int(header.Rows), len(ordered)), matrix)


def _refuse_gaps(folder: Path, names: Sequence[str], heights: Floats) -> None:
    """Raise DataError where two slices lie at one place, or one is missing between two. heights: along the normal."""
    steps = np.diff(heights)
    same = np.flatnonzero(steps < _SAME_PLACE)
    if len(same):
        at = int(same[0])
        raise DataError(
            f"{folder}: {counted(len(same), 'position')} twice in one series, such as {heights[at]:g} mm of "
            f"{names[at]} and {names[at + 1]}: phases, echoes or copies; give each a folder of its own"
        )
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    if steps.max() > _PAUSE * usual:
        at = int(steps.argmax())
        missing = sum(round(float(step) / usual) - 1 for step in steps)
        raise DataError(
            f"{folder}: {counted(missing, 'slice')} missing in the series, where {names[at + 1]} lies {steps[at]:.4g} "
            f"mm behind {names[at]} and others {usual:.4g} mm apart; copy the series again"
        )


def _refuse_uneven(folder: Path, heights: Floats, planar: Floats, side: float) -> None:
    """Raise DataError where slices do not lie in equal steps behind one another. planar: their places without what lies
    along the normal, (slices, 3). side: a voxel's shortest, millimetres."""
    steps = np.diff(heights)
    off = float(np.abs(heights - heights[0] - steps.mean() * np.arange(len(heights))).max())
    if off > APART * steps.mean():
        raise DataError(
            f"{folder}: the slices do not lie in equal steps: from {steps.min():.4g} to {steps.max():.4g} mm; resample "
            "the series first"
        )
    aside = float(np.linalg.norm(planar - planar[0], axis=1).max())
    if aside > APART * side:
        angle = float(np.degrees(np.arctan2(aside, heights[-1] - heights[0])))
        raise DataError(
            f"{folder}: the slices are shifted against one another, by {aside:.3g} mm over the series, as with a "
            f"gantry tilt of {angle:.1f} degrees; resample the series first"
        )


def _refuse_unreadable(images: Sequence[tuple[Path, Header]]) -> None:
    """Raise BadFile where pixels are compressed in a way that nothing here decodes."""
    pixels = import_module("pydicom.pixels")
    for syntax, path in {header.file_meta.get("TransferSyntaxUID"): path for path, header in images}.items():
        if syntax is None or not syntax.is_transfer_syntax or not syntax.is_encapsulated:
            continue
        try:
            decoder = pixels.get_decoder(syntax)
        except NotImplementedError as error:
            raise BadFile(path, f"compressed as {syntax.name}, which pydicom does not read; decompress it") from error
        if not decoder.is_available:
            raise BadFile(
                path,
                f"compressed as {syntax.name}, which needs a decoder: pip install "
                "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or python-gdcm",
            )


def _listed(series: Mapping[str, Sequence[tuple[Path, Header]]]) -> str:
    """The series of a folder, each with its kind, how many files and its UID; no word of the patient."""
    texts = []
    for uid, images in series.items():
        header = images[0][1]
        kinds = Counter("image" if "Rows" in each else "file without an image" for _, each in images)
        number = header.get("SeriesNumber")
        name = "" if number is None else f" number {number}"
        texts.append(
            f"{uid or 'without a UID'} ({header.get('Modality', 'unknown')}{name}, "
            f"{', '.join(counted(count, kind) for kind, count in kinds.items())})"
        )
    return "; ".join(texts) or "none"


def _kind(header: Header) -> str:
    uid = header.get("SOPClassUID")
    return str(uid.name).removesuffix(" Storage") if uid else "of no class that is named"


def _numbers(values: Any) -> NDArray[np.float64]:
    """Decimal texts as numbers; a value that is none becomes nan, which the caller refuses."""
    try:
        return np.array([float(value) for value in values], np.float64)
    except (TypeError, ValueError):
        return np.array([np.nan])


def _by(values: Sequence[float] | Floats) -> str:
    return " x ".join(f"{value:g}" for value in values) if len(values) < 4 else " ".join(f"{v:g}" for v in values)


def _files(folder: Path) -> list[Path]:
    """What a folder holds, without hidden files and what lists a disc."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [path for path in files if not path.name.startswith(".") and path.name.upper() != DIRECTORY]


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


@contextmanager
def _quiet() -> Iterator[None]:
    """pydicom warns of values that break the standard in ways that do not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _pydicom(path: Path) -> Any:
    try:
        return import_module("pydicom")
    except ImportError as error:
        raise DataError(f"{path}: is read with pydicom, which is not installed; {EXTRA}") from error


def _damaged(path: Path, error: Exception) -> BadFile:
    if type(error).__name__ == "InvalidDicomError":
        return BadFile(path, "no DICOM file: DICM does not stand behind its first 128 bytes")
    return BadFile(path, "damaged or no DICOM file", " ".join(str(error).split())[:120] or type(error).__name__)
