"""A voxel's label apart from its other classes, which decoupled and normalised distillation both start from."""

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.labels import one_hot, widened


def label_log_odds(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log p[y] and log(1 - p[y]) of the softmax: logits (N, C, *S), labels (N, *S) in 0..C-1, to (N, *S) twice.

    The second is a sum over the other classes' exponentials and no difference from 1, so that it is finite however sure
    the softmax is. Each has derivatives of at most 1 in size.
    """
    wide = widened(logits)
    whole = torch.logsumexp(wide, 1)
    at_label = wide.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = torch.logsumexp(wide.masked_fill(_at(labels, wide), float("-inf")), 1)
    return at_label - whole, others - whole


def log_other_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """log softmax over the classes that are not the label, (N, C, *S), and 0 at the label; 0 everywhere for C = 2."""
    wide = widened(logits)
    here = _at(labels, wide)
    return F.log_softmax(wide.masked_fill(here, float("-inf")), 1).masked_fill(here, 0.0)


def other_classes(log_odds: Tensor, labels: Tensor) -> Tensor:
    """What `log_other_classes` gave as probabilities, 0 at the label."""
    return log_odds.exp().masked_fill(_at(labels, log_odds), 0.0)


def _at(labels: Tensor, like: Tensor) -> Tensor:
    return one_hot(labels, like.shape[1]) > 0
