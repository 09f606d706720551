"""Bringing two maps of different size together."""

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
