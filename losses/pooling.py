"""Bringing two maps of different size together."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def pool_alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (N, C, H, W) or (N, C, D, H, W), the larger averaged down to the smaller along each axis."""
    size = tuple(min(pair) for pair in zip(a.shape[2:], b.shape[2:], strict=True))
    return _pool(a, size), _pool(b, size)


def _pool(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if x.shape[2:] == size:
        return x
    if len(size) == 2:
        return F.adaptive_avg_pool2d(x, (size[0], size[1]))
    return F.adaptive_avg_pool3d(x, (size[0], size[1], size[2]))


def averaged_to_grid(x: Tensor, grid: int) -> Tensor:
    """A map (N, C, *S), averaged down to at most `grid` places along each axis."""
    return _pool(x, tuple(min(length, grid) for length in x.shape[2:]))


def nearest_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """The last axes of a map or of labels (N, ..., *S) in another size, each entry the nearest one at or before it: the
    entry floor(i S / s) of S stands at i of s, as torch's "nearest" has it. Any kind of numbers."""
    axes = range(x.ndim - len(size), x.ndim)
    for axis, length in zip(axes, size, strict=True):
        if x.shape[axis] != length:
            # Whole numbers: a quotient of rounded ones can fall below the place it stands for.
            places = torch.arange(length, device=x.device) * x.shape[axis] // length
            x = x.index_select(axis, places)
    return x
