"""What the masks of a split mean, source by source; a part in which no mask has an object is refused.

Looking at the values of a test mask opens no test rows: nothing is scored, shown or learned from.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainer.data.cache import kept_file
from trainer.data.file_check import in_threads
from trainer.data.masks import (
    BLACK_AND_WHITE,
    FLAG,
    OBJECT,
    Coding,
    MaskValues,
    coding_from,
    coding_of,
    meaning_text,
)
from trainer.data.reading import PLAIN, Reading, read_mask_values
from trainer.data.splits.split import PARTS, Row
from trainer.errors import DataError

FORMAT = 1
"""Goes up with every change of what is counted, so that no count is taken from a cache of before."""
AGAIN = "draw again with another --seed, or give more images with an object"

Codings = Mapping[str, Coding]
"""By source."""


def codings_of(
    rows: Sequence[Row], masks: Sequence[MaskValues], labels: str | None, *, field: str = FLAG, remedy: str = FLAG
) -> Codings:
    """The meaning of each source's masks; `labels` is what a person says, for all of them.

    field, remedy: where that is written, for messages. Raises DataError, one line for all sources.
    """
    given = None if labels is None else coding_from(labels, field)
    sources: dict[str, dict[str, MaskValues]] = {}
    for row, values in zip(rows, masks, strict=True):
        sources.setdefault(row.source, {})[row.mask] = values
    codings, mistakes = {}, []
    for source, by_name in sources.items():
        try:
            codings[source] = coding_of(by_name, source, given=given, remedy=remedy)
        except DataError as error:
            mistakes.append(str(error))
    if mistakes:
        more = f" (and {len(mistakes) - 1} more sources: {', '.join(_others(sources, codings))})"
        raise DataError(mistakes[0] + (more if len(mistakes) > 1 else ""))
    return codings


def given_codings(
    rows: Sequence[Row], masks: Sequence[MaskValues], coding: Coding, *, remedy: str = "data.classes, or in data.ignore"
) -> Codings:
    """One meaning for the masks of all sources, as a data set names its classes.

    remedy: where a value is named, for messages. Raises DataError for values that nobody named, with their files.
    """
    sources: dict[str, dict[str, MaskValues]] = {}
    for row, values in zip(rows, masks, strict=True):
        sources.setdefault(row.source, {})[row.mask] = values
    return {source: coding_of(by_name, source, given=coding, remedy=remedy) for source, by_name in sources.items()}


def _others(sources: Mapping[str, object], good: Codings) -> list[str]:
    return [source for source in sources if source not in good][1:]


def refuse_empty_parts(
    rows: Sequence[Row], masks: Sequence[MaskValues], codings: Codings, where: str, *, remedy: str = AGAIN
) -> None:
    """Raise DataError for parts whose masks are all empty: nothing can be learned from them, and every score over them
    is 0 or 1."""
    objects = [codings[row.source].foreground(values) > 0 for row, values in zip(rows, masks, strict=True)]
    counts = {part: [has for row, has in zip(rows, objects, strict=True) if row.part == part] for part in PARTS}
    empty = [part for part in PARTS if counts[part] and not any(counts[part])]
    if not empty:
        return
    stated = ", ".join(f"{part} {sum(has)} of {len(has)}" for part, has in counts.items() if has)
    brightest = max(value for values in masks for value in values.counts)
    if not any(objects):
        kinds = sorted({meaning_text(coding) for coding in codings.values()})
        raise DataError(
            f"{where}: every mask is empty (with an object: {stated}): {'; '.join(kinds)}, and no mask holds more than "
            f"{brightest & 0xFF}; where the masks are others, give their folder"
        )
    raise DataError(
        f"{where}: every mask of {' and '.join(empty)} is empty (masks with an object: {stated}); over such a part "
        f"nothing is learned and every score is 0 or 1: {remedy}"
    )


def refuse_absent_classes(rows: Sequence[Row], masks: Sequence[MaskValues], codings: Codings, where: str) -> list[str]:
    """Lines of warning for classes or regions that no mask of validation or test holds.

    Of two classes `refuse_empty_parts` judges. Raises DataError for classes that no mask of train holds: nothing of
    them can be learned.
    """
    coding = next(iter(codings.values()))
    names = coding.names if coding.regions is None else coding.regions.names
    if len(names) <= (2 if coding.regions is None else 1):
        return []
    held: dict[str, set[int]] = {part: set() for part in PARTS}
    for row, values in zip(rows, masks, strict=True):
        held[row.part] |= {at for at, count in _object_pixels(codings[row.source], values).items() if count}
    absent = {
        part: [name for at, name in enumerate(names) if at not in held[part]]
        for part in PARTS
        if any(row.part == part for row in rows)
    }
    if absent.get("train"):
        raise DataError(
            f"{where}: no mask of train holds {', '.join(absent['train'])}: nothing of it is learned; {AGAIN}, or "
            f"leave it out of the {'classes' if coding.regions is None else 'regions'}"
        )
    return [
        f"warning: no mask of {part} holds {', '.join(lost)}: scores over {part} say nothing of it"
        for part, lost in absent.items()
        if lost
    ]


def _object_pixels(coding: Coding, values: MaskValues) -> Counter[int]:
    """How many pixels of a mask each class, or each region, has."""
    pixels = coding.pixels(values)
    if coding.regions is None:
        return pixels
    inside: Counter[int] = Counter()
    for label, places in enumerate(coding.regions.members):
        inside.update(dict.fromkeys(places, pixels[label]))
    return inside


def mask_lines(rows: Sequence[Row], masks: Sequence[MaskValues], codings: Codings) -> list[str]:
    """What is worth saying of each source's masks: what their values mean where they are not black and white, and how
    many grey pixels of JPEGs went to the nearest value."""
    lines = []
    for source, coding in codings.items():
        own = [values for row, values in zip(rows, masks, strict=True) if row.source == source]
        total = sum(values.pixels for values in own)
        if coding.names != BLACK_AND_WHITE.names:
            lines.append(f"masks of {source}: {meaning_text(coding)}; pixels: {_shares(own, coding, total)}")
        elif coding != BLACK_AND_WHITE:
            share = sum(coding.share(values, OBJECT) * values.pixels for values in own) / total
            lines.append(f"masks of {source}: {meaning_text(coding)}; the object has {share:.1%} of the pixels")
        moved = sum(coding.moved(values) for values in own)
        if moved:
            files = Counter(values.lossy for values in own)[True]
            lines.append(
                f"masks of {source}: {files} are JPEGs; {moved / total:.2%} of the pixels lay between the named values "
                "and went to the nearest"
            )
    return lines


def _shares(masks: Sequence[MaskValues], coding: Coding, total: int) -> str:
    pixels: Counter[int] = Counter()
    for values in masks:
        pixels.update(_object_pixels(coding, values))
    names = coding.names if coding.regions is None else coding.regions.names
    return ", ".join(f"{name} {pixels[label] / total:.1%}" for label, name in enumerate(names))


def kept_values(
    cache: Path,
    masks: Sequence[tuple[str, Path]],
    progress: Callable[[int, int], None] | None = None,
    *,
    reading: Reading = PLAIN,
    images: Sequence[Path | None] | None = None,
) -> list[MaskValues]:
    """The values of masks (sha256 of the file, and where it is), read once and kept in the folder. images: the picture
    of each, for masks without a size of their own. Raises DataError."""
    beside = [None] * len(masks) if images is None else images
    text = "\x1f".join([str(FORMAT), *(digest for digest, _ in masks)] + ([reading.key] if reading.key else []))
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return kept_file(
        cache / f"values-{key}.json",
        lambda: in_threads(
            lambda pair: read_mask_values(pair[0], reading, pair[1]),
            list(zip([path for _, path in masks], beside, strict=True)),
            name="values",
            progress=progress,
        ),
        write=lambda counted: json.dumps([[v.pixels, v.lossy, list(v.counts.items())] for v in counted]),
        read=lambda text: _parsed(text, len(masks)),
    )


def _parsed(text: str, count: int) -> list[MaskValues]:
    counted = [
        MaskValues({int(value): int(number) for value, number in counts}, int(pixels), bool(lossy))
        for pixels, lossy, counts in json.loads(text)
    ]
    if len(counted) != count:
        raise ValueError(f"{len(counted)} masks in place of {count}")
    return counted
