"""WORD: abdominal CT of sixteen organs as volumes (Luo et al. 2022, Medical Image Analysis 82).

imagesTr, labelsTr (100), imagesVal, labelsVal (20), imagesTs, labelsTs (30): word_<4 digits>.nii.gz, image and label
of one name. Organs are numbered in another order than in BTCV. The recipe is that of ACF-BCKD.
"""

import re
from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.layouts.layout import Layout, always, numbered, together
from trainer.data.layouts.volumes import list_in, volume_pairs, volume_settings, volumes_in
from trainer.data.splits.folders import Survey

PARTS: dict[str, Part] = {"Tr": "train", "Val": "validation", "Ts": "test"}
ORGANS = (
    "liver", "spleen", "left-kidney", "right-kidney", "stomach", "gallbladder", "oesophagus", "pancreas", "duodenum",
    "colon", "intestine", "adrenal", "rectum", "bladder", "left-femur-head", "right-femur-head",
)  # fmt: skip
SWAP = [["left-kidney", "right-kidney"], ["left-femur-head", "right-femur-head"]]
_NAME = re.compile(r"word_\d{4}")


def recognise(root: Path) -> str | None:
    """By the names of its files."""
    there = [f"images{which}" for which in PARTS if any(map(_NAME.fullmatch, volumes_in(root / f"images{which}")))]
    return f"{' and '.join(there)} hold word_0001.nii.gz and the like" if there else None


def pairs_in(root: Path) -> Survey:
    """All cases with their parts; images without a folder of labels are left out. Raises DataError."""
    labelled = [which for which in PARTS if volumes_in(root / f"labels{which}")]
    surveys = [
        volume_pairs(root / f"images{which}", root / f"labels{which}", PARTS[which] if len(labelled) > 1 else None)
        for which in labelled
    ]
    known = [root / f"{kind}{which}" for kind in ("images", "labels") for which in labelled]
    listing = list_in(root)
    return together(root, surveys, [*known, *([] if listing is None else [listing])])


LAYOUT = Layout(
    title="WORD: sixteen organs in CT, volumes",
    terms="academic, not commercial; password by e-mail, https://github.com/HiLab-git/WORD",
    recognise=recognise,
    survey=pairs_in,
    settings=always(**volume_settings({"classes": numbered("background", *ORGANS)}, "word", swap=SWAP)),
)
