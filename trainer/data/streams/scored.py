"""Pictures to be scored: every one of a part once over all ranks, in batches that do not depend on the world."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.data.dataset import DataSet, Opening, Part, Pixels, Placement
from trainer.errors import DataError


class ScoredBatch(NamedTuple):
    """Pictures to be scored at native size, those of one size next to each other."""

    images: Tensor
    """(n, S, S, C) uint8 or uint16."""
    masks: tuple[Pixels, ...]
    """n native masks (height, width)."""
    placements: tuple[Placement, ...]
    indices: tuple[int, ...]
    start: int
    """Where the batch begins in the order of `scored_order`."""


def scored(
    data: DataSet, part: Part, *, rank: int, world: int, batch_size: int, opening: Opening | None = None
) -> Iterator[ScoredBatch]:
    """Every picture of a part once over all ranks, in batches that do not depend on the world: batch b is rank b mod
    world's.

    Nothing is repeated to even the ranks out, so a rank may get no batch. Raises DataError for an empty part and for
    test rows without an opening, at the call.
    """
    order = scored_order(data, part, opening)
    if not order:
        raise DataError(f"the data has no {part} images; a split file needs rows with split = {part}")
    return _scored(data, part, order, range(rank * batch_size, len(order), world * batch_size), batch_size, opening)


def scored_order(data: DataSet, part: Part, opening: Opening | None = None) -> list[int]:
    """Indices of a part by native size, so that pictures of one size are brought back to it together."""
    return sorted(
        range(len(data.samples(part, opening))), key=lambda index: (data.placement(part, index, opening), index)
    )


def _scored(
    data: DataSet, part: Part, order: list[int], starts: range, batch_size: int, opening: Opening | None
) -> Iterator[ScoredBatch]:
    for start in starts:
        indices = tuple(order[start : start + batch_size])
        images = np.stack([data.fitted(part, index, opening)[0] for index in indices])
        yield ScoredBatch(
            images=torch.from_numpy(images),
            masks=tuple(data.native_mask(part, index, opening) for index in indices),
            placements=tuple(data.placement(part, index, opening) for index in indices),
            indices=indices,
            start=start,
        )
