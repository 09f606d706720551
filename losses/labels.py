"""Which voxels and images count, and in which numbers. Labels (N, *S) are int64; no loss looks at voxels of IGNORE."""

import torch
from torch import Tensor

from losses.term import IGNORE


def valid_voxels(target: Tensor) -> Tensor:
    """(N, *S) bool: voxels whose label is not ignored."""
    return target != IGNORE


def valid_images(valid: Tensor) -> Tensor:
    """(N,) bool: images with a valid voxel at least."""
    return valid.flatten(1).any(dim=1)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """(N, classes, *S) float32: 1 in the channel of the label; all zero where the label is ignored."""
    numbers = torch.arange(classes, device=target.device).view(1, classes, *[1] * (target.ndim - 1))
    return (target.unsqueeze(1) == numbers).float()


def amount(mask: Tensor) -> Tensor:
    """Scalar float64: how many entries of a mask are true; a term's count."""
    return mask.sum(dtype=torch.float64)


def widened(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they are that: what a loss computes with, mixed precision or not."""
    return values if values.dtype == torch.float64 else values.float()
