"""Squared Euclidean distances of masks, exact, on any device and without waiting for one."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Voxels = np.ndarray[Any, np.dtype[Any]]

LONGEST = 512
"""Up to this side OpenCV's float32 distances of an image are exact: squares and their sums are whole numbers below
2^24, and where two voxels' parabolas meet is known to less than half of how near that can be to a voxel."""


def squared_distances(masks: Tensor) -> Tensor:
    """The squared distance from each voxel to the nearest one on the mask's other side, in voxels; 0 everywhere where
    a mask is empty or full. (B, *S) bool to float32, without gradient.

    On a CPU OpenCV computes it for images with sides up to LONGEST, a third of the time of scipy, which computes it for
    others; in as many threads as torch has. Elsewhere it is a minimum over shifts along each axis in turn, after
    Felzenszwalb and Huttenlocher 2012 (Theory of Computing 8, section 2): as many passes over the masks as their sides
    have voxels, and nothing is read on the host. All give the same whole numbers.
    """
    if masks.device.type == "cpu":
        return torch.from_numpy(np.stack(list(_each(masks.numpy()))))
    both = torch.where(masks, to_nearest(~masks), to_nearest(masks))
    flat = masks.flatten(1)
    mixed = flat.any(1) & ~flat.all(1)
    return both * mixed.view(-1, *[1] * (masks.ndim - 1))


def _each(masks: Voxels) -> Iterable[Voxels]:
    workers = torch.get_num_threads()
    if workers == 1:
        return map(_of_one, masks)
    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(_of_one, masks))


def _of_one(mask: Voxels) -> Voxels:
    if mask.all() or not mask.any():
        return np.zeros(mask.shape, np.float32)
    transform = _of_image if mask.ndim == 2 and max(mask.shape) <= LONGEST else ndimage.distance_transform_edt
    # One of the two is 0 everywhere.
    squares: Voxels = np.rint(np.square(transform(mask) + transform(~mask))).astype(np.float32)
    return squares


def _of_image(mask: Voxels) -> Voxels:
    distances: Voxels = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distances


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
