"""Lists of the Medical Segmentation Decathlon's kind (Antonelli et al. 2022, Nature Communications 13).

Task<NN>_<Name>/dataset.json, imagesTr/<case>.nii.gz, labelsTr/<case>.nii.gz, imagesTs/<case>.nii.gz

dataset.json says which files belong together (`training`: image and label), what labels are called (`labels`: value ->
name) and which channels an image has along its fourth axis (`modality`). Lists that others write in that form are read,
too: with `validation` beside `training`, with a `fold` a case (0 validates), with an image as a list of files, one a
channel. Images of `test`, which have no labels, are left out.
"""

from pathlib import Path

from trainer.data.layouts.layout import Layout, Settings, together
from trainer.data.layouts.volumes import (
    IMAGES,
    LABELS,
    MODALITY_ADVICE,
    by_modality,
    label_settings,
    list_in,
    listed_channels,
    listed_pairs,
    table_in,
    volume_settings,
)
from trainer.data.splits.folders import Survey
from trainer.errors import DataError


def recognise(root: Path) -> str | None:
    """By a JSON file that lists images with their labels."""
    listing = list_in(root)
    return None if listing is None else f"{listing.name} lists images with their labels"


def pairs_in(root: Path) -> Survey:
    """All cases of the list. Raises DataError for files that are not there."""
    listing = _listing(root)
    survey = listed_pairs(root, listing)
    return together(root, [survey], [root / IMAGES, root / LABELS, listing])


def settings_in(root: Path) -> Settings:
    """Classes and channels as the list's file says."""
    listing = _listing(root)
    card = table_in(listing)
    modality = card.get("modality", {})
    kinds = list(modality.values()) if isinstance(modality, dict) else []
    recipe, changes = by_modality(kinds)
    channels = listed_channels(listing)
    channels = max(1, len(kinds)) if channels == 1 else channels
    return volume_settings(label_settings(listing, card.get("labels")), recipe, channels=channels, **changes)


def _listing(root: Path) -> Path:
    listing = list_in(root)
    if listing is None:
        raise DataError(f"{root}: no JSON file lists images with their labels (training: image, label)")
    return listing


LAYOUT = Layout(
    title="volumes with a decathlon list",
    terms="those of the data set; the decathlon's CC BY-SA 4.0 (from memory), http://medicaldecathlon.com",
    recognise=recognise,
    survey=pairs_in,
    settings=settings_in,
    advice=MODALITY_ADVICE,
)
