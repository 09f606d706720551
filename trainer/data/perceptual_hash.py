"""Sketches of pictures: what shows that two files hold the same picture, though stored, sized or turned differently.

A sketch is the coarse structure of a picture's brightness: the 16 x 16 lowest frequencies of the discrete cosine
transform of its 64 x 64 miniature, the mean left out and each weighted by its frequency, because the spectrum of
photographs falls with it and the few lowest are alike in all pictures of one kind. Two sketches are as similar as their
correlation, 1 at most. A mirrored picture has the same frequencies with other signs, one turned by 90 degrees the
transposed ones, so that all eight ways to lay it are compared without reading it again. Each picture has two: of the
whole, and of what is left without a frame of one colour.

What it finds and what it takes for alike by mistake is measured by benchmarks/duplicates.py.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import Pixels
from trainer.data.files import pixel_hash

SIDE = 16
BYTES = 2 * SIDE * SIDE
ALIKE = 0.95
"""Similarity from which two pictures are called near-identical. Pictures of one video that were taken a moment apart
reach it, too."""

_MINIATURE = 64
_AT_ONCE = 512
_FLAT = 2.0
"""Standard deviation, in grey levels, below which a picture shows nothing to compare."""
_FRAME = 8.0
"""Standard deviation, in grey levels, below which a line at the edge is taken for a frame of one colour."""

_FREQUENCY = np.hypot(*np.mgrid[:SIDE, :SIDE]).astype(np.float32)
Brightness = NDArray[np.float32]


class ImageHashes(NamedTuple):
    """What is kept of a picture to find it again."""

    pixels: str
    """sha256 of what it shows."""
    sketch: bytes


class Alike(NamedTuple):
    """Two pictures, by their places in what was compared."""

    first: int
    second: int
    similarity: float


def image_hashes(pixels: Pixels) -> ImageHashes:
    """The look of a picture (H, W, 3) RGB."""
    return ImageHashes(pixel_hash(pixels), sketch(pixels))


def sketch(pixels: Pixels) -> bytes:
    """BYTES bytes for a picture (H, W, 3) RGB. All zero where it shows nothing but one colour."""
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32)
    whole = _frequencies(grey)
    inner = _unframed(grey)
    parts = whole, whole if inner.shape == grey.shape else _frequencies(inner)
    return b"".join(part.tobytes() for part in parts)


def alike(first: Sequence[bytes], second: Sequence[bytes] | None = None, *, least: float = ALIKE) -> list[Alike]:
    """All pairs at least so similar, by their places: of `first` with `second`, or within `first` (each pair once)."""
    ours = _unpacked(first)
    others = ours if second is None else _unpacked(second)
    if not len(ours) or not len(others):
        return []
    pairs = []
    for start in range(0, len(ours), _AT_ONCE):
        after = start if second is None else 0
        similar = _similarity(ours[start : start + _AT_ONCE], others[after:])
        for row, column in np.argwhere(similar >= least):
            one, other = start + int(row), after + int(column)
            if second is not None or one < other:
                pairs.append(Alike(one, other, min(1.0, float(similar[row, column]))))
    return pairs


def _similarity(ours: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, m): the largest correlation over the eight ways to lay a picture, of wholes and of what is inside frames."""
    whole = _largest(ours[:, 0], others[:, 0])
    # Only a frame makes the two sketches of a picture differ.
    ours_framed, others_framed = (np.flatnonzero((each[:, 0] != each[:, 1]).any(axis=1)) for each in (ours, others))
    if len(ours_framed):
        whole[ours_framed] = np.maximum(whole[ours_framed], _largest(ours[ours_framed, 1], others[:, 1]))
    if len(others_framed):
        inner = _largest(ours[:, 1], others[others_framed, 1])
        whole[:, others_framed] = np.maximum(whole[:, others_framed], inner)
    return whole


def _largest(ours: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    best = np.full((len(ours), len(others)), -1.0, np.float32)
    for turned in _laid(ours.reshape(-1, SIDE, SIDE)):
        np.maximum(best, turned.reshape(len(ours), -1) @ others.T, out=best)
    return best


def _laid(frequencies: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The frequencies (n, SIDE, SIDE) of each picture mirrored and turned in all eight ways."""
    signs = np.where(np.arange(SIDE) % 2, -1.0, 1.0).astype(np.float32)
    for turned in (frequencies, frequencies.transpose(0, 2, 1)):
        for down in (turned, turned * signs[:, None]):
            yield down
            yield down * signs


def _unpacked(sketches: Sequence[bytes]) -> NDArray[np.float32]:
    """(n, 2, SIDE * SIDE), each of length 1, or 0 where there is nothing to compare."""
    raw = np.frombuffer(b"".join(sketches), np.int8).reshape(len(sketches), 2, SIDE * SIDE).astype(np.float32)
    length = np.linalg.norm(raw, axis=2, keepdims=True)
    unpacked: NDArray[np.float32] = raw / np.maximum(length, 1.0)
    return unpacked


def _frequencies(grey: Brightness) -> NDArray[np.int8]:
    """(SIDE, SIDE) weighted frequencies, the largest 127."""
    height, width = grey.shape
    # Means first, so that nothing finer than the miniature is mistaken for something coarse.
    less = (min(width, _MINIATURE), min(height, _MINIATURE))
    small = cv2.resize(grey, less, interpolation=cv2.INTER_AREA)
    small = cv2.resize(small, (_MINIATURE, _MINIATURE), interpolation=cv2.INTER_LINEAR)
    if float(small.std()) < _FLAT:
        return np.zeros((SIDE, SIDE), np.int8)
    weighted = cv2.dct(small)[:SIDE, :SIDE] * _FREQUENCY
    scaled: NDArray[np.int8] = np.rint(weighted * (127 / np.abs(weighted).max())).astype(np.int8)
    return scaled


def _unframed(grey: Brightness) -> Brightness:
    """Without the lines of one colour at the edges; as it is where less than half a side would be left."""
    inner = grey
    while True:
        # Lines are flat only once the frame on the other two sides is gone, and that of another colour around it.
        top, bottom = _inner(inner)
        left, right = _inner(inner[top:bottom].T) if bottom > top else (0, 0)
        if 2 * (bottom - top) < grey.shape[0] or 2 * (right - left) < grey.shape[1]:
            return grey
        if (bottom - top, right - left) == inner.shape:
            return inner
        inner = inner[top:bottom, left:right]


def _inner(grey: Brightness) -> tuple[int, int]:
    """The rows between flat ones, from and to."""
    shown = np.flatnonzero(grey.std(axis=1) >= _FRAME)
    return (int(shown[0]), int(shown[-1]) + 1) if len(shown) else (0, 0)
