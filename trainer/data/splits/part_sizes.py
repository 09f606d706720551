"""How many cases and groups the parts of a data set have, what a case is, and what sentences call the data's things:
known from the split file alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from trainer.config import BlobsData, DataConfig, PictureData, PolypData, VolumeData
from trainer.data.dataset import Part
from trainer.errors import DataError

if TYPE_CHECKING:
    from trainer.data.splits.split import Row

Scored = Literal["image", "case"]
"""What a score is of: an image, or a case, which is a volume or all slices of one."""


class Nouns(NamedTuple):
    """What sentences call the things of a data set, each in the singular; an s makes their plural but for `input`."""

    scored: Scored
    """What a score is of."""
    row: Literal["image", "slice", "case"]
    """What a row of the split file is."""
    element: Literal["pixel", "voxel"]
    """What has a class."""
    input: Literal["image", "slice", "patch"]
    """What a network takes at once."""

    @property
    def an_input(self) -> str:
        """With its article: an image, a slice, a patch."""
        return f"{'an' if self.input == 'image' else 'a'} {self.input}"


IMAGES = Nouns("image", "image", "pixel", "image")
SLICES = Nouns("case", "slice", "pixel", "slice")
VOLUMES = Nouns("case", "case", "voxel", "patch")


def nouns_for(scored: Scored, *, volumes: bool) -> Nouns:
    """The nouns of data whose scores are of that. volumes: whether its files are volumes, not pictures."""
    if volumes:
        return VOLUMES
    return IMAGES if scored == "image" else SLICES


def nouns_of(config: DataConfig) -> Nouns:
    """The nouns of a data set. Of pictures whose split file cannot be reached from here: those of images."""
    return nouns_for(scored_as(config), volumes=isinstance(config, VolumeData))


def counted_groups(config: DataConfig, part: Part) -> tuple[int, int] | None:
    """How many cases (images where each is scored alone) and groups a part has: counted in the split file, no picture
    is opened. None where file or data root cannot be reached from here."""
    if isinstance(config, BlobsData):
        images = getattr(config, part)
        return images, images
    rows = _split_rows(config)
    if rows is None:
        return None
    of_part = [row for row in rows if row.part == part]
    cases = {(row.source, row.case) for row in of_part if row.case}
    alone = sum(not row.case for row in of_part)
    return len(cases) + alone, len({row.group_key for row in of_part})


def scored_as(config: DataConfig) -> Scored:
    """What a score of the data is of. Of pictures whose split file cannot be reached from here: an image."""
    if isinstance(config, VolumeData):
        return "case"
    rows = [] if isinstance(config, BlobsData) else _split_rows(config) or []
    return "case" if any(row.case for row in rows) else "image"


def _split_rows(config: PolypData | PictureData | VolumeData) -> "Sequence[Row] | None":
    from trainer.data.splits.split import data_root, read_split
    from trainer.repository import expand

    try:
        return read_split(expand(config.split, "data.split"), data_root(config))
    except DataError:
        return None
