"""How many cases and groups the parts of a data set have, and what a case is: known from the split file alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from trainer.config import BlobsData, DataConfig, PictureData, PolypData, VolumeData
from trainer.data import DataError
from trainer.data.dataset import Part

if TYPE_CHECKING:
    from trainer.data.splits.split import Row

Scored = Literal["image", "case"]
"""What a score is of: an image, or a case, which is a volume or all slices of one."""


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
    from trainer.data.sets.pictures import data_root
    from trainer.data.splits.split import read_split
    from trainer.repository import expand

    try:
        return read_split(expand(config.split, "data.split"), data_root(config))
    except DataError:
        return None
