"""Image and mask pairs in folders as data sets are shipped.

<folder>/images + masks                                     Kvasir-SEG, most re-packs
<folder>/Original + Ground Truth                            CVC-ClinicDB
<folder>/..._Input + ..._GroundTruth                        ISIC, masks end in _segmentation or _Segmentation
<folder>/{train,validation or val,test}/<any of the above>  already split

The folders may also be called imgs or pictures, and labels, gt, annotations or segmentations. A mask has its image's
name; where it has not, that name with _mask or another of MASK_ENDINGS behind it; or a person gives a pattern.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.data.dataset import Part
from trainer.data.files import CLASS, SUFFIXES, listed_pictures, some
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
MASK_ENDINGS = ("segmentation", "seg", "mask", "gt", "label")
_MASK_ENDING = re.compile(rf"[_-]({'|'.join(MASK_ENDINGS)})$", re.IGNORECASE)
PATTERN = "--masks-pattern"


class Pair(NamedTuple):
    """An image with its mask, and the part of a folder that is already split."""

    image: Path
    mask: Path
    part: Part | None
    group: str = ""
    """Patient or sequence, where the data set says it."""
    case: str = ""
    """The volume that a slice is of; its slices are scored as one."""
    source: str = ""
    """The data set that it comes from, where a folder holds several; empty: the folder's name."""


def find_sets(root: Path) -> list[Path]:
    """The data sets in a folder: itself where it is one, else those right below it. Raises DataError: there is none."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if is_set(root):
        return [root]
    sets = [sub for sub in _folders(root) if is_set(sub)]
    if not sets:
        raise DataError(_nothing(root))
    return sets


def is_set(folder: Path) -> bool:
    """Whether a folder holds images and masks, or parts with such. Raises DataError where several folders could."""
    return _picture_folders(folder) is not None or any(sub.name.lower() in PARTS for sub in _folders(folder))


class Survey(NamedTuple):
    """What was taken from a folder, and what was left."""

    pairs: list[Pair]
    """By name within each part."""
    left: list[str]
    """A line a cause, with a count and names."""
    validates: bool = True
    """False: the data set has training and test pictures and none to validate, so that some of the first are drawn."""
    notes: Sequence[str] = ()
    """What else of it is worth a line."""


class Pattern(NamedTuple):
    """How a mask's name follows from its image's: what stands around the part that both share."""

    image: tuple[str, str]
    mask: tuple[str, str]

    def common(self, stem: str, *, mask: bool) -> str | None:
        """The part that both names share; None where a name does not have the form."""
        before, behind = self.mask if mask else self.image
        if not (stem.startswith(before) and stem.endswith(behind) and len(stem) > len(before) + len(behind)):
            return None
        return stem[len(before) : len(stem) - len(behind)]

    def __str__(self) -> str:
        image, mask = "{}".join(self.image), "{}".join(self.mask)
        return mask if image == "{}" else f"{image}={mask}"


def pattern_from(text: str) -> Pattern:
    """A pattern as a person writes it, without file endings: `{}_lesion`, or `{}_image={}_lesion` where the image's
    name has more than both share. Raises DataError."""
    image, equals, mask = text.rpartition("=")
    sides = [side.split("{}") for side in ((image, mask) if equals else ("{}", mask))]
    if any(len(side) != 2 for side in sides):
        raise DataError(
            f"{PATTERN} {text!r}: write {{}} once for what image and mask share, without file endings, such as "
            "'{}_lesion' or '{}_image={}_lesion'"
        )
    (image_before, image_behind), (mask_before, mask_behind) = sides
    return Pattern((image_before, image_behind), (mask_before, mask_behind))


def find_pairs(folder: Path, pattern: Pattern | None = None) -> list[Pair]:
    """The pairs of `survey` alone. Raises DataError."""
    return survey(folder, pattern).pairs


def survey(folder: Path, pattern: Pattern | None = None, classes: Sequence[str] = ()) -> Survey:
    """All pairs of a folder, and what was left out.

    classes: names of all but the ground, where each has a mask of its own: <mask>_<class>, or the class's name as a
    folder in that of the masks. Raises DataError: nothing there, or images without a mask.
    """
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
    places: list[tuple[Path, Path, Part | None]] = [(*flat, None)] if flat else []
    for part in ("train", "validation", "test"):
        if part in parts:
            inner = _picture_folders(parts[part])
            if inner is None:
                raise DataError(_nothing(parts[part]))
            places.append((*inner, part))
    if not places:
        raise DataError(_nothing(folder))
    taken = [
        _match_classes(images, masks, part, pattern, classes)
        if classes
        else match_folders(images, masks, part, pattern)
        for images, masks, part in places
    ]
    return Survey([pair for each in taken for pair in each.pairs], [line for each in taken for line in each.left])


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
    loose = listed_pictures(folder)
    contents = [f"{len(loose.pictures)} pictures that lie in no folder"] if loose.pictures else []
    contents += [f"folders {some([sub.name for sub in below])}"] if below else []
    contents += loose.left
    return f"{folder}: holds no pictures with masks; known: {known}; found: {' and '.join(contents) or 'nothing'}{hint}"


def match_folders(images: Path, masks: Path, part: Part | None, pattern: Pattern | None = None) -> Survey:
    """The pairs of a folder of images and one of masks. Raises DataError for lone halves."""
    pictures, labels = listed_pictures(images), listed_pictures(masks)
    left = [
        f"{place.name}: {line}" for place, listing in ((images, pictures), (masks, labels)) for line in listing.left
    ]
    unread = f"; left out: {'; '.join(left)}" if left else ""
    if not pictures.pictures and not labels.pictures:
        raise DataError(f"{images}: the set is empty; known kinds of files: {', '.join(sorted(SUFFIXES))}{unread}")
    by_image, by_mask = _by_stem(pictures.pictures), _by_stem(labels.pictures)
    mask_of = _by_equal_name(by_image, by_mask) if pattern is None else _by_pattern(by_image, by_mask, pattern)
    missing = [stem for stem in by_image if stem not in mask_of]
    spare = [stem for stem in by_mask if stem not in mask_of.values()]
    if missing or spare:
        lacking = [("images without a mask", [by_image[stem] for stem in missing])] if missing else []
        lacking += [("masks without an image", [by_mask[stem] for stem in spare])] if spare else []
        mistakes = " and ".join(
            f"{len(paths)} {what} ({some([str(path) for path in paths])})" for what, paths in lacking
        )
        raise DataError(f"{images.parent}: {mistakes}{unread}; {_rule(pattern, missing, spare)}")
    return Survey([Pair(by_image[stem], by_mask[mask_of[stem]], part) for stem in sorted(by_image)], left)


def _match_classes(
    images: Path, masks: Path, part: Part | None, pattern: Pattern | None, classes: Sequence[str]
) -> Survey:
    """The pairs of images with a mask a class; the path of such masks has CLASS in the place of the class's name."""
    apart = all((masks / name).is_dir() for name in classes)
    form = pattern or Pattern(("", ""), ("", "" if apart else f"_{CLASS}"))
    if not apart and CLASS not in "".join(form.mask):
        raise DataError(f"{PATTERN} {str(form)!r}: a mask a class needs {CLASS} in its name, such as '{{}}_{CLASS}'")
    pictures = listed_pictures(images)
    listings = {name: listed_pictures(masks / name if apart else masks) for name in classes}
    left = [f"{images.name}: {line}" for line in pictures.left]
    left += list(dict.fromkeys(f"{masks.name}: {line}" for listing in listings.values() for line in listing.left))
    files = {name: _by_stem(listing.pictures) for name, listing in listings.items()}
    pairs, missing, taken = [], [], set()
    for stem, image in sorted(_by_stem(pictures.pictures).items()):
        common = form.common(stem, mask=False)
        name = stem if common is None else common.join(form.mask)
        own = {known: files[known].get(name.replace(CLASS, known)) for known in classes}
        there = [path for path in own.values() if path is not None]
        missing += [f"{image.name}: no mask of {known}" for known, path in own.items() if path is None]
        taken.update(there)
        endings = sorted({path.suffix for path in there})
        if len(endings) > 1:
            raise DataError(f"{image}: its masks end differently ({', '.join(endings)}); save all as one kind")
        place = masks / CLASS if apart else masks
        pairs += [Pair(image, place / f"{name}{endings[0]}", part)] if endings else []
    spare = sorted({path.name for by_stem in files.values() for path in by_stem.values()} - {p.name for p in taken})
    if missing or spare or not pairs:
        lacking = [f"{len(missing)} masks are missing ({some(missing)})"] if missing else []
        lacking += [f"{len(spare)} masks of no image or class ({some(spare)})"] if spare else []
        where = "a folder a class" if apart else f"named {form}"
        raise DataError(f"{images.parent}: {' and '.join(lacking) or 'no images'}; masks are {where}")
    return Survey(pairs, left)


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    """Pictures by name without ending."""
    by_stem: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_stem:
            raise DataError(f"{path}: has the same name as {by_stem[path.stem].name}; remove one")
        by_stem[path.stem] = path
    return by_stem


