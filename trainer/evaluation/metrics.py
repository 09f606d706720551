"""How good a network's masks are: a validation pass that counts each image at native size, and the scores of it.

Torch is imported where a network runs, so that the names of the scores are known without it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from trainer.config import Precision
from trainer.data.classes import dims_of, ground
from trainer.data.dataset import DataSet, Opening, Part, Pixels, Placement, cases_of, foreground_names
from trainer.evaluation.confusion import confusion, labels, region_confusion, region_masks
from trainer.evaluation.monitored import from_counts, further_score
from trainer.evaluation.overlap import (
    Floats,
    PixelCounts,
    accuracy,
    dice,
    iou,
    mdice,
    miou,
    pixel_counts,
    precision,
    recall,
    specificity,
    summed,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.output import Segmenter
    from trainer.data.masks import Regions
    from trainer.data.streams.scored import ScoredBatch
    from trainer.distributed.ranks import Ranks

BATCH = 8
"""Images that go through a network together when it is scored."""
_TOGETHER = 2**18
"""Logits of slices that are counted together, from which on they are."""
_SHARES = 8
"""Batches that a part has at least, where it has the images, so that ranks can share them out."""
Keep = Callable[[int, "Tensor"], None]
"""Called with an image's index and its logits (classes, height, width) float32 at native size, on the device."""


SCORES: Mapping[str, Callable[[PixelCounts], Floats]] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
    "accuracy": accuracy,
}
"""Scores of single images, from the counts of the foreground classes; their means are over classes, then images."""

POOLED: Mapping[str, Callable[[PixelCounts], float]] = {"mdice": mdice, "miou": miou}
"""Scores of a whole set of images, from the counts of all classes."""


@dataclass(frozen=True)
class Scores:
    """What a validation pass found; the same on every rank."""

    means: dict[str, float]
    """Every name of SCORES and POOLED; with several foreground classes also each of SCORES by class, `dice.liver`.
    Means over cases: an image is one, and so are the slices of a volume together."""
    images: dict[str, Floats]
    """The same names without those of POOLED: one value an image, in the order of `DataSet.samples`."""
    cases: dict[str, Floats] = field(default_factory=dict)
    """The same by case, where slices of volumes are one together; else nothing."""


def score(
    counts: Floats,
    foreground: Sequence[str] = (),
    cases: Sequence[int] | None = None,
    *,
    also: str | None = None,
    regions: bool = False,
) -> Scores:
    """Scores from float64 counts (images, classes, 4) in the order tp, fp, fn, tn; class 0 is the background, which
    regions have not.

    foreground: the names of the other classes, where each is to have scores of its own. cases: of each image the number
    of its case, from 0; None: every image is one. also: a further score of counts that is wanted among the means.
    """
    objects = slice(ground(regions), None)
    images = _by_name(pixel_counts(counts).of(objects), foreground)
    whole = counts if cases is None else summed(counts, cases)
    every = pixel_counts(whole)
    by_case = images if cases is None else _by_name(every.of(objects), foreground)
    means = {name: float(values.mean()) for name, values in by_case.items()}
    means |= {name: function(every) for name, function in POOLED.items()}
    if also is not None and also not in means:
        means[also] = from_counts(also, every, foreground, regions=regions)
    return Scores(means, images, {} if cases is None else by_case)


def _by_name(foreground: PixelCounts, names: Sequence[str]) -> dict[str, Floats]:
    """SCORES of counts (cases, classes): the mean over classes and, where there are several, each class."""
    values = {name: function(foreground) for name, function in SCORES.items()}
    means = {name: each.mean(axis=1) for name, each in values.items()}
    if len(names) < 2:
        return means
    return means | {f"{name}.{label}": each[:, at] for name, each in values.items() for at, label in enumerate(names)}


def native_logits(logits: "Tensor", placement: Placement) -> "Tensor":
    """Logits (N, classes, size, size) of fitted images to (N, classes, height, width).

    What letterboxing added is cut off, the rest resized bilinearly (half-pixel centres).
    """
    from torch.nn import functional

    p = placement
    inner = logits[:, :, p.top : p.top + p.inner_height, p.left : p.left + p.inner_width]
    if (p.inner_height, p.inner_width) == (p.height, p.width):
        return inner
    return functional.interpolate(inner, size=(p.height, p.width), mode="bilinear", align_corners=False)


