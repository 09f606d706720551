"""MoNuSeg 2018: nuclei in slides of many organs (Kumar et al. 2020, IEEE TMI 39).

MoNuSeg 2018 Training Data/Tissue Images/TCGA-*.tif, Annotations/TCGA-*.xml
one folder of 14 test pictures, TCGA-*.tif with TCGA-*.xml beside it

30 pictures, later 37. A mask is the polygons of an XML file, one a nucleus; all nuclei are the object, without their
holes (NegativeROA). The first 12 letters of a name are the patient, which is the group. Names as public loaders have
them; the test folder's own name (MoNuSegTestData) is from memory, and any folder that looks so is taken.
"""

from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.layouts.layout import Layout, between, files_in, folders_in, left_in, paired, pictures_in, together
from trainer.data.splits.folders import Pair, Survey

IMAGES, MASKS = "Tissue Images", "Annotations"
PATIENT = 12


def recognise(root: Path) -> str | None:
    """By folders Tissue Images and Annotations, in it or in a folder in it."""
    train = _train(root)
    if train is None:
        return None
    return f"it holds {IMAGES} and {MASKS}" + ("" if train == root else f" in {train.name}")


def pairs_in(root: Path) -> Survey:
    """All pairs; training pictures that are alone are not divided."""
    train = _train(root)
    if train is None:
        return Survey([], [])
    tests = [folder for folder in folders_in(root) if folder != train and train != root and _annotated(folder)]
    surveys = [_pairs(train / IMAGES, train / MASKS, "train" if tests else None)]
    surveys += [_pairs(folder, folder, "test") for folder in tests]
    known = [root / IMAGES, root / MASKS] if train == root else [train, *tests]
    return together(root, surveys, known)


def _pairs(images: Path, masks: Path, part: Part | None) -> Survey:
    pictures, polygons = between(pictures_in(images)), between(files_in(masks, [".xml"]))
    pairs = [
        Pair(image, mask, part, group=name[:PATIENT])
        for name, image, mask in paired(images if images == masks else images.parent, pictures, polygons)
    ]
    taken = [*pictures.values(), *polygons.values()]
    return Survey(pairs, [line for folder in dict.fromkeys((images, masks)) for line in left_in(folder, taken)])


def _train(root: Path) -> Path | None:
    tries = (root, *folders_in(root))
    return next((place for place in tries if (place / IMAGES).is_dir() and (place / MASKS).is_dir()), None)


def _annotated(folder: Path) -> bool:
    return bool(pictures_in(folder)) and bool(files_in(folder, [".xml"]))


LAYOUT = Layout(
    title="MoNuSeg 2018: nuclei",
    terms="CC BY-NC-SA 4.0 (from memory); https://monuseg.grand-challenge.org",
    recognise=recognise,
    survey=pairs_in,
)
