"""Squared Euclidean distances of masks, exact, on any device and without waiting for one."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Voxels = np.ndarray[Any, np.dtype[Any]]


def squared_distances(masks: Tensor) -> Tensor:
    """The squared distance from each voxel to the nearest one on the mask's other side, in voxels; 0 everywhere where
    a mask is empty or full. (B, *S) bool to float32, without gradient.

    On a CPU scipy computes it, in as many threads as torch has. Elsewhere it is a minimum over shifts along each axis
    in turn, after Felzenszwalb and Huttenlocher 2012 (Theory of Computing 8, section 2): as many passes over the masks
    as their sides have voxels, and nothing is read on the host. Both give the same whole numbers.
    """
    if masks.device.type == "cpu":
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:
            each = list(threads.map(_of_one, masks.numpy()))
        return torch.from_numpy(np.stack(each))
    both = torch.where(masks, to_nearest(~masks), to_nearest(masks))
    flat = masks.flatten(1)
    mixed = flat.any(1) & ~flat.all(1)
    return both * mixed.view(-1, *[1] * (masks.ndim - 1))


def _of_one(mask: Voxels) -> Voxels:
    if mask.all() or not mask.any():
        return np.zeros(mask.shape, np.float32)
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    squares: Voxels = np.rint(inside**2 + outside**2).astype(np.float32)
    return squares


def to_nearest(marked: Tensor) -> Tensor:
    """The squared distance to the nearest marked voxel; more than any distance can be where none is marked."""
    beyond = float(sum(length**2 for length in marked.shape[1:]) + 1)
    field = torch.where(marked, 0.0, beyond)
    for axis in range(1, marked.ndim):
        before, length = field, field.shape[axis]
        for shift in range(1, length):
            kept = length - shift
            ahead = before.narrow(axis, shift, kept) + float(shift**2)
            behind = before.narrow(axis, 0, kept) + float(shift**2)
            field = field.clone() if shift == 1 else field
            field.narrow(axis, 0, kept).copy_(torch.minimum(field.narrow(axis, 0, kept), ahead))
            field.narrow(axis, shift, kept).copy_(torch.minimum(field.narrow(axis, shift, kept), behind))
    return field
