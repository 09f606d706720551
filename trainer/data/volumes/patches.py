"""Training patches of volumes: a crop around foreground or background, then mirrored, turned and changed in intensity.

Everything follows from one seed, so that a patch is the same on every machine and whoever asks for it. It is plain
numpy on memory maps: of a case only the crop's own voxels are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.config import PatchChanges
from trainer.data.volumes.case import PreparedCase

IGNORE = 255
Voxels = NDArray[np.floating[Any]]
Labels = NDArray[np.uint8]
Index = tuple[Any, ...]
_TRIES = 100
"""Draws of a background voxel before any voxel will do."""


class Changes(NamedTuple):
    """How patches are changed; the numbers are the probabilities, but for the two ranges."""

    flip: float = 0.0
    """Of a mirror image along each axis."""
    turn: float = 0.0
    """Of one, two or three quarter turns in the plane of the first two axes."""
    scale: float = 0.0
    shift: float = 0.0
    scale_range: float = 0.1
    """Intensities are multiplied by 1 + U(-range, range)."""
    shift_range: float = 0.1
    """U(-range, range) is added to them."""


CHANGES: Mapping[PatchChanges, Changes] = {
    "none": Changes(),
    "flips": Changes(flip=0.5),
    "standard": Changes(flip=0.2, turn=0.2, scale=0.1, shift=0.1),
    "strong": Changes(flip=0.5, scale=1.0, shift=1.0),
}
"""By the name that a study file gives: `standard` is what ACF-BCKD trains abdominal CT with, `strong` its BraTS."""


@dataclass(frozen=True)
class PatchSettings:
    """How crops are drawn from a case and changed."""

    size: tuple[int, int, int]
    """(X, Y, Z) in voxels."""
    foreground: float
    """The probability that a crop is drawn around a voxel of a foreground class; else around one of the background."""
    changes: Changes
    swaps: Sequence[tuple[int, int]] = ()
    """Pairs of labels, such as left and right kidney, that change places in a mirror image."""
    above_zero: bool = True
    """Background voxels are drawn where the first channel is above 0, so that air is seldom a centre."""


def draw_patch(case: PreparedCase, settings: PatchSettings, seed: int, image: Voxels, label: Labels) -> None:
    """Write one patch of a case into `image` (C, *size) and `label` (*size).

    A case that is smaller than the patch along an axis lies in its middle: what is beyond it is 0 in the image and
    ignored in the label.
    """
    rng = np.random.default_rng(seed)
    cut = _cut(case, settings, rng)
    gain, offset = _intensity(settings.changes, rng)
    if not cut.whole:
        image.fill(0)
        label.fill(IGNORE)
    # The crop is copied straight to its turned place: views cost nothing, a second copy would.
    seen, marked = _turned(image, cut.flips, cut.turns), _turned(label, cut.flips, cut.turns)
    seen[cut.target] = case.image[cut.source]
    marked[cut.target] = case.label[cut.source]
    if case.normaliser.by_patch:
        image[...] = case.normaliser.of_patch(image)
    if gain != 1:
        image *= image.dtype.type(gain)
    if offset != 0:
        seen[cut.target] += image.dtype.type(offset)
    if sum(cut.flips) % 2:
        _swap(label, settings.swaps)


def follow_patch(
    case: PreparedCase,
    settings: PatchSettings,
    seed: int,
    values: Voxels,
    out: Voxels,
    *,
    beyond: Sequence[float],
    swaps: Sequence[tuple[int, int]],
) -> None:
    """Write what `values` (K, X, Y, Z) of the prepared grid hold where `draw_patch` with this seed takes its patch into
    `out` (K, *size), mirrored and turned alike; nothing is computed with them.

    beyond: by channel, what lies around a case that is smaller than the patch. swaps: channels that change places in a
    mirror image.
    """
    cut = _cut(case, settings, np.random.default_rng(seed))
    if not cut.whole:
        for channel, value in zip(out, beyond, strict=True):
            channel.fill(value)
    order = np.arange(len(values))
    if sum(cut.flips) % 2:
        for one, other in swaps:
            order[one], order[other] = other, one
    for own, taken in zip(out, order, strict=True):
        _turned(own, cut.flips, cut.turns)[cut.target] = values[taken][cut.source]


class _Cut(NamedTuple):
    """Where a patch lies in its case, and how it is turned."""

    source: Index
    """In the case's arrays."""
    target: Index
    """In the patch as it is written, mirrored and turned."""
    flips: tuple[bool, bool, bool]
    turns: int
    whole: bool
    """Whether the case fills the patch."""


