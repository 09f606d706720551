"""What a layout is: how a known data set lies on disk as it is unzipped, and what is known of its masks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.dataset import Part
from trainer.data.files import SUFFIXES, some
from trainer.data.splits.folders import Pair, Survey, match_folders
from trainer.errors import DataError, counted

Settings = Mapping[str, Any]
"""Keys of [run.data] beside root and split: `name`, and for data of named classes these and what else is known."""


def always(**settings: Any) -> Callable[[Path], Settings]:
    """The same settings for every folder."""
    return lambda _: settings


two_classes = always(name="polyp")
"""RGB pictures with masks of a ground and an object."""


@dataclass(frozen=True)
class Layout:
    """A data set that is recognised by its files' names."""

    title: str
    """The data set as its users call it, with what it shows."""
    terms: str
    """Licence or terms of use, and where the files come from."""
    recognise: Callable[[Path], str | None]
    """Why a folder holds this data set, as the end of a sentence; None where it does not. It looks at names alone."""
    survey: Callable[[Path], Survey]
    """All pairs of such a folder, with the part, group and case that the data set gives them, and what was left out.
    Raises DataError where half of a pair is missing."""
    settings: Callable[[Path], Settings] = two_classes
    """Of a folder that has the layout. Raises DataError where what it holds cannot be trained."""
    advice: str = ""
    """What should be known before it is split; empty: nothing."""


def pictures_in(folder: Path) -> list[Path]:
    """The pictures right in a folder, by name; empty where there is no such folder."""
    return files_in(folder, SUFFIXES)


def files_in(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files right in a folder whose names end so, small letters or capitals, by name."""
    if not folder.is_dir():
        return []
    endings = tuple(suffixes)
    return sorted(
        path for path in folder.iterdir() if path.name.lower().endswith(endings) and not path.name.startswith(".")
    )


def folders_in(root: Path) -> list[Path]:
    """The folders right in a folder, by name; hidden ones and the archiver's __MACOSX are none."""
    if not root.is_dir():
        return []
    return sorted(sub for sub in root.iterdir() if sub.is_dir() and not sub.name.startswith((".", "__MACOSX")))


def numbered(*classes: str, first: int = 0) -> list[dict[str, Any]]:
    """Classes whose masks hold their numbers in this order."""
    return [{"name": name, "value": value} for value, name in enumerate(classes, first)]


def between(paths: Iterable[Path], before: str = "", behind: str = "") -> dict[str, Path]:
    """Files by what stands in their names between the two texts, without the ending; those that have not both are left
    out. Raises DataError where two files have one such name."""
    by_name: dict[str, Path] = {}
    for path in paths:
        stem = path.stem
        if stem.startswith(before) and stem.endswith(behind) and len(stem) > len(before) + len(behind):
            name = stem[len(before) : len(stem) - len(behind)]
            if name in by_name:
                raise DataError(f"{path}: has the same name as {by_name[name].name}; remove one")
            by_name[name] = path
    return by_name


def paired(where: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[tuple[str, Path, Path]]:
    """Name, image and mask, by name. where: the folder that messages name. Raises DataError for lone halves."""
    kinds = (("image", "mask", images, masks), ("mask", "image", masks, images))
    lacking = []
    for what, partner, own, others in kinds:
        lone = sorted(path.name for name, path in own.items() if name not in others)
        lacking += [f"{counted(len(lone), what)} without {partner} ({some(lone)})"] if lone else []
    if lacking:
        raise DataError(f"{where}: {' and '.join(lacking)}; get the other half, or remove them")
    return [(name, images[name], masks[name]) for name in sorted(images)]


def two_folders(images: Path, masks: Path, *, part: Part | None = None, before: str = "", behind: str = "") -> Survey:
    """The pairs of a folder of pictures and one of masks, whose names have these texts around those of their images;
    without such texts they are paired as those of any folders. Raises DataError."""
    if not before and not behind:
        return match_folders(images, masks, part)
    pictures, labels = between(pictures_in(images)), between(pictures_in(masks), before, behind)
    pairs = [Pair(image, mask, part) for _, image, mask in paired(images.parent, pictures, labels)]
    left = left_in(images, pictures.values()) + left_in(masks, labels.values())
    return Survey(pairs, left)


def together(root: Path, surveys: Iterable[Survey], known: Sequence[Path]) -> Survey:
    """Several surveys of one folder as one. known: what of the root they have read; the rest of it is named."""
    parts = list(surveys)
    others = [path.name for path in sorted(root.iterdir()) if path not in known and not path.name.startswith(".")]
    left = [line for each in parts for line in each.left]
    left += [f"beside them: {some(others)}"] if others else []
    pairs = [pair for each in parts for pair in each.pairs]
    return Survey(pairs, left, validates={pair.part for pair in pairs} != {"train", "test"})


def left_in(folder: Path, taken: Iterable[Path]) -> list[str]:
    """A line that names the files of a folder that were not taken; none where all were."""
    spare = spare_files(folder, list(taken))
    return [f"{folder.name}: {counted(len(spare), 'file')} not of this data set ({some(spare)})"] if spare else []


def spare_files(folder: Path, taken: Sequence[Path]) -> list[str]:
    """The names of files in a folder that are none of those; hidden files are not spoken of."""
    known = set(taken)
    files = (path for path in folder.iterdir() if path.is_file() and path not in known)
    return sorted(path.name for path in files if not path.name.startswith("."))
