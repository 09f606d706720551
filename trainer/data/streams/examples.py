"""What a stream's batches are made of: training examples of one shape, each made from an index and a seed.

A picture is one example; a volume is as many as its settings cut patches of it in an epoch.
"""

from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.config import VolumeData
from trainer.data import augment
from trainer.data.classes import bits_of
from trainer.data.dataset import DataSet, Pixels
from trainer.data.sets.volumes import VolumeCases
from trainer.data.volumes.patches import CHANGES, PatchSettings, draw_patch, follow_patch
from trainer.data.volumes.recipes import recipe_of
from trainer.errors import DataError

Array = NDArray[Any]


class Examples(Protocol):
    """The training part of a data set as its students see it."""

    count: int
    """Examples an epoch."""
    image_shape: tuple[int, ...]
    """(S, S, C) of pictures, (C, X, Y, Z) of volumes."""
    image_type: type[np.generic]
    """uint8 or uint16 of pictures, which are normalised later; float32 of volumes, which are normalised already."""
    mask_shape: tuple[int, ...]
    """Of uint8 labels, 255 ignored."""

    def make(self, index: int, seed: int, image: Array, mask: Pixels) -> None:
        """Write example `index`, changed as `seed` says, into arrays of these shapes; called by several threads."""

    def name(self, index: int) -> str:
        """Of the file that an example comes from, for messages."""


class PictureExamples:
    """Fitted pictures, each augmented by a preset."""

    def __init__(self, data: DataSet) -> None:
        self._data = data
        self._idle: SimpleQueue[augment.Augment] = SimpleQueue()
        self._preset = data.config.augment
        augment.check_preset(self._preset)
        side = data.config.size
        self.count = len(data.samples("train"))
        self.image_shape: tuple[int, ...] = (side, side, data.channels)
        self.image_type: type[np.generic] = np.uint16 if bits_of(data.config) > 8 else np.uint8
        self.mask_shape: tuple[int, ...] = (side, side)

    def make(self, index: int, seed: int, image: Array, mask: Pixels) -> None:
        """See `Examples`. A preset carries random state while it works, so each thread borrows one of its own."""
        try:
            change = self._idle.get_nowait()
        except Empty:
            change = augment.build(self._preset)
        image[...], mask[...] = change(*self._data.fitted("train", index), seed)
        self._idle.put(change)

    def name(self, index: int) -> str:
        """See `Examples`."""
        return self._data.samples("train")[index].name


class PatchExamples:
    """Patches of the training cases, a case's patches follow each other."""

    def __init__(self, data: VolumeCases) -> None:
        config = data.settings
        self._cases, self._each = data.cases("train"), config.patches
        self._settings = PatchSettings(
            size=config.patch,
            foreground=config.foreground,
            changes=CHANGES[config.augment],
            swaps=_swaps(data, config),
            above_zero=recipe_of(config).window is not None,
        )
        names = list(data.class_names)
        self._exchanged = [(names.index(one), names.index(other)) for one, other in config.swap]
        self.count = len(self._cases) * config.patches
        self.image_shape: tuple[int, ...] = (data.channels, *config.patch)
        self.image_type: type[np.generic] = np.float32
        self.mask_shape: tuple[int, ...] = config.patch

    def make(self, index: int, seed: int, image: Array, mask: Pixels) -> None:
        """See `Examples`."""
        draw_patch(self._cases[index // self._each], self._settings, seed, image, mask)

    def follow(self, index: int, seed: int, outputs: Array, out: Array, beyond: Sequence[float]) -> None:
        """Write what `outputs` (classes or regions, X, Y, Z) on the case's prepared grid have where example `index`
        lies into `out` (the same, *patch); beyond: by output, what is around a case smaller than the patch."""
        case = self._cases[self.case(index)]
        follow_patch(case, self._settings, seed, outputs, out, beyond=beyond, swaps=self._exchanged)

    def case(self, index: int) -> int:
        """The number of the training case that an example is of."""
        return index // self._each

    def name(self, index: int) -> str:
        """See `Examples`."""
        return self._cases[index // self._each].name


def _swaps(data: VolumeCases, config: VolumeData) -> list[tuple[int, int]]:
    """The labels that change places in a mirror image. Of regions a label says which ones a voxel is in, and changes
    places with the one of the mirrored regions. Raises DataError where no label has these."""
    names = list(data.class_names)
    pairs = [(names.index(one), names.index(other)) for one, other in config.swap]
    if data.regions is None:
        return pairs
    partner = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
    members = [frozenset(places) for places in data.regions.members]
    swaps = []
    for label, places in enumerate(members):
        mirrored = frozenset(partner.get(place, place) for place in places)
        if mirrored not in members:
            wanted = " and ".join(names[place] for place in sorted(mirrored))
            raise DataError(
                f"data.swap: no value of the label files is in {wanted} alone, as a mirror image needs; drop swap"
            )
        if label < members.index(mirrored):
            swaps.append((label, members.index(mirrored)))
    return swaps


def examples_of(data: DataSet) -> Examples:
    """The training examples of a data set. Raises DataError for an unknown augmentation preset."""
    if isinstance(data, VolumeCases):
        return PatchExamples(data)
    return PictureExamples(data)
