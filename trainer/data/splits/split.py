"""The split file: `source,image,mask,group,split`, one row a picture, paths from the data root; and how one is drawn.

`source` is the data set a picture comes from, `group` its patient or sequence within that source; an empty group says
that none is known and makes the picture a group of its own. `split` is train, validation or test. Whole groups are
assigned, by a seed, to about the wished share of each source's images.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path, PurePosixPath
from typing import get_args

from trainer.atomic_files import write_text
from trainer.config import PictureData, PolypData, VolumeData
from trainer.data.dataset import Part, Sample
from trainer.data.files import CHANNEL, CLASS, inside, some
from trainer.data.slices import file_of, holds_both
from trainer.errors import DataError, nearest
from trainer.repository import expand
from trainer.seeds import derive

COLUMNS = ("source", "image", "mask", "group", "split")
CASE = "case"
"""A further column, where some pictures are slices of a volume."""
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Row:
    """One picture of a split."""

    source: str
    image: str
    mask: str
    group: str
    part: Part
    case: str = ""
    """The volume that a slice is of; empty: the picture is a case of its own."""

    @property
    def group_key(self) -> str:
        """The group across sources; the volume of a slice, else the picture itself, where no group is known."""
        return f"{self.source}/{self.group or self.case or self.image}"


def data_root(config: PolypData | PictureData | VolumeData) -> Path:
    """The folder that all paths start from. Raises DataError."""
    root = expand(config.root, "data.root")
    if not root.is_dir():
        raise DataError(f"data.root = {config.root!r}: no such folder {root}")
    return root


def read_split(path: Path, root: Path, *, cells: bool = False) -> list[Row]:
    """The rows in the file's order. cells: an image may stand in several rows, with a mask of its own in each.

    Raises DataError with the line: unknown columns or parts, paths that are doubled, absolute or leave the root, files
    that are not there, a group in two parts.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such split file; `python -m trainer data split` writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    _check_columns(path, reader.fieldnames or [])
    lines: dict[int, Row] = {}
    for entries in reader:
        try:
            lines[reader.line_num] = _row(entries, root)
        except DataError as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    if not lines:
        raise DataError(f"{path}: holds no rows")
    _check_once(path, lines, ("mask",) if cells else ("image", "mask"))
    _check_groups(path, lines)
    return list(lines.values())


