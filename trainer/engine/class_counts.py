"""How many pixels of each class a part of the data has."""

import numpy as np
from numpy.typing import NDArray

from losses.config import Ce, Weighted
from trainer.data.dataset import DataSet, Part
from trainer.evaluation.confusion import IGNORE

_known: dict[tuple[str, Part], NDArray[np.int64]] = {}
"""By content hash: the students of a search ask for the same data again and again."""


def class_pixels(data: DataSet, part: Part) -> NDArray[np.int64]:
    """Pixels of each class at native size, (classes,), or of each region, which may share them; what is ignored is left
    out. The test part needs an opening, so it is refused with a DataError."""
    counts = label_pixels(data, part)
    return counts[: data.classes] if data.regions is None else counts @ data.regions.table[:IGNORE].astype(np.int64)


def label_pixels(data: DataSet, part: Part) -> NDArray[np.int64]:
    """Pixels of each label that masks may hold, (255,); as `class_pixels`."""
    key = (data.content_hash, part)
    if key not in _known:
        counts = np.zeros(IGNORE + 1, dtype=np.int64)
        for index in range(len(data.samples(part))):
            counts += np.bincount(data.native_mask(part, index).ravel(), minlength=IGNORE + 1)
        _known[key] = counts[:IGNORE]
    return _known[key]


def balanced(pixels: NDArray[np.int64]) -> tuple[float, ...]:
    """A weight for each class: all pixels / (classes * pixels of the class), as scikit-learn's `balanced`; 1 for a
    class that no pixel has."""
    total = float(pixels.sum())
    return tuple(total / (len(pixels) * float(count)) if count else 1.0 for count in pixels)


def counted_weights(config: Weighted, data: DataSet) -> Weighted:
    """A loss's options with numbers in the place of `balanced` weights, counted on the training part."""
    if isinstance(config, Ce) and config.class_weights == "balanced":
        return config.model_copy(update={"class_weights": balanced(class_pixels(data, "train"))})
    return config
