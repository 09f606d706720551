"""How good a teacher is on some data, and how well it knows that."""

from dataclasses import dataclass

import numpy as np
import torch

from models.output import Segmenter
from trainer.config import RunConfig
from trainer.data.dataset import DataSet, Part
from trainer.distributed.ranks import Ranks
from trainer.evaluation.calibration import Calibration
from trainer.evaluation.metrics import Keep, confusion, labels, score, validate
from trainer.teacher.probability_maps import Maps


@dataclass(frozen=True)
class Judgement:
    """Of one part of the data, at native size."""

    dice: float
    """Foreground Dice, mean over images."""
    calibration: float | None
    """Expected calibration error, 0 to 1; None where it was not recorded."""
    entropy: float | None
    """Mean over pixels, nats; None where it was not recorded."""


def judge(network: Segmenter, run: RunConfig, data: DataSet, ranks: Ranks) -> Judgement:
    """A teacher on validation. Every rank calls it."""
    calibration = Calibration(data, "validation", ranks)
    if isinstance(network, Maps):
        dice = stored_dice(network, data, "validation", keep=calibration.hear, ranks=ranks)
    else:
        found = validate(network, data, "validation", ranks=ranks, precision=run.precision, keep=calibration.hear)
        dice = found.means["dice"]
    return Judgement(dice, calibration.error(), calibration.entropy())


def train_dice(network: Segmenter, run: RunConfig, data: DataSet, ranks: Ranks) -> float:
    """Its Dice on the training images. Every rank calls it."""
    if isinstance(network, Maps):
        return stored_dice(network, data, "train", keep=None, ranks=ranks)
    return validate(network, data, "train", ranks=ranks, precision=run.precision).means["dice"]


def stored_dice(network: Maps, data: DataSet, part: Part, *, keep: Keep | None, ranks: Ranks) -> float:
    """The same of stored maps; the ranks take images in turn."""
    total = len(data.samples(part))
    counts = torch.zeros(total, data.classes, 4, dtype=torch.int64, device=ranks.device)
    for index in range(ranks.rank, total, ranks.world):
        ranks.pulse.beat()
        said = network.native(part, index).to(ranks.device)
        truth = torch.from_numpy(data.native_mask(part, index).copy()).to(ranks.device)
        counts[index] = confusion(labels(said[None]), truth[None], data.classes)[0]
        if keep is not None:
            keep(index, said)
    return score(np.array(ranks.later(ranks.sum(counts)).get()).reshape(counts.shape)).means["dice"]
