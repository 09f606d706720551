"""ISIC 2018 Task 1: skin lesions (Codella et al. 2019, arXiv 1902.03368; Tschandl et al. 2018, Scientific Data 5).

ISIC2018_Task1-2_{Training,Validation,Test}_Input/ISIC_<7 digits>.jpg
ISIC2018_Task1_{Training,Validation,Test}_GroundTruth/ISIC_<7 digits>_segmentation.png   (small s; 2016 has a capital)

2594, 100 and 1000 pictures; masks hold 0 and 255. The training folder alone is also in use, split anew.
"""

from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.files import some
from trainer.data.layouts.layout import Layout, pictures_in, spare_files
from trainer.data.splits.folders import Pair, Survey
from trainer.errors import DataError

PARTS: dict[str, Part] = {"Training": "train", "Validation": "validation", "Test": "test"}
ENDING = "_segmentation"


def recognise(root: Path) -> str | None:
    """By the name of the folders of pictures and masks."""
    there = [name for name in PARTS if all(folder.is_dir() for folder in _folders(root, name))]
    return f"it holds {' and '.join(_folders(root, name)[0].name for name in there)}" if there else None


def pairs_in(root: Path) -> Survey:
    """The pairs of all parts that are there; a training folder that is alone is not divided."""
    there = [name for name in PARTS if all(folder.is_dir() for folder in _folders(root, name))]
    pairs, left = [], []
    for name in there:
        images, masks = _folders(root, name)
        pictures = {path.stem: path for path in pictures_in(images)}
        labels = {path.stem.removesuffix(ENDING): path for path in pictures_in(masks) if path.stem.endswith(ENDING)}
        lone = sorted(pictures.keys() ^ labels.keys())
        if lone:
            raise DataError(f"{root}: {len(lone)} of {name} have a picture or a mask, not both ({some(lone)})")
        part = PARTS[name] if len(there) > 1 else None
        pairs += [Pair(pictures[stem], labels[stem], part) for stem in sorted(pictures)]
        spare = spare_files(images, list(pictures.values())) + spare_files(masks, list(labels.values()))
        left += [f"{name}: {len(spare)} files that are no pictures or masks ({some(spare)})"] if spare else []
    return Survey(pairs, left)


def _folders(root: Path, part: str) -> tuple[Path, Path]:
    return root / f"ISIC2018_Task1-2_{part}_Input", root / f"ISIC2018_Task1_{part}_GroundTruth"


LAYOUT = Layout(
    title="ISIC 2018 Task 1: skin lesions",
    terms="most pictures CC0, some CC BY-NC (the file in the archive says which); https://challenge.isic-archive.com",
    recognise=recognise,
    survey=pairs_in,
    settings={"name": "polyp"},
)