def _cut(case: PreparedCase, settings: PatchSettings, rng: np.random.Generator) -> _Cut:
    shape = case.image.shape[1:]
    centre = _centre(case, settings, rng)
    window = [_along(length, size, at) for length, size, at in zip(shape, settings.size, centre, strict=True)]
    flips, turns = _orientation(settings, rng)
    return _Cut(
        source=(..., *(slice(start, stop) for start, stop, _ in window)),
        target=(..., *(slice(at, at + stop - start) for start, stop, at in window)),
        flips=flips,
        turns=turns,
        whole=all(stop - start == size for (start, stop, _), size in zip(window, settings.size, strict=True)),
    )


def _centre(case: PreparedCase, settings: PatchSettings, rng: np.random.Generator) -> tuple[int, int, int]:
    """The voxel around which a crop is drawn: every foreground voxel is equally likely, whatever its class."""
    shape = case.image.shape[1:]
    counts = np.array([len(places) for places in case.foreground], dtype=np.int64)
    if rng.random() < settings.foreground and counts.sum():
        at = int(rng.integers(counts.sum()))
        kind = int(np.searchsorted(np.cumsum(counts), at, side="right"))
        return _place(int(case.foreground[kind][at - int(counts[:kind].sum())]), shape)
    total = int(np.prod(shape))
    place = _place(int(rng.integers(total)), shape)
    for _ in range(_TRIES):
        x, y, z = place
        if case.label[place] == 0 and (not settings.above_zero or case.image[0, x, y, z] > 0):
            break
        place = _place(int(rng.integers(total)), shape)
    return place


def _place(flat: int, shape: tuple[int, ...]) -> tuple[int, int, int]:
    x, rest = divmod(flat, shape[1] * shape[2])
    return x, rest // shape[2], rest % shape[2]


def _along(length: int, size: int, centre: int) -> tuple[int, int, int]:
    """First and last-but-one voxel of a crop along an axis, and where it begins in the patch."""
    if length <= size:
        return 0, length, (size - length) // 2
    start = min(max(centre - size // 2, 0), length - size)
    return start, start + size, 0


def _orientation(settings: PatchSettings, rng: np.random.Generator) -> tuple[tuple[bool, bool, bool], int]:
    """Whether each axis is mirrored, and quarter turns; of a patch that is not square only half turns."""
    flips = rng.random(3) < settings.changes.flip
    turned = rng.random() < settings.changes.turn
    turns = int(rng.integers(1, 4))
    if settings.size[0] != settings.size[1]:
        turns = 2
    return (bool(flips[0]), bool(flips[1]), bool(flips[2])), turns if turned else 0


def _intensity(changes: Changes, rng: np.random.Generator) -> tuple[float, float]:
    chances, values = rng.random(2), rng.uniform(-1, 1, 2)
    gain = 1 + changes.scale_range * float(values[0]) if chances[0] < changes.scale else 1.0
    return gain, changes.shift_range * float(values[1]) if chances[1] < changes.shift else 0.0


def _turned(array: NDArray[Any], flips: tuple[bool, bool, bool], turns: int) -> NDArray[Any]:
    """A view of (..., X, Y, Z) such that what is written into it lies mirrored and turned in `array`."""
    first = array.ndim - 3
    view = np.rot90(array, -turns, axes=(first, first + 1)) if turns else array
    mirrored: Index = (..., *(slice(None, None, -1 if flipped else 1) for flipped in flips))
    return view[mirrored]


def _swap(label: Labels, swaps: Sequence[tuple[int, int]]) -> None:
    """Give both labels of each pair the other's place."""
    if swaps:
        table = np.arange(256, dtype=np.uint8)
        for one, other in swaps:
            table[one], table[other] = other, one
        label[...] = table[label]
