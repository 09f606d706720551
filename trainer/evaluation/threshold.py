"""The probability above which a pixel is called foreground: 0.5, or one that validation shows to be better.

Of regions each has its own, by the same rule: a region is a task of two classes, and its sigmoid errs by itself.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.config import Precision
from trainer.data.dataset import DataSet, cases_of
from trainer.evaluation.confusion import IGNORE
from trainer.evaluation.metrics import summed, validate
from trainer.evaluation.overlap import PixelCounts, dice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from models.output import Segmenter
    from trainer.distributed.ranks import Ranks

GRID = tuple(step / 20 for step in range(1, 20))
"""Thresholds among which validation chooses."""
HALF = GRID.index(0.5)
"""Place of the threshold that stays where no other one is shown to gain."""


def chosen_thresholds(
    network: "Segmenter",
    data: DataSet,
    *,
    ranks: "Ranks",
    precision: Precision,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, ...]:
    """0.5, or the threshold of GRID that `kept_threshold` puts in its place by the Dice of validation images, slices of
    a volume together; of regions one each, in their order.

    Every rank calls it; all get the same. Raises DataError for an empty part.
    """
    import torch

    edges = torch.tensor([log_odds(threshold) for threshold in GRID], device=ranks.device)
    bins = len(GRID) + 1
    cases = cases_of(data.samples("validation"))
    total = len(data.samples("validation"))
    objects = 1 if data.regions is None else data.classes
    counts = torch.zeros(total, objects, 2 * bins, dtype=torch.float64, device=ranks.device)

    def hear(index: int, logits: "Tensor") -> None:
        labels = torch.from_numpy(data.native_mask("validation", index).copy()).to(logits.device)
        odds, truth = margin(logits)[None], labels[None]
        if data.regions is not None:
            odds, truth = logits, data.regions.targets(truth)[0]
        for at, (own, true) in enumerate(zip(odds, truth, strict=True)):
            above = torch.bucketize(own.contiguous(), edges) + bins * ((true > 0) & (true != IGNORE))
            counts[index, at] = torch.bincount(above[true != IGNORE], minlength=2 * bins).double()

    validate(network, data, "validation", ranks=ranks, precision=precision, keep=hear, progress=progress)
    histogram = np.array(ranks.to_host(ranks.all_reduce(counts)).get()).reshape(total, objects, 2, bins)
    if cases is not None:
        histogram = summed(histogram, cases)
    # At threshold i, the bins above i are said to be foreground.
    above = np.flip(np.cumsum(np.flip(histogram, axis=3), axis=3), axis=3)[..., 1:]
    fp, tp = above[:, :, 0], above[:, :, 1]
    fn = histogram[:, :, 1].sum(axis=2)[..., None] - tp
    scores = dice(PixelCounts(tp, fp, fn, np.zeros_like(tp)))
    return tuple(kept_threshold(scores[:, at]) for at in range(objects))


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
