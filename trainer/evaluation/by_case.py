"""What is measured of each case where a picture is not one, or where there is more than one foreground class.

A case is a volume, whose slices are scored together: their counts are summed, and surfaces are those of the stack.
Other pictures are a case each. Torch is imported where something is counted.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import DataSet, Opening, Part, Pixels, Sample, cases_of, foreground_names, stacked
from trainer.data.masks import Regions
from trainer.errors import DataError
from trainer.evaluation.confusion import IGNORE, confusion, labels, region_confusion
from trainer.evaluation.overlap import case_scores, pixel_counts
from trainer.evaluation.surface import region_surface_scores, surface_scores
from trainer.evaluation.threshold import GRID, HALF, least_odds, log_odds, margin

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.distributed.ranks import Ranks

Row = Mapping[str, float]
TOLERANCE = 1.0
"""Of the surface Dice, in the unit of the distances: millimetres where a volume says its spacing, else pixels."""


DEFAULT = GRID[HALF]


class _Slice(NamedTuple):
    """What is kept of a picture until its case is whole."""

    predicted: Pixels
    """Labels (height, width), of regions masks (regions, height, width)."""
    errors: float
    """Sum over its pixels of (probability of the foreground - truth)^2."""


class CaseRows:
    """Rows of scores, one a case. Its `keep` is that of `trainer.evaluation.metrics.validate`.

    thresholds: least probability of the foreground of two classes, or of each region, or one for all of these; none:
    each pixel is of its likeliest class, and regions have 0.5. Raises DataError where the slices of a volume differ in
    size.
    """

    def __init__(self, data: DataSet, part: Part, opening: Opening | None, *, thresholds: Sequence[float] = ()) -> None:
        self._data, self._part, self._opening, self._thresholds = data, part, opening, thresholds
        self._samples = data.samples(part, opening)
        numbers = cases_of(self._samples)
        self._stacks: list[list[int]] = []
        for index, case in enumerate(range(len(self._samples)) if numbers is None else numbers):
            if case == len(self._stacks):
                self._stacks.append([])
            self._stacks[case].append(index)
        for stack in self._stacks:
            self._refuse_other_sizes(stack)
        self._whole = numbers is None
        self._kept: dict[int, _Slice] = {}

    @property
    def cases(self) -> list[Sample]:
        """The first picture of each case, in the order of the rows."""
        return [self._samples[stack[0]] for stack in self._stacks]

    @property
    def names(self) -> list[str]:
        """Of each case: the volume's, or the picture's file."""
        if self._whole:
            return [sample.image or sample.name for sample in self._samples]
        return [sample.case or sample.name for sample in self.cases]

    def keep(self, index: int, logits: "Tensor") -> None:
        """Logits (classes, height, width) of an image at native size."""
        regions = self._data.regions is not None
        odds = margin(logits, regions=regions)
        if not self._thresholds and not regions:
            label = labels(logits[None])[0]
        elif regions:
            label = logits > least_odds(self._thresholds or (DEFAULT,), logits)
        else:
            label = odds > log_odds(self._thresholds[0])
        truth = self._data.native_mask(self._part, index, self._opening)
        self._kept[index] = _Slice(label.cpu().numpy().astype(np.uint8), _squared_errors(odds.cpu().numpy(), truth))

    def rows(self, ranks: "Ranks") -> list[Row]:
        """One row a case, the same on every rank; every rank calls it. A case may have its slices on any rank.

        Raises Stopped on all ranks where one wishes to stop.
        """
        kept = self._kept
        if self._whole:
            own = sorted(kept)
        else:
            kept = {index: entry for of_rank in ranks.all_gather(kept) for index, entry in of_rank.items()}
            own = list(range(ranks.rank, len(self._stacks), ranks.world))
        rows = {}
        for case in own:
            ranks.pause_point()
            if ranks.stop_asked:
                break
            rows[case] = self._row(case, [kept[index] for index in self._stacks[case]])
        every = {case: row for of_rank in ranks.all_gather_unless_stopped(rows) for case, row in of_rank.items()}
        return [every[case] for case in range(len(self._stacks))]

    def _row(self, case: int, slices: Sequence[_Slice]) -> Row:
        masks = [self._data.native_mask(self._part, index, self._opening) for index in self._stacks[case]]
        first = self._samples[self._stacks[case][0]]
        spacing = None if first.spacing is None else first.spacing[1 if len(masks) == 1 else 0 :]
        return case_columns(
            stacked([each.predicted for each in slices]),
            stacked(masks),
            foreground_names(self._data),
            errors=sum(each.errors for each in slices),
            spacing=spacing,
            regions=self._data.regions,
        )

    def _refuse_other_sizes(self, stack: Sequence[int]) -> None:
        shapes: dict[tuple[int, int], Sample] = {}
        for index in stack:
            place = self._data.placement(self._part, index, self._opening)
            shapes.setdefault((place.width, place.height), self._samples[index])
        if len(shapes) > 1:
            (ours, first), (theirs, other), *_ = shapes.items()
            raise DataError(
                f"{first.case}: slices of one volume differ in size ({first.name} is {ours[0]} x {ours[1]}, "
                f"{other.name} {theirs[0]} x {theirs[1]}, width x height); give them one size, or other cases"
            )


def case_columns(
    predicted: Pixels,
    truth: Pixels,
    names: Sequence[str],
    *,
    errors: float,
    spacing: Sequence[float] | None = None,
    regions: Regions | None = None,
) -> dict[str, float]:
    """Every column of one case from its labels, (height, width) or (slices, height, width) both; 255 is left out.

    Where there are regions, predicted has one mask a region, (regions, height, width) or (regions, slices, ...). names:
    the foreground classes, or the regions. errors: sum of the squared errors of the foreground's probability. Scores of
    overlap and of surfaces by their names: the mean over the classes that have a value and, where there are several,
    each class as `dice.liver`. Lengths are in the unit of `spacing`, the length of a pixel along each axis, else in
    pixels. brier, area, polyps, missed and false_positives are of all foreground classes together, as
    `trainer.evaluation.per_image.image_columns` has them.
    """
    import torch

    if regions is None:
        ours, theirs = (torch.from_numpy(np.array(each).reshape(1, -1)) for each in (predicted, truth))
        counts = pixel_counts(confusion(ours, theirs, len(names) + 1).numpy()).of(slice(1, None))
        surfaces, masks, objects = surface_scores, truth, predicted
    else:
        masks, objects = regions.masks(truth), predicted.max(axis=0)
        ours, theirs = (torch.from_numpy(np.array(each).reshape(1, len(names), -1)) for each in (predicted, masks))
        counts, surfaces = pixel_counts(region_confusion(ours, theirs).numpy()), region_surface_scores
    row = {name: float(values[0]) for name, values in case_scores(counts, names).items()}
    row |= surfaces(predicted, masks, names, tolerance=TOLERANCE, spacing=spacing)
    if len(names) < 2:
        row = {name: value for name, value in row.items() if "." not in name}
    valid = truth != IGNORE
    true, claimed = (truth > 0) & valid, (objects > 0) & valid
    pixels = float(valid.sum())
    row["brier"] = errors / pixels if pixels else math.nan
    row["area"] = float(true.sum()) / pixels if pixels else math.nan
    return row | lesions(true, claimed)


def lesions(true: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> dict[str, float]:
    """polyps: connected parts of the truth; missed: those of them without a predicted pixel; false_positives: connected
    parts of the prediction without a true pixel. Pixels that touch at a corner are connected."""
    from scipy import ndimage

    corners = np.ones((3,) * true.ndim, bool)
    parts, polyps = ndimage.label(true, structure=corners)
    claims, claimed = ndimage.label(predicted, structure=corners)
    return {
        "polyps": float(polyps),
        "missed": float(polyps - len(np.unique(parts[predicted & true]))),
        "false_positives": float(claimed - len(np.unique(claims[predicted & true]))),
    }


def _squared_errors(odds: NDArray[np.float32], truth: Pixels) -> float:
    from scipy.special import expit

    valid = truth != IGNORE
    error = (expit(odds.astype(np.float64)) - (truth > 0))[valid]
    return float(np.square(error).sum())
