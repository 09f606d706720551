"""Distances between the surfaces of two masks, in two or three dimensions, and scores of them.

A surface is what erosion by the neighbours that share a face takes away; outside of the image is background. Lengths
are in pixels, or in the unit of `spacing` (mm) where one is given. docs/scores.md has the formulas, the rules for empty
masks and what libraries do otherwise. Scipy is imported where a distance is measured.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.confusion import IGNORE
from trainer.evaluation.overlap import Floats, by_class

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer] | Mask
Box = tuple[slice, ...]


class Distances(NamedTuple):
    """How far each pixel of one surface is from the other surface; infinite where the other mask is empty."""

    of_true: Floats
    """Distances of the truth's surface to the prediction's; without an entry where the truth is empty."""
    of_predicted: Floats
    """Distances of the prediction's surface to the truth's; without an entry where the prediction is empty."""

    @property
    def missed(self) -> bool:
        """Whether the truth has an area and the prediction has none."""
        return len(self.of_true) > 0 and len(self.of_predicted) == 0

    @property
    def made_up(self) -> bool:
        """Whether the prediction has an area and the truth has none."""
        return len(self.of_true) == 0 and len(self.of_predicted) > 0

    @property
    def absent(self) -> bool:
        """Whether both are empty."""
        return len(self.of_true) == len(self.of_predicted) == 0


def surface_distances(true: Mask, predicted: Mask, spacing: Sequence[float] | None = None) -> Distances:
    """The distances between the surfaces of two masks of equal shape, both ways.

    spacing: the length of a pixel along each axis; None measures in pixels. Raises ValueError where it has another
    number of axes, or a length that is not positive and finite.
    """
    if spacing is not None and (len(spacing) != true.ndim or not all(0 < s < math.inf for s in spacing)):
        raise ValueError(f"spacing = {tuple(spacing)}: has to be {true.ndim} positive lengths, one for each axis")
    if not true.any() or not predicted.any():
        return Distances(_unreached(true), _unreached(predicted))
    return _between(true, predicted, _box(true | predicted), spacing)


def _box(mask: Mask) -> Box:
    """The smallest box that holds all of a mask that is not empty."""
    axes = range(mask.ndim)
    lines = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


def _surface(mask: Mask) -> Mask:
    from scipy import ndimage

    eroded: Mask = ndimage.binary_erosion(mask)
    return mask & ~eroded


def _unreached(mask: Mask) -> Floats:
    """Infinity for each pixel of a mask's surface."""
    return np.full(int(_surface(mask[_box(mask)]).sum()) if mask.any() else 0, math.inf)


def _between(true: Mask, predicted: Mask, box: Box, spacing: Sequence[float] | None) -> Distances:
    from scipy import ndimage

    # Both surfaces lie in this box, so distances within it are those of the image.
    first, second = (_surface(mask[box]) for mask in (true, predicted))
    return Distances(
        *(
            ndimage.distance_transform_edt(~to, sampling=spacing)[here]
            for here, to in ((first, second), (second, first))
        )
    )


def diagonal(shape: Sequence[int], spacing: Sequence[float] | None = None) -> float:
    """The length of an image's diagonal, in pixels or in the unit of `spacing`."""
    return math.hypot(*(shape if spacing is None else (n * s for n, s in zip(shape, spacing, strict=True))))


def hd95(distances: Distances) -> float:
    """The 95th percentile of the distances of both ways, pooled: MedPy's `hd95`. nan where a mask is empty.

    Among the boundary distances that Maier-Hein et al., "Metrics reloaded" (Nature Methods 2024) recommend.
    """
    both = np.concatenate(distances)
    return float(np.percentile(both, 95)) if _both_have_one(distances) else math.nan


def hd95_larger(distances: Distances) -> float:
    """The larger of the two 95th percentiles, one for each way: MONAI's form. nan where a mask is empty."""
    return max(float(np.percentile(way, 95)) for way in distances) if _both_have_one(distances) else math.nan


def asd(distances: Distances) -> float:
    """The average symmetric surface distance: the mean of both ways pooled, MedPy's `assd`.

    nan where a mask is empty.
    """
    return float(np.concatenate(distances).mean()) if _both_have_one(distances) else math.nan


