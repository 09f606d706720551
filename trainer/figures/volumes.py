"""The picture that shows where a student fails on volumes: three planes through the worst error of a case."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.config import Precision
from trainer.data.classes import TWO_CLASSES, LabelClass, foreground_of, ground
from trainer.data.dataset import Pixels, foreground_names
from trainer.data.sets.volumes import VolumeCases
from trainer.data.volumes.geometry import NativeGrid, Triple
from trainer.evaluation.confusion import IGNORE
from trainer.evaluation.metrics import predictor
from trainer.evaluation.native_slices import native_slices, window_of
from trainer.figures.cases import caption, chosen, entries_for, predicted_labels
from trainer.figures.grid import CELL, Cell, compared, grid, marked, overlay

if TYPE_CHECKING:
    import torch

    from models.output import Segmenter

PLANES = ("axial", "coronal", "sagittal")
_ACROSS = (2, 1, 0)
"""The axis of x, y, z that each plane lies across."""


def worst_volumes(
    title: str,
    data: VolumeCases,
    dice: NDArray[np.float64],
    networks: "Mapping[str, Segmenter]",
    *,
    each: int,
    device: "torch.device",
    precision: Precision,
) -> Image.Image:
    """A grid of three rows a case: the `each` validation cases whose slices have the lowest mean Dice, and as many
    around the median.

    dice: of each slice, in the order of `DataSet.samples`. The planes go through the place where the last of the
    networks errs most; where it errs nowhere, through the middle of the object. Draws no random number, changes no
    buffer of the networks, which are in evaluation mode.
    """
    cases = data.cases("validation")
    depths = np.cumsum([case.way.native.shape[2] for case in cases])[:-1]
    means = np.array([float(own.mean()) for own in np.split(dice, depths)])
    rows: list[tuple[str, list[Cell]]] = []
    for kind, numbers in zip(("worst", "median"), chosen(means, each), strict=True):
        for count, number in enumerate(numbers, 1):
            labels = {
                name: volume_labels(network, data, number, device=device, precision=precision)
                for name, network in networks.items()
            }
            rows += _rows(f"{kind} {count}", data, number, labels)
    return grid(title, ["image", "truth", *networks], rows, entries_for(data))


def volume_labels(
    network: "Segmenter", data: VolumeCases, number: int, *, device: "torch.device", precision: Precision
) -> Pixels:
    """What a network says of a validation case on the grid of its files: labels (A, B, slices), or masks of regions
    (regions, A, B, slices)."""
    import torch

    case, several = data.cases("validation")[number], data.regions is not None
    image = case.normaliser.of_case(case.image)
    predict = predictor(network, device, precision)
    with torch.no_grad():
        slices = native_slices(image, case.way, window_of(data.settings), predict, device, ground=ground(several))
        planes = {depth: predicted_labels(logits, regions=several) for depth, logits in slices}
    return np.stack([planes[depth] for depth in range(case.way.native.shape[2])], axis=-1)


def _rows(label: str, data: VolumeCases, number: int, labels: Mapping[str, Pixels]) -> list[tuple[str, list[Cell]]]:
    case = data.cases("validation")[number]
    way = NativeGrid.unchanged(case.way.native).turned("RAS")
    truth = case.native_label if data.regions is None else data.regions.masks(case.native_label)
    turned = {name: _turned(volume, way) for name, volume in {"truth": truth, **labels}.items()}
    image = _turned(np.moveaxis(data.volume("validation", number), -1, 0), way)
    place = worst_place(turned[list(labels)[-1]] if labels else turned["truth"], turned["truth"])
    names = {name: caption(labels[name], case.native_label, data) for name in labels}
    rows = []
    for plane, axis in zip(PLANES, _ACROSS, strict=True):
        shown = {name: upright(np.take(volume, place[axis], axis=volume.ndim - 3 + axis), axis, way.spacing)
                 for name, volume in turned.items()}  # fmt: skip
        picture = upright(np.take(image, place[axis], axis=1 + axis), axis, way.spacing)
        cells = _cells(data, _as_rgb(picture), shown, names)
        cells[0] = Cell(cells[0].image, f"{data.case_name('validation', number)}  {plane} {place[axis]}")
        rows.append((label if plane == PLANES[0] else "", cells))
    return rows


def worst_place(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Along each axis (X, Y, Z) the plane with the most wrong voxels; where none is wrong the one with the most object,
    and where there is none the middle. Labels, or masks of regions with an axis before the three."""
    wrong = (predicted != truth) & (truth != IGNORE)
    for marks in (wrong, (truth > 0) & (truth != IGNORE)):
        volume = marks.any(axis=0) if marks.ndim == 4 else marks
        if volume.any():
            x, y, z = (
                int(volume.sum(axis=tuple(other for other in range(3) if other != axis)).argmax()) for axis in range(3)
            )
            return x, y, z
    x, y, z = (side // 2 for side in truth.shape[-3:])
    return x, y, z


def upright(plane: Pixels, across: int, spacing: Triple) -> Pixels:
    """A plane (..., U, V) of an RAS volume as it is looked at: head or front up, right on the right, with square pixels
    and its longer side that of a cell. Nearest voxels, so that labels stay labels."""
    shown = np.flip(np.swapaxes(plane, -1, -2), axis=-2)
    wide, tall = (length for axis, length in enumerate(spacing) if axis != across)
    height, width = shown.shape[-2] * tall, shown.shape[-1] * wide
    scale = CELL / max(height, width)
    rows, columns = (
        _spread(shown.shape[-2], max(1, round(height * scale))), _spread(shown.shape[-1], max(1, round(width * scale))),
    )  # fmt: skip
    return np.ascontiguousarray(shown[..., rows[:, None], columns])


def _spread(side: int, wanted: int) -> NDArray[np.int64]:
    return np.minimum(np.floor((np.arange(wanted) + 0.5) * side / wanted).astype(np.int64), side - 1)


def _turned(volume: NDArray[np.uint8], way: NativeGrid) -> NDArray[np.uint8]:
    """A native volume (..., A, B, slices) as RAS: a view."""
    first = volume.ndim - 3
    turned = volume.transpose([*range(first), *(first + axis.native for axis in way.axes)])
    flips = [slice(None, None, -1 if axis.scale < 0 else 1) for axis in way.axes]
    return turned[(..., flips[0], flips[1], flips[2])]


def _as_rgb(picture: Pixels) -> Pixels:
    """(C, H, W) as (H, W, 3): the first channel in grey."""
    return np.repeat(picture[0][..., None], 3, axis=2)


def _cells(data: VolumeCases, image: Pixels, shown: Mapping[str, Pixels], captions: Mapping[str, str]) -> list[Cell]:
    objects: Sequence[LabelClass] = foreground_of(data.config)
    several = len(foreground_names(data)) > 1
    classes = objects if data.regions is not None and several else (TWO_CLASSES[0], *objects)
    plain = {name: plane if plane.ndim == 2 or several else plane[0] for name, plane in shown.items()}
    truth = plain["truth"]
    order = None if data.regions is None else data.regions.order
    cells = [Cell(image, ""), Cell(overlay(image, truth, classes, order), "")]
    for name, text in captions.items():
        mask = plain[name]
        tinted = marked(image, mask, truth, classes, order) if several else compared(image, mask, truth)
        cells.append(Cell(tinted, text))
    return cells
