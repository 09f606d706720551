"""ISIC 2018 Task 1: skin lesions (Codella et al. 2019, arXiv 1902.03368; Tschandl et al. 2018, Scientific Data 5).

ISIC2018_Task1-2_{Training,Validation,Test}_Input/ISIC_<7 digits>.jpg
ISIC2018_Task1_{Training,Validation,Test}_GroundTruth/ISIC_<7 digits>_segmentation.png   (small s; 2016 has a capital)

2594, 100 and 1000 pictures; masks hold 0 and 255. The training folder alone is also in use, split anew. From memory:
that ATTRIBUTION.txt and LICENSE.txt lie among the pictures, and the terms.
"""

from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.layouts.layout import Layout, together, two_folders
from trainer.data.splits.folders import Survey

PARTS: dict[str, Part] = {"Training": "train", "Validation": "validation", "Test": "test"}


def recognise(root: Path) -> str | None:
    """By the names of the folders of pictures and masks."""
    there = _there(root)
    return f"it holds {' and '.join(_folders(root, name)[0].name for name in there)}" if there else None


def pairs_in(root: Path) -> Survey:
    """The pairs of all parts that are there; a training folder that is alone is not divided."""
    there = _there(root)
    surveys = [
        two_folders(*_folders(root, name), part=PARTS[name] if len(there) > 1 else None, behind="_segmentation")
        for name in there
    ]
    return together(root, surveys, [folder for name in there for folder in _folders(root, name)])


def _there(root: Path) -> list[str]:
    return [name for name in PARTS if all(folder.is_dir() for folder in _folders(root, name))]


def _folders(root: Path, part: str) -> tuple[Path, Path]:
    return root / f"ISIC2018_Task1-2_{part}_Input", root / f"ISIC2018_Task1_{part}_GroundTruth"


LAYOUT = Layout(
    title="ISIC 2018 Task 1: skin lesions",
    terms="most pictures CC0, some CC BY-NC (the file in the archive says which); https://challenge.isic-archive.com",
    recognise=recognise,
    survey=pairs_in,
)