def surface_dice(distances: Distances, tolerance: float) -> float:
    """The share of both surfaces' pixels that are at most `tolerance` from the other surface.

    1 where both masks are empty, 0 where one is. Nikolov et al. 2018 (arXiv 1809.04430), with pixels counted in place
    of surface elements weighted by their area.
    """
    both = np.concatenate(distances)
    return float((both <= tolerance).mean()) if len(both) else 1.0


def missed_as_diagonal(value: float, distances: Distances, longest: float) -> float:
    """A distance of two masks; `longest`, the image's diagonal, where one of them is empty, 0 where both are."""
    if distances.absent:
        return 0.0
    return longest if distances.missed or distances.made_up else value


def _both_have_one(distances: Distances) -> bool:
    return not (distances.missed or distances.made_up or distances.absent)


DISTANCES: Mapping[str, Callable[[Distances], float]] = {"hd95": hd95, "hd95_larger": hd95_larger, "asd": asd}
"""Each is also given with misses as the diagonal."""


def scores_of(distances: Distances, longest: float, tolerance: float) -> dict[str, float]:
    """Every surface score of one class of one case; longest: the image's diagonal."""
    row: dict[str, float] = {}
    for name, measure in DISTANCES.items():
        row[name] = measure(distances)
        row[f"{name}_missed_as_diagonal"] = missed_as_diagonal(row[name], distances, longest)
    row["surface_dice"] = surface_dice(distances, tolerance)
    return row | {"class_missed": float(distances.missed), "class_made_up": float(distances.made_up)}


def surface_scores(
    predicted: Labels,
    truth: Labels,
    names: Sequence[str],
    *,
    tolerance: float,
    spacing: Sequence[float] | None = None,
    ignore: int = IGNORE,
) -> dict[str, float]:
    """`hd95`, `hd95.liver`, ... of one case from its labels (*S): every surface score, bare and with each class.

    names: the classes 1, 2, ... without the background. tolerance: of `surface_dice`, in the unit of the distances. A
    bare name is the mean over the classes that have a value, nan where none has. Pixels of `ignore` in the truth belong
    to no class, in the prediction neither.
    """
    return _named(_of_labels(predicted, truth, len(names), spacing, ignore), truth.shape, names, tolerance, spacing)


def region_surface_scores(
    predicted: Labels,
    truth: Labels,
    names: Sequence[str],
    *,
    tolerance: float,
    spacing: Sequence[float] | None = None,
    ignore: int = IGNORE,
) -> dict[str, float]:
    """The same for regions that may overlap: masks of 0 and 1, (regions, *S) both; see `surface_scores`."""
    pairs = (
        surface_distances(true == 1, (mask != 0) & (true != ignore), spacing)
        for mask, true in zip(predicted, truth, strict=True)
    )
    return _named(pairs, truth.shape[1:], names, tolerance, spacing)


def _of_labels(
    predicted: Labels, truth: Labels, classes: int, spacing: Sequence[float] | None, ignore: int
) -> Iterator[Distances]:
    """The distances of classes 1..classes. All boxes come from one look at each map of labels."""
    from scipy import ndimage

    true, claimed = (np.where(truth == ignore, 0, _integers(labels)) for labels in (truth, predicted))
    boxes = (ndimage.find_objects(labels, classes) for labels in (true, claimed))
    for label, (one, other) in enumerate(zip(*boxes, strict=True), start=1):
        box = _union(one, other)
        yield surface_distances(true[box] == label, claimed[box] == label, spacing)


def _integers(labels: Labels) -> NDArray[Any]:
    return labels.astype(np.uint8) if labels.dtype == np.bool_ else labels


def _union(one: Box | None, other: Box | None) -> Box:
    """The box that holds two boxes; nothing where both are None."""
    if one is None or other is None:
        return one or other or (slice(0),)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _named(
    pairs: Iterator[Distances],
    shape: Sequence[int],
    names: Sequence[str],
    tolerance: float,
    spacing: Sequence[float] | None,
) -> dict[str, float]:
    longest = diagonal(shape, spacing)
    rows = [scores_of(distances, longest, tolerance) for distances in pairs]
    every: dict[str, Floats] = {}
    for name in rows[0] if rows else ():
        every |= by_class(name, np.array([row[name] for row in rows]), names)
    return {name: float(value) for name, value in every.items()}
