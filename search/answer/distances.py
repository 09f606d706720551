"""How the distances of compared networks differ: those of what both found, and with every miss counted."""

from collections.abc import Iterator

import numpy as np

from search.answer.comparisons import TEST, Grids, pairs
from search.answer.document import Distances
from search.answer.score_arrays import difference, shared
from search.confirm.results import Confirmed

FOUND, EVERY = "hd95", "hd95_missed_as_diagonal"
"""Distance over what both found, which a network improves by missing more; and over all images."""


def distances(confirmed: Confirmed, grids: Grids, confidence: float) -> Iterator[Distances]:
    """The distances of every comparison on test whose networks share a seed.

    The interval is over all images. Over the images that both found there is none, since a network chooses them by what
    it misses.
    """
    for pair in pairs(confirmed):
        minuend, subtrahend = grids.get((pair.minuend.name, TEST)), grids.get((pair.subtrahend.name, TEST))
        if minuend is None or subtrahend is None:
            continue
        both, seeds = difference(minuend, subtrahend, FOUND)
        if not seeds:
            continue
        common = shared(minuend, subtrahend)
        known = np.isfinite(minuend.values(FOUND, common) - subtrahend.values(FOUND, common)).all(axis=0)
        measured = minuend.has(EVERY) and subtrahend.has(EVERY)
        every = difference(minuend, subtrahend, EVERY)[0] if measured else None
        low, high = (None if every is None else every.interval(confidence)) or (None, None)
        yield Distances(
            name=pair.name, part=TEST, minuend=minuend.configuration, subtrahend=subtrahend.configuration,
            images=len(minuend.one.images), compared=int(known.sum()), hd95=None if both is None else both.value,
            hd95_missed_as_diagonal=None if every is None else every.value, low=low, high=high, seeds=seeds,
        )  # fmt: skip
