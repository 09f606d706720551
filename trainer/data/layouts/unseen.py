"""Sources that no split names: folders of images and masks below the data root, for a last look at a trained network.

Their images count as test rows: without the record of an opening nothing of them is read but hashes.
"""

from pathlib import Path

from trainer.config import DataConfig, PolypData
from trainer.data.dataset import DataSet
from trainer.data.layouts.polyp import Polyps, data_root
from trainer.data.splits.folders import find_pairs
from trainer.data.splits.split import Row
from trainer.errors import DataError, nearest


def open_unseen(config: DataConfig, name: str, *, cache: Path) -> DataSet:
    """All images of the folder `name` below the root of the data, as test rows, fitted as the data's settings say.

    Parts that the folder is divided into are taken together; no group is known. Raises DataError where the folder
    cannot be used or the data has no folders.
    """
    if not isinstance(config, PolypData):
        raise DataError(f"unseen = {name!r}: {config.name} has no other sources; remove it")
    root = data_root(config)
    folder = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not folder.is_dir():
        known = sorted(below.name for below in root.iterdir() if below.is_dir() and not below.name.startswith("."))
        raise DataError(f"unseen = {name!r}: no such folder in {root}{nearest(name, known)}")
    pairs = find_pairs(folder)
    rows = [
        Row(name, pair.image.relative_to(root).as_posix(), pair.mask.relative_to(root).as_posix(), "", "test")
        for pair in pairs
    ]
    return Polyps(config, root, rows, cache)
