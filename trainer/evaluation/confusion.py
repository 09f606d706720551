"""Which class each voxel is predicted to be, and how often with which truth: counts of a batch in one pass.

Everything stays on the device of the logits; the host reads nothing. Torch is imported where something is counted.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORE = 255
"""Voxels with this label are left out of every score."""


def labels(logits: "Tensor") -> "Tensor":
    """The class of the greatest logit, the first of equals: (N, classes, *S) to (N, *S).

    bool for two classes, uint8 for up to 256, int64 for more. Which class a voxel with a NaN gets is not defined.
    """
    import torch

    classes = logits.shape[1]
    # Two classes are the usual case, and a comparison is many times faster than argmax over a dimension of two.
    if classes == 2:
        return logits[:, 1] > logits[:, 0]
    if classes > 256 or logits.device.type != "cpu" or logits.stride(1) == 1:
        label = logits.argmax(1)
        return label if classes > 256 else label.to(torch.uint8)
    # On a CPU argmax walks to a distant place for every class of a voxel, unless its classes are neighbours in memory.
    best = logits[:, 0].clone()
    label = torch.zeros_like(best, dtype=torch.uint8)
    for number in range(1, classes):
        # Numbers rise, so the last class that was better than all before it stays.
        better = (logits[:, number] > best).view(torch.uint8).mul_(number)
        torch.maximum(label, better, out=label)
        torch.maximum(best, logits[:, number], out=best)
    return label


def region_masks(logits: "Tensor") -> "Tensor":
    """Where each region's sigmoid is above one half, (N, regions, *S) bool; regions may overlap."""
    return logits > 0


def confusion_matrix(predicted: "Tensor", truth: "Tensor", classes: int, *, ignore: int = IGNORE) -> "Tensor":
    """Voxels by true and by predicted class: int64 (N, classes, classes), truth first.

    predicted: labels 0..classes-1, or bool for two classes, (N, *S). truth: labels (N, *S) of any kind of integer;
    voxels of `ignore`, and of any value that is no class, are left out. One pass whatever the number of classes.
    """
    import torch

    valid = truth < classes
    if truth.dtype.is_signed:
        valid &= truth >= 0
    if 0 <= ignore < classes:
        valid &= truth != ignore
    # What is left out has a row of its own, which is dropped.
    rows = torch.where(valid, truth, classes).flatten(1).to(_smallest((classes + 1) * classes))
    code = rows.mul_(classes).add_(predicted.flatten(1).to(rows.dtype))
    counts = histograms(code, (classes + 1) * classes)
    return counts.view(-1, classes + 1, classes)[:, :classes]


def confusion(predicted: "Tensor", truth: "Tensor", classes: int, *, ignore: int = IGNORE) -> "Tensor":
    """Counts (N, classes, 4) int64 in the order tp, fp, fn, tn, each class against all others.

    Arguments are those of `confusion_matrix`.
    """
    import torch

    matrix = confusion_matrix(predicted, truth, classes, ignore=ignore)
    tp = matrix.diagonal(dim1=1, dim2=2)
    fp, fn = matrix.sum(1) - tp, matrix.sum(2) - tp
    return torch.stack((tp, fp, fn, matrix.sum((1, 2)).unsqueeze(1) - tp - fp - fn), dim=-1)


def region_confusion(predicted: "Tensor", truth: "Tensor", *, ignore: int = IGNORE) -> "Tensor":
    """Counts (N, regions, 4) int64 in the order tp, fp, fn, tn from masks that may overlap, both (N, regions, *S).

    predicted: bool or 0 and 1. truth: 0 and 1; voxels of `ignore` are left out, in that region alone.
    """
    flat = confusion(predicted.flatten(0, 1), truth.flatten(0, 1), 2, ignore=ignore)
    return flat[:, 1].reshape(*truth.shape[:2], 4)


def _smallest(values: int) -> "torch.dtype":
    """The narrowest kind of integer that holds 0..values-1: the pass is bound by memory."""
    import torch

    return torch.uint8 if values <= 256 else torch.int16 if values <= 2**15 else torch.int32


def histograms(code: "Tensor", bins: int) -> "Tensor":
    """How often each of 0..bins-1 stands in each row of (N, voxels): (N, bins) int64."""
    import torch

    if code.device.type == "cpu":
        return torch.stack([torch.bincount(row, minlength=bins) for row in code])
    return _added(code, bins)


def _added(code: "Tensor", bins: int) -> "Tensor":
    """The same without bincount, for which the host waits: how long its answer is depends on the greatest value."""
    import torch

    places = code.long()
    ones = torch.ones((), dtype=torch.int64, device=code.device).expand_as(places)
    return torch.zeros(len(code), bins, dtype=torch.int64, device=code.device).scatter_add_(1, places, ones)
