"""PraNet's archives: polyps of five sets in a split that many papers share (Fan et al. 2020, arXiv 2006.11392).

TrainDataset/{image,mask}/*.png (older: images, masks): 1450 = 900 of Kvasir-SEG and 550 of CVC-ClinicDB
TestDataset/{CVC-300,CVC-ClinicDB,CVC-ColonDB,ETIS-LaribPolypDB,Kvasir}/{images,masks}/*.png: 60, 62, 380, 196, 100

From memory. Of the training pictures those with a number for a name are frames of CVC-ClinicDB. Frames of one of its
sequences train and test here; the near-identical ones are refused unless they are accepted.
"""

from pathlib import Path

from trainer.data.layouts.layout import Layout, folders_in, together, two_folders
from trainer.data.splits.folders import Survey

TRAIN, TEST = "TrainDataset", "TestDataset"
KVASIR, CLINIC = "Kvasir", "CVC-ClinicDB"


def recognise(root: Path) -> str | None:
    """By the names of both folders, or of one of them."""
    there = [name for name, sets in ((TRAIN, _train(root)), (TEST, _test(root))) if sets]
    return f"it holds {' and '.join(there)}" if there else None


def pairs_in(root: Path) -> Survey:
    """The pairs of what is there, each with the set that it comes from; a folder that is alone is not divided."""
    train, test = _train(root), _test(root)
    surveys = []
    for images, masks in train:
        survey = two_folders(images, masks, part="train" if test else None)
        named = [pair._replace(source=CLINIC if pair.image.stem.isdecimal() else KVASIR) for pair in survey.pairs]
        surveys.append(Survey(named, survey.left))
    for images, masks in test:
        survey = two_folders(images, masks, part="test")
        named = [pair._replace(source=images.parent.name) for pair in survey.pairs]
        surveys.append(Survey(named, [f"{images.parent.name}/{line}" for line in survey.left]))
    return together(root, surveys, [root / TRAIN, root / TEST])


def _train(root: Path) -> list[tuple[Path, Path]]:
    return _pair_of_folders(root / TRAIN)


def _test(root: Path) -> list[tuple[Path, Path]]:
    return [places for folder in folders_in(root / TEST) for places in _pair_of_folders(folder)]


def _pair_of_folders(folder: Path) -> list[tuple[Path, Path]]:
    tries = ((folder / "image", folder / "mask"), (folder / "images", folder / "masks"))
    return [places for places in tries if all(place.is_dir() for place in places)][:1]


LAYOUT = Layout(
    title="PraNet's archives: polyps of five data sets",
    terms="those of Kvasir-SEG, CVC-ClinicDB, CVC-ColonDB, ETIS-LaribPolypDB and CVC-300; "
    "https://github.com/DengPingFan/PraNet",
    recognise=recognise,
    survey=pairs_in,
    advice="frames of one sequence of CVC-ClinicDB are in its training and its test part; "
    "--near-duplicates accept takes the split as it is",
)