def write_split(path: Path, rows: Iterable[Row]) -> None:
    """Write the file beside its place and rename it, so that no half file is ever seen. Raises DataError."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    lines = [(row.source, row.image, row.mask, row.group, row.part, row.case) for row in rows]
    wide = len(COLUMNS) + any(row[-1] for row in lines)
    writer.writerow((*COLUMNS, CASE)[:wide])
    writer.writerows(line[:wide] for line in lines)
    write_text(path, text.getvalue())


def samples(rows: Sequence[Row]) -> list[Sample]:
    """Names and groups of rows. A name is `source/file`; `source/part/file` where a source has that file name twice.

    The file is the image; where several rows have one image, each is named by its mask. Raises DataError where even
    those meet.
    """
    shared = Counter(row.image for row in rows)
    files = [row.mask if shared[row.image] > 1 else row.image for row in rows]
    plain = [re.sub(rf"[_-]?{re.escape(CHANNEL)}", "", PurePosixPath(file).name) for file in files]
    short = [f"{row.source}/{name}" for row, name in zip(rows, plain, strict=True)]
    often = Counter(short)
    names = [
        name if often[name] == 1 else f"{row.source}/{row.part}/{own}"
        for name, own, row in zip(short, plain, rows, strict=True)
    ]
    seen: dict[str, Row] = {}
    for name, row in zip(names, rows, strict=True):
        if name in seen:
            raise DataError(f"{name}: two images have this name ({seen[name].image} and {row.image}); rename one")
        seen[name] = row
    return [
        Sample(
            name=name,
            source=row.source,
            group=row.group_key if row.group or row.case else name,
            image=row.image,
            case=f"{row.source}/{row.case}" if row.case else name,
        )
        for name, row in zip(names, rows, strict=True)
    ]


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in (*COLUMNS, CASE):
            raise DataError(f"{path}, line 1: unknown column {name!r}{nearest(name, (*COLUMNS, CASE))}")
    missing = [name for name in COLUMNS if name not in columns]
    if missing or len(set(columns)) < len(columns):
        raise DataError(f"{path}, line 1: columns are {','.join(columns)!r}; expected {','.join(COLUMNS)}")


def _row(cells: dict[str, str], root: Path) -> Row:
    if None in cells or None in cells.values():
        raise DataError(f"expected {len(COLUMNS)} cells: {','.join(COLUMNS)}")
    if not cells["source"] or "/" in cells["source"]:
        raise DataError(f"source is {cells['source']!r}; expected a word without a slash")
    part = next((known for known in PARTS if known == cells["split"]), None)
    if part is None:
        raise DataError(f"split = {cells['split']!r}: unknown part{nearest(cells['split'], PARTS)}")
    for column in ("image", "mask"):
        try:
            place = inside(root, cells[column])
        except DataError as error:
            raise DataError(f"{column}: {error}") from error
        if not _is_there(place):
            raise DataError(f"{column}: no such file {place}")
    if cells["image"] == cells["mask"] and not holds_both(Path(cells["image"])):
        raise DataError(f"image and mask are the same file {cells['image']!r}")
    return Row(cells["source"], cells["image"], cells["mask"], cells["group"], part, cells.get(CASE, ""))


def _is_there(place: Path) -> bool:
    """Whether a file is there; of a path that stands for a file a class or a channel, any of them."""
    if CHANNEL in place.name:
        return any(place.parent.glob(escape(place.name).replace(escape(CHANNEL), "*")))
    folder, name = place.parent, escape(place.name).replace(escape(CLASS), "*")
    if folder.name == CLASS:
        return any(folder.parent.glob(f"*/{name}"))
    return any(folder.glob(name)) if CLASS in place.name else file_of(place).is_file()


def _check_once(path: Path, lines: dict[int, Row], columns: Sequence[str]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, row in lines.items():
        for column in columns:
            name = getattr(row, column)
            first = seen.setdefault((column, name), number)
            if first != number:
                raise DataError(f"{path}, line {number}: {column} {name!r} is already in line {first}")


def _check_groups(path: Path, lines: dict[int, Row]) -> None:
    seen: dict[str, tuple[int, Part]] = {}
    for number, row in lines.items():
        first, part = seen.setdefault(row.group_key, (number, row.part))
        if part != row.part:
            raise DataError(
                f"{path}, line {number}: group {row.group!r} of {row.source} is in {row.part} here and in {part} in "
                f"line {first}; a patient or sequence never crosses a split"
            )


Fractions = Mapping[Part, float]


def read_groups(path: Path, rows: Sequence[Row], root: Path | None = None) -> list[Row]:
    """The rows with the groups of a CSV `image,group`; IMAGE_FORMS says how an image may be named.

    root: folder that the paths of rows start from, for images that are named by their whole path. A source is named
    wholly or not at all. Raises DataError with the line.
    """
    places = _image_names(rows, root)
    groups: dict[int, str] = {}
    for line, image, group in _group_lines(path):
        matches = sorted(places.get(image.removeprefix("./"), ()))
        if len(matches) != 1:
            several = (
                f"stands for {len(matches)} images ({some([rows[at].image for at in matches])}): write source/image, "
                "or more of its path"
                if matches
                else f"is none of the {len(rows)} images, such as {rows[0].image}; an image is named by {IMAGE_FORMS}"
            )
            raise DataError(f"{path}, line {line}: image {image!r} {several}")
        if groups.setdefault(matches[0], group) != group:
            raise DataError(f"{path}, line {line}: image {image!r} already has the group {groups[matches[0]]!r}")
    named = Counter(rows[at].source for at in groups)
    for source, count in Counter(row.source for row in rows).items():
        if 0 < named[source] < count:
            lost = next(row.image for at, row in enumerate(rows) if row.source == source and at not in groups)
            raise DataError(f"{path}: names {named[source]} of the {count} images of {source}; without a group: {lost}")
    return [replace(row, group=groups.get(at, row.group)) for at, row in enumerate(rows)]


IMAGE_FORMS = "its file name, source/name, or its path as in the split file or from /, each with or without ending"
"""How a CSV of groups may name an image."""


def _image_names(rows: Sequence[Row], root: Path | None) -> Mapping[str, set[int]]:
    """The rows that each name may stand for."""
    places: dict[str, set[int]] = defaultdict(set)
    for at, row in enumerate(rows):
        path = PurePosixPath(row.image)
        # Every end of the path, so that it may start at the root, at the source, or at the folder of images.
        names = {"/".join(path.parts[start:]) for start in range(len(path.parts))} | {f"{row.source}/{path.name}"}
        if root is not None:
            names.add((root / path).as_posix())
        for name in names:
            places[name].add(at)
            places[name.removesuffix(path.suffix)].add(at)
    return places


def assign(rows: Sequence[Row], linked: Sequence[tuple[int, int]], *, seed: int, fractions: Fractions) -> list[Row]:
    """The rows with parts drawn by seed. Rows of one group, and `linked` rows (by index), go together.

    Each part with a fraction above 0 gets at least one group of each source. The draw depends on the seed and on names,
    not on the order of rows. Raises DataError where a source has fewer groups than parts.
    """
    blocks = _blocks(rows, linked)
    chosen: dict[int, Part] = {}  # by block
    for source in sorted({row.source for row in rows}):
        sizes = {at: sum(rows[i].source == source for i in block) for at, block in enumerate(blocks)}
        own = [at for at, size in sizes.items() if size]
        own.sort(key=lambda at: derive(seed, "split", source, min(rows[i].group_key for i in blocks[at])))
        wished: list[Part] = [part for part, share in fractions.items() if share > 0]
        if len(own) < len(wished):
            raise DataError(
                f"{source}: {len(own)} groups cannot fill {len(wished)} parts ({', '.join(wished)}); change --fractions"
            )
        total = sum(sizes[at] for at in own)
        missing = {part: fractions[part] * total for part in wished}
        for at in own:
            if at in chosen and chosen[at] in missing:
                missing[chosen[at]] -= sizes[at]
        free = [at for at in own if at not in chosen]
        empty = [part for part in wished if not any(chosen.get(at) == part for at in own)]
        for at in free:
            part = empty.pop() if empty else max(wished, key=lambda part: missing[part])
            chosen[at] = part
            missing[part] -= sizes[at]
    parts = {i: chosen[at] for at, block in enumerate(blocks) for i in block}
    return [replace(row, part=parts[at]) for at, row in enumerate(rows)]


def _group_lines(path: Path) -> list[tuple[int, str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if list(reader.fieldnames or []) != ["image", "group"]:
                raise DataError(
                    f"{path}, line 1: columns are {','.join(reader.fieldnames or [])!r}; expected image,group"
                )
            lines = [(reader.line_num, cells["image"], cells["group"]) for cells in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for number, image, group in lines:
        if not image or not group:
            raise DataError(f"{path}, line {number}: expected an image and its group")
    if not lines:
        raise DataError(f"{path}: holds no rows")
    return lines


def _blocks(rows: Sequence[Row], linked: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Indices of rows that must stay together: the connected components of groups and links."""
    leader = list(range(len(rows)))

    def find(at: int) -> int:
        while leader[at] != at:
            leader[at] = leader[leader[at]]
            at = leader[at]
        return at

    first: dict[str, int] = {}
    for at, row in enumerate(rows):
        leader[find(at)] = find(first.setdefault(row.group_key, at))
    for one, other in linked:
        leader[find(one)] = find(other)
    blocks: dict[int, list[int]] = defaultdict(list)
    for at in range(len(rows)):
        blocks[find(at)].append(at)
    return list(blocks.values())
