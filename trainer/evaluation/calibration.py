"""Whether a network's confidence is deserved: a teacher's soft labels are worth no more than that."""

import numpy as np
import torch
from torch import Tensor

from trainer.data.dataset import DataSet, Opening, Part
from trainer.distributed.ranks import Ranks
from trainer.evaluation.metrics import IGNORE

BINS = 15


class Calibration:
    """Expected calibration error over pixels (Guo et al. 2017, eq. 3) with 15 equal bins of confidence.

    Its `hear` is a `keep` of `trainer.evaluation.metrics.validate`; `error`, `table` and `entropy` sum over ranks:
    every rank calls them, or none.
    """

    def __init__(self, data: DataSet, part: Part, ranks: Ranks, opening: Opening | None = None) -> None:
        self._data, self._part, self._ranks, self._opening = data, part, ranks, opening
        self._sums = torch.zeros(3, BINS, dtype=torch.float64, device=ranks.device)
        self._doubt = torch.zeros(2, dtype=torch.float64, device=ranks.device)

    def hear(self, index: int, logits: Tensor) -> None:
        """Logits (classes, height, width) of an image at native size."""
        truth = (
            torch.from_numpy(self._data.native_mask(self._part, index, self._opening).copy()).to(logits.device).long()
        )
        confidence, label = logits.softmax(0).max(0)
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        valid = (truth != IGNORE).double()
        right = (label == truth).double() * valid
        chances = logits.float().log_softmax(0)
        entropy = -(chances.exp() * chances).sum(0).double()
        self._doubt += torch.stack([(entropy * valid).sum(), valid.sum()])
        for row, values in enumerate((valid, confidence.double() * valid, right)):
            self._sums[row].index_add_(0, bins.flatten(), values.flatten())

    def error(self) -> float:
        """The mean over pixels of |accuracy - confidence| of their bin, in [0, 1]."""
        pixels, confidence, right = self._ranks.all_reduce(self._sums.clone())
        gap = (confidence - right).abs().sum() / pixels.sum().clamp(min=1)
        return self._ranks.to_host(gap).get()[0]

    def entropy(self) -> float:
        """The mean over pixels of the entropy of their class probabilities, in nats: 0 to log(classes)."""
        total, pixels = self._ranks.to_host(self._ranks.all_reduce(self._doubt.clone())).get()
        return total / max(pixels, 1.0)

    def table(self) -> tuple[tuple[float, float, float], ...]:
        """By bin: pixels, sum of their confidence, pixels whose class is the true one."""
        sums = self._ranks.to_host(self._ranks.all_reduce(self._sums.clone())).get()
        pixels, confidence, right = np.array(sums).reshape(3, BINS)
        return tuple(zip(pixels.tolist(), confidence.tolist(), right.tolist(), strict=True))
