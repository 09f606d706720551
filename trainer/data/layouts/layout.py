"""What a layout is: how a known data set lies on disk as it is unzipped, and what is known of its masks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.data.files import SUFFIXES
from trainer.data.splits.folders import Survey


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
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of [run.data] beside root and split: `name`, and for data of named classes these and what else is known."""


def pictures_in(folder: Path) -> list[Path]:
    """The pictures right in a folder, by name; empty where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def below(root: Path, name: str) -> Path | None:
    """The folder of this name: the root itself or one right in it; None where there is none."""
    return next((place for place in (root, root / name) if place.name == name and place.is_dir()), None)


def numbered(*classes: str, first: int = 0) -> list[dict[str, Any]]:
    """Classes whose masks hold their numbers in this order."""
    return [{"name": name, "value": value} for value, name in enumerate(classes, first)]


def spare_files(folder: Path, taken: Sequence[Path]) -> list[str]:
    """The names of files in a folder that are none of those; hidden files are not spoken of."""
    known = set(taken)
    files = (path for path in folder.iterdir() if path.is_file() and path not in known)
    return sorted(path.name for path in files if not path.name.startswith("."))
