"""Who goes into train, validation and test: whole groups, seeded, about the wished share of each source's images."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from trainer.data.dataset import Part
from trainer.data.splits.split import Row
from trainer.errors import DataError
from trainer.seeds import derive

Fractions = Mapping[Part, float]


def read_groups(path: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows with the groups of a CSV `image,group`, where image is a file name, its stem, or `source/` and either.

    A source is named wholly or not at all. Raises DataError with the line.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        name = PurePosixPath(row.image)
        for word in {name.name, name.stem}:
            places[word].append(at)
            places[f"{row.source}/{word}"].append(at)
    groups: dict[int, str] = {}
    for line, image, group in _group_lines(path):
        found = places.get(image, [])
        if len(found) != 1:
            several = (
                f"is in {', '.join(sorted({rows[at].source for at in found}))}: write source/image"
                if found
                else "is in no given folder"
            )
            raise DataError(f"{path}, line {line}: image {image!r} {several}")
        if groups.setdefault(found[0], group) != group:
            raise DataError(f"{path}, line {line}: image {image!r} already has the group {groups[found[0]]!r}")
    named = Counter(rows[at].source for at in groups)
    for source, count in Counter(row.source for row in rows).items():
        if 0 < named[source] < count:
            lost = next(row.image for at, row in enumerate(rows) if row.source == source and at not in groups)
            raise DataError(f"{path}: names {named[source]} of the {count} images of {source}; without a group: {lost}")
    return [replace(row, group=groups.get(at, row.group)) for at, row in enumerate(rows)]


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
