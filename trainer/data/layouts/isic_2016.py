"""ISIC 2016: skin lesions (Gutman et al. 2016, arXiv 1605.01397).

ISBI2016_ISIC_Part1_{Training,Test}_Data/ISIC_<7 digits>.jpg
ISBI2016_ISIC_Part1_{Training,Test}_GroundTruth/ISIC_<7 digits>_Segmentation.png   (capital S; 2018 has a small one)

900 and 379 pictures; masks hold 0 and 255. From memory: the archives of Part 3B hold the same pictures with their masks
in one folder, ISBI2016_ISIC_Part3B_{Training,Test}_Data, beside a CSV of labels.
"""

from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.layouts.layout import Layout, between, left_in, paired, pictures_in, together, two_folders
from trainer.data.splits.folders import Pair, Survey

PARTS: dict[str, Part] = {"Training": "train", "Test": "test"}
ENDING = "_Segmentation"


def recognise(root: Path) -> str | None:
    """By the names of folders, or by a folder of pictures whose masks lie beside them."""
    there = _two(root) or _one(root)
    if there:
        return f"it holds {' and '.join(folder.name for folder in there.values())}"
    return "pictures and masks ISIC_..._Segmentation.png lie in it side by side" if _mixed(root) else None


def pairs_in(root: Path) -> Survey:
    """The pairs of both parts; a folder that is alone is not divided."""
    there = _two(root)
    if there:
        surveys = [
            two_folders(images, _masks(images), part=_part(name, len(there)), behind=ENDING)
            for name, images in there.items()
        ]
        return together(root, surveys, [folder for images in there.values() for folder in (images, _masks(images))])
    there = _one(root)
    if there:
        surveys = [_beside(folder, _part(name, len(there))) for name, folder in there.items()]
        return together(root, surveys, list(there.values()))
    return _beside(root, None)


def _part(name: str, parts: int) -> Part | None:
    return PARTS[name] if parts > 1 else None


def _beside(folder: Path, part: Part | None) -> Survey:
    """The pairs of a folder in which masks lie beside their pictures."""
    files = pictures_in(folder)
    masks = between(files, behind=ENDING)
    images = between(path for path in files if path not in masks.values())
    pairs = [Pair(image, mask, part) for _, image, mask in paired(folder, images, masks)]
    return Survey(pairs, left_in(folder, [*masks.values(), *images.values()]))


def _two(root: Path) -> dict[str, Path]:
    """The folders of pictures that have one of masks beside them, by part."""
    folders = {name: root / f"ISBI2016_ISIC_Part1_{name}_Data" for name in PARTS}
    return {name: folder for name, folder in folders.items() if folder.is_dir() and _masks(folder).is_dir()}


def _masks(images: Path) -> Path:
    return images.with_name(images.name.removesuffix("_Data") + "_GroundTruth")


def _one(root: Path) -> dict[str, Path]:
    """The folders that hold pictures and masks, by part."""
    folders = {name: root / f"ISBI2016_ISIC_Part3B_{name}_Data" for name in PARTS}
    return {name: folder for name, folder in folders.items() if _mixed(folder)}


def _mixed(folder: Path) -> bool:
    return any(path.stem.startswith("ISIC_") for path in between(pictures_in(folder), behind=ENDING).values())


LAYOUT = Layout(
    title="ISIC 2016: skin lesions",
    terms="CC0; https://challenge.isic-archive.com",
    recognise=recognise,
    survey=pairs_in,
)
