"""A split as it is drawn: all files of some data sets are read and judged, and each pair gets a part. Nothing is
written here."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.config import PictureData, PolypData, VolumeData
from trainer.config.validation import explain
from trainer.data.dataset import Part
from trainer.data.file_check import CheckedPair, Progress, check_pairs, in_threads, summarised
from trainer.data.files import file_hash, inside
from trainer.data.masks import MaskValues
from trainer.data.reading import PLAIN, Reading, given_coding, named_coding, reading_of
from trainer.data.splits.folders import Pair, Survey
from trainer.data.splits.mask_codings import (
    AGAIN,
    Codings,
    codings_of,
    given_codings,
    refuse_absent_classes,
    refuse_empty_parts,
)
from trainer.data.splits.near_duplicates import Twins, refuse_crossing, twins
from trainer.data.splits.split import PARTS, Fractions, Row, assign, read_groups, samples
from trainer.data.volumes.check import VolumeReading
from trainer.data.volumes.prepare import coding_for
from trainer.errors import DataError, on_stderr

ACCEPT = "--near-duplicates"
REMEDY = "--classes, or in --ignore"

Kind = PolypData | PictureData | VolumeData
KINDS: Mapping[str, type[Kind]] = {"polyp": PolypData, "pictures": PictureData, "volumes": VolumeData}
Source = tuple[Path, Survey]
"""A data set's folder, and what was taken from it."""


@dataclass(frozen=True)
class DrawnSplit:
    """A split that was drawn and checked, and is not yet written."""

    rows: list[Row]
    checked: list[CheckedPair]
    """What each row's files hold."""
    codings: Codings
    pairs: list[Twins]
    left: list[str]
    """What of the folders was left out, and what else is worth a line."""
    how: Mapping[str, Any]
    """How it was drawn, as JSON values."""


@dataclass(frozen=True)
class Wish:
    """How a split shall be drawn."""

    seed: int
    fractions: Fractions
    groups: Path | None = None
    """A CSV `image,group`; its groups go before those of the data sets."""
    accept: bool = False
    """Whether near-identical pictures in two parts of a given split pass."""


def kind_of(settings: Mapping[str, Any], where: str) -> Kind:
    """Settings of [run.data] without root and split as a value. where: for messages. Raises DataError."""
    kind = KINDS[settings["name"]]
    try:
        return kind.model_validate({"root": ".", "split": "-", **settings})
    except ValidationError as error:
        raise DataError(explain(error, where, model=kind)) from error


def reading_for(kind: Kind) -> Reading | VolumeReading:
    """How pairs are read to be judged: PLAIN where two classes name themselves. Raises DataError."""
    if isinstance(kind, VolumeData):
        return VolumeReading(coding_for(kind), kind.channels)
    return PLAIN if isinstance(kind, PolypData) else reading_of(kind, named_coding(kind))


def codings_for(rows: Sequence[Row], masks: Sequence[MaskValues], kind: Kind) -> Codings:
    """What the values of each source's masks mean. Raises DataError, which names files with other values."""
    if isinstance(kind, PolypData):
        return codings_of(rows, masks, kind.labels)
    if isinstance(kind, VolumeData):
        return given_codings(rows, masks, coding_for(kind), remedy=REMEDY)
    return given_codings(rows, masks, given_coding(kind), remedy=REMEDY)


def draw_split(
    sources: Sequence[Source], root: Path, kind: Kind, wish: Wish, *, how: Mapping[str, Any], progress: Progress
) -> DrawnSplit:
    """Read data sets below a root and draw who trains, validates and tests; nothing is written. Pictures that show the
    same go into one part. Of a data set that has a train and a test part, but none to validate, validation pictures are
    drawn from those that train.

    how: what is recorded beside the draw's own settings. Raises DataError, also where a given split has pictures that
    show the same in two parts, where a mask's values have no meaning, where all masks of a part are empty, and where no
    mask of train has a class. Bad files are named on stderr before.
    """
    given, free, left = _rows(sources, root, validate=wish.fractions["validation"] > 0)
    if wish.groups:
        given = read_groups(wish.groups, given, root)
    checked = check_rows(given, root, reading_for(kind), progress)
    masks = [entry.values for entry in checked]
    codings = codings_for(given, masks, kind)
    looks = [entry.hashes for entry in checked]
    at = {row.image: number for number, row in enumerate(given)}
    links = [(at[pair.first.image], at[pair.second.image]) for pair in twins(given, looks)]
    rows = _assigned(given, free, links, wish)
    samples(rows)  # names must differ before the file is written
    _refuse_crossing(rows)
    pairs = twins(rows, looks)
    refuse_crossing(pairs, "the given split", accept=wish.accept, remedy=f"remove one of each, or {ACCEPT} accept")
    remedy = AGAIN if any(free) else "move images with an object into it"
    refuse_empty_parts(rows, masks, codings, str(root), remedy=remedy)
    left += refuse_absent_classes(rows, masks, codings, str(root))
    drawn = {
        "seed": wish.seed,
        "fractions": dict(wish.fractions),
        "sources": [folder.name for folder, _ in sources],
        "groups": None if wish.groups is None else file_hash(wish.groups),
        "near_duplicates": "accept" if wish.accept else "refuse",
    }
    return DrawnSplit(rows, checked, codings, pairs, left, {**drawn, **how})


