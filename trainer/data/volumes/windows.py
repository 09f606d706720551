"""Where the windows of a sliding window lie, and what each of their voxels weighs; numpy alone, as packages need it."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Tiling = Literal["clamped", "spread"]
Weights = Literal["constant", "gaussian"]
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


def count_windows(shape: tuple[int, ...], window: Size, overlap: float, tiling: Tiling) -> int:
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


WEIGHTS: Mapping[Weights, Callable[[Size], NDArray[np.float32]]] = {"constant": constant, "gaussian": gaussian}
"""What the voxels of a window weigh where windows overlap, by name."""


def padding(shape: tuple[int, ...], window: Size) -> list[tuple[int, int]]:
    """Voxels to be added before and behind along each axis, so that a window fits; the odd one goes behind."""
    lacking = [max(side - length, 0) for length, side in zip(shape, window, strict=True)]
    return [(lack // 2, lack - lack // 2) for lack in lacking]
