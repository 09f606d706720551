"""Cases prepared once a machine, in a folder of the cache whose name is the hash of what was prepared and how.

One process makes a case beside its place and renames it once all is on the disk; others wait for the lock. What was
made stays where others turn out bad, so that a preparation that is interrupted goes on where it stopped. A case whose
files have not the sizes that its card says is named and made again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from trainer.atomic_files import private_folder, whole_folder
from trainer.config import VolumeData
from trainer.data.cache import locked
from trainer.data.downloads.disk_space import KEPT_FREE, readable, require_room
from trainer.data.file_check import in_threads, summarised, threads
from trainer.data.files import BadFile, file_hash
from trainer.data.letterbox import IGNORED
from trainer.data.masks import Coding, coding_of_classes, regions_of_values
from trainer.data.volumes import nnunet
from trainer.data.volumes.case import FORMAT, PreparedCase, class_offsets, digest_of, open_case, write_case
from trainer.data.volumes.geometry import Grid, Labels, NativeGrid, linear, nearest_labels
from trainer.data.volumes.nifti import Channels, channel_files, opened, read_image, read_labels, refuse_other_grid
from trainer.data.volumes.recipes import Recipe, cut, foreground_box, normalised, recipe_of, windowed
from trainer.errors import DataError, counted, on_stderr

VERSION = 1
"""Goes up with every change of what comes out of the same files."""
FOLDER = "volumes"
"""In the cache."""
MOST_JOBS = 4
_LARGEST_HALF = 60_000.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case."""

    name: str
    images: tuple[Path, ...]
    """One, or one a channel."""
    label: Path
    digests: tuple[str, ...]
    """sha256 of the images and of the label."""


class PreparedCases(NamedTuple):
    """What a preparation led to."""

    cases: list[PreparedCase]
    """In the order of the files."""
    fresh: int
    """How many were made just now."""
    damaged: list[str]
    """The names of cases that lay there damaged, and were made again."""


def case_files(
    cases: Sequence[tuple[str, Path, Path]], channels: Channels, progress: Progress | None = None
) -> list[CaseFiles]:
    """Name, image and label of each case as files with their hashes. Raises DataError."""
    places = [(*channel_files(image, channels), label) for _, image, label in cases]
    every = list(dict.fromkeys(path for own in places for path in own))
    digests = dict(zip(every, in_threads(_hash, every, name="hash", progress=progress), strict=True))
    return [
        CaseFiles(name, own[:-1], own[-1], tuple(digests[path] for path in own))
        for (name, _, _), own in zip(cases, places, strict=True)
    ]


def _hash(path: Path) -> str:
    if not path.is_file():
        raise BadFile(path, "no such file")
    return file_hash(path)


def coding_for(config: VolumeData) -> Coding:
    """What label files hold. Raises DataError."""
    if config.regions:
        return regions_of_values(config)[0]
    coding = coding_of_classes(config.classes, config.ignore)
    if coding is None:
        raise DataError("data.classes: none has a value; label files of volumes hold a number a class")
    return coding


def jobs_for(cores: int | None = None) -> int:
    """Cases that are prepared at once where nobody says it: as many as there are cores, MOST_JOBS at most."""
    return max(1, min(MOST_JOBS, threads() if cores is None else cores))


def prepare_cases(
    config: VolumeData,
    files: Sequence[CaseFiles],
    *,
    cache: Path,
    progress: Progress | None = None,
    jobs: int | None = None,
    sums: bool = False,
) -> PreparedCases:
    """The cases, prepared where the cache does not hold them yet.

    sums: what lies there is compared with its sums, not by its files' sizes alone. Raises DataError once all others are
    prepared where a case turns out bad, which is named on stderr before where there are several; or where the cache
    cannot be written or has no room.
    """
    recipe, coding = recipe_of(config), coding_for(config)
    folder = cache / FOLDER
    places = [folder / key_of(case, recipe, coding, config.channels) for case in files]
    there = in_threads(
        lambda pair: open_case(pair[0], pair[1].name, sums=sums), list(zip(places, files, strict=True)), name="open"
    )
    missing = [at for at, known in enumerate(there) if known is None]
    damaged = [files[at].name for at in missing if places[at].exists()]
    for name in damaged:
        logger.warning("{}: its prepared files in {} are damaged; it is prepared again", name, folder)
    if missing:
        _make_room(folder, [files[at] for at in missing], recipe, config.channels)

    def one(at: int) -> PreparedCase | DataError:
        try:
            return _kept(files[at], places[at], recipe, coding, config.channels, sums=sums)
        except DataError as error:
            return error

    entries = _all(one, missing, progress, jobs or jobs_for())
    bad = [entry for entry in entries if isinstance(entry, DataError)]
    if bad:
        _refuse(bad, len(files))
    made = {at: entry for at, entry in zip(missing, entries, strict=True) if isinstance(entry, PreparedCase)}
    cases = [made.get(at) or known for at, known in enumerate(there)]
    return PreparedCases([case for case in cases if case is not None], len(missing), damaged)


