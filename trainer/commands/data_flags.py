"""What a person can say of a data set's pictures and masks on the command line, and the settings that follow."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import MOST_CLASSES
from trainer.data.layouts import FLAG as LAYOUT
from trainer.data.layouts import LAYOUTS, PLAIN, DataFolder, data_folders, settings_of, surveyed
from trainer.data.masks import EXAMPLE, values_from
from trainer.data.masks import FLAG as LABELS
from trainer.data.splits.draw import Source, kind_of, reading_for
from trainer.data.splits.folders import PATTERN, Pattern, pattern_from
from trainer.errors import DataError, received

CLASSES, REGIONS, IGNORE = "--classes", "--regions", "--ignore"
NAMED = "'background=0,liver=1,spleen=2'"
OVERLAPPING = "'whole=1+2+4,core=1+4,enhancing=4'"
_MEANINGS = ("name", "labels", "classes", "regions", "ignore")
"""Settings that say what masks hold."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


@dataclass(frozen=True)
class Stated:
    """What a person said."""

    pattern: Pattern | None = None
    labels: str | None = None
    classes: tuple[Mapping[str, Any], ...] = ()
    """As in the settings; empty: nothing was statement."""
    regions: tuple[Mapping[str, Any], ...] = ()
    """As in the settings."""
    ignore: Any = None
    layout: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The classes that have files of their own: all but the first where no class has a value; or the regions."""
        if self.regions:
            return tuple(known["name"] for known in self.regions if "value" not in known)
        apart = bool(self.classes) and "value" not in self.classes[0]
        return tuple(known["name"] for known in self.classes[1:]) if apart else ()

    def settings(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of [run.data] without root and split: what a data set's layout says, and what a person said before
        that. Raises DataError where the two contradict."""
        if self.labels is not None:
            if known["name"] != "polyp":
                raise DataError(f"{LABELS} {received(self.labels)}: this data set has named classes; use {CLASSES}")
            return {**known, "labels": self.labels}
        if self.classes or self.regions:
            kept = {key: value for key, value in known.items() if key not in _MEANINGS}
            regions = {known["name"]: known.get("value", {}) for known in self.regions}
            known = {"name": "volumes" if known["name"] == "volumes" else "pictures"}
            known |= {"classes": list(self.classes)} if self.classes else {}
            known |= {"regions": regions} if regions else {}
            known |= kept
        if known["name"] == "volumes" and not known.keys() & {"classes", "regions"}:
            raise DataError(
                f"{CLASSES}: missing; nothing says what the labels of these volumes mean: {CLASSES} {NAMED}"
            )
        if self.ignore is None:
            return dict(known)
        if known["name"] == "polyp":
            raise DataError(
                f"{IGNORE} {received(self.ignore)}: needs {CLASSES}, such as {CLASSES} {NAMED}, or {REGIONS}"
            )
        return {**known, "ignore": self.ignore}


@dataclass(frozen=True)
class Prepared:
    """Data sets that were looked at by the names of their files."""

    sources: list[Source]
    settings: dict[str, Any]
    """Of [run.data], without root and split."""
    lines: list[str]
    """What each folder was taken for and why, and what should be known of it."""
    how: dict[str, Any]
    """What is recorded of it beside a split, as JSON values."""


def add_mask_arguments(parser: argparse.ArgumentParser) -> None:
    """What a person can say of folders: what data set they are, which mask belongs to which image, what values mean."""
    parser.add_argument(
        LAYOUT,
        metavar="NAME",
        help=f"the data set that the folder is: {', '.join(LAYOUTS)}; or {PLAIN}: none of them (default: what it looks "
        "like)",
    )
    parser.add_argument(
        PATTERN,
        metavar="PATTERN",
        help="how masks are named: {} is the image's name, '{}_lesion'; or both sides, '{}_image={}_lesion' "
        "(default: an equal name, then one with _mask or the like behind it)",
    )
    add_meanings(parser)


def add_meanings(parser: argparse.ArgumentParser) -> None:
    """What the masks' values mean."""
    meaning = parser.add_mutually_exclusive_group()
    meaning.add_argument(
        LABELS,
        metavar="TEXT",
        help=f"what the masks' values mean, such as {EXAMPLE} (default: black and one other are two classes)",
    )
    meaning.add_argument(
        CLASSES,
        metavar="TEXT",
        help=f"named classes, the background first: {NAMED}; a value is a number, a range 1-3, a colour #800000, or "
        "several with + between them; names alone: a mask a class, IMAGE_liver.png or liver/IMAGE.png",
    )
    parser.add_argument(
        REGIONS,
        metavar="TEXT",
        help=f"objects that overlap, with what of a mask is in them: {OVERLAPPING}; values as those of {CLASSES}, or "
        "names of these; names alone: a mask a region",
    )
    parser.add_argument(
        IGNORE,
        metavar="VALUE",
        help="what in masks of named classes or regions is neither learned nor scored (default: nothing)",
    )


