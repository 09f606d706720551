"""BTCV: abdominal CT of thirteen organs as volumes (Landman et al. 2015, MICCAI challenge; Synapse syn3193805).

RawData/Training/img/img<4 digits>.nii.gz, label/label<4 digits>.nii.gz       as it is given away: 30 cases
imagesTr/img<4 digits>.nii.gz, labelsTr/label<4 digits>.nii.gz, dataset_0.json   as MONAI's examples name it

dataset_0.json lists `training` (24) and `validation` (6); without such a list cases are drawn. The recipe is that of
MONAI's examples and of ACF-BCKD. Slices of the same scans are the layouts synapse and synapse-original.
"""

import re
from pathlib import Path

from trainer.data.layouts.layout import Layout, always, numbered, together
from trainer.data.layouts.volumes import (
    IMAGES,
    LABELS,
    list_in,
    listed_pairs,
    stem_of,
    volume_pairs,
    volume_settings,
    volumes_in,
)
from trainer.data.splits.folders import Survey
from trainer.errors import DataError

PLACES = ((IMAGES, LABELS), ("img", "label"), ("Training/img", "Training/label"))
ROOTS = ("", "RawData", "Abdomen/RawData")
ORGANS = (
    "spleen", "right-kidney", "left-kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta",
    "inferior-vena-cava", "portal-and-splenic-vein", "pancreas", "right-adrenal", "left-adrenal",
)  # fmt: skip
SWAP = [["right-kidney", "left-kidney"], ["right-adrenal", "left-adrenal"]]
_IMAGE = re.compile(r"img(\d{4})")
_LABEL = re.compile(r"label(\d{4})")


def recognise(root: Path) -> str | None:
    """By the names of its files."""
    place = _place(root)
    if place is None:
        return None
    names = [path.relative_to(root).as_posix() for path in place]
    return f"{names[0]} holds img0001.nii.gz and the like, {names[1]} label0001.nii.gz"


def pairs_in(root: Path) -> Survey:
    """All cases, with the parts of a list where there is one. Raises DataError."""
    place = _place(root)
    if place is None:
        raise DataError(f"{root}: no folders with img<4 digits>.nii.gz and label<4 digits>.nii.gz")
    listing = list_in(root)
    if listing is not None:
        known = [listing, *place]
        return together(root, [listed_pairs(root, listing, lambda path: stem_of(path).removeprefix("label"))], known)
    survey = volume_pairs(*place, None, image_name=_number, label_name=_number)
    tops = [root / path.relative_to(root).parts[0] for path in place]
    return together(root, [survey], tops)


def _number(stem: str) -> str:
    match = _IMAGE.fullmatch(stem) or _LABEL.fullmatch(stem)
    return match[1] if match else stem


def _place(root: Path) -> tuple[Path, Path] | None:
    for top in ROOTS:
        for images, labels in PLACES:
            place = root / top / images, root / top / labels
            if any(map(_IMAGE.fullmatch, volumes_in(place[0]))) and any(map(_LABEL.fullmatch, volumes_in(place[1]))):
                return place
    return None


LAYOUT = Layout(
    title="BTCV: thirteen organs in CT, volumes",
    terms="Synapse's agreement, no passing on; registration at https://www.synapse.org (syn3193805)",
    recognise=recognise,
    survey=pairs_in,
    settings=always(**volume_settings({"classes": numbered("background", *ORGANS)}, "btcv", swap=SWAP)),
    advice="the usual list has training and validation and no test part: scores of papers are of the cases that chose "
    "the epoch, too; draw parts anew from a folder without the list to have a test part",
)
