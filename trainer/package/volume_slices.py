"""A network over a whole prepared volume, to logits on the grid of its files slice by slice: numpy alone, no torch.

The same windows, weights and places as `trainer.evaluation.sliding_window` and `native_slices` have on a device.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.volumes.geometry import Blend, NativeGrid, reached
from trainer.evaluation.native_slices import SURELY_NOT, between_planes, unreached_slices
from trainer.evaluation.sliding_window import SlidingWindow
from trainer.package.onnx_runtime import Floats

Predict = Callable[[Floats], Floats]
"""Windows (n, C, X, Y, Z) to their logits (n, classes, X, Y, Z)."""


def slices_of_case(
    image: NDArray[Any], grid: NativeGrid, window: SlidingWindow, predict: Predict, *, ground: int
) -> Iterator[tuple[int, Floats]]:
    """Logits (classes, A, B) of each slice along the last native axis, with its number; they are overwritten by the
    next. The order is that of the prepared grid, and slices that it does not reach come last.

    image: (C, X, Y, Z) of the prepared grid. ground: how many of the classes, from the first, are what lies beyond it.
    """
    depth = grid.positions(2)[0]
    swapped = grid.positions(0)[0] > grid.positions(1)[0]
    native = _Slice(grid, ground)
    for number, plane in between_planes(native.seen(planes(image, window, predict, axis=depth)), grid, _mixed):
        yield number, native.of(plane.transpose(0, 2, 1) if swapped else plane)
    for number in unreached_slices(grid):
        yield number, native.empty()


def planes(image: NDArray[Any], window: SlidingWindow, predict: Predict, *, axis: int) -> Iterator[tuple[int, Floats]]:
    """Logits (classes, *the other axes) of each plane along one of the axes X, Y, Z of an image (C, X, Y, Z), in order
    and with its number, as soon as no further window reaches it: sums are kept of one window's depth alone.

    An image that is smaller than a window is surrounded by zeros, the odd plane behind.
    """
    way = window.sweep(image.shape[1:], axis)
    turned = np.pad(image.transpose(0, *(1 + at for at in way.order)), [(0, 0), *way.around])
    depth = way.window[0]
    total = np.zeros((depth, *turned.shape[2:]), np.float32)
    sums: Floats | None = None
    for layer in way.layers:
        for place in way.places:
            part = way.part(*place)
            one = turned[(slice(None), slice(layer.first, layer.first + depth), *part)]
            one = one.transpose(0, *(1 + at for at in way.back))
            logits = predict(np.ascontiguousarray(one, np.float32)[None])[0]
            if sums is None:
                sums = np.zeros((depth, len(logits), *turned.shape[2:]), np.float32)
            sums[(slice(None), slice(None), *part)] += (
                logits.transpose(0, *(1 + at for at in way.order)) * way.weights
            ).swapaxes(0, 1)
            total[(slice(None), *part)] += way.weights
        if sums is None:
            raise RuntimeError("a volume has one window at least")
        for plane in range(layer.begin, layer.end):
            yield layer.number + plane - layer.begin, (sums[plane] / total[plane])[(slice(None), *way.kept)]
        _advance(sums, layer.advance)
        _advance(total, layer.advance)


def _advance(sums: Floats, count: int) -> None:
    """Move planes to the front by so many and clear what follows, in place and one by one: no second copy of all."""
    for at in range(len(sums)):
        sums[at] = sums[at + count] if at + count < len(sums) else 0.0


def _mixed(below: Floats, above: Floats, share: float) -> Floats:
    return below if share == 0 else below + (above - below) * np.float32(share)


class _Slice:
    """Planes of a prepared grid on the first two native axes; what the grid does not reach is ground."""

    def __init__(self, grid: NativeGrid, ground: int) -> None:
        self._ground = ground
        self._sides = grid.native.shape[:2]
        self._whole: Floats = np.empty((0, *self._sides), np.float32)
        self._classes = 0
        ways = [(grid.positions(native)[1], grid.shape[grid.positions(native)[0]]) for native in (0, 1)]
        self._reach = [reached(places, side) for places, side in ways]
        self._rows, self._columns = (
            Blend.of(places[slice(*own)], side) for (places, side), own in zip(ways, self._reach, strict=True)
        )

    def seen(self, planes: Iterator[tuple[int, Floats]]) -> Iterator[tuple[int, Floats]]:
        """The planes as they come; how many classes they have is kept."""
        for number, plane in planes:
            self._classes = len(plane)
            yield number, plane

    def of(self, plane: Floats) -> Floats:
        """A plane (classes, U, V), whose axes go as the native ones, on these; the next call overwrites it."""
        whole = self.empty() if len(self._whole) != len(plane) else self._whole
        inner = whole[:, slice(*self._reach[0]), slice(*self._reach[1])]
        taken = np.empty(inner.shape[1:], np.float32)
        for at, one in enumerate(plane):
            self._rows.along_rows(self._columns.along_columns(one), taken)
            inner[at] = taken
        self._whole = whole
        return whole

    def empty(self) -> Floats:
        """A slice that is ground alone."""
        whole = np.full((self._classes, *self._sides), SURELY_NOT, np.float32)
        whole[: self._ground] = 0.0
        return whole
