"""Pairs of label maps, drawn and degenerate, on which scores are held against other libraries'. Numpy alone."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]
IGNORED = 255
DRAWN = 200


class Pair(NamedTuple):
    """Truth and prediction of one case."""

    name: str
    truth: Labels
    """Labels 0..classes-1 and 255; two or three axes."""
    predicted: Labels
    """Labels 0..classes-1."""
    classes: int
    spacing: tuple[float, ...] | None
    """mm; None: pixels."""

    def digest(self) -> str:
        """The beginning of a sha256 over both maps."""
        return hashlib.sha256(self.truth.tobytes() + self.predicted.tobytes()).hexdigest()[:16]

    def masks(self, label: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Where truth and prediction have a class; ignored pixels are in neither."""
        return self.truth == label, (self.predicted == label) & (self.truth != IGNORED)


def drawn(count: int = DRAWN) -> Iterator[Pair]:
    """Random pairs of 2 to 14 classes: a third volumes, a third with a spacing, a quarter with ignored pixels."""
    for number in range(count):
        rng = np.random.default_rng(number)
        classes = 2 + number % 13
        shape = tuple(rng.integers(8, 15, 3)) if number % 3 == 0 else tuple(rng.integers(16, 49, 2))
        truth = _regions(rng, shape, classes)
        predicted = np.roll(truth, rng.integers(0, 3, len(shape)), axis=tuple(range(len(shape))))
        wrong = rng.random(shape) < 0.02
        predicted[wrong] = rng.integers(0, classes, int(wrong.sum()))
        if number % 4 == 0:
            truth[rng.random(shape) < 0.05] = IGNORED
        spacing = tuple(rng.uniform(0.5, 3.0, len(shape)).round(2).tolist()) if number % 3 == 1 else None
        yield Pair(f"drawn-{number}", truth, predicted, classes, spacing)


def _regions(rng: np.random.Generator, shape: tuple[int, ...], classes: int) -> Labels:
    """Each pixel has the label of the nearest of some random points; every third point is background."""
    points = max(3, 2 * classes)
    centres = rng.uniform(0, 1, (points, len(shape))) * shape
    labels = np.where(np.arange(points) % 3 == 0, 0, rng.integers(0, classes, points))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    nearest = np.square(grid[..., None, :] - centres).sum(-1).argmin(-1)
    return labels[nearest].astype(np.uint8)


def degenerate() -> Iterator[Pair]:
    """Twenty pairs in which something is empty, full, single, thin, apart or ignored."""

    def empty(*shape: int) -> Labels:
        return np.zeros(shape, np.uint8)

    def with_box(shape: tuple[int, ...], low: int, high: int, label: int = 1) -> Labels:
        out = empty(*shape)
        out[(slice(low, high),) * len(shape)] = label
        return out

    flat, solid = (12, 17), (6, 7, 9)
    square, cube = with_box(flat, 3, 8), with_box(solid, 1, 4)
    corners = empty(*flat)
    corners[0, 0] = 1
    opposite = np.flip(corners).copy()
    checks = (np.indices(flat).sum(axis=0) % 2).astype(np.uint8)
    ignored, hidden = np.full(flat, IGNORED, np.uint8), square.copy()
    hidden[square == 1] = IGNORED
    two, swapped = square.copy(), square.copy()
    two[8:11, 10:15] = 2
    swapped[square == 1], swapped[8:11, 10:15] = 2, 1
    yield Pair("both-empty", empty(*flat), empty(*flat), 2, None)
    yield Pair("truth-empty", empty(*flat), square, 2, None)
    yield Pair("prediction-empty", square, empty(*flat), 2, None)
    yield Pair("both-full", np.ones(flat, np.uint8), np.ones(flat, np.uint8), 2, None)
    yield Pair("full-against-empty", np.ones(flat, np.uint8), empty(*flat), 2, None)
    yield Pair("full-against-square", square, np.ones(flat, np.uint8), 2, None)
    yield Pair("equal", square, square.copy(), 2, None)
    yield Pair("opposite-corners", corners, opposite, 2, None)
    yield Pair("opposite-corners-mm", corners, opposite, 2, (0.5, 2.0))
    yield Pair("one-pixel-image", np.ones((1, 1), np.uint8), np.ones((1, 1), np.uint8), 2, None)
    yield Pair(
        "one-row", np.array([[0, 1, 1, 0, 0, 0, 1]], np.uint8), np.array([[1, 1, 0, 0, 0, 0, 0]], np.uint8), 2, None
    )
    yield Pair("checks", checks, 1 - checks, 2, None)
    yield Pair("all-ignored", ignored, square, 2, None)
    yield Pair("object-ignored", hidden, square, 2, None)
    yield Pair("absent-of-fourteen", two, two.copy(), 14, None)
    yield Pair("swapped", two, swapped, 3, None)
    yield Pair("one-class-missed", two, square, 3, None)
    yield Pair("one-class-made-up", square, two, 3, None)
    yield Pair("one-voxel", with_box(solid, 2, 3), np.roll(with_box(solid, 2, 3), 2, axis=2), 2, (1.0, 1.0, 5.0))
    yield Pair("one-slice", cube * (np.arange(9) == 2).astype(np.uint8), cube, 2, (0.8, 0.8, 3.0))


def every() -> Iterator[Pair]:
    """All of both kinds."""
    yield from degenerate()
    yield from drawn()
