"""The score that a run is judged by, where it is none of those that every validation pass gives.

Scores of counts follow from the pass itself. Only where asked for, surfaces are measured on the host, by case, and
pixels are counted above every threshold.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from trainer.data.classes import ground
from trainer.data.dataset import DataSet, Opening, Part, Pixels, cases_of, foreground_names, stacked
from trainer.evaluation.confusion import labels, region_masks
from trainer.evaluation.overlap import OF_CASES, PixelCounts, case_scores, mean_of_known, pooled_scores, set_scores
from trainer.evaluation.score_names import SCORE_KINDS, parse
from trainer.evaluation.surface import region_surface_scores, surface_scores
from trainer.evaluation.threshold import ThresholdCounts, best_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.distributed.ranks import Ranks

_TOLERANCE = 1.0
"""Of the surface Dice that is measured along with distances and not used."""


def sign_of(name: str) -> int:
    """1 for a score that is better when higher, -1 for one that is better when lower."""
    return 1 if SCORE_KINDS[name.partition(".")[0]].direction == "maximize" else -1


class FurtherScore(Protocol):
    """A score for which the counts of a validation pass are not enough."""

    def keep(self, index: int, logits: "Tensor") -> None:
        """Logits (classes, height, width) of an image at native size."""

    def value(self, ranks: "Ranks") -> float:
        """The mean over all cases; every rank calls it, and all get the same."""


def further_score(
    name: str, data: DataSet, part: Part, opening: Opening | None, device: "torch.device"
) -> FurtherScore | None:
    """What measures a score while images are seen; None where counts are enough."""
    kind = SCORE_KINDS[name.partition(".")[0]]
    if kind.unit == "length":
        return SurfaceScore(name, data, part, opening)
    return BestThresholdScore(name, data, part, opening, device) if kind.thresholded else None


def from_counts(name: str, every: PixelCounts, foreground: Sequence[str], *, regions: bool = False) -> float:
    """A score of counts (cases, classes), the background first, which regions have not. Raises ValueError for a name
    that is none."""
    parse(name, foreground, regions=regions)
    known = set_scores(every)
    if name in known:
        return known[name]
    objects = every.of(slice(ground(regions), None))
    pooled = pooled_scores(objects, foreground)
    if name in pooled:
        return pooled[name]
    by_case = case_scores(objects, foreground)
    if name not in by_case:
        raise ValueError(f"{name!r}: is not measured while a run trains")
    return float(mean_of_known(by_case[name]))


class SurfaceScore:
    """The mean over cases of a score of surfaces. Its `keep` is that of `trainer.evaluation.metrics.validate`."""

    def __init__(self, name: str, data: DataSet, part: Part, opening: Opening | None) -> None:
        self._name, self._data, self._part, self._opening = name, data, part, opening
        self._predicted: dict[int, Pixels] = {}

    def keep(self, index: int, logits: "Tensor") -> None:
        """Logits (classes, height, width) of an image at native size."""
        predicted = labels if self._data.regions is None else region_masks
        self._predicted[index] = predicted(logits[None])[0].cpu().numpy().astype(np.uint8)

    def value(self, ranks: "Ranks") -> float:
        """The mean over all cases, lengths in millimetres where volumes say their spacing, else in pixels.

        Every rank calls it. A case may have its slices on any rank.
        """
        samples = self._data.samples(self._part, self._opening)
        cases = cases_of(samples)
        predicted = self._predicted
        if cases is not None:
            predicted = {index: mask for of_rank in ranks.all_gather(predicted) for index, mask in of_rank.items()}
            of_case = np.asarray(cases)
            stacks = [np.flatnonzero(of_case == case) for case in range(ranks.rank, max(cases) + 1, ranks.world)]
        else:
            stacks = [np.array([index]) for index in sorted(predicted)]
        values = {int(stack[0]): self._measured(stack.tolist(), predicted) for stack in stacks}
        every = {first: value for of_rank in ranks.all_gather(values) for first, value in of_rank.items()}
        return float(mean_of_known(np.array([every[first] for first in sorted(every)])))

    def _measured(self, slices: list[int], predicted: dict[int, Pixels]) -> float:
        mask = stacked([predicted[index] for index in slices])
        truth = stacked([self._data.native_mask(self._part, index, self._opening) for index in slices])
        lengths = self._data.samples(self._part, self._opening)[slices[0]].spacing
        spacing = None if lengths is None else lengths[1 if len(slices) == 1 else 0 :]
        names, regions = foreground_names(self._data), self._data.regions
        measure = surface_scores if regions is None else region_surface_scores
        truth = truth if regions is None else regions.masks(truth)
        return measure(mask, truth, names, tolerance=_TOLERANCE, spacing=spacing)[self._name]


class BestThresholdScore:
    """The mean over cases of a score of overlap at the threshold of `trainer.evaluation.threshold.GRID` that has the
    best; regions each at their own. Its `keep` is that of `trainer.evaluation.metrics.validate`.

    A confirmation chooses a threshold for each seed by validation, too, so that a search by this score looks for what
    will be measured. At 0.5 a small network may have no foreground pixel at all and be among the best at 0.35.
    """

    def __init__(self, name: str, data: DataSet, part: Part, opening: Opening | None, device: "torch.device") -> None:
        score = parse(name, foreground_names(data), regions=data.regions is not None)
        self._measure = OF_CASES[score.kind.thresholded]
        names = list(foreground_names(data))
        self._objects = slice(None) if score.label is None else [names.index(score.label)]
        self._counts = ThresholdCounts(data, part, opening, device)
        self.keep = self._counts.keep

    def value(self, ranks: "Ranks") -> float:
        """The mean over regions, or of the one that the name has."""
        scores = self._counts.scores(ranks, self._measure)[:, self._objects]
        return float(np.mean([best_mean(scores[:, at]) for at in range(scores.shape[1])]))