def stated(args: argparse.Namespace) -> Stated:
    """What a person said. Raises DataError."""
    pattern = getattr(args, "masks_pattern", None)
    statement = Stated(
        pattern=None if pattern is None else pattern_from(pattern),
        labels=args.labels,
        classes=() if args.classes is None else classes_from(args.classes),
        regions=()
        if args.regions is None
        else _named(args.regions, REGIONS, OVERLAPPING, names=args.classes is not None),
        ignore=None if args.ignore is None else _value(args.ignore, IGNORE),
        layout=getattr(args, "layout", None),
    )
    if statement.labels is not None and statement.regions:
        raise DataError(f"{LABELS} and {REGIONS}: both say what masks hold; leave one out")
    if statement.classes or statement.regions:  # contradictions are an error before any folder is looked at
        reading_for(kind_of(statement.settings({"name": "polyp"}), REGIONS if statement.regions else CLASSES))
    return statement


def classes_from(text: str) -> tuple[Mapping[str, Any], ...]:
    """Classes as the settings have them from `background=0,liver=1` or `background,liver`. Raises DataError."""
    classes = _named(text, CLASSES, NAMED)
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DataError(
            f"{CLASSES} {received(text)}: {len(classes)} named; expected the ground and 1 to {MOST_CLASSES - 1} more"
        )
    return classes


def _named(text: str, flag: str, example: str, *, names: bool = False) -> tuple[Mapping[str, Any], ...]:
    """Names with their values, or names alone. names: whether a value may be the name of a class. Raises DataError."""
    entries: list[Mapping[str, Any]] = []
    for entry in text.split(","):
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not _NAME.fullmatch(name):
            kind = "a class" if flag == CLASSES else "a region"
            raise DataError(
                f"{flag} {received(text)}: {name!r} is no name of {kind}: letters, digits, - and _; write {example}"
            )
        known = {"name": name}
        entries.append({**known, "value": _value(value, f"{flag} {name}", names=names)} if equals else known)
    every = [known["name"] for known in entries]
    double = next((name for name in every if every.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{flag} {received(text)}: two are named {double!r}; rename one")
    valued = [known["name"] for known in entries if "value" in known]
    if valued and len(valued) < len(every):
        lacking = next(name for name in every if name not in valued)
        raise DataError(f"{flag} {received(text)}: {lacking!r} has no value and {valued[0]!r} has one; all or none")
    return tuple(entries)


def _value(text: str, field: str, *, names: bool = False) -> Any:
    """A value as the settings write it: a number, a text, or a list of such. Raises DataError."""
    parts = [part.strip() for part in text.split("+")]
    values = [int(part) if re.fullmatch(r"\d{1,3}", part) else part for part in parts]
    for value in values if not names else ():
        values_from(value, field)
    return values[0] if len(values) == 1 else values


def prepared(folders: Sequence[DataFolder], statement: Stated) -> Prepared:
    """All pairs of some folders and the settings for them. Raises DataError."""
    settings = statement.settings({"name": "polyp"} if statement.files else settings_of(folders))
    lines = [str(folder) for folder in folders]
    lines += [
        f"{folder.folder.name}: {folder.known.layout.advice}"
        for folder in folders
        if folder.known is not None and folder.known.layout.advice
    ]
    how: dict[str, Any] = {} if statement.labels is None else {"labels": statement.labels}
    how |= {} if statement.pattern is None else {"masks_pattern": str(statement.pattern)}
    layouts = {folder.folder.name: folder.known.name for folder in folders if folder.known is not None}
    how |= {"layouts": layouts} if layouts else {}
    how |= {} if settings == {"name": "polyp"} else {"data": settings}
    sources = [(folder.folder, surveyed(folder, statement.pattern, statement.files)) for folder in folders]
    return Prepared(sources, settings, lines, how)


def sets_in(root: Path, statement: Stated) -> list[DataFolder]:
    """The data sets in a folder. Raises DataError."""
    return data_folders(root, statement.layout)
