"""Known data sets as they are unzipped, by name. A folder that none of them knows is read by `splits.folders`."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from trainer.data.layouts.layout import Layout, Settings, folders_in
from trainer.data.splits.folders import Pattern, Survey, find_sets, is_set, survey
from trainer.errors import DataError, nearest

LAYOUTS: Mapping[str, str] = {
    "isic-2018": "trainer.data.layouts.isic_2018",
    "isic-2016": "trainer.data.layouts.isic_2016",
    "glas": "trainer.data.layouts.glas",
    "monuseg": "trainer.data.layouts.monuseg",
    "segpc-2021": "trainer.data.layouts.segpc_2021",
    "segpc-2021-cytoplasm": "trainer.data.layouts.segpc_2021_cytoplasm",
    "synapse": "trainer.data.layouts.synapse",
    "synapse-original": "trainer.data.layouts.synapse_original",
    "acdc": "trainer.data.layouts.acdc",
    "btcv": "trainer.data.layouts.btcv",
    "word": "trainer.data.layouts.word",
    "brats": "trainer.data.layouts.brats",
    "nnunet": "trainer.data.layouts.nnunet",
    "decathlon": "trainer.data.layouts.decathlon",
    "nnunet-2d": "trainer.data.layouts.nnunet_2d",
    "volume-folders": "trainer.data.layouts.volume_folders",
    "pranet": "trainer.data.layouts.pranet",
    "cvc-clinicdb": "trainer.data.layouts.cvc_clinicdb",
    "etis-larib": "trainer.data.layouts.etis_larib",
    "kvasir-seg": "trainer.data.layouts.kvasir_seg",
    "cvc-colondb": "trainer.data.layouts.cvc_colondb",
    "part-folders": "trainer.data.layouts.part_folders",
}
"""Name -> module with a LAYOUT, in the order in which a folder is compared with them."""
PLAIN = "folders"
"""In a layout's place: no known data set is looked for, and pairs are taken by the names of folders."""
FLAG = "--layout"


class Recognised(NamedTuple):
    """A layout that a folder has."""

    name: str
    layout: Layout
    why: str
    """The end of a sentence: `it holds ...`."""


class DataFolder(NamedTuple):
    """A data set's folder, and the layout that it has."""

    folder: Path
    known: Recognised | None
    """None: its pairs are taken by the names of folders."""

    def __str__(self) -> str:
        """A line for people: what it was taken for and why."""
        if self.known is None:
            return f"{self.folder.name}: images and masks by the names of their folders; no known data set"
        return f"{self.folder.name}: {self.known.layout.title} ({self.known.name}): {self.known.why}"


def layout(name: str) -> Layout:
    """A layout by its name."""
    known: Layout = import_module(LAYOUTS[name]).LAYOUT
    return known


def recognised(folder: Path, choice: str | None = None) -> Recognised | None:
    """The first layout that the folder has, or the chosen one; None where it has none. Raises DataError: no such
    folder, an unknown choice, or one that the folder has not."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if choice is not None:
        return _chosen(folder, choice)
    for name in LAYOUTS:
        why = layout(name).recognise(folder)
        if why is not None:
            return Recognised(name, layout(name), why)
    return None


def _chosen(folder: Path, choice: str) -> Recognised | None:
    if choice == PLAIN:
        return None
    if choice not in LAYOUTS:
        raise DataError(f"{FLAG} {choice!r}: unknown layout{nearest(choice, (*LAYOUTS, PLAIN))}")
    why = layout(choice).recognise(folder)
    if why is None:
        other = recognised(folder)
        seen = "no known data set" if other is None else f"{other.name} ({other.why})"
        raise DataError(f"{FLAG} {choice}: {folder} does not lie as {layout(choice).title}; it looks like {seen}")
    return Recognised(choice, layout(choice), why)


def data_folders(root: Path, choice: str | None = None) -> list[DataFolder]:
    """The data sets in a folder: itself where it is one, else those right below it. Raises DataError: there is none."""
    if choice is not None and choice != PLAIN:
        return [DataFolder(root, recognised(root, choice))]
    if choice is None:
        known = recognised(root)
        if known is not None:
            return [DataFolder(root, known)]
        if not is_set(root):
            below = [DataFolder(sub, recognised(sub)) for sub in folders_in(root)]
            sets = [entry for entry in below if entry.known is not None or is_set(entry.folder)]
            if any(entry.known is not None for entry in sets):
                return sets
    return [DataFolder(folder, None) for folder in find_sets(root)]


def surveyed(source: DataFolder, pattern: Pattern | None = None, classes: Sequence[str] = ()) -> Survey:
    """All pairs of a data set, by its layout, or by the names of its folders where it has none, or where a pattern or
    classes with a file each are given. Raises DataError."""
    if source.known is None or pattern is not None or classes:
        return survey(source.folder, pattern, classes)
    return source.known.layout.survey(source.folder)


def settings_of(sources: Sequence[DataFolder]) -> Settings:
    """What the layouts say of [run.data], for all folders at once. Raises DataError where two say different things;
    masks of two classes that need no word are read as others say."""
    stated = [
        (source, source.known.layout.settings(source.folder) if source.known is not None else {"name": "polyp"})
        for source in sources
    ]
    first, settings = stated[0]
    for source, other in stated[1:]:
        if _without_labels(settings) != _without_labels(other) or (
            "labels" in settings and "labels" in other and settings["labels"] != other["labels"]
        ):
            raise DataError(
                f"{first.folder.name} and {source.folder.name} have masks of other classes or kinds; give one at a time"
            )
        settings = {**settings, **other}
    return settings


def _without_labels(settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key != "labels"}
