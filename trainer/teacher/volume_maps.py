"""Stored probabilities of whole volumes in the place of a teacher: a patch is cut out of them as it is out of its case.

A case's file lies on the grid of its image: three axes of the foreground's probability where there are two classes, or
a fourth axis of classes or regions. It is brought to the prepared grid once a machine, its probabilities interpolated
linearly, and kept there as float16 logits that are read through a memory map. A patch of them is of the same voxels as
the student's, mirrored and turned with it, and left and right change channels where labels do; so the logits that are
stored of a view have the very bits of that file. Changes of intensity leave them as they are.

The teacher saw whole volumes, and no student's patch: what it says near the rim of a patch is better founded than what
any network says that sees the patch alone.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import MapsTeacher
from trainer.atomic_files import private_folder, sync_folder
from trainer.config import RunConfig
from trainer.data.cache import locked
from trainer.data.classes import ground
from trainer.data.dataset import DataSet, Part
from trainer.data.downloads.disk_space import require_room
from trainer.data.files import CHANNEL, array_read, file_hash
from trainer.data.sets.volumes import VolumeCases
from trainer.data.streams.examples import PatchExamples
from trainer.data.volumes.case import PreparedCase
from trainer.data.volumes.geometry import linear
from trainer.data.volumes.nifti import APART, SUFFIXES, Stored, channel_of, opened
from trainer.distributed.ranks import Ranks
from trainer.errors import DataError, counted, refusal_text
from trainer.evaluation.native_slices import SURELY_NOT, native_slices
from trainer.evaluation.sliding_window import SlidingWindow
from trainer.seeds import derive
from trainer.teacher.probability_maps import PARTS, STEP, StoredMaps, map_files

FORMAT = 1
"""Goes up with every change of what the kept files hold."""
FOLDER = "volume-maps"
"""In the cache."""
_AMISS = 0.01
"""How far from 1 the classes of a voxel may add up, beside what their step explains."""

Halves = NDArray[np.float16]
Scores = NDArray[np.float32]


def kept_map_bytes(run: RunConfig, data: DataSet) -> int:
    """What the prepared maps of a run's stored teacher take on disk; 0 of other teachers and of pictures."""
    if not isinstance(run.teacher, MapsTeacher) or not run.methods() or not isinstance(data, VolumeCases):
        return 0
    voxels = sum(math.prod(case.way.shape) for part in PARTS for case in data.cases(part))
    return voxels * data.classes * np.dtype(np.float16).itemsize


class VolumeMaps(StoredMaps):
    """The probabilities of each training and validation case of a data set of volumes.

    Raises CheckpointError where a file is missing; what is wrong inside of one is a DataError when it is first read.
    """

    def __init__(self, folder: Path, data: VolumeCases) -> None:
        super().__init__()
        self._data, self._examples = data, PatchExamples(data)
        self._files: dict[Part, list[Path]] = {}
        for part in PARTS:
            places = [data.case_place(part, number) for number in range(len(data.cases(part)))]
            self._files[part] = map_files(folder, part, [_without_channel(place) for place in places], SUFFIXES)
        self._open: dict[tuple[Part, int], Halves] = {}
        # No voxel needs a neighbour's window: they are laid side by side.
        self._window = SlidingWindow(data.settings.patch, overlap=0.0)

    def warped(self, seed: int, view: int, indices: Iterable[int]) -> Tensor:
        """See `StoredMaps`; (n, classes, *patch)."""
        beyond = [SURELY_NOT] * self._data.classes
        beyond[: ground(self._data.regions is not None)] = [0.0] * ground(self._data.regions is not None)
        patches = []
        for index in indices:
            out = np.empty((self._data.classes, *self._data.settings.patch), np.float16)
            outputs = self.prepared("train", self._examples.case(index))
            self._examples.follow(index, derive(seed, "augment", view, index), outputs, out, beyond)
            patches.append(out)
        return torch.from_numpy(np.stack(patches)).float()

    def scored(self, part: Part, ranks: Ranks) -> Iterator[tuple[int, Tensor]]:
        """See `StoredMaps`: slices, from the prepared grid as a network's are; the ranks take cases in turn."""
        first, below = 0, ground(self._data.regions is not None)
        for number, case in enumerate(self._data.cases(part)):
            if number % ranks.world == ranks.rank:
                ranks.watchdog.beat()
                outputs = self.prepared(part, number)
                slices = native_slices(outputs, case.way, self._window, _as_is, ranks.device, ground=below)
                yield from ((first + depth, logits) for depth, logits in slices)
            first += case.way.native.shape[2]

    def prepared(self, part: Part, number: int) -> Halves:
        """Logits (classes, X, Y, Z) of a case on its prepared grid, made where the cache has none. Raises DataError."""
        if (part, number) not in self._open:
            self._open[part, number] = self._kept(self._files[part][number], self._data.cases(part)[number])
        return self._open[part, number]

    def _kept(self, path: Path, case: PreparedCase) -> Halves:
        shape = (self._data.classes, *case.way.shape)
        about = [FORMAT, file_hash(path), case.digest, self._data.classes, self._data.regions is not None]
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
        place = self._data.cache / FOLDER / f"{key}.npy"
        known = _mapped(place, shape)
        if known is not None:
            return known
        try:
            private_folder(place.parent)
            with locked(place.parent / f".{key}.lock", place):
                known = _mapped(place, shape)
                if known is None:
                    require_room(place.parent, 2 * math.prod(shape), f"{path.name} on the prepared grid")
                    self._make(path, case, place)
        except OSError as error:
            raise DataError(
                f"{place.parent}: a teacher's maps cannot be kept there ({refusal_text(error)}); choose another cache "
                "folder"
            ) from error
        known = known if known is not None else _mapped(place, shape)
        if known is None:
            raise DataError(f"{place}: does not hold what was just written there; is the disk damaged?")
        return known

    def _make(self, path: Path, case: PreparedCase, place: Path) -> None:
        """Write the logits of a case's file beside `place` and rename them. Raises OSError, DataError."""
        stored = opened(path)
        _refuse_other_grid(stored, case)
        _refuse_channels(stored, self._data)
        beside = place.with_name(f".{place.name}.{os.getpid()}.npy")
        try:
            out = np.lib.format.open_memmap(
                beside, mode="w+", dtype=np.float16, shape=(self._data.classes, *case.way.shape)
            )
            _fill(out, stored, case, regions=self._data.regions is not None)
            out.flush()
            beside.replace(place)
            sync_folder(place.parent)
        finally:
            beside.unlink(missing_ok=True)


