"""Known data sets as they are unzipped, by name. A folder that none of them knows is read by `splits.folders`."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from trainer.data.layouts.layout import Layout
from trainer.data.splits.folders import Pattern, Survey, survey
from trainer.errors import DataError

LAYOUTS: Mapping[str, str] = {
    "isic-2018": "trainer.data.layouts.isic_2018",
}
"""Name -> module with a LAYOUT, in the order in which a folder is compared with them."""


class Recognised(NamedTuple):
    """A layout that a folder has."""

    name: str
    layout: Layout
    why: str
    """The end of a sentence: `it holds ...`."""


def layout(name: str) -> Layout:
    """A layout by its name."""
    known: Layout = import_module(LAYOUTS[name]).LAYOUT
    return known


def recognised(folder: Path) -> Recognised | None:
    """The first layout that the folder has; None where it has none. Raises DataError: no such folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for name in LAYOUTS:
        why = layout(name).recognise(folder)
        if why is not None:
            return Recognised(name, layout(name), why)
    return None


def surveyed(folder: Path, pattern: Pattern | None = None) -> Survey:
    """All pairs of a folder, by its layout or, where it has none or a pattern is given, by the names of its folders.
    Raises DataError."""
    known = None if pattern is not None else recognised(folder)
    return survey(folder, pattern) if known is None else known.layout.survey(folder)
