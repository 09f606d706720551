"""Where the voxels of a volume lie, how a volume is brought to another grid, and the way back. numpy alone.

Positions are millimetres towards right, front and head (RAS+, as NIfTI's and nibabel's affines are); indices count
voxel centres from 0. A prepared grid differs from its native one by the order and direction of axes, by a scale and by
an offset along each: nothing is ever turned by other angles, so that axes can be resampled one by one.

Two grids are called "resampled to 1.5 mm". `first-centre` keeps the first voxel's centre and has
rint((n - 1) in / out + 1) voxels (MONAI's Spacing, SimpleITK with an equal origin). `edge-to-edge` keeps the outer
edges, has rint(n in / out) voxels, and a true spacing of n in / m beside the nominal one (nnU-Net, torch with
align_corners=False).

Labels are taken from the voxel at floor(x + 0.5), where x is counted in float64 along the prepared axis: halves go up,
whatever the volume's extent and whichever way its file runs. What is within 1e-9 of a half is one: sums of decimal
spacings are not exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Triple = tuple[float, float, float]
Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.uint8]
Places = NDArray[np.int64]
Scores = NDArray[np.float32]
Rule = Literal["first-centre", "edge-to-edge"]
Toward = Literal["RAS", "LPS", "stored"]

_HALF = 0.5 + 1e-9
_EDGE = 0.5 + 1e-6
"""How far, in voxels, a grid reaches beyond its outermost centres."""
_FLIPPED = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1)}


@dataclass(frozen=True)
class Grid:
    """Voxels in space."""

    shape: Shape
    affine: tuple[tuple[float, ...], ...]
    """4 x 4: indices to millimetres, RAS+."""

    @classmethod
    def of(cls, shape: Sequence[int], matrix: Floats) -> "Grid":
        """From an array's shape and a 4 x 4 matrix."""
        x, y, z = (int(side) for side in shape)
        return cls((x, y, z), tuple(tuple(float(value) for value in row) for row in matrix))

    @property
    def matrix(self) -> Floats:
        """The affine as an array."""
        return np.array(self.affine, np.float64)

    @property
    def spacing(self) -> Triple:
        """Millimetres between voxels along each axis, above 0, as `decimal` reads them."""
        x, y, z = (decimal(length) for length in np.sqrt((self.matrix[:3, :3] ** 2).sum(axis=0)))
        return x, y, z

    def distance(self, other: "Grid") -> float:
        """The farthest that a corner voxel's centre lies from its place in another grid of equal shape, millimetres."""
        corners = np.array([[*corner, 1] for corner in product(*((0, side - 1) for side in self.shape))], np.float64)
        apart = corners @ (self.matrix - other.matrix).T
        return float(np.sqrt((apart[:, :3] ** 2).sum(axis=1)).max())


def decimal(length: float) -> float:
    """A length as the decimal number that its single precision stands for: 0.800000011920929 is 0.8.

    Headers keep lengths in single precision, whose rounding would decide where a label that lies half way goes.
    """
    return float(str(np.float32(length)))


class Axis(NamedTuple):
    """How an axis of a prepared grid runs: its voxel p lies at `offset + scale * p` of the native axis."""

    native: int
    scale: float
    """Native voxels from one voxel to the next; below 0 where the two run against each other."""
    offset: float