def _fill(out: Halves, stored: Stored, case: PreparedCase, *, regions: bool) -> None:
    """Logits by channel, of which softmax (of regions the sigmoid) is what the file holds. Raises DataError."""
    step, total = step_of(stored), np.zeros(case.way.shape, np.float32)
    alone = len(stored.shape) == 3 and not regions
    for at in range(1 if alone else len(out)):
        chances = _chances(stored, at, case)
        inside = np.clip(chances, step / 2, 1 - step / 2)
        if alone:
            out[0], out[1] = np.log1p(-inside), np.log(inside)
            return
        out[at] = np.log(inside) - np.log1p(-inside) if regions else np.log(inside)
        total += chances
    if not regions:
        low, high = float(total.min()), float(total.max())
        most = _AMISS + len(out) * step / 2
        if not 1 - most <= low <= high <= 1 + most:
            raise DataError(
                f"{stored.path}: the classes of a voxel add up to {low:.3g} to {high:.3g}; expected probabilities that "
                "add up to 1"
            )


def _chances(stored: Stored, channel: int, case: PreparedCase) -> Scores:
    """A channel on the prepared grid. Raises DataError for values outside of 0 to 1."""
    native = channel_of(stored, channel)
    low, high = float(native.min()), float(native.max())
    if not -STEP <= low <= high <= 1 + STEP:  # nan is in no interval
        raise DataError(f"{stored.path}: holds values from {low:.3g} to {high:.3g}; expected probabilities from 0 to 1")
    return np.asarray(linear(native, case.way), np.float32)


def step_of(stored: Stored) -> float:
    """The step that a file's probabilities were rounded to: its scale where it holds whole numbers."""
    whole = np.dtype(stored.proxy.dtype).kind in "bui"
    return max(float(stored.proxy.slope), STEP) if whole and float(stored.proxy.slope) < 1 else STEP


def _refuse_other_grid(stored: Stored, case: PreparedCase) -> None:
    native = case.way.native
    if stored.shape[:3] == native.shape and stored.grid.distance(native) <= APART * min(native.spacing):
        return
    raise DataError(
        f"{stored.path}: does not lie on the grid of {case.name} ({_by(stored.shape[:3])}, the image "
        f"{_by(native.shape)}); write the map with the shape and the affine of its image"
    )


def _refuse_channels(stored: Stored, data: VolumeCases) -> None:
    has = stored.shape[3] if len(stored.shape) == 4 else 1
    one = data.classes == (1 if data.regions is not None else 2)
    if has == data.classes or (has == 1 and one):
        return
    wanted = "regions" if data.regions is not None else "classes"
    raise DataError(
        f"{stored.path}: has {counted(has, 'channel')}, and the data has {data.classes} {wanted}; write them as the "
        "fourth axis, in the order of the study file"
    )


def _mapped(place: Path, shape: tuple[int, ...]) -> Halves | None:
    """The file's array, None where it is not there or not whole."""
    try:
        kept: Halves = array_read(lambda: np.load(place, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
    return kept if kept.shape == shape and kept.dtype == np.float16 else None


def _without_channel(place: str) -> str:
    """A case's image without the channel in its name: of `a_{channel}.nii.gz` that is `a.nii.gz`."""
    for joint in ("_", "-", ""):
        place = place.replace(f"{joint}{CHANNEL}", "")
    return place


def _as_is(outputs: Tensor) -> Tensor:
    return outputs


def _by(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
