"""The probability above which a pixel is called foreground: 0.5, or one that validation shows to be better.

Of regions each has its own, by the same rule: a region is a task of two classes, and its sigmoid errs by itself.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import DataSet, Opening, Part, cases_of
from trainer.evaluation.confusion import IGNORE, histograms
from trainer.evaluation.overlap import Measure, PixelCounts, dice, summed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from trainer.distributed.ranks import Ranks

GRID = tuple(step / 20 for step in range(1, 20))
"""Thresholds among which validation chooses."""
_BINS = len(GRID) + 1
HALF = GRID.index(0.5)
"""Place of the threshold that stays where no other one is shown to gain."""


class ThresholdCounts:
    """Pixels above each of GRID, so that one pass tells the scores at all of them.

    Its `keep` is that of `trainer.evaluation.metrics.validate`. For data of two classes or of regions.
    """

    def __init__(self, data: DataSet, part: Part, opening: Opening | None, device: "torch.device") -> None:
        import torch

        self._data, self._part, self._opening = data, part, opening
        self._samples = data.samples(part, opening)
        # Turned round, as what is no number is put behind the last of them and must be above no threshold.
        self._edges = torch.tensor([-log_odds(threshold) for threshold in reversed(GRID)], device=device)
        self._objects = 1 if data.regions is None else data.classes
        shape = (len(self._samples), self._objects, 2 * _BINS)
        self._counts = torch.zeros(shape, dtype=torch.int64, device=device)

    def keep(self, index: int, logits: "Tensor") -> None:
        """Logits (classes, height, width) of an image at native size."""
        import torch

        labels = torch.from_numpy(self._data.native_mask(self._part, index, self._opening).copy()).to(logits.device)
        odds, truth = margin(logits)[None], labels[None]
        if self._data.regions is not None:
            odds, truth = logits, self._data.regions.targets(truth)[0]
        not_above = torch.bucketize(-odds.contiguous(), self._edges, right=True, out_int32=True).flatten(1)
        truth = truth.flatten(1)
        bins = _BINS - 1 - not_above + _BINS * (truth > 0)
        # What is ignored has a bin of its own, which is dropped.
        bins = torch.where(truth == IGNORE, 2 * _BINS, bins)
        self._counts[index] = histograms(bins, 2 * _BINS + 1)[:, : 2 * _BINS]

    def scores(self, ranks: "Ranks", measure: Measure = dice) -> NDArray[np.float64]:
        """A score of overlap of each case at each of GRID, (cases, objects, thresholds), slices of a volume together.

        Every rank calls it; all get the same. An object is the foreground, or a region.
        """
        counts = np.array(ranks.to_host(ranks.all_reduce(self._counts)).get(), np.float64)
        histogram = counts.reshape(len(self._samples), self._objects, 2, _BINS)
        cases = cases_of(self._samples)
        if cases is not None:
            histogram = summed(histogram, cases)
        # At threshold i, the bins above i are said to be foreground.
        above = np.flip(np.cumsum(np.flip(histogram, axis=3), axis=3), axis=3)[..., 1:]
        fp, tp = above[:, :, 0], above[:, :, 1]
        positive, every = histogram[:, :, 1].sum(axis=2)[..., None], histogram.sum(axis=(2, 3))[..., None]
        return measure(PixelCounts(tp, fp, positive - tp, every - positive - fp))


def best_mean(scores: NDArray[np.float64]) -> float:
    """The mean over cases at the threshold of GRID where that is highest, of scores (cases, thresholds).

    It rises steadily with a network that gets better, where the mean at `kept_threshold` may jump. Of 19 thresholds
    the best on so many pixels is lucky by little, and for every network alike.
    """
    return float(scores.mean(axis=0).max())


def kept_threshold(scores: NDArray[np.float64]) -> float:
    """The threshold by the scores of images at each of GRID, (images, thresholds), higher is better.

    The one with the best mean, of equals the one nearest 0.5, if its mean gain over 0.5 is more than the standard error
    of that gain over the images (paired); else 0.5. The best of 19 on a few images is in part luck, and a network that
    is no better for it must not become worse. One image shows nothing. The rule is the same for every network and seed.
    """
    means = scores.mean(axis=0)
    best = max(range(len(GRID)), key=lambda i: (means[i], -abs(GRID[i] - 0.5)))
    gains = scores[:, best] - scores[:, HALF]
    if len(gains) < 2 or float(gains.mean()) <= float(gains.std(ddof=1)) / math.sqrt(len(gains)):
        return GRID[HALF]
    return GRID[best]


def margin(logits: "Tensor", *, regions: bool = False) -> "Tensor":
    """Log-odds (height, width) of the foreground, all classes but the first, from logits (classes, height, width); of
    regions, of the likeliest, so that a pixel is foreground where it is in one."""
    if regions:
        return logits.amax(0)
    # With two classes it is exact, so that a threshold of 0.5 says what the greater logit says.
    return (logits[1] if len(logits) == 2 else logits[1:].logsumexp(0)) - logits[0]


def least_odds(thresholds: "Sequence[float]", like: "Tensor") -> "Tensor":
    """The logits of thresholds, one or one a region, on the device of logits (regions, height, width), and so shaped
    that these compare with them."""
    import torch

    return torch.tensor([log_odds(each) for each in thresholds], device=like.device)[:, None, None]


def log_odds(probability: float) -> float:
    """The logit of a probability between 0 and 1."""
    return math.log(probability / (1 - probability))