@dataclass(frozen=True)
class NativeGrid:
    """A prepared grid in the native grid that it came from: the way there and back."""

    native: Grid
    shape: Shape
    """Of the prepared grid."""
    axes: tuple[Axis, Axis, Axis]
    apart: int | None = field(default=None, repr=False)  # sums over cases are of what is shown
    """A prepared axis along which the nearest plane counts on the way back, as nnU-Net has it; None: all are linear."""

    @classmethod
    def unchanged(cls, native: Grid) -> "NativeGrid":
        """The native grid itself."""
        return cls(native, native.shape, (Axis(0, 1.0, 0.0), Axis(1, 1.0, 0.0), Axis(2, 1.0, 0.0)))

    @property
    def grid(self) -> Grid:
        """The prepared grid, with its true affine."""
        matrix, native = np.eye(4), self.native.matrix
        origin = np.array([0.0, 0.0, 0.0, 1.0])
        for at, axis in enumerate(self.axes):
            matrix[:3, at] = native[:3, axis.native] * axis.scale
            origin[axis.native] = axis.offset
        matrix[:, 3] = native @ origin
        return Grid.of(self.shape, matrix)

    @property
    def spacing(self) -> Triple:
        """True millimetres between prepared voxels."""
        x, y, z = (abs(axis.scale) * self.native.spacing[axis.native] for axis in self.axes)
        return x, y, z

    def turned(self, toward: Toward) -> "NativeGrid":
        """The axes in the order x, y, z and in the given directions, as near as they are; stored: as they are."""
        if toward == "stored":
            return self
        axes, shape = [], []
        for (at, sign), wanted in zip(directions(self.grid.matrix), _FLIPPED[toward], strict=True):
            axis, side = self.axes[at], self.shape[at]
            flipped = sign != wanted
            axes.append(Axis(axis.native, -axis.scale, axis.offset + axis.scale * (side - 1)) if flipped else axis)
            shape.append(side)
        return replace(self, shape=(shape[0], shape[1], shape[2]), axes=(axes[0], axes[1], axes[2]))

    def respaced(self, spacing: Triple, rule: Rule) -> "NativeGrid":
        """The grid with another spacing."""
        axes, shape = [], []
        for axis, side, before, after in zip(self.axes, self.shape, self.spacing, spacing, strict=True):
            count, step, first = respaced_axis(side, before, after, rule)
            axes.append(Axis(axis.native, axis.scale * step, axis.offset + axis.scale * first))
            shape.append(count)
        return replace(self, shape=(shape[0], shape[1], shape[2]), axes=(axes[0], axes[1], axes[2]))

    def cut(self, start: Sequence[int], shape: Sequence[int]) -> "NativeGrid":
        """A part of the grid, which may reach beyond it."""
        x, y, z = (
            axis._replace(offset=axis.offset + axis.scale * first) for axis, first in zip(self.axes, start, strict=True)
        )
        return replace(self, shape=(int(shape[0]), int(shape[1]), int(shape[2])), axes=(x, y, z))

    def positions(self, native_axis: int) -> tuple[int, Floats]:
        """The prepared axis that runs along a native one, and where on it the native voxels lie."""
        at = next(at for at, axis in enumerate(self.axes) if axis.native == native_axis)
        axis, last = self.axes[at], self.shape[at] - 1
        places = (np.arange(self.native.shape[native_axis]) - axis.offset) / axis.scale
        if at != self.apart:
            return at, places
        inside = (places >= -_EDGE) & (places <= last + _EDGE)
        return at, np.where(inside, np.clip(np.floor(places + _HALF), 0, last), places)


def respaced_axis(side: int, before: float, after: float, rule: Rule) -> tuple[int, float, float]:
    """How many voxels a side gets at another spacing, their distance, and the first one's place, both in old voxels."""
    if before == after:
        return side, 1.0, 0.0
    if rule == "first-centre":
        return max(1, int(np.rint((side - 1) * before / after + 1))), _ratio(after, before), 0.0
    count = max(1, int(np.rint(side * before / after)))
    step = side / count
    return count, step, (step - 1) / 2


def _ratio(after: float, before: float) -> float:
    """The quotient of two decimal lengths: 1.05 / 0.7 is 1.5, and not 1.5000000000000002."""
    return float(Fraction(str(after)) / Fraction(str(before)))


def directions(matrix: Floats) -> tuple[tuple[int, int], ...]:
    """For right, front and head, the index axis that goes that way most nearly, and 1 or -1 where it goes against it.

    As nibabel's io_orientation: of the rotation that is nearest to the affine, the largest entry of each axis in turn.
    """
    lengths = np.sqrt((matrix[:3, :3] ** 2).sum(axis=0))
    left, _, right = np.linalg.svd(matrix[:3, :3] / lengths)
    turn = left @ right
    ways: dict[int, tuple[int, int]] = {}
    for axis in np.argsort(-np.abs(turn).max(axis=0), kind="stable"):
        world = int(np.abs(turn[:, axis]).argmax())
        ways[world] = (int(axis), 1 if turn[world, axis] > 0 else -1)
        turn[world, :] = 0.0
    return tuple(ways[world] for world in range(3))