def key_of(case: CaseFiles, recipe: Recipe, coding: Coding, channels: Channels) -> str:
    """The name of a case's folder: what it was made of and how."""
    table = {
        "format": FORMAT,
        "version": VERSION,
        "files": case.digests,
        "recipe": recipe.stated(),
        "coding": str(coding),
        "classes": len(coding.names),
        "channels": channels if isinstance(channels, int) else len(channels),
    }
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:32]


def made_case(
    name: str,
    images: Sequence[Path],
    recipe: Recipe,
    channels: Channels,
    labelled: tuple[Path, Coding] | None = None,
) -> PreparedCase:
    """A case in memory. labelled: the label file, and what its values mean; None for an image alone, whose labels then
    are all ignored. Raises DataError."""
    arrays, first = read_image(images, channels)
    if labelled is None:
        return case_of(name, arrays, first.grid, recipe, str(images[0]))
    native, stored = read_labels(*labelled)
    refuse_other_grid(first, stored)
    return case_of(name, arrays, first.grid, recipe, str(images[0]), (native, labelled[1]))


def case_of(
    name: str,
    arrays: list[NDArray[Any]],
    grid: Grid,
    recipe: Recipe,
    where: str,
    labelled: tuple[Labels, Coding] | None = None,
) -> PreparedCase:
    """The same from arrays. arrays: (X, Y, Z) a channel, which are let go here; where: what messages name. Raises
    DataError."""
    way = NativeGrid.unchanged(grid).turned(recipe.orientation)
    nominal = recipe.spacing or way.spacing
    native = np.full(grid.shape, IGNORED, np.uint8) if labelled is None else labelled[0]
    image, kept, way, (before, after) = (_nnunet if recipe.schemes else _usual)(arrays, native, way, recipe, where)
    remarks = () if labelled is None else _remarks(native, before, after, kept, labelled[1])
    normaliser = normalised(image, recipe, where)
    ready = _stored_as(image, recipe.storage, where)
    return PreparedCase(
        name=name,
        image=ready,
        label=np.ascontiguousarray(kept),
        native_label=native,
        foreground=() if labelled is None else class_offsets(kept, len(labelled[1].names)),
        way=way,
        nominal=nominal,
        normaliser=normaliser,
        digest=digest_of(ready, kept, way),
        remarks=remarks,
    )


_Steps = tuple[NDArray[np.float32], Labels, NativeGrid, tuple[Labels, Labels]]
"""Image (C, X, Y, Z) and labels of the prepared grid, that grid, and labels of one grid before and after a crop."""


def _usual(arrays: list[NDArray[Any]], native: Labels, way: NativeGrid, recipe: Recipe, where: str) -> _Steps:
    """Resampled, windowed, cropped; the native channels are let go one by one."""
    if recipe.spacing is not None:
        way = way.respaced(recipe.spacing, recipe.grid)
    image = np.empty((len(arrays), *way.shape), np.float32)
    for at in range(len(arrays)):
        image[at] = windowed(linear(arrays[at], way), recipe.window)
        arrays[at] = image[at, :0]  # the memory of the native channel
    labels = nearest_labels(native, way)
    box = foreground_box(image, recipe, where)
    kept = cut(labels, box)
    return np.ascontiguousarray(cut(image, box)), kept, way.cut(*box), (labels, kept)


def _nnunet(arrays: list[NDArray[Any]], native: Labels, way: NativeGrid, recipe: Recipe, where: str) -> _Steps:
    """In nnU-Net's steps."""
    turned = native.transpose([axis.native for axis in way.axes])
    image, prepared, box = nnunet.planned(
        np.stack([np.asarray(each, np.float32) for each in arrays]), way, recipe, where
    )
    return image, nearest_labels(native, prepared), prepared, (turned, cut(turned, box))


