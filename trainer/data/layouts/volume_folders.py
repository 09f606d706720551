"""Volumes of any data set in imagesTr and labelsTr, and from some imagesVal, labelsVal, imagesTs, labelsTs.

A label has its image's name. Nothing says what labels mean: name the classes (--classes).
"""

from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.layouts.layout import Layout, always, together
from trainer.data.layouts.volumes import volume_pairs, volumes_in
from trainer.data.splits.folders import Survey

PARTS: dict[str, Part] = {"Tr": "train", "Val": "validation", "Ts": "test"}


def recognise(root: Path) -> str | None:
    """By NIfTI files in imagesTr and labelsTr."""
    there = volumes_in(root / "imagesTr") and volumes_in(root / "labelsTr")
    return "imagesTr and labelsTr hold NIfTI files" if there else None


def pairs_in(root: Path) -> Survey:
    """All cases that have labels. Raises DataError for lone halves."""
    labelled = [which for which in PARTS if volumes_in(root / f"labels{which}")]
    surveys = [
        volume_pairs(root / f"images{which}", root / f"labels{which}", PARTS[which] if len(labelled) > 1 else None)
        for which in labelled
    ]
    return together(root, surveys, [root / f"{kind}{which}" for kind in ("images", "labels") for which in labelled])


LAYOUT = Layout(
    title="volumes in imagesTr and labelsTr",
    terms="those of the data set",
    recognise=recognise,
    survey=pairs_in,
    settings=always(name="volumes"),
    advice='recipe = "none" keeps intensities as they are: choose recipe, spacing and window in [run.data]',
)