def check_rows(
    rows: Sequence[Row], root: Path, reading: Reading | VolumeReading, progress: Progress
) -> list[CheckedPair]:
    """What each pair of files holds. Raises DataError where one is bad; where there are several causes, each is named
    on stderr before."""
    checked = read_all(rows, root, reading, progress)
    bad = [entry for entry in checked if isinstance(entry, DataError)]
    if bad:
        lines = summarised(bad)
        count = f"{len(bad)} of {len(rows)} pairs are bad"
        if len(lines) == 1:
            raise DataError(f"{count}: {lines[0]}; mend or remove them")
        for line in lines:
            on_stderr(f"bad: {line}")
        raise DataError(f"{count}; mend or remove them")
    return [entry for entry in checked if isinstance(entry, CheckedPair)]


def read_all(
    rows: Sequence[Row], root: Path, reading: Reading | VolumeReading, progress: Callable[[int, int], None]
) -> list[CheckedPair | DataError]:
    """What each pair of files holds, or what is wrong with it."""
    if isinstance(reading, VolumeReading):
        volumes = [(root / row.image, root / row.mask) for row in rows]
        return in_threads(reading.examined, volumes, name="examine", progress=progress)
    return check_pairs([(root / row.image, root / row.mask) for row in rows], progress, reading=reading)


def _rows(
    sources: Sequence[Source], root: Path, *, validate: bool
) -> tuple[list[Row], list[tuple[Part, ...]], list[str]]:
    """All pairs as rows, the parts that are drawn for each (none: its part is given), and what was left out.

    validate: whether validation pictures are drawn from the training part of a set that has none.
    """
    names = Counter(folder.name for folder, _ in sources)
    double = [name for name, count in names.items() if count > 1]
    if double:
        raise DataError(f"two folders are named {double[0]!r}, which names the source; rename one")
    rows: list[Row] = []
    free: list[tuple[Part, ...]] = []
    left = []
    for folder, survey in sources:
        left += [f"left out  {folder.name}/{line}" for line in survey.left]
        left += [f"{folder.name}: {line}" for line in survey.notes]
        if not survey.pairs:
            raise DataError(f"{folder}: holds no pairs of image and mask")
        lacking = validate and not survey.validates
        if lacking:
            left.append(f"{folder.name}: has no part to validate; some of its training pictures are drawn for that")
        for pair in survey.pairs:
            rows.append(_row(folder, pair, root))
            drawn: tuple[Part, ...] = ("train", "validation") if lacking and pair.part == "train" else ()
            free.append(PARTS if pair.part is None else drawn)
    return rows, free, left


def _row(folder: Path, pair: Pair, root: Path) -> Row:
    places = []
    for path in (pair.image, pair.mask):
        if not path.is_relative_to(root):
            raise DataError(f"--root {root}: {path} is not below it")
        places.append(path.relative_to(root).as_posix())
        inside(root, places[-1])
    return Row(pair.source or folder.name, places[0], places[1], pair.group, pair.part or "train", pair.case)


def _assigned(
    rows: list[Row], free: Sequence[tuple[Part, ...]], links: Sequence[tuple[int, int]], wish: Wish
) -> list[Row]:
    """Parts for the rows that need one; the others keep theirs."""
    parts: dict[int, Row] = {}
    for kinds in sorted(set(free) - {()}):
        own = [at for at, wanted in enumerate(free) if wanted == kinds]
        where = {at: number for number, at in enumerate(own)}
        inner = [(where[one], where[other]) for one, other in links if one in where and other in where]
        shares = dict(wish.fractions)
        if kinds != PARTS:
            total = sum(shares[part] for part in kinds)
            shares = {part: shares[part] / total for part in kinds}
        drawn = assign([rows[at] for at in own], inner, seed=wish.seed, fractions=shares)
        parts |= dict(zip(own, drawn, strict=True))
    return [parts.get(at, row) for at, row in enumerate(rows)]


def _refuse_crossing(rows: Sequence[Row]) -> None:
    """A groups file may contradict the folders of a given split."""
    first: dict[str, Row] = {}
    for row in rows:
        known = first.setdefault(row.group_key, row)
        if known.part != row.part:
            raise DataError(
                f"group {row.group!r} of {row.source} is in two parts of the given split: {known.image} ({known.part}) "
                f"and {row.image} ({row.part}); move one, or give the set as one folder"
            )