def _by_equal_name(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, str]:
    """The mask of each image, by stem: an equal name before all else, then one with an ending of masks."""
    mask_of = {stem: stem for stem in images if stem in masks}
    for stem in masks:
        bare = _MASK_ENDING.sub("", stem)
        if bare != stem and stem not in images and bare in images:
            if bare in mask_of and mask_of[bare] != bare:
                raise DataError(f"{masks[stem]}: is a second mask of one image, beside {masks[mask_of[bare]].name}")
            mask_of.setdefault(bare, stem)
    return mask_of


def _by_pattern(images: Mapping[str, Path], masks: Mapping[str, Path], pattern: Pattern) -> dict[str, str]:
    by_common = {pattern.common(stem, mask=True): stem for stem in masks}
    commons = {stem: pattern.common(stem, mask=False) for stem in images}
    return {stem: by_common[common] for stem, common in commons.items() if common is not None and common in by_common}


def _rule(pattern: Pattern | None, missing: Sequence[str], spare: Sequence[str]) -> str:
    """How names are paired, with a pattern that would fit where one is seen."""
    if pattern is not None:
        return f"paired by {PATTERN} {str(pattern)!r}"
    endings = ", ".join(f"_{ending}" for ending in MASK_ENDINGS)
    # The longest name first, so that 1 is not taken for a part of 11.
    seen = next(
        (
            "{}".join(mask.split(image, 1))
            for image in sorted(missing, key=len, reverse=True)
            for mask in spare
            if image in mask
        ),
        "{}_lesion",
    )
    return (
        f"a mask has its image's name, or that with one of {endings} behind it; "
        f"other names: {PATTERN} '{seen}', where {{}} is the image's name"
    )
