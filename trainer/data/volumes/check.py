"""Whether the files of a case can be used, for who draws or checks a split: nothing is resampled and nothing kept."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.file_check import CheckedPair
from trainer.data.masks import Coding, MaskValues
from trainer.data.perceptual_hash import BYTES, ImageHashes
from trainer.data.volumes.geometry import directions
from trainer.data.volumes.nifti import Channels, channel_files, read_image, refuse_other_grid, stored_labels
from trainer.errors import DataError

_GREY = 0x010101


@dataclass(frozen=True)
class VolumeReading:
    """How the cases of a data set are read."""

    coding: Coding
    channels: Channels
    cells: None = None
    """A row is no part of an image."""

    def examined(self, files: tuple[Path, Path]) -> CheckedPair | DataError:
        """What image and label hold, or what is wrong with them. Values that no class has are counted like others."""
        try:
            return self.checked(*files)
        except DataError as error:
            return error

    def checked(self, image: Path, label: Path) -> CheckedPair:
        """The same; raises DataError.

        Slices of two bodies at one height are alike, so that volumes have no sketch: only equal ones are known again.
        """
        arrays, first = read_image(channel_files(image, self.channels), self.channels)
        stored, values = stored_labels(label)
        refuse_other_grid(first, stored)
        digest = hashlib.sha256(repr((first.shape, arrays[0].dtype)).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array.T).tobytes())
        counts = np.bincount(values.ravel(), minlength=256)
        named = {int(value) * _GREY: int(counts[value]) for value in np.flatnonzero(counts)}
        lengths, axes = first.grid.spacing, directions(first.grid.matrix)
        x, y, z = (lengths[at] for at, _ in axes)
        width, height, depth = (first.grid.shape[at] for at, _ in axes)
        return CheckedPair(
            height=height,
            width=width,
            values=MaskValues(named, int(values.size), lossy=False),
            hashes=ImageHashes(digest.hexdigest(), bytes(BYTES)),
            orientation=1,
            depth=depth,
            spacing=(x, y, z),
        )
