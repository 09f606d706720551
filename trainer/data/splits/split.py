"""The split file: `source,image,mask,group,split`, one row a picture, paths from the data root.

`source` is the data set a picture comes from, `group` its patient or sequence within that source; an empty group says
that none is known and makes the picture a group of its own. `split` is train, validation or test.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

from trainer.atomic_files import write_text
from trainer.data.dataset import Part, Sample
from trainer.data.files import inside
from trainer.errors import DataError, nearest

COLUMNS = ("source", "image", "mask", "group", "split")
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Row:
    """One picture of a split."""

    source: str
    image: str
    mask: str
    group: str
    part: Part

    @property
    def group_key(self) -> str:
        """The group across sources; the picture itself where no group is known."""
        return f"{self.source}/{self.group}" if self.group else f"{self.source}/{self.image}"


def read_split(path: Path, root: Path) -> list[Row]:
    """The rows in the file's order. Raises DataError with the line: unknown columns or parts, paths that are doubled,
    absolute or leave the root, files that are not there, a group in two parts."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such split file; `python -m trainer data split` writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    _check_columns(path, reader.fieldnames or [])
    lines: dict[int, Row] = {}
    for cells in reader:
        try:
            lines[reader.line_num] = _row(cells, root)
        except DataError as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    if not lines:
        raise DataError(f"{path}: holds no rows")
    _check_once(path, lines)
    _check_groups(path, lines)
    return list(lines.values())


def write_split(path: Path, rows: Iterable[Row]) -> None:
    """Write the file beside its place and rename it, so that no half file is ever seen. Raises DataError."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((row.source, row.image, row.mask, row.group, row.part) for row in rows)
    write_text(path, text.getvalue())


def samples(rows: Sequence[Row]) -> list[Sample]:
    """Names and groups of rows. A name is `source/file`; `source/part/file` where a source has that file name twice.

    Raises DataError where even those meet.
    """
    short = [f"{row.source}/{PurePosixPath(row.image).name}" for row in rows]
    often = Counter(short)
    names = [
        name if often[name] == 1 else f"{row.source}/{row.part}/{PurePosixPath(row.image).name}"
        for name, row in zip(short, rows, strict=True)
    ]
    seen: dict[str, Row] = {}
    for name, row in zip(names, rows, strict=True):
        if name in seen:
            raise DataError(f"{name}: two images have this name ({seen[name].image} and {row.image}); rename one")
        seen[name] = row
    return [
        Sample(name=name, source=row.source, group=row.group_key if row.group else name, image=row.image)
        for name, row in zip(names, rows, strict=True)
    ]


def _check_columns(path: Path, found: Sequence[str]) -> None:
    for name in found:
        if name not in COLUMNS:
            raise DataError(f"{path}, line 1: unknown column {name!r}{nearest(name, COLUMNS)}")
    missing = [name for name in COLUMNS if name not in found]
    if missing or len(set(found)) < len(found):
        raise DataError(f"{path}, line 1: columns are {','.join(found)!r}; expected {','.join(COLUMNS)}")


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
        if not place.is_file():
            raise DataError(f"{column}: no such file {place}")
    if cells["image"] == cells["mask"]:
        raise DataError(f"image and mask are the same file {cells['image']!r}")
    return Row(cells["source"], cells["image"], cells["mask"], cells["group"], part)


def _check_once(path: Path, lines: dict[int, Row]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, row in lines.items():
        for column, name in (("image", row.image), ("mask", row.mask)):
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
