"""Whether a network's confidence is deserved: a teacher's soft labels are worth no more than that."""

import numpy as np
import torch
from torch import Tensor

from trainer.data.dataset import DataSet, Opening, Part
from trainer.distributed.ranks import Ranks
from trainer.evaluation.confusion import IGNORE

BINS = 15


class Calibration:
    """Expected calibration error over pixels (Guo et al. 2017, eq. 3) with 15 equal bins of probability.

    Of the chosen class, errors in the foreground and in the far larger background cancel: a bin has pixels of both. Of
    the positive class, which is the foreground (all classes but the first), the probability is held against how many
    pixels are foreground. Of regions both are taken over all regions of all pixels: what is chosen is in or out. Its
    `hear` is a `keep` of `trainer.evaluation.metrics.validate`; the errors, the tables and `entropy` sum over ranks:
    every rank calls them, or none.
    """

    def __init__(self, data: DataSet, part: Part, ranks: Ranks, opening: Opening | None = None) -> None:
        self._data, self._part, self._ranks, self._opening = data, part, ranks, opening
        self._chosen, self._positive = torch.zeros(2, 3, BINS, dtype=torch.float64, device=ranks.device)
        self._doubt = torch.zeros(2, dtype=torch.float64, device=ranks.device)

    def hear(self, index: int, logits: Tensor) -> None:
        """Logits (classes, height, width) of an image at native size."""
        if self._data.regions is not None:
            self._hear_regions(index, logits)
            return
        truth = (
            torch.from_numpy(self._data.native_mask(self._part, index, self._opening).copy()).to(logits.device).long()
        )
        valid = truth != IGNORE
        probabilities = logits.softmax(0)
        confidence, label = probabilities.max(0)
        positive = probabilities[1] if len(logits) == 2 else probabilities[1:].sum(0)
        chances = logits.float().log_softmax(0)
        entropy = -(chances.exp() * chances).sum(0).double()
        self._doubt += torch.stack([(entropy * valid).sum(), valid.double().sum()])
        _enter(self._chosen, confidence, label == truth, valid)
        _enter(self._positive, positive, truth > 0, valid)

    def _hear_regions(self, index: int, logits: Tensor) -> None:
        labels = torch.from_numpy(self._data.native_mask(self._part, index, self._opening).copy()).to(logits.device)
        if self._data.regions is None:
            raise TypeError("the data has classes")
        truth = self._data.regions.targets(labels[None])[0]
        valid, positive = truth != IGNORE, logits.float().sigmoid()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), positive, reduction="none")
        self._doubt += torch.stack([(entropy * valid).sum().double(), valid.double().sum()])
        _enter(self._chosen, torch.maximum(positive, 1 - positive), (positive > 0.5) == (truth == 1), valid)
        _enter(self._positive, positive, truth == 1, valid)

    def error(self) -> float:
        """ECE of the chosen class: the mean over pixels of |accuracy - confidence| of their bin, in [0, 1]."""
        return self._error(self._chosen)

    def positive_error(self) -> float:
        """ECE of the foreground: the mean over pixels of |share of foreground - probability| of their bin, 0 to 1."""
        return self._error(self._positive)

    def _error(self, sums: Tensor) -> float:
        pixels, confidence, right = self._ranks.all_reduce(sums.clone())
        gap = (confidence - right).abs().sum() / pixels.sum().clamp(min=1)
        return self._ranks.to_host(gap).get()[0]

    def entropy(self) -> float:
        """The mean over pixels of the entropy of their class probabilities, in nats: 0 to log(classes)."""
        total, pixels = self._ranks.to_host(self._ranks.all_reduce(self._doubt.clone())).get()
        return total / max(pixels, 1.0)

    def table(self) -> tuple[tuple[float, float, float], ...]:
        """By bin of the chosen class: pixels, sum of their confidence, pixels whose class is the true one."""
        return self._table(self._chosen)

    def positive_table(self) -> tuple[tuple[float, float, float], ...]:
        """By bin of the positive class: pixels, sum of its probability, pixels that are foreground."""
        return self._table(self._positive)

    def _table(self, sums: Tensor) -> tuple[tuple[float, float, float], ...]:
        flat = self._ranks.to_host(self._ranks.all_reduce(sums.clone())).get()
        pixels, confidence, right = np.array(flat).reshape(3, BINS)
        return tuple(zip(pixels.tolist(), confidence.tolist(), right.tolist(), strict=True))


def _enter(sums: Tensor, probability: Tensor, right: Tensor, valid: Tensor) -> None:
    """Add an image's valid pixels to the (3, BINS) sums; all of one shape."""
    bins = (probability * BINS).long().clamp(max=BINS - 1).flatten()
    counted = valid.double()
    for row, values in enumerate((counted, probability.double() * counted, right.double() * counted)):
        sums[row].index_add_(0, bins, values.flatten())
