"""The picture that shows where a student fails: its worst and median validation cases beside truth and teacher."""

import copy
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from trainer.config import Precision
from trainer.data.dataset import DataSet, Pixels
from trainer.evaluation.case_figures import Cell, compared, grid, overlay, reduced
from trainer.evaluation.metrics import IGNORE, autocast, confusion, native_logits, score

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from models.output import Segmenter

Masks = Mapping[int, Pixels]
"""Labels (height, width) at native size by the index of the validation image."""


def predicted_labels(logits: "Tensor") -> Pixels:
    """The likeliest class of each pixel, from logits (classes, height, width) on any device."""
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

    from trainer.data.stream import normalise

    found = {}
    for index in indices:
        image = torch.from_numpy(np.stack([data.fitted("validation", index)[0]])).to(device)
        with torch.no_grad(), autocast(device, precision):
            logits = network(normalise(image)).logits.float()
        found[index] = predicted_labels(native_logits(logits, data.placement("validation", index))[0])
    return found


def drawn(title: str, data: DataSet, cases: tuple[Sequence[int], Sequence[int]], found: Mapping[str, Masks]) -> "Image":
    """A grid with a row for each of the worst and the median cases, as `pictures.chosen` gives them.

    found: the masks of each network by its name, in the order of the columns.
    """
    rows = [
        (f"{kind} {number}", _row(data, index, found))
        for kind, indices in zip(("worst", "median"), cases, strict=True)
        for number, index in zip(count(1), indices)
    ]
    return grid(title, ["image", "truth", *found], rows)


def _row(data: DataSet, index: int, found: Mapping[str, Masks]) -> list[Cell]:
    image, truth = data.native("validation", index)
    share = float(((truth > 0) & (truth != IGNORE)).mean())
    dice = {name: _dice(mine[index], truth, data.classes) for name, mine in found.items()}
    image, truth = reduced(image), reduced(truth)
    cells = [
        Cell(image, data.samples("validation")[index].name),
        Cell(overlay(image, truth), f"foreground {share:.1%}" if share else "empty"),
    ]
    for name, mine in found.items():
        cells.append(Cell(compared(image, reduced(mine[index]), truth), f"Dice {dice[name]:.3f}"))
    return cells


def _dice(mask: Pixels, truth: Pixels, classes: int) -> float:
    import torch

    counts = confusion(torch.from_numpy(np.stack([mask])), torch.from_numpy(np.stack([truth])), classes)
    return float(score(counts.numpy().astype(np.float64)).images["dice"][0])
