"""The way back to a file's own grid by affines and scipy alone: what the program's is compared with."""

import numpy as np
import torch
from scipy import ndimage

from trainer.data.volumes.geometry import NativeGrid
from trainer.evaluation.native_slices import native_slices
from trainer.evaluation.sliding_window import SlidingWindow

EDGE = 0.5 + 1e-6


def places(way: NativeGrid) -> np.ndarray:
    """Where every native voxel lies among the prepared ones, (3, *native shape), by way of millimetres."""
    native = np.indices(way.native.shape, np.float64).reshape(3, -1)
    there = np.linalg.inv(way.grid.matrix) @ way.native.matrix @ np.concatenate([native, np.ones((1, native.shape[1]))])
    return there[:3].reshape(3, *way.native.shape)


def reached(way: NativeGrid) -> np.ndarray:
    """Which native voxels lie in the prepared grid, half a voxel around its outermost centres counted in."""
    sides = np.array(way.shape).reshape(3, 1, 1, 1)
    there = places(way)
    return ((there >= -EDGE) & (there <= sides - 1 + EDGE)).all(axis=0)


def labels_back(labels: np.ndarray, way: NativeGrid, *, outside: int = 0) -> np.ndarray:
    """Prepared labels on the native grid: of the nearest voxel, halves going up."""
    nearest = np.floor(places(way) + EDGE).astype(int)
    taken = [np.clip(own, 0, side - 1) for own, side in zip(nearest, labels.shape, strict=True)]
    return np.where(reached(way), labels[tuple(taken)], outside).astype(np.uint8)


def scores_back(scores: np.ndarray, way: NativeGrid) -> np.ndarray:
    """Scores (C, X, Y, Z) on the native grid as scipy interpolates them in float64; beyond the reach they go on."""
    sides = np.array(way.shape).reshape(3, 1, 1, 1)
    inside = np.clip(places(way), 0, sides - 1)
    return np.stack([ndimage.map_coordinates(own.astype(np.float64), inside, order=1) for own in scores])


def native_scores(scores: np.ndarray, way: NativeGrid, patch: tuple[int, int, int] | None = None) -> np.ndarray:
    """What the program makes of them with a network that hands on its input; patch None: one window for all."""
    window = SlidingWindow(patch or way.shape, 0.5)
    slices = dict(native_slices(scores, way, window, lambda windows: windows, torch.device("cpu")))
    assert sorted(slices) == list(range(way.native.shape[2]))
    return torch.stack([slices[depth] for depth in sorted(slices)], dim=-1).numpy()
