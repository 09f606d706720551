"""The picture that shows where a student fails: masks over its worst and median cases, beside truth and teacher."""

import copy
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.config import Precision
from trainer.data.classes import TWO_CLASSES, LabelClass, foreground_of
from trainer.data.dataset import DataSet, Pixels, foreground_names
from trainer.data.reading import as_rgb
from trainer.evaluation.confusion import IGNORE, confusion, region_confusion, region_masks
from trainer.evaluation.metrics import autocast, native_logits, score
from trainer.figures.grid import (
    FAINT,
    TWO_CLASS_LEGEND,
    Cell,
    LegendEntry,
    cell_sized,
    compared,
    grid,
    marked,
    overlay,
    reduced,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.output import Segmenter

Masks = Mapping[int, Pixels]
"""Labels (height, width), or masks of regions (regions, height, width), at native size by the index of the validation
image."""


def chosen(values: NDArray[np.float64], each: int = 4) -> tuple[list[int], list[int]]:
    """Indices of the `each` lowest values and of the `each` around the median, lowest first, none of them twice."""
    order = [int(index) for index in np.argsort(values, kind="stable")]
    worst = order[:each]
    start = max(len(worst), (len(order) - each) // 2)
    return worst, order[start : start + each]


def predicted_labels(logits: "Tensor", *, regions: bool = False) -> Pixels:
    """The likeliest class of each pixel, from logits (classes, height, width) on any device; of regions the mask of
    each, (regions, height, width)."""
    if regions:
        return region_masks(logits).to("cpu").numpy().astype(np.uint8)
    return logits.argmax(0).to("cpu").numpy().astype(np.uint8)


def with_weights(network: "Segmenter", weights: "Mapping[str, Tensor]") -> "Segmenter":
    """A copy of a network with other weights, frozen and in evaluation mode; no random number is drawn for it."""
    twin = copy.deepcopy(network).requires_grad_(False).eval()
    twin.load_state_dict(dict(weights))
    return twin


def masks(
    network: "Segmenter", data: DataSet, indices: Sequence[int], *, device: "torch.device", precision: Precision
) -> Masks:
    """What a network in evaluation mode says of some validation images. Draws no random number, changes no buffer."""
    import torch

    from trainer.data.streams.batches import normalise

    predicted = {}
    for index in indices:
        image = torch.from_numpy(np.stack([data.fitted("validation", index)[0]])).to(device)
        with torch.no_grad(), autocast(device, precision):
            logits = network(normalise(image, network.normalisation)).logits.float()
        native = native_logits(logits, data.placement("validation", index))[0]
        predicted[index] = predicted_labels(native, regions=data.regions is not None)
    return predicted


def drawn(
    title: str, data: DataSet, cases: tuple[Sequence[int], Sequence[int]], predicted: Mapping[str, Masks]
) -> Image.Image:
    """A grid with a row for each of the worst and the median cases, as `chosen` gives them.

    Of two classes, or one region, it shows what is right, too much and missed; of more the classes in their colours,
    with a legend, and stripes where a network is wrong. predicted: the masks of each network by its name, in the order
    of the columns.
    """
    objects = foreground_of(data.config)
    classes = objects if data.regions is not None and len(objects) > 1 else (TWO_CLASSES[0], *objects)
    rows = [
        (f"{kind} {number}", _row(data, classes, index, predicted))
        for kind, indices in zip(("worst", "median"), cases, strict=True)
        for number, index in zip(count(1), indices)
    ]
    return grid(title, ["image", "truth", *predicted], rows, entries_for(data))


def entries_for(data: DataSet) -> tuple[LegendEntry, ...]:
    """The legend of a data set: what is right, too much and missed of one object, else the objects' colours."""
    objects = foreground_of(data.config)
    if len(objects) == 1:
        return TWO_CLASS_LEGEND
    wrong = "wrong class" if data.regions is None else "wrong in a region"
    return (*(LegendEntry(known.colour, known.name) for known in objects), LegendEntry(FAINT, wrong, hatched=True))


def _row(data: DataSet, classes: Sequence[LabelClass], index: int, predicted: Mapping[str, Masks]) -> list[Cell]:
    picture, truth = data.native("validation", index)
    share = float(((truth > 0) & (truth != IGNORE)).mean())
    dice = {name: caption(masks_of[index], truth, data) for name, masks_of in predicted.items()}
    several = len(foreground_names(data)) > 1
    sized = cell_sized if several else reduced

    def each(mask: Pixels) -> Pixels:
        """Labels at the size of a cell; of several regions the mask of each."""
        if mask.ndim == 2:
            return sized(mask)
        return np.stack([sized(one) for one in mask]) if several else sized(mask[0])

    image, truth = sized(as_rgb(picture)), each(truth if data.regions is None else data.regions.masks(truth))
    order = None if data.regions is None else data.regions.order
    cells = [
        Cell(image, data.samples("validation")[index].name),
        Cell(overlay(image, truth, classes, order), f"foreground {share:.1%}" if share else "empty"),
    ]
    for name, masks_of in predicted.items():
        mask = each(masks_of[index])
        shown = marked(image, mask, truth, classes, order) if several else compared(image, mask, truth)
        cells.append(Cell(shown, dice[name]))
    return cells


def caption(mask: Pixels, truth: Pixels, data: DataSet) -> str:
    """The Dice of an image or a volume as its caption; of several classes the mean and the class that has the least."""
    import torch

    ours, theirs = torch.from_numpy(np.stack([mask])), torch.from_numpy(np.stack([truth]))
    regions = data.regions
    if regions is None:
        counts = confusion(ours, theirs, data.classes)
    else:
        counts = region_confusion(ours, regions.targets(theirs))
    names = foreground_names(data)
    images = score(counts.numpy(), names, regions=regions is not None).images
    scores = {name: float(values[0]) for name, values in images.items()}
    mean = f"Dice {scores['dice']:.3f}"
    if len(names) < 2:
        return mean
    least = min(names, key=lambda name: scores[f"dice.{name}"])
    return f"{mean}, {least} {scores[f'dice.{least}']:.3f}"
