"""Which voxels and images count, and in which numbers. Labels (N, *S) are int64, regions (N, R, *S) uint8; no
loss looks at voxels of IGNORE, which a region may have where another has none."""

from collections.abc import Callable, MutableMapping
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from losses.term import IGNORE

Value = TypeVar("Value")


def _once(function: Callable[[Tensor], Value]) -> Callable[[Tensor], Value]:
    """The function, which keeps its result for as long as the tensor lives that it was given and nobody writes into it.

    All losses of all students of a batch look at one target.
    """
    kept: MutableMapping[Tensor, tuple[int, Value]] = WeakTensorKeyDictionary()

    @wraps(function)
    def remembering(given: Tensor) -> Value:
        if given.is_inference():  # such a tensor does not count what is written into it
            return function(given)
        known = kept.get(given)
        if known is None or known[0] != given._version:
            known = kept[given] = given._version, function(given)
        return known[1]

    return remembering


@_once
def valid_voxels(target: Tensor) -> Tensor:
    """(N, *S) bool, of regions (N, R, *S): voxels whose label is not ignored."""
    return target != IGNORE


@_once
def valid_images(valid: Tensor) -> Tensor:
    """(N,) bool: images with a valid voxel at least."""
    return valid.flatten(1).any(dim=1)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """(N, classes, *S) float32: 1 in the channel of the label; all zero where the label is ignored."""
    numbers = torch.arange(classes, device=target.device).view(1, classes, *[1] * (target.ndim - 1))
    return (target.unsqueeze(1) == numbers).float()


@_once
def _none_ignored(valid: Tensor) -> bool:
    """Whether all are valid, where the host can look without waiting for a device."""
    return valid.device.type == "cpu" and bool(valid.all())


def masked(values: Tensor, valid: Tensor) -> Tensor:
    """values * valid, with `valid` (N, *S) as `valid_voxels` gave it, for every channel of (N, K, *S).

    A product with 1 changes no bit, and neither does its gradient: where no voxel is ignored there is none.
    """
    if _none_ignored(valid):
        return values
    return values * (valid if valid.ndim == values.ndim else valid.unsqueeze(1))


@_once
def amount(mask: Tensor) -> Tensor:
    """Scalar float64: how many entries of a mask are true; a term's count."""
    return mask.sum(dtype=torch.float64)


def widened(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they are that: what a loss computes with, mixed precision or not."""
    return values if values.dtype == torch.float64 else values.float()


def in_float32(like: Tensor) -> torch.autocast:
    """Within it nothing is narrowed: products of matrices keep float32 where the caller computes in mixed precision."""
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)


def known_labels(target: Tensor) -> Tensor:
    """The labels, with 0 where they are ignored: something to look up, which the caller leaves out afterwards."""
    return target.masked_fill(target == IGNORE, 0)


def foreground_logits(logits: Tensor, *, regions: bool) -> Tensor:
    """Logits of a sigmoid (N, R, *S), float32 at least: those of regions as they are; of two classes logit 1 less logit
    0, which has the softmax probability of class 1."""
    wide = widened(logits)
    return wide if regions else wide[:, 1:2] - wide[:, 0:1]


def foreground(target: Tensor, like: Tensor, *, regions: bool) -> tuple[Tensor, Tensor]:
    """Truth (0 or 1, numbers of the kind of `like`) and validity (bool), both (N, R, *S); truth is 0 where ignored."""
    target = target if regions else target.unsqueeze(1)
    return (target == 1).to(like.dtype), target != IGNORE