def linear(volume: NDArray[Any], way: NativeGrid) -> NDArray[Any]:
    """A native volume (X, Y, Z) on the prepared grid, interpolated linearly with sums in float64; beyond the outermost
    centres their values go on. Where no voxel lies between others the values are the volume's own, in its type."""
    out = volume.transpose([axis.native for axis in way.axes])
    for at, axis in enumerate(way.axes):
        low, high, share = neighbours(axis.offset + axis.scale * np.arange(way.shape[at]), out.shape[at])
        out = _blended(out, at, low, high, share)
    return out


def nearest_labels(labels: Labels, way: NativeGrid) -> Labels:
    """Native labels (X, Y, Z) on the prepared grid: of the voxel at floor(x + 0.5), the outermost ones going on."""
    taken = [
        _nearest(axis.offset + axis.scale * np.arange(count), labels.shape[axis.native], against=axis.scale < 0)
        for axis, count in zip(way.axes, way.shape, strict=True)
    ]
    return np.ascontiguousarray(labels.transpose([axis.native for axis in way.axes])[np.ix_(*taken)])


class Blend(NamedTuple):
    """For each place on an axis the neighbours below and above, and the share of the one above."""

    low: Places
    high: Places
    share: Scores

    @classmethod
    def of(cls, places: Floats, side: int) -> "Blend":
        low, high, share = neighbours(places, side)
        return cls(low, high, share.astype(np.float32))

    def along_columns(self, plane: Scores) -> Scores:
        """(X, Y) to (X, B)."""
        below = np.take(plane, self.low, axis=1, mode="clip")
        if self.share.any():
            mixed = np.take(plane, self.high, axis=1, mode="clip")
            mixed -= below
            mixed *= self.share
            below += mixed
        return below

    def along_rows(self, plane: Scores, out: Scores) -> None:
        """(X, B) to (A, B)."""
        np.take(plane, self.low, axis=0, out=out, mode="clip")
        if self.share.any():
            mixed = np.take(plane, self.high, axis=0, mode="clip")
            mixed -= out
            mixed *= self.share[:, None]
            out += mixed


def _blended(values: NDArray[Any], axis: int, low: Places, high: Places, share: NDArray[Any]) -> NDArray[Any]:
    """Along an axis: (1 - share) of the lower neighbour and share of the higher one, in share's precision."""
    if not share.any():
        return values if _all(low, values.shape[axis]) else np.take(values, low, axis=axis)
    weight = share.reshape(-1, *(1,) * (values.ndim - 1 - axis))
    below = np.take(values, low, axis=axis).astype(share.dtype, copy=False)
    mixed = np.take(values, high, axis=axis).astype(share.dtype, copy=False)
    mixed -= below
    mixed *= weight
    mixed += below
    return mixed


def neighbours(places: Floats, side: int) -> tuple[Places, Places, Floats]:
    """The voxels below and above each place, and the share of the one above."""
    inside = np.clip(places, 0, side - 1)
    low = np.floor(inside).astype(np.int64)
    return low, np.minimum(low + 1, side - 1), inside - low


def _nearest(places: Floats, side: int, *, against: bool = False) -> Places:
    """The nearest voxels; against: the side runs against the axis along which halves go up."""
    whole = -np.floor(_HALF - places) if against else np.floor(places + _HALF)
    taken: Places = np.clip(whole, 0, side - 1).astype(np.int64)
    return taken


def reached(places: Floats, side: int) -> tuple[int, int]:
    """From where to where the places lie in a side, half a voxel around its outermost centres counted in."""
    inner = np.flatnonzero((places >= -_EDGE) & (places <= side - 1 + _EDGE))
    return (int(inner[0]), int(inner[-1]) + 1) if len(inner) else (0, 0)


def _all(taken: Places, side: int) -> bool:
    return len(taken) == side and bool((taken == np.arange(side)).all())
