"""nnU-Net's raw folders of two-dimensional data (Isensee et al. 2021, Nature Methods 18).

DatasetNNN_Name/dataset.json, imagesTr/<case>_0000.png, labelsTr/<case>.png; imagesTs, and from some labelsTs

dataset.json says what labels are called (`labels`: name -> value), which channels there are (`channel_names`) and how
files end (`file_ending`). Read are sets of grey pictures and of RGB in one file; a label `ignore` is ignored. Where a
name has several values, names are regions. Channels in files of their own and volumes are refused.
"""

import json
import re
from pathlib import Path
from typing import Any

from trainer.data.dataset import Part
from trainer.data.files import SUFFIXES, some
from trainer.data.layouts.layout import Layout, Settings, between, files_in, left_in, paired, together
from trainer.data.layouts.volumes import class_name
from trainer.data.splits.folders import Pair, Survey
from trainer.errors import DataError

CARD = "dataset.json"
CHANNEL = "_0000"
IGNORED = "ignore"
_OTHER_CHANNEL = re.compile(r"_\d{4}")


def recognise(root: Path) -> str | None:
    """By its file dataset.json and its two folders."""
    there = (root / CARD).is_file() and (root / "imagesTr").is_dir() and (root / "labelsTr").is_dir()
    return f"it holds imagesTr, labelsTr and {CARD}" if there else None


def pairs_in(root: Path) -> Survey:
    """All pairs. Pictures of imagesTs are test pictures where labelsTs has their masks, else they are left out."""
    ending = _ending(root)
    tests = (root / "imagesTs").is_dir() and (root / "labelsTs").is_dir()
    surveys = [_pairs(root, "Tr", ending, "train" if tests else None)]
    if tests:
        surveys.append(_pairs(root, "Ts", ending, "test"))
    folders = [root / name for name in ("imagesTr", "labelsTr", *(("imagesTs", "labelsTs") if tests else ()))]
    return together(root, surveys, [*folders, root / CARD])


def _pairs(root: Path, which: str, ending: str, part: Part | None) -> Survey:
    images, masks = root / f"images{which}", root / f"labels{which}"
    files = files_in(images, [ending.lower()])
    others = [path.name for path in files if _OTHER_CHANNEL.fullmatch(path.stem[-5:]) and path.stem[-5:] != CHANNEL]
    if others:
        raise DataError(
            f"{images}: channels in files of their own ({some(others)}); grey pictures and RGB in one file are read: "
            "put the channels of a case into one file"
        )
    pictures, labels = between(files, behind=CHANNEL), between(files_in(masks, [ending.lower()]))
    pairs = [Pair(image, mask, part) for _, image, mask in paired(root, pictures, labels)]
    return Survey(pairs, left_in(images, pictures.values()) + left_in(masks, labels.values()))


def settings_in(root: Path) -> Settings:
    """Classes by the values of dataset.json, and channels by the names that it gives them."""
    card = _card(root)
    labels = card.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(f"{root / CARD}: labels = {labels!r}: expected names with their values")
    odd = [name for name, value in labels.items() if not all(map(_is_whole, _listed(value))) or value == []]
    if odd:
        raise DataError(
            f"{root / CARD}: labels.{odd[0]} = {labels[odd[0]]!r}: expected a whole number, or a list of such for a "
            "region"
        )
    ignore = labels.get(IGNORED)
    more: dict[str, Any] = {} if ignore is None else {"ignore": ignore}
    if any(isinstance(value, list) for name, value in labels.items() if name != IGNORED):
        # The background is what no region has.
        objects = {class_name(name): value for name, value in labels.items() if name != IGNORED and value != 0}
        return {"name": "pictures", "regions": objects, "channels": _channels(root, card)} | more
    named = sorted((value, name) for name, value in labels.items() if name != IGNORED)
    if named[0][0] != 0 or len(named) < 2:
        raise DataError(f"{root / CARD}: labels = {labels!r}: expected 0 for the background, and one value more")
    channels = _channels(root, card)
    if channels == 3 and ignore is None and len(named) == 2:
        return {"name": "polyp", "labels": f"0: background, {named[1][0]}: object"}
    classes = [{"name": class_name(name), "value": value} for value, name in named]
    return {"name": "pictures", "classes": classes, "channels": channels} | more


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _channels(root: Path, card: dict[str, Any]) -> int:
    names = card.get("channel_names", card.get("modality"))
    if not isinstance(names, dict) or len(names) not in (1, 3):
        raise DataError(
            f"{root / CARD}: channel_names = {names!r}: grey pictures (one name) and RGB in one file (three) are read"
        )
    return len(names)


def _ending(root: Path) -> str:
    ending = _card(root).get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or ending.lower() not in SUFFIXES:
        raise DataError(
            f"{root / CARD}: file_ending = {ending!r}: volumes are the layout nnunet; known: "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    return ending


def _card(root: Path) -> dict[str, Any]:
    path = root / CARD
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(card, dict):
        raise DataError(f"{path}: expected a table, got {type(card).__name__}")
    return card


LAYOUT = Layout(
    title="nnU-Net raw folder of pictures",
    terms="those of the data set",
    recognise=recognise,
    survey=pairs_in,
    settings=settings_in,
)
