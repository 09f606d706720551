"""A network over a volume that is larger than its patch: overlapping windows, and the weighted mean of their logits.

Planes along the first axis are handed on as soon as no further window reaches them, so that the logits of a whole
volume never lie in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Protocol, TypeVar

from trainer.data.volumes.windows import WEIGHTS, Size, Tiling, Weights, padding, starts

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
        sides = zip(shape, self.size, strict=True)
        return prod(len(starts(max(side, own), own, self.overlap, self.tiling)) for side, own in sides)

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

        order = [axis, *(other for other in range(3) if other != axis)]
        around = [padding(tuple(volume.shape[1:]), self.size)[at] for at in order]
        turned = _padded(volume.permute(0, *(1 + at for at in order)), around)
        sides = tuple(self.size[at] for at in order)
        weights = torch.from_numpy(WEIGHTS[self.weights](self.size)).to(device).permute(order)
        length, *across = turned.shape[1:]
        firsts, rows, columns = (
            starts(side, window, self.overlap, self.tiling)
            for side, window in zip(turned.shape[1:], sides, strict=True)
        )
        kept = tuple(slice(before, side - behind) for side, (before, behind) in zip(across, around[1:], strict=True))
        low, high = around[0][0], length - around[0][1]
        sums: Tensor | None = None
        total = torch.zeros(sides[0], *across, device=device)
        back = [1 + order.index(at) for at in range(3)]
        for first, following in zip(firsts, [*firsts[1:], length], strict=True):
            for places in _batches(list(product(rows, columns)), self.batch):
                windows = _windows(turned, first, places, sides).permute(0, 1, *(1 + at for at in back))
                logits = predict(windows.contiguous().to(device)).float().permute(0, 1, *(2 + at for at in order))
                if sums is None:
                    sums = torch.zeros(logits.shape[1], *total.shape, device=device)
                for (row, column), one in zip(places, logits, strict=True):
                    part = (slice(None), slice(row, row + sides[1]), slice(column, column + sides[2]))
                    sums[(slice(None), *part)] += one * weights
                    total[part] += weights
            if sums is None:
                raise RuntimeError("a volume has one window at least")
            done = following - first
            begin, end = max(low - first, 0), min(high - first, done)
            for at in range(begin, end, PIECE):
                to = min(at + PIECE, end)
                yield first + at - low, (sums[:, at:to] / total[at:to])[(slice(None), slice(None), *kept)]
            _advance(sums, done, axis=1)
            _advance(total, done, axis=0)


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


def _padded(volume: "Tensor", around: list[tuple[int, int]]) -> "Tensor":
    from torch.nn import functional

    if not any(before or behind for before, behind in around):
        return volume
    return functional.pad(volume, [end for pair in reversed(around) for end in pair])


def _windows(volume: "Tensor", first: int, places: list[tuple[int, int]], sides: tuple[int, ...]) -> "Tensor":
    import torch

    x, y, z = sides
    return torch.stack([volume[:, first : first + x, r : r + y, c : c + z] for r, c in places])


def _batches(places: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _advance(sums: "Tensor", planes: int, axis: int) -> None:
    """Move the sums to the front by so many planes and clear what follows, in place."""
    left = sums.shape[axis] - planes
    if left > 0:
        sums.narrow(axis, 0, left).copy_(sums.narrow(axis, planes, left).clone())
    sums.narrow(axis, max(left, 0), min(planes, sums.shape[axis])).zero_()
