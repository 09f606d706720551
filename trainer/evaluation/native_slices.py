"""Logits of a prepared volume on the grid that its files have, slice by slice, so that they are never whole in memory.

A volume is scored as its slices are: the same counts, thresholds and surfaces serve pictures, slices and volumes.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.config import VolumeData
from trainer.data.classes import ground
from trainer.data.dataset import DataSet, Opening, Part
from trainer.data.volumes.geometry import NativeGrid, neighbours, reached
from trainer.evaluation.sliding_window import SlidingWindow

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.data.sets.volumes import VolumeCases
    from trainer.distributed.ranks import Ranks

Plane = TypeVar("Plane")
"""Logits of a plane of the prepared grid: a tensor, or an array."""
SURELY_NOT = -30.0
"""The logit of a class where the prepared grid does not reach: what was cropped away is ground."""


class _Way(NamedTuple):
    """How a native axis takes its voxels from an axis of a plane."""

    first: int
    """The first native voxel that the prepared grid reaches."""
    low: "Tensor"
    high: "Tensor"
    share: "Tensor | None"
    """None: every place is a voxel's own, the one below."""
    side: int
    """Voxels of the native axis."""
    whole: bool
    """Whether the native axis has the plane's own voxels, in their order."""


def volume_slices(
    predict: "Callable[[Tensor], Tensor]", data: DataSet, part: Part, ranks: "Ranks", opening: Opening | None
) -> "Iterator[tuple[int, Tensor]]":
    """Logits (classes, A, B) of every native slice of this rank's cases, with its index among `DataSet.samples`.

    The ranks take cases in turn; a case is one rank's, whatever the world size, so scores are equal bit for bit.
    Raises TypeError for data that is no volumes.
    """
    volumes = _volumes(data)
    first, below, window = 0, ground(data.regions is not None), window_of(volumes.settings)
    for number, case in enumerate(volumes.cases(part, opening)):
        if number % ranks.world == ranks.rank:
            image = case.normaliser.of_case(case.image)
            for depth, logits in native_slices(image, case.way, window, predict, ranks.device, ground=below):
                yield first + depth, logits
        first += case.way.native.shape[2]


def _volumes(data: DataSet) -> "VolumeCases":
    from trainer.data.sets.volumes import VolumeCases

    if not isinstance(data, VolumeCases):
        raise TypeError(f"{data.config.name}: is no data set of volumes")
    return data


def window_count(data: DataSet, part: Part, ranks: "Ranks", opening: Opening | None) -> int:
    """How many windows `volume_slices` sends through the network on this rank. Raises TypeError as it does."""
    volumes = _volumes(data)
    window = window_of(volumes.settings)
    cases = enumerate(volumes.cases(part, opening))
    return sum(window.count(case.way.shape) for number, case in cases if number % ranks.world == ranks.rank)


def window_of(config: VolumeData) -> SlidingWindow:
    """The sliding window that the settings of a data set name."""
    return SlidingWindow(config.patch, config.overlap, config.weights, config.tiling)


def native_slices(
    image: NDArray[np.floating],
    grid: NativeGrid,
    window: SlidingWindow,
    predict: "Callable[[Tensor], Tensor]",
    device: "torch.device",
    *,
    ground: int = 1,
) -> "Iterator[tuple[int, Tensor]]":
    """Logits (classes, A, B) float32 on `device` of each slice (A, B) along the last native axis, with its number.

    image: (C, X, Y, Z) of the prepared grid. Slices come in the order of the prepared grid, those that it does not
    reach last. In between, logits are interpolated linearly; the outermost ones go on for half a voxel. ground: how
    many of the classes, from the first, are what lies beyond: 0 of regions.
    """
    import torch

    depth = grid.positions(2)[0]
    across = [at for at in range(3) if at != depth]
    ways = [_way(grid, native, device) for native in (0, 1)]
    swapped = grid.positions(0)[0] != across[0]
    volume = torch.from_numpy(np.array(image, np.float32))
    pieces = window.planes(volume, predict, device, axis=depth)
    classes = 0

    def planes() -> "Iterator[tuple[int, Tensor]]":
        nonlocal classes
        for first, piece in pieces:
            classes = len(piece)
            # Copies, so that a plane that is kept does not keep its whole piece.
            yield from ((first + at, plane.clone()) for at, plane in enumerate(piece.unbind(1)))

    for number, plane in between_planes(planes(), grid, torch.lerp):
        yield number, _on_native(plane.transpose(1, 2) if swapped else plane, ways, ground)
    empty = _beyond(classes, ground, [way.side for way in ways], device)
    for number in unreached_slices(grid):
        yield number, empty


