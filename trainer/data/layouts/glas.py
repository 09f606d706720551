"""GlaS, also Warwick-QU: glands in slides of the colon (Sirinukunwattana et al. 2017, Medical Image Analysis 35).

train_<1 to 85>.bmp, testA_<1 to 60>.bmp, testB_<1 to 20>.bmp, each with ..._anno.bmp beside it, and Grade.csv

Annotations hold the number of the gland, 0 where there is none: every number is a gland. Both tests are test.
Grade.csv names the patient of each picture. The published parts share patients, so that with them a patient is a group
within a part alone; where only one part is there, nothing of it is given and a patient is a group as any.
{Train,Test}_Folder/{img,labelcol}/*.png is UCTransNet's form. All of this is from memory.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.layouts.layout import Layout, always, between, left_in, paired, pictures_in, together, two_folders
from trainer.data.splits.folders import Pair, Survey
from trainer.errors import counted

PARTS: dict[str, Part] = {"train": "train", "testA": "test", "testB": "test"}
ALL: tuple[Part, Part] = ("train", "test")
ENDING = "_anno"
GRADES = "Grade.csv"
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
    patients = _patients(root / GRADES)
    groups = {name: patients.get(name, "") if alone else _within(parts[name], patients.get(name)) for name in parts}
    pairs = [Pair(image, mask, None if alone else parts[name], groups[name]) for name, image, mask in both]
    notes = _notes(parts, patients) if patients else []
    return Survey(pairs, left_in(root, [*files, *([root / GRADES] if patients else [])]), validates=alone, notes=notes)


def _within(part: Part, patient: str | None) -> str:
    return "" if patient is None else f"{part}-{patient}"


def _notes(parts: Mapping[str, Part], patients: Mapping[str, str]) -> list[str]:
    """How the patients are used, in a line."""
    by_part = {part: {patients[name] for name in parts if parts[name] == part and name in patients} for part in ALL}
    unknown = sum(name not in patients for name in parts)
    lacking = f"; {counted(unknown, 'picture')} not in it" if unknown else ""
    if not all(by_part.values()):
        return [f"patients of {GRADES} are the groups{lacking}"]
    both = len(by_part["train"] & by_part["test"])
    return [
        f"patients of {GRADES} are groups within train and within test, as published {counted(both, 'patient')} of "
        f"{len(set().union(*by_part.values()))} in both{lacking}"
    ]


def _patients(path: Path) -> dict[str, str]:
    """The patient of each picture; empty where there is no such file, or one without these columns."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    header = [cell.lower() for cell in rows[0]] if rows else []
    if not {"name", "patient id"} <= set(header):
        return {}
    name, patient = header.index("name"), header.index("patient id")
    known = (row for row in rows[1:] if len(row) > max(name, patient))
    return {row[name].removesuffix(".bmp"): row[patient] for row in known if row[name] and row[patient]}


def _repacked(root: Path) -> list[str]:
    return [name for name in FOLDERS if (root / name / "img").is_dir() and (root / name / "labelcol").is_dir()]


LAYOUT = Layout(
    title="GlaS (Warwick-QU): glands of the colon",
    terms="research; https://warwick.ac.uk/TIA (not checked)",
    recognise=recognise,
    survey=pairs_in,
    settings=always(name="polyp", labels="0: background, 1-255: object"),
)