def _remarks(native: Labels, labels: Labels, cropped: Labels, kept: Labels, coding: Coding) -> tuple[str, ...]:
    """What of a case's labels is not there, or goes on the way."""
    counts, before, after, last = (np.bincount(each.ravel(), minlength=256) for each in (native, labels, cropped, kept))
    names = coding.names
    if not counts[1 : len(names)].any():
        return ("holds no foreground: only the ground is learned from it",)
    remarks = []
    lost = [name for label, name in enumerate(names) if label and counts[label] and not last[label]]
    if lost:
        remarks.append(f"has no voxel of {', '.join(lost)} any more at the prepared spacing or in the crop")
    gone = int((before[1 : len(names)] - after[1 : len(names)]).sum())
    if gone:
        remarks.append(
            f"{counted(gone, 'labelled voxel')} of {int(before[1 : len(names)].sum())} lie outside of the crop"
        )
    return tuple(remarks)


def _stored_as(image: NDArray[np.float32], storage: str, where: str) -> NDArray[np.floating[Any]]:
    if storage == "float32":
        return image
    most = float(np.abs(image).max())
    if most > _LARGEST_HALF:
        raise DataError(f"{where}: intensities up to {most:g} do not fit into float16; use a window, or float32")
    return image.astype(np.float16)


def _kept(
    files: CaseFiles, place: Path, recipe: Recipe, coding: Coding, channels: Channels, *, sums: bool
) -> PreparedCase:
    """A case of the cache, made where it is not there. Raises DataError."""
    try:
        with locked(place.parent / f".{place.name}.lock", place):
            known = open_case(place, files.name, sums=sums)
            if known is None:
                case = made_case(files.name, files.images, recipe, channels, (files.label, coding))
                more = {"recipe": recipe.stated(), "coding": str(coding), "files": files.digests, "version": VERSION}
                _write(place, case, more)
                known = open_case(place, files.name)
    except OSError as error:
        raise DataError(
            f"{place.parent}: prepared cases cannot be kept there ({error.strerror or error}); choose another cache "
            "folder"
        ) from error
    if known is None:
        raise DataError(f"{place}: does not hold what was just written there; is the disk damaged?")
    return known


def _write(place: Path, case: PreparedCase, more: Mapping[str, Any]) -> None:
    """Beside its place, then renamed. Raises OSError, DataError where there is no room."""
    size = sum(array.nbytes for array in (case.image, case.label, case.native_label, *case.foreground))
    require_room(place.parent, size, f"the prepared case {case.name}")
    with whole_folder(place) as beside:
        write_case(beside, case, more)


def _make_room(folder: Path, files: Sequence[CaseFiles], recipe: Recipe, channels: Channels) -> None:
    """Make the folder, and refuse to begin what cannot end. Raises DataError."""
    try:
        private_folder(folder)
        size = 0
        for case in files:
            try:
                size += expected_bytes(case, recipe, channels)
            except DataError:  # a bad file is named when its case is made
                logger.debug("{}: its header cannot be read", case.name)
        state = os.statvfs(folder)
        free = state.f_bavail * state.f_frsize
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another cache folder"
        ) from error
    if size / 2 + KEPT_FREE > free:  # a crop may halve them
        raise DataError(
            f"{folder}: {counted(len(files), 'case')} take about {readable(size)} before they are cropped, and "
            f"{readable(free)} are free; make room, choose another cache folder, or set storage = 'float16'"
        )


def expected_bytes(case: CaseFiles, recipe: Recipe, channels: Channels) -> int:
    """The bytes of a prepared case before it is cropped, by its header. Raises DataError."""
    way = NativeGrid.unchanged(opened(case.images[0]).grid).turned(recipe.orientation)
    if recipe.spacing is not None:
        way = way.respaced(recipe.spacing, recipe.grid)
    voxel = (channels if isinstance(channels, int) else len(channels)) * (4 if recipe.storage == "float32" else 2) + 1
    return prod(way.shape) * voxel + prod(way.native.shape)


def _all(
    one: Callable[[int], PreparedCase | DataError], missing: Sequence[int], progress: Progress | None, jobs: int
) -> list[PreparedCase | DataError]:
    """Several at once, in order; those that did not begin are left where this is interrupted."""
    entries: list[PreparedCase | DataError] = []
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="prepare")
    try:
        for entry in pool.map(one, missing):
            entries.append(entry)
            if progress:
                progress(len(entries), len(missing))
    finally:
        pool.shutdown(cancel_futures=True)
    return entries


def _refuse(bad: Sequence[DataError], count: int) -> None:
    """Raise DataError for cases that cannot be prepared."""
    lines = summarised(bad)
    text = f"{len(bad)} of {count} cases cannot be prepared"
    if len(lines) == 1:
        raise DataError(f"{text}: {lines[0]}; mend or remove them; the others are prepared")
    for line in lines:
        on_stderr(f"bad: {line}")
    raise DataError(f"{text}; mend or remove them; the others are prepared")
