"""nnU-Net's raw folders of volumes (Isensee et al. 2021, Nature Methods 18).

DatasetNNN_Name/dataset.json, imagesTr/<case>_<4 digits>.nii.gz, labelsTr/<case>.nii.gz; from some imagesTs, labelsTs

dataset.json says what labels are called (`labels`: name -> value), which channels there are (`channel_names`, one a
file) and how files end (`file_ending`). A label `ignore` is ignored; a label of several values is a region.
Fold 0 of splits_final.json is taken over where that file lies in the folder, or where nnU-Net puts it:
nnUNet_preprocessed/DatasetNNN_Name beside nnUNet_raw. Pictures are the layout nnunet-2d.
"""

import json
import re
from pathlib import Path

from trainer.data.dataset import Part
from trainer.data.files import CHANNEL, some
from trainer.data.layouts.layout import Layout, Settings, left_in, paired, together
from trainer.data.layouts.volumes import (
    ENDINGS,
    MODALITY_ADVICE,
    by_modality,
    label_settings,
    table_in,
    volume_settings,
    volumes_in,
)
from trainer.data.splits.folders import Pair, Survey
from trainer.errors import DataError, counted

CARD = "dataset.json"
SPLITS = "splits_final.json"
PREPROCESSED = "nnUNet_preprocessed"
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def recognise(root: Path) -> str | None:
    """By dataset.json and images that have their label's name and _0000 behind it."""
    if not (root / CARD).is_file():
        return None
    labels = volumes_in(root / "labelsTr")
    first = [stem for stem in volumes_in(root / "imagesTr") if stem.endswith("_0000") and stem[:-5] in labels]
    return f"it holds {CARD}, imagesTr with names in _0000, and labelsTr" if first else None


def pairs_in(root: Path) -> Survey:
    """All cases; those of imagesTs where labelsTs has their labels, else they are left out. Raises DataError."""
    channels = _channels(root)
    tests = (root / "imagesTs").is_dir() and bool(volumes_in(root / "labelsTs"))
    surveys = [_pairs(root, "Tr", channels, "train" if tests else None)]
    splits = _splits(root)
    if splits is not None:
        parts = _fold(splits)
        pairs = [pair._replace(part=parts.get(pair.group)) for pair in surveys[0].pairs]
        absent = sorted(set(parts) - {pair.group for pair in pairs})
        unnamed = [pair.group for pair in pairs if pair.part is None]
        if absent or unnamed:
            which = f"not there: {counted(len(absent), 'case')} of it ({some(absent)})" if absent else ""
            which = which or f"does not name {counted(len(unnamed), 'case')} ({some(unnamed)})"
            raise DataError(f"{splits}: {which}; remove the file to draw the parts anew")
        line = f"{splits.name}: fold 0 is taken over, its val cases validate"
        surveys[0] = Survey(pairs, [*surveys[0].left, line])
    if tests:
        surveys.append(_pairs(root, "Ts", channels, "test"))
    folders = [root / name for name in ("imagesTr", "labelsTr", *(("imagesTs", "labelsTs") if tests else ()))]
    return together(root, surveys, [*folders, root / CARD, root / SPLITS])


def _pairs(root: Path, which: str, channels: list[str], part: Part | None) -> Survey:
    images, labels = root / f"images{which}", root / f"labels{which}"
    files = volumes_in(images)
    cases = {match[1]: files[stem] for stem in files if (match := _CHANNEL.fullmatch(stem)) and match[2] == channels[0]}
    wanted = {f"{case}_{channel}" for case in cases for channel in channels}
    missing = sorted(wanted - set(files))
    if missing:
        raise DataError(f"{images}: missing: {counted(len(missing), 'channel')} ({some(missing)}); {CARD} names them")
    pairs = [
        Pair(_with_channel(image, channels), label, part, group=case)
        for case, image, label in paired(root, cases, volumes_in(labels))
    ]
    taken = [files[stem] for stem in wanted]
    return Survey(pairs, left_in(images, taken) + left_in(labels, [pair.mask for pair in pairs]))


def _with_channel(image: Path, channels: list[str]) -> Path:
    if len(channels) == 1:
        return image
    before, _, behind = image.name.rpartition(f"_{channels[0]}")
    return image.with_name(f"{before}_{CHANNEL}{behind}")


def _channels(root: Path) -> list[str]:
    """The numbers of the channels, which are in the names of files. Raises DataError."""
    return [f"{at:04d}" for at in range(len(_channel_names(root)))]


def _channel_names(root: Path) -> list[str]:
    card = table_in(root / CARD)
    names = card.get("channel_names", card.get("modality"))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{root / CARD}: channel_names = {names!r}: expected the channels by their numbers")
    ending = card.get("file_ending", ENDINGS[-1])
    if ending not in ENDINGS:
        raise DataError(f"{root / CARD}: file_ending = {ending!r}: known for volumes: {', '.join(ENDINGS)}")
    return [str(name) for name in names.values()]


def settings_in(root: Path) -> Settings:
    """Classes and channels as dataset.json says."""
    kinds = _channel_names(root)
    meaning = label_settings(root / CARD, table_in(root / CARD).get("labels"))
    recipe, changes = by_modality(kinds)
    channels = _channels(root)
    return volume_settings(meaning, recipe, channels=1 if len(channels) == 1 else channels, **changes)


def _splits(root: Path) -> Path | None:
    places = (root / SPLITS, root.parent.parent / PREPROCESSED / root.name / SPLITS)
    return next((path for path in places if path.is_file()), None)


def _fold(path: Path) -> dict[str, Part]:
    """The parts of the first fold by case. Raises DataError."""
    try:
        fold = json.loads(path.read_text())[0]
        train, validation = [str(case) for case in fold["train"]], [str(case) for case in fold["val"]]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: expected a list of folds with train and val ({error})") from error
    both = sorted(set(train) & set(validation))
    if both:
        raise DataError(f"{path}: fold 0 has {counted(len(both), 'case')} in train and in val ({some(both)})")
    parts: dict[str, Part] = dict.fromkeys(train, "train")
    parts.update(dict.fromkeys(validation, "validation"))
    return parts


LAYOUT = Layout(
    title="nnU-Net raw folder of volumes",
    terms="those of the data set",
    recognise=recognise,
    survey=pairs_in,
    settings=settings_in,
    advice=MODALITY_ADVICE,
)
