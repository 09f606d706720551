"""Image and mask pairs in folders as data sets are shipped.

<folder>/images + masks                                     Kvasir-SEG, most re-packs
<folder>/Original + Ground Truth                            CVC-ClinicDB
<folder>/..._Input + ..._GroundTruth                        ISIC, masks end in _segmentation or _Segmentation
<folder>/{train,validation or val,test}/<any of the above>  already split

The folders may also be called imgs or pictures, and labels, gt, annotations or segmentations.
"""

import re
from pathlib import Path
from typing import NamedTuple

from trainer.data.dataset import Part
from trainer.data.files import SUFFIXES
from trainer.errors import DataError

PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}

_IMAGES = (
    re.compile(r"images?|original|.+_(input|data)", re.IGNORECASE),
    re.compile(r"imgs?|pictures?|photos?", re.IGNORECASE),
)
_MASKS = (
    re.compile(r"masks?|ground[ _-]?truth|.+_groundtruth", re.IGNORECASE),
    re.compile(r"labels?|gts?|annotations?|segmentations?", re.IGNORECASE),
)
"""What the folders are called; the second of each is looked for where nothing has a name of the first."""
_MASK_ENDING = re.compile(r"[_-](segmentation|seg|mask|gt|label)$", re.IGNORECASE)
_NAMED = 5


class Pair(NamedTuple):
    """An image with its mask, and the part of a folder that is already split."""

    image: Path
    mask: Path
    part: Part | None


def find_sets(root: Path) -> list[Path]:
    """The data sets in a folder: itself where it is one, else those right below it. Raises DataError: there is none."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if _is_set(root):
        return [root]
    sets = [sub for sub in _folders(root) if _is_set(sub)]
    if not sets:
        raise DataError(_nothing(root))
    return sets


def _is_set(folder: Path) -> bool:
    return _picture_folders(folder) is not None or any(sub.name.lower() in PARTS for sub in _folders(folder))


def find_pairs(folder: Path) -> list[Pair]:
    """All pairs of the folder, by name within each part. Raises DataError: nothing there, or images without a mask."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    below = _folders(folder)
    parts = {PARTS[sub.name.lower()]: sub for sub in below if sub.name.lower() in PARTS}
    if len(parts) < sum(sub.name.lower() in PARTS for sub in below):
        raise DataError(f"{folder}: two folders for one part ({', '.join(sub.name for sub in below)})")
    flat = _picture_folders(folder)
    if parts and flat:
        raise DataError(
            f"{folder}: holds {flat[0].name} and {flat[1].name} beside the parts {', '.join(sorted(parts))}; keep one"
        )
    if flat:
        return _match(*flat, None)
    pairs: list[Pair] = []
    for part in ("train", "validation", "test"):
        if part in parts:
            places = _picture_folders(parts[part])
            if places is None:
                raise DataError(_nothing(parts[part]))
            pairs += _match(*places, part)
    if not pairs:
        raise DataError(_nothing(folder))
    return pairs


def _folders(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _picture_folders(folder: Path) -> tuple[Path, Path] | None:
    """The one folder of images and the one of masks."""
    below = _folders(folder)
    images, masks = _named(below, _IMAGES), _named(below, _MASKS)
    if len(images) > 1 or len(masks) > 1:
        several = ", ".join(sub.name for sub in (images if len(images) > 1 else masks))
        raise DataError(
            f"{folder}: several folders could hold the images or the masks ({several}); give one set at a time"
        )
    return (images[0], masks[0]) if images and masks else None


def _named(folders: list[Path], patterns: tuple[re.Pattern[str], ...]) -> list[Path]:
    tries = ([sub for sub in folders if pattern.fullmatch(sub.name)] for pattern in patterns)
    return next((paths for paths in tries if paths), [])


def _nothing(folder: Path) -> str:
    below = _folders(folder)
    deeper = [sub.name for sub in below if _picture_folders(sub)]
    hint = f"; the folder {deeper[0]!r} in it does: give that" if deeper else ""
    known = "images/ and masks/, Original/ and Ground Truth/, or train/, validation/ and test/ with such"
    loose = sum(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
    contents = [f"{loose} pictures that lie in no folder"] if loose else []
    contents += [f"folders {_some([sub.name for sub in below])}"] if below else []
    return f"{folder}: holds no pictures with masks; known: {known}; found: {' and '.join(contents) or 'nothing'}{hint}"


def _match(images: Path, masks: Path, part: Part | None) -> list[Pair]:
    pictures, labels = _by_stem(images, strip=False), _by_stem(masks, strip=True)
    if not pictures and not labels:
        raise DataError(f"{images}: the set is empty; known kinds of files: {', '.join(sorted(SUFFIXES))}")
    missing = [str(path) for stem, path in pictures.items() if stem not in labels]
    spare = [str(path) for stem, path in labels.items() if stem not in pictures]
    if missing or spare:
        mistakes = [f"{len(missing)} images without a mask ({_some(missing)})"] if missing else []
        mistakes += [f"{len(spare)} masks without an image ({_some(spare)})"] if spare else []
        raise DataError(
            f"{images.parent}: {' and '.join(mistakes)}; a mask has its image's name, or that with _segmentation"
        )
    return [Pair(pictures[stem], labels[stem], part) for stem in sorted(pictures)]


def _by_stem(folder: Path, *, strip: bool) -> dict[str, Path]:
    """Pictures of a folder by name without ending; other files (licences, boxes) and hidden ones are left alone."""
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
            continue
        stem = _MASK_ENDING.sub("", path.stem) if strip else path.stem
        if stem in by_stem:
            raise DataError(f"{path}: has the same name as {by_stem[stem].name}; remove one")
        by_stem[stem] = path
    return by_stem


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