def validate(
    network: "Segmenter",
    data: DataSet,
    part: Part,
    *,
    ranks: "Ranks",
    precision: Precision,
    batch_size: int = BATCH,
    opening: Opening | None = None,
    keep: Keep | None = None,
    monitor: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score a network on a part of the data: the ranks take batches in turn; counts are summed once over ranks.

    The network's mode is put back as it was. An image is in the same batch whatever the world size, so scores are equal
    bit for bit on ranks of one kind; another `batch_size`, the most images at once, may change the rounding of its
    logits. `keep` sees the images of this rank only. monitor: a score that is wanted among the means. progress: hears
    how many of this rank's images, or windows of volumes, went through the network. Raises DataError where the part is
    empty or is opened without a record, Stopped at a `pause_point` of the ranks.
    """
    import torch

    from trainer.data.streams.scored import scored_order
    from trainer.errors import DataError
    from trainer.evaluation.native_slices import window_count
    from trainer.evaluation.sliding_window import counted_windows

    volumes = dims_of(data.config) == 3
    order = list(range(len(data.samples(part, opening)))) if volumes else scored_order(data, part, opening)
    total = len(order)
    if total == 0:
        raise DataError(f"data: the {part} part holds no image, so there is nothing to score; change the split")
    counts = torch.zeros(total, data.classes, 4, dtype=torch.int64, device=ranks.device)
    further = None if monitor is None else further_score(monitor, data, part, opening, ranks.device)
    keepers: list[Keep] = [] if keep is None else [keep]
    keepers += [] if further is None else [further.keep]
    training = network.training
    network.eval()
    size = min(batch_size, -(-total // _SHARES))
    predict = predictor(network, ranks.device, precision, ranks.pause_point)
    if progress is not None:
        units = window_count(data, part, ranks, opening) if volumes else _image_count(total, size, ranks)
        progress(0, units)
        predict = counted_windows(predict, units, progress)
    try:
        with torch.no_grad():
            if volumes:
                _count_volumes(predict, data, part, ranks, opening, counts, keepers)
            else:
                _count_pictures(predict, data, part, ranks, opening, size, counts, keepers)
    finally:
        network.train(training)
    restored = np.empty(counts.shape)
    restored[order] = np.array(ranks.to_host(ranks.all_reduce(counts)).get()).reshape(counts.shape)
    names, cases = foreground_names(data), cases_of(data.samples(part, opening))
    also = None if further else monitor
    scores = score(restored, names, cases, also=also, regions=data.regions is not None)
    if further is not None and monitor is not None:
        scores.means[monitor] = further.value(ranks)
    return scores


def _image_count(total: int, size: int, ranks: "Ranks") -> int:
    """How many of so many images this rank takes in batches of that size."""
    return sum(min(size, total - first) for first in range(ranks.rank * size, total, ranks.world * size))


def predictor(
    network: "Segmenter", device: "torch.device", precision: Precision, before: Callable[[], None] | None = None
) -> "Callable[[Tensor], Tensor]":
    """What makes float32 logits of a batch of images on the device, as `Batch.images` has one. before: called before
    each batch."""
    from trainer.data.streams.batches import normalise

    def predict(images: "Tensor") -> "Tensor":
        if before is not None:
            before()
        with autocast(device, precision):
            logits: Tensor = network(normalise(images, network.normalisation)).logits
        return logits.float()

    return predict


def _count_pictures(
    predict: "Callable[[Tensor], Tensor]",
    data: DataSet,
    part: Part,
    ranks: "Ranks",
    opening: Opening | None,
    batch_size: int,
    counts: "Tensor",
    keepers: Sequence[Keep],
) -> None:
    """Enter the pictures of this rank into `counts`, in the order of `scored_order`."""
    from trainer.data.streams.scored import scored

    batches = scored(data, part, rank=ranks.rank, world=ranks.world, batch_size=batch_size, opening=opening)
    for batch in batches:
        _count(predict(_sent(batch.images, ranks.device)), batch, counts, keepers, data.regions)


def _count_volumes(
    predict: "Callable[[Tensor], Tensor]",
    data: DataSet,
    part: Part,
    ranks: "Ranks",
    opening: Opening | None,
    counts: "Tensor",
    keepers: Sequence[Keep],
) -> None:
    """Enter the slices of the volumes of this rank into `counts`, in the order of `DataSet.samples`.

    Small ones are counted several at once: what a slice costs beside its voxels is paid once for all of them.
    """
    from trainer.evaluation.native_slices import volume_slices

    waiting: list[tuple[int, Tensor]] = []
    for index, logits in volume_slices(predict, data, part, ranks, opening):
        if waiting and waiting[0][1].shape != logits.shape:
            _count_slices(waiting, data, part, opening, counts, keepers)
        waiting.append((index, logits))
        if len(waiting) * logits.numel() >= _TOGETHER:
            _count_slices(waiting, data, part, opening, counts, keepers)
    _count_slices(waiting, data, part, opening, counts, keepers)


def _count_slices(
    slices: "list[tuple[int, Tensor]]",
    data: DataSet,
    part: Part,
    opening: Opening | None,
    counts: "Tensor",
    keepers: Sequence[Keep],
) -> None:
    """Enter slices of one size, each with its index, into `counts`, and clear the list."""
    import torch

    if not slices:
        return
    indices = [index for index, _ in slices]
    truth = _sent(np.stack([data.native_mask(part, index, opening) for index in indices]), slices[0][1].device)
    counts[indices] = counted(torch.stack([logits for _, logits in slices]), truth, data.regions)
    for index, logits in slices:
        for keep in keepers:
            keep(index, logits)
    slices.clear()


def autocast(device: "torch.device", precision: Precision) -> AbstractContextManager[object]:
    """Mixed precision by the name that a run has for it; nothing for fp32."""
    import torch

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtype=kinds[precision]) if precision in kinds else nullcontext()


def _count(
    logits: "Tensor", batch: "ScoredBatch", counts: "Tensor", keepers: Sequence[Keep], regions: "Regions | None"
) -> None:
    """Enter a batch into `counts`; images of one native size, which are neighbours, go through the device together."""
    for placement, group in groupby(range(len(batch.indices)), key=batch.placements.__getitem__):
        rows = list(group)
        native = native_logits(logits[rows[0] : rows[-1] + 1], placement)
        truth = _sent(np.stack([batch.masks[row] for row in rows]), logits.device)
        first = batch.start + rows[0]
        counts[first : first + len(rows)] = counted(native, truth, regions)
        for keep in keepers:
            for row, one in zip(rows, native, strict=True):
                keep(batch.indices[row], one)


def counted(logits: "Tensor", truth: "Tensor", regions: "Regions | None") -> "Tensor":
    """Counts (N, classes, 4) of logits (N, classes, *S) against labels (N, *S)."""
    if regions is None:
        return confusion(labels(logits), truth, logits.shape[1])
    return region_confusion(region_masks(logits), regions.targets(truth))


def _sent(pixels: "Pixels | Tensor", device: "torch.device") -> "Tensor":
    """Pixels on the device; a GPU fetches them by itself, without the host waiting."""
    import torch

    tensor = torch.as_tensor(pixels)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