def between_planes(
    planes: Iterator[tuple[int, Plane]], grid: NativeGrid, mixed: Callable[[Plane, Plane, float], Plane]
) -> Iterator[tuple[int, Plane]]:
    """The plane of each native slice that the prepared grid reaches, with the slice's number, as soon as both prepared
    planes beside it are there.

    planes: all those of the prepared grid in their order, with their numbers. mixed: of the plane below, that above and
    the share of the latter, their linear mean; it is not asked where the share is 0.
    """
    depth, places = grid.positions(2)
    start, stop = reached(places, grid.shape[depth])
    low, high, share = neighbours(places[start:stop], grid.shape[depth])
    high = np.where(share == 0, low, high)
    waiting = sorted(range(stop - start), key=lambda at: (int(low[at]), float(share[at])))
    kept: dict[int, Plane] = {}
    for number, plane in planes:
        kept[number] = plane
        while waiting and int(high[waiting[0]]) in kept:
            at = waiting.pop(0)
            below, above = kept[int(low[at])], kept[int(high[at])]
            yield start + at, below if share[at] == 0 else mixed(below, above, float(share[at]))
        needed = int(low[waiting[0]]) if waiting else number + 1
        kept = {at: plane for at, plane in kept.items() if at >= needed}


def unreached_slices(grid: NativeGrid) -> list[int]:
    """The numbers of the native slices that the prepared grid does not reach."""
    depth, places = grid.positions(2)
    start, stop = reached(places, grid.shape[depth])
    return [*range(start), *range(stop, grid.native.shape[2])]


def _way(grid: NativeGrid, native: int, device: "torch.device") -> _Way:
    import torch

    at, places = grid.positions(native)
    start, stop = reached(places, grid.shape[at])
    own = neighbours(places[start:stop], grid.shape[at])
    low, high, share = (torch.from_numpy(each).to(device) for each in own)
    unchanged = len(places) == grid.shape[at] and bool((own[0] == np.arange(len(places))).all()) and not own[2].any()
    return _Way(start, low, high, share.float() if own[2].any() else None, len(places), unchanged)


def _on_native(plane: "Tensor", ways: list[_Way], ground: int) -> "Tensor":
    """A plane (classes, U, V) on the two native axes; what it does not reach is ground."""
    rows, columns = ways
    taken = _between(_between(plane, 1, rows), 2, columns)
    if taken.shape[1:] == (rows.side, columns.side):
        return taken
    whole = _beyond(len(plane), ground, [rows.side, columns.side], plane.device)
    whole[:, rows.first : rows.first + taken.shape[1], columns.first : columns.first + taken.shape[2]] = taken
    return whole


def _between(values: "Tensor", axis: int, way: _Way) -> "Tensor":
    if way.whole:
        return values
    below = values.index_select(axis, way.low)
    if way.share is None:
        return below
    above = values.index_select(axis, way.high)
    return below.lerp(above, way.share.view([-1 if at == axis else 1 for at in range(values.ndim)]))


def _beyond(classes: int, ground: int, sides: list[int], device: "torch.device") -> "Tensor":
    import torch

    whole = torch.full((classes, *sides), SURELY_NOT, device=device)
    whole[:ground] = 0.0
    return whole
