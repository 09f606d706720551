"""Whether a network's confidence is deserved: a teacher's soft labels are worth no more than that."""

import numpy as np
import torch
from torch import Tensor

from trainer.data.dataset import DataSet, Opening, Part
from trainer.ranks import Ranks
from trainer.scores import IGNORE

BINS = 15


class Calibration:
    """Expected calibration error over pixels (Guo et al. 2017, eq. 3) with 15 equal bins of confidence.

    Its `hear` is a `keep` of `trainer.scores.validate`; `error` and `table` sum over ranks, so one of them is called,
    once, on every rank.
    """

    def __init__(self, data: DataSet, part: Part, ranks: Ranks, opening: Opening | None = None) -> None:
        self._data, self._part, self._ranks, self._opening = data, part, ranks, opening
        self._sums = torch.zeros(3, BINS, dtype=torch.float64, device=ranks.device)

    def hear(self, index: int, logits: Tensor) -> None:
        """Logits (classes, height, width) of an image at native size."""
        truth = (
            torch.from_numpy(self._data.native_mask(self._part, index, self._opening).copy()).to(logits.device).long()
        )
        confidence, label = logits.softmax(0).max(0)
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        valid = (truth != IGNORE).double()
        right = (label == truth).double() * valid
        for row, values in enumerate((valid, confidence.double() * valid, right)):
            self._sums[row].index_add_(0, bins.flatten(), values.flatten())

    def error(self) -> float:
        """The mean over pixels of |accuracy - confidence| of their bin, in [0, 1]."""
        pixels, confidence, right = self._ranks.sum(self._sums)
        gap = (confidence - right).abs().sum() / pixels.sum().clamp(min=1)
        return self._ranks.later(gap).get()[0]

    def table(self) -> tuple[tuple[float, float, float], ...]:
        """By bin: pixels, sum of their confidence, pixels whose class is the true one."""
        pixels, confidence, right = np.array(self._ranks.later(self._ranks.sum(self._sums)).get()).reshape(3, BINS)
        return tuple(zip(pixels.tolist(), confidence.tolist(), right.tolist(), strict=True))
