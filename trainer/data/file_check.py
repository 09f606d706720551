"""Whether the files behind a split can be used: every picture is read once, every fault is kept, nothing stops early.

Reading a test file to see whether it is whole opens no test rows: nothing is scored and no picture is shown.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from trainer.data.files import BadFile, orientation, shape_text, some
from trainer.data.masks import MaskValues, covered, refuse_other_size, values_of
from trainer.data.perceptual_hash import ImageHashes, image_hashes
from trainer.data.reading import PLAIN, Reading, as_rgb, read_mask_values
from trainer.errors import DataError

Progress = Callable[[int, int], None]
SMALLEST_SIDE = 8
"""Pixels; what is smaller is a placeholder, a tracking pixel or what a failed download left."""
Item = TypeVar("Item")
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class CheckedPair:
    """What one pair of files holds."""

    height: int
    width: int
    values: MaskValues
    """The values in the mask; what they mean is known once all masks of its source were read."""
    hashes: ImageHashes
    """Hash and sketch of the image."""
    orientation: int
    """EXIF orientation of the image; it is not obeyed."""
    depth: int = 0
    """Of a volume, its third side; 0: a picture. width, height and depth are along x, y, z."""
    spacing: tuple[float, float, float] | None = None
    """Of a volume, millimetres along x, y, z."""


def check_pair(image: Path, mask: Path, reading: Reading = PLAIN) -> CheckedPair:
    """Read one pair as training will. Raises DataError.

    reading: PLAIN where nobody has said what masks hold; else their values are judged by it, but for values that it
    does not name: what these are is a question to all masks of a source.
    """
    if reading == PLAIN:
        pixels, stored = reading.image(image), reading.mask_picture(mask, image)
        refuse_other_size(image, pixels, mask, stored.pixels)
        values = values_of(stored)
    else:
        values = read_mask_values(mask, reading, image)
        named = reading.coding is None or covered(values, reading.coding)
        pixels = reading.pair(image, mask)[0] if named else reading.image(image)
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise BadFile(image, f"less than {SMALLEST_SIDE} pixels on a side, so no picture", shape_text(pixels))
    shown = pixels if reading.cells is None else reading.image(image)  # leaks are looked for in whole pictures
    return CheckedPair(height, width, values, image_hashes(as_rgb(shown)), orientation(image))


def check_pairs(
    pairs: Sequence[tuple[Path, Path]], progress: Progress | None = None, *, reading: Reading = PLAIN
) -> list[CheckedPair | DataError]:
    """One entry a pair, in order; what was wrong stands in the place of a bad one."""

    def one(pair: tuple[Path, Path]) -> CheckedPair | DataError:
        try:
            return check_pair(*pair, reading)
        except DataError as error:
            return error

    return in_threads(one, pairs, name="examine", progress=progress)


def in_threads(
    read: Callable[[Item], Entry], items: Sequence[Item], *, name: str, progress: Progress | None = None
) -> list[Entry]:
    """What `read` returns for each item, in order, a few at once. name: of the threads. Raises what `read` raises."""
    entries: list[Entry] = []
    with ThreadPoolExecutor(threads(), thread_name_prefix=name) as pool:
        for entry in pool.map(read, items):
            entries.append(entry)
            if progress:
                progress(len(entries), len(items))
    return entries


def summarised(errors: Sequence[DataError]) -> list[str]:
    """A line a cause, with how many files have it, the names of three and what is special of the first, such as its
    size; an error that stands alone is as it was."""
    alike: dict[str, list[DataError]] = {}
    for error in errors:
        alike.setdefault(error.cause if isinstance(error, BadFile) else str(error), []).append(error)
    lines = []
    for cause, same in alike.items():
        names = [str(error.path) for error in same if isinstance(error, BadFile)]
        first = next((error.detail for error in same if isinstance(error, BadFile) and error.detail), "")
        text = f"{len(same)} files: {cause} ({some(names)}{first and f'; the first: {first}'})"
        lines.append(text if len(same) > 1 and names else str(same[0]))
    return lines


def threads() -> int:
    """How many threads read files: the cores this process may use, 8 at most."""
    return max(1, min(8, len(os.sched_getaffinity(0))))
