"""GlaS, also Warwick-QU: glands in slides of the colon (Sirinukunwattana et al. 2017, Medical Image Analysis 35).

train_<1 to 85>.bmp, testA_<1 to 60>.bmp, testB_<1 to 20>.bmp, each with ..._anno.bmp beside it, and Grade.csv

Annotations hold the number of the gland, 0 where there is none: every number is a gland. Both tests are test.
{Train,Test}_Folder/{img,labelcol}/*.png is UCTransNet's form. All of this is from memory.
"""

import re
from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.layouts.layout import Layout, always, between, left_in, paired, pictures_in, together, two_folders
from trainer.data.splits.folders import Pair, Survey

PARTS: dict[str, Part] = {"train": "train", "testA": "test", "testB": "test"}
ENDING = "_anno"
FOLDERS: dict[str, Part] = {"Train_Folder": "train", "Test_Folder": "test"}
_NAME = re.compile(rf"({'|'.join(PARTS)})_\d+")


def recognise(root: Path) -> str | None:
    """By the names of its pictures, or by those of UCTransNet's folders."""
    if any(_NAME.fullmatch(name) for name in between(pictures_in(root), behind=ENDING)):
        return "it holds pictures train_..., testA_... or testB_... with _anno behind the names of their masks"
    there = _repacked(root)
    return f"it holds {' and '.join(there)} with img and labelcol, as UCTransNet packs it" if there else None


def pairs_in(root: Path) -> Survey:
    """The pairs of all parts."""
    there = _repacked(root)
    if there:
        alone = len(there) == 1
        surveys = [
            two_folders(root / name / "img", root / name / "labelcol", part=None if alone else FOLDERS[name])
            for name in there
        ]
        return together(root, surveys, [root / name for name in there])
    files = [path for path in pictures_in(root) if _NAME.fullmatch(path.stem.removesuffix(ENDING))]
    masks = between(files, behind=ENDING)
    images = between(path for path in files if path not in masks.values())
    both = paired(root, images, masks)
    parts = {name: PARTS[name.rpartition("_")[0]] for name, _, _ in both}
    alone = len(set(parts.values())) == 1
    pairs = [Pair(image, mask, None if alone else parts[name]) for name, image, mask in both]
    return Survey(pairs, left_in(root, files), validates=alone)


def _repacked(root: Path) -> list[str]:
    return [name for name in FOLDERS if (root / name / "img").is_dir() and (root / name / "labelcol").is_dir()]


LAYOUT = Layout(
    title="GlaS (Warwick-QU): glands of the colon",
    terms="research; https://warwick.ac.uk/TIA (not checked)",
    recognise=recognise,
    survey=pairs_in,
    settings=always(name="polyp", labels="0: background, 1-255: object"),
)
