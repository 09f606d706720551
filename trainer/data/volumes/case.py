"""A prepared case on the disk: image.npy, label.npy, native.npy, foreground.npy and case.json in a folder of its own.

image.npy is (C, X, Y, Z) float32 or float16, label.npy (X, Y, Z) uint8 with 255 where nothing is learned or scored,
native.npy the labels on the native grid. foreground.npy holds the offsets of all voxels of classes 1, 2, ... in the
flat label.npy, ascending within a class, one class behind the other; case.json says where each begins. All are read
through memory maps, which ranks and runs of one machine share.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.atomic_files import sync_folder
from trainer.data.files import array_read
from trainer.data.volumes.geometry import Axis, Grid, Labels, NativeGrid, Triple
from trainer.data.volumes.recipes import Normaliser

FORMAT = 1
"""Goes up with every change of what the files hold."""
CARD = "case.json"
ARRAYS = ("image", "label", "native", "foreground")

Offsets = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class PreparedCase:
    """One case, read-only; without labels where there are none."""

    name: str
    image: NDArray[np.floating[Any]]
    """(C, X, Y, Z), prepared, float32 or float16."""
    label: Labels
    """(X, Y, Z); without labels all ignored."""
    native_label: Labels
    """Labels on the native grid, in the order in which the file has its axes."""
    foreground: tuple[Offsets, ...]
    """By label but the first, of regions by what lies in the same ones: the flat offsets of its voxels in `label`,
    ascending."""
    way: NativeGrid
    """The prepared grid in the native one: what `trainer.evaluation.native_slices` takes."""
    nominal: Triple
    """Millimetres that the recipe asked for; `way.spacing` has the true ones."""
    normaliser: Normaliser
    """What patches still need, where each is normalised by itself."""
    digest: str
    """sha256 over the arrays: what was prepared."""
    remarks: tuple[str, ...] = ()
    """What should be known of the case."""
    folder: Path | None = None
    """None: only in memory."""

    @property
    def grid(self) -> Grid:
        """The prepared grid."""
        return self.way.grid

    @property
    def spacing(self) -> Triple:
        """True millimetres between prepared voxels."""
        return self.way.spacing


def class_offsets(label: Labels, classes: int) -> tuple[Offsets, ...]:
    """By class but the first: the flat offsets of its voxels, ascending. Ignored voxels are of none."""
    flat = label.ravel()
    kind = np.uint32 if flat.size <= 2**32 else np.uint64
    where = np.flatnonzero((flat > 0) & (flat < classes))
    labels = flat[where]
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(1, classes + 1))
    ordered: Offsets = where[order].astype(kind)
    ends = [int(start) for start in starts]
    return tuple(ordered[start:stop] for start, stop in pairwise(ends))


def write_case(folder: Path, case: PreparedCase, more: Mapping[str, Any]) -> None:
    """Write all files onto the disk, the card last. more: what the card says beside the case. Raises OSError."""
    arrays = {
        "image": case.image,
        "label": case.label,
        "native": case.native_label,
        "foreground": np.concatenate(case.foreground),
    }
    sums, sizes = {}, {}
    for name in ARRAYS:
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            np.save(file, arrays[name], allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        sums[name], sizes[name] = _sum_of(arrays[name]), path.stat().st_size
    card = {
        "format": FORMAT,
        "native": {"shape": case.way.native.shape, "affine": case.way.native.affine},
        "shape": case.way.shape,
        "axes": case.way.axes,
        "affine": case.grid.affine,
        "spacing": {"nominal": case.nominal, "true": case.spacing},
        "crop": {"means": "index in the native grid of the first prepared voxel", "offset": _offset(case.way)},
        "foreground": [len(own) for own in case.foreground],
        "normaliser": [case.normaliser.by_patch, case.normaliser.means, case.normaliser.deviations],
        **({} if case.way.apart is None else {"apart": case.way.apart}),
        "digest": case.digest,
        "remarks": case.remarks,
        "sha256": sums,
        "bytes": sizes,
        **more,
    }
    with (folder / CARD).open("wb") as file:
        file.write(json.dumps(card, indent=1).encode())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def open_case(folder: Path, name: str, *, sums: bool = False) -> PreparedCase | None:
    """The case in a folder, None where it is not there or not whole. sums: also compare what the arrays hold."""
    try:
        card = json.loads((folder / CARD).read_text())
        sizes = {array: (folder / f"{array}.npy").stat().st_size for array in ARRAYS}
        if card["format"] != FORMAT or card["bytes"] != sizes:
            return None
        arrays = {array: _mapped(folder / f"{array}.npy") for array in ARRAYS}
        if sums and {array: _sum_of(arrays[array]) for array in ARRAYS} != card["sha256"]:
            return None
        native = Grid.of(card["native"]["shape"], np.array(card["native"]["affine"], np.float64))
        x, y, z = (Axis(int(axis[0]), float(axis[1]), float(axis[2])) for axis in card["axes"])
        ends = np.cumsum(card["foreground"])
        by_patch, means, deviations = card["normaliser"]
        case = PreparedCase(
            name=name,
            image=arrays["image"],
            label=arrays["label"],
            native_label=arrays["native"],
            foreground=tuple(np.split(arrays["foreground"], ends[:-1])),
            way=NativeGrid(native, _triple(card["shape"]), (x, y, z), card.get("apart")),
            nominal=_triple(card["spacing"]["nominal"]),
            normaliser=Normaliser(bool(by_patch), tuple(means), tuple(deviations)),
            digest=card["digest"],
            remarks=tuple(card["remarks"]),
            folder=folder,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError):
        return None
    whole = case.image.shape[1:] == case.label.shape == case.way.shape and case.native_label.shape == native.shape
    return case if whole and len(arrays["foreground"]) == sum(card["foreground"]) else None


def digest_of(image: NDArray[Any], label: Labels, way: NativeGrid) -> str:
    """sha256 over what was prepared."""
    text = repr((way, image.shape, str(image.dtype))).encode()
    return hashlib.sha256(text + _sum_of(image).encode() + _sum_of(label).encode()).hexdigest()


def _sum_of(array: NDArray[Any]) -> str:
    whole: Any = np.ascontiguousarray(array)
    return hashlib.sha256(whole.ravel().view(np.uint8)).hexdigest()


def _mapped(path: Path) -> Any:
    return array_read(lambda: np.load(path, mmap_mode="r", allow_pickle=False))


def _offset(way: NativeGrid) -> list[float]:
    offset = [0.0, 0.0, 0.0]
    for axis in way.axes:
        offset[axis.native] = axis.offset
    return offset


def _triple(values: Sequence[Any]) -> Any:
    """Three numbers of a card. Raises ValueError."""
    x, y, z = values
    return x, y, z
