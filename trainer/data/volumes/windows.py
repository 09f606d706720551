"""Where the windows of a sliding window lie, and what each of their voxels weighs; numpy alone, as packages need it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.config import Tiling, Weights

Size = tuple[int, int, int]

_LEAST = 1e-3
"""The least weight of a Gaussian window, so that a voxel that one corner alone covers keeps a sound quotient."""


def starts(length: int, window: int, overlap: float, tiling: Tiling) -> list[int]:
    """First voxels of the windows along an axis of `length` voxels, at least as long as the window.

    overlap: the share of a window that the next one covers, 0 up to less than 1. `clamped` takes steps of the whole
    number of voxels that is left of the window and puts the last one at the end, as MONAI does; `spread` takes as few
    windows as steps of that length ask for and spreads them evenly, as nnU-Net does.
    """
    if length == window:
        return [0]
    if tiling == "clamped":
        step = max(int(window * (1 - overlap)), 1)
        count = math.ceil((length - window) / step) + 1
        return [min(at * step, length - window) for at in range(count)]
    count = math.ceil((length - window) / (window * (1 - overlap))) + 1
    return [round(at * (length - window) / (count - 1)) for at in range(count)]


def count_windows(shape: Sequence[int], window: Size, overlap: float, tiling: Tiling) -> int:
    """Windows over a volume of this shape; one that is smaller is padded."""
    return math.prod(
        len(starts(max(length, side), side, overlap, tiling)) for length, side in zip(shape, window, strict=True)
    )


def constant(size: Size) -> NDArray[np.float32]:
    """1 for every voxel of a window."""
    return np.ones(size, np.float32)


def gaussian(size: Size) -> NDArray[np.float32]:
    """A Gaussian around the middle of a window, of an eighth of its side as deviation, 1 in the middle."""
    axes = [np.arange(side, dtype=np.float64) - (side - 1) / 2 for side in size]
    bells = [np.exp(-0.5 * (axis / (0.125 * side)) ** 2) for axis, side in zip(axes, size, strict=True)]
    whole: NDArray[np.float64] = bells[0][:, None, None] * bells[1][:, None] * bells[2]
    return np.asarray(np.maximum(whole, _LEAST), np.float32)


def nnunet(size: Size) -> NDArray[np.float32]:
    """nnU-Net's Gaussian: an eighth of the side as deviation around the voxel at half of it, cut off at four
    deviations, in half precision, 10 in the middle, without a floor but the smallest of its values."""
    bells = []
    for side in size:
        away, deviation = np.arange(side, dtype=np.float64) - side // 2, side / 8
        bells.append(np.where(abs(away) <= int(4 * deviation + 0.5), np.exp(-0.5 * (away / deviation) ** 2), 0.0))
    whole = (10 * bells[0][:, None, None] * bells[1][:, None] * bells[2]).astype(np.float16)
    whole[whole == 0] = whole[whole > 0].min()
    return whole.astype(np.float32)


WEIGHTS: Mapping[Weights, Callable[[Size], NDArray[np.float32]]] = {
    "constant": constant,
    "gaussian": gaussian,
    "nnunet": nnunet,
}
"""What the voxels of a window weigh where windows overlap, by name."""


def padding(shape: Sequence[int], window: Size) -> list[tuple[int, int]]:
    """Voxels to be added before and behind along each axis, so that a window fits; the odd one goes behind."""
    lacking = [max(side - length, 0) for length, side in zip(shape, window, strict=True)]
    return [(lack // 2, lack - lack // 2) for lack in lacking]


class Layer(NamedTuple):
    """The windows of a sweep that begin at one plane, and the planes that none of the following ones reaches."""

    first: int
    """Plane of the padded volume at which the windows, and with them the sums, begin."""
    begin: int
    """First plane of the sums that is done and lies in the volume."""
    end: int
    """The one behind the last."""
    number: int
    """Of the plane `begin` in the volume."""
    advance: int
    """By how many planes the sums move to the front afterwards."""


@dataclass(frozen=True)
class Sweep:
    """How windows go over a volume plane by plane along one axis; three sides stand with that axis first."""

    order: tuple[int, int, int]
    """The axes of the volume: the one that is swept, then the others."""
    back: tuple[int, int, int]
    """Where X, Y and Z stand in that order."""
    window: Size
    """Sides of a window."""
    padded: Size
    """Sides of the volume with what surrounds it."""
    around: tuple[tuple[int, int], ...]
    """Planes of zeros before and behind along each axis."""
    weights: NDArray[np.float32]
    """What the voxels of a window weigh."""
    places: tuple[tuple[int, int], ...]
    """First row and column of each window of a layer, in the order in which they are summed."""
    layers: tuple[Layer, ...]

    def part(self, row: int, column: int) -> tuple[slice, slice]:
        """The rows and columns of a window."""
        return slice(row, row + self.window[1]), slice(column, column + self.window[2])

    @property
    def kept(self) -> tuple[slice, slice]:
        """The rows and columns of the padded volume that are its own."""
        rows, columns = (
            slice(before, side - behind)
            for side, (before, behind) in zip(self.padded[1:], self.around[1:], strict=True)
        )
        return rows, columns


def sweep(shape: Sequence[int], window: Size, overlap: float, weights: Weights, tiling: Tiling, *, axis: int) -> Sweep:
    """The sweep over a volume of three sides along one of its axes, 0 to 2.

    A volume that is smaller than a window is surrounded by zeros, the odd plane behind.
    """
    first, second, third = (axis, *(other for other in range(3) if other != axis))
    order = (first, second, third)
    around = tuple(padding(shape, window)[at] for at in order)
    x, y, z = (shape[at] + before + behind for at, (before, behind) in zip(order, around, strict=True))
    sides = (window[first], window[second], window[third])
    firsts, rows, columns = (
        starts(length, side, overlap, tiling) for length, side in zip((x, y, z), sides, strict=True)
    )
    return Sweep(
        order=order,
        back=(order.index(0), order.index(1), order.index(2)),
        window=sides,
        padded=(x, y, z),
        around=around,
        weights=WEIGHTS[weights](window).transpose(order),
        places=tuple(product(rows, columns)),
        layers=tuple(_layers(firsts, x, around[0])),
    )


def _layers(firsts: Sequence[int], length: int, around: tuple[int, int]) -> Iterator[Layer]:
    before, behind = around
    for first, following in zip(firsts, [*firsts[1:], length], strict=True):
        begin, end = max(before - first, 0), min(length - behind, following) - first
        yield Layer(first, begin, end, first + begin - before, following - first)
