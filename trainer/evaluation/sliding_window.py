"""A network over a volume that is larger than its patch: overlapping windows, and the weighted mean of their logits.

Planes along the first axis are handed on as soon as no further window reaches them, so that the logits of a whole
volume never lie in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from trainer.data.volumes.windows import WEIGHTS, Size, Tiling, Weights, padding, starts

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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

    def planes(
        self, volume: "Tensor", predict: "Callable[[Tensor], Tensor]", device: "torch.device"
    ) -> "Iterator[tuple[int, Tensor]]":
        """Logits of a volume (C, X, Y, Z), piece by piece along X: the first plane, and (classes, planes, Y, Z) float32
        on `device`, where the windows are sent and the sums are kept.

        predict: (n, C, *size) to logits (n, classes, *size). A volume that is smaller than a window is surrounded by
        zeros, the odd plane behind, and what is beyond it is cut off again.
        """
        import torch
        from torch.nn import functional

        around = padding(tuple(volume.shape[1:]), self.size)
        if any(before or behind for before, behind in around):
            volume = functional.pad(volume, [end for pair in reversed(around) for end in pair])
        length, *across = volume.shape[1:]
        weights = torch.from_numpy(WEIGHTS[self.weights](self.size)).to(device)
        firsts = starts(length, self.size[0], self.overlap, self.tiling)
        rows, columns = (
            starts(side, window, self.overlap, self.tiling) for side, window in zip(across, self.size[1:], strict=True)
        )
        kept = tuple(slice(before, side - behind) for side, (before, behind) in zip(across, around[1:], strict=True))
        low, high = around[0][0], length - around[0][1]
        sums: Tensor | None = None
        total = torch.zeros(self.size[0], *across, device=device)
        for first, following in zip(firsts, [*firsts[1:], length], strict=True):
            for places in _batches(list(product(rows, columns)), self.batch):
                logits = predict(self._windows(volume, first, places).to(device)).float()
                if sums is None:
                    sums = torch.zeros(logits.shape[1], *total.shape, device=device)
                for (row, column), one in zip(places, logits, strict=True):
                    part = (slice(None), slice(row, row + self.size[1]), slice(column, column + self.size[2]))
                    sums[(slice(None), *part)] += one * weights
                    total[part] += weights
            if sums is None:
                raise RuntimeError("a volume has one window at least")
            done = following - first
            begin, end = max(low - first, 0), min(high - first, done)
            if begin < end:
                yield first + begin - low, (sums[:, begin:end] / total[begin:end])[(slice(None), slice(None), *kept)]
            _advance(sums, done, axis=1)
            _advance(total, done, axis=0)

    def _windows(self, volume: "Tensor", first: int, places: list[tuple[int, int]]) -> "Tensor":
        import torch

        x, y, z = self.size
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
