"""A network over a volume that is larger than its patch: overlapping windows, and the weighted mean of their logits.

Planes along the first axis are handed on as soon as no further window reaches them, so that the logits of a whole
volume never lie in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from trainer.config import Tiling, Weights
from trainer.data.volumes.windows import Size, Sweep, count_windows, sweep

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class _Stack(Protocol):
    def __len__(self) -> int: ...


Windows = TypeVar("Windows", bound=_Stack)
"""Windows behind one another, or their logits: a tensor, or an array."""

PIECE = 8
"""Planes that are handed on together, so that beside the sums no second copy of a window's depth lies in memory."""


@dataclass(frozen=True)
class SlidingWindow:
    """How a volume is covered."""

    size: Size
    """(X, Y, Z) in voxels; the network's patch."""
    overlap: float = 0.5
    """The share of a window that the next one covers."""
    weights: Weights = "constant"
    tiling: Tiling = "clamped"
    batch: int = 4
    """Windows that go through the network together; it changes no value beyond rounding."""

    def count(self, shape: Sequence[int]) -> int:
        """How many windows cover a volume of three sides."""
        return count_windows(shape, self.size, self.overlap, self.tiling)

    def sweep(self, shape: Sequence[int], axis: int) -> Sweep:
        """How the windows go over a volume of three sides along one of its axes."""
        return sweep(shape, self.size, self.overlap, self.weights, self.tiling, axis=axis)

    def planes(
        self, volume: "Tensor", predict: "Callable[[Tensor], Tensor]", device: "torch.device", *, axis: int = 0
    ) -> "Iterator[tuple[int, Tensor]]":
        """Logits of a volume (C, X, Y, Z), piece by piece along one of the axes X, Y, Z (0 to 2).

        Each piece is the number of its first plane and (classes, planes, *the other axes in their order) float32 on
        `device`, where the windows are sent and the sums are kept. predict: (n, C, *size) to logits (n, classes,
        *size). A volume that is smaller than a window is surrounded by zeros, the odd plane behind, and what is beyond
        it is cut off again.
        """
        import torch

        way = self.sweep(volume.shape[1:], axis)
        turned = _padded(volume.permute(0, *(1 + at for at in way.order)), way.around)
        weights = torch.from_numpy(np.ascontiguousarray(way.weights)).to(device)
        alike = bool((way.weights == 1).all())  # a product with 1 changes nothing
        sums: Tensor | None = None
        total = torch.zeros(way.window[0], *way.padded[1:], device=device)
        for layer in way.layers:
            for places in _batches(way.places, self.batch):
                windows = _windows(turned, layer.first, places, way).permute(0, 1, *(2 + at for at in way.back))
                logits = predict(windows.contiguous().to(device)).float().permute(0, 1, *(2 + at for at in way.order))
                if sums is None:
                    sums = torch.zeros(logits.shape[1], *total.shape, device=device)
                for place, one in zip(places, logits, strict=True):
                    part = (slice(None), *way.part(*place))
                    sums[(slice(None), *part)] += one if alike else one * weights
                    total[part] += weights
            if sums is None:
                raise RuntimeError("a volume has one window at least")
            for at in range(layer.begin, layer.end, PIECE):
                to = min(at + PIECE, layer.end)
                piece = sums[:, at:to] / total[at:to]
                yield layer.number + at - layer.begin, piece[(slice(None), slice(None), *way.kept)]
            _advance(sums, layer.advance, axis=1)
            _advance(total, layer.advance, axis=0)


def counted_windows(
    predict: Callable[[Windows], Windows], total: int, progress: Callable[[int, int], None]
) -> Callable[[Windows], Windows]:
    """A network that says after each of its calls how many windows of how many it has seen."""
    done = 0

    def call(windows: Windows) -> Windows:
        nonlocal done
        logits = predict(windows)
        done += len(windows)
        progress(done, total)
        return logits

    return call


def _padded(volume: "Tensor", around: Sequence[tuple[int, int]]) -> "Tensor":
    from torch.nn import functional

    if not any(before or behind for before, behind in around):
        return volume
    return functional.pad(volume, [end for pair in reversed(around) for end in pair])


def _windows(volume: "Tensor", first: int, places: Sequence[tuple[int, int]], way: Sweep) -> "Tensor":
    import torch

    depth = slice(first, first + way.window[0])
    return torch.stack([volume[(slice(None), depth, *way.part(*place))] for place in places])


def _batches(places: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _advance(sums: "Tensor", planes: int, axis: int) -> None:
    """Move the sums to the front by so many planes and clear what follows, in place."""
    left = sums.shape[axis] - planes
    if left > 0:
        sums.narrow(axis, 0, left).copy_(sums.narrow(axis, planes, left).clone())
    sums.narrow(axis, max(left, 0), min(planes, sums.shape[axis])).zero_()
