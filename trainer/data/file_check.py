"""Whether the files behind a split can be used: every picture is read once, every fault is kept, nothing stops early.

Reading a test file to see whether it is whole opens no test rows: nothing is scored and no picture is shown.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trainer.data.files import orientation, read_pair
from trainer.data.perceptual_hash import ImageHashes, image_hashes
from trainer.errors import DataError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CheckedPair:
    """What one pair of files holds."""

    height: int
    width: int
    foreground: float
    """Share of the mask's pixels, 0 to 1."""
    hashes: ImageHashes
    """Hash and sketch of the image."""
    orientation: int
    """EXIF orientation of the image; it is not obeyed."""


def check_pair(image: Path, mask: Path) -> CheckedPair:
    """Read one pair. Raises DataError."""
    pixels, labels = read_pair(image, mask)
    height, width = labels.shape
    return CheckedPair(height, width, float(labels.mean()), image_hashes(pixels), orientation(image))


def check_pairs(pairs: Sequence[tuple[Path, Path]], progress: Progress | None = None) -> list[CheckedPair | DataError]:
    """One entry a pair, in order; what was wrong stands in the place of a bad one."""

    def one(pair: tuple[Path, Path]) -> CheckedPair | DataError:
        try:
            return check_pair(*pair)
        except DataError as error:
            return error

    checked: list[CheckedPair | DataError] = []
    with ThreadPoolExecutor(threads(), thread_name_prefix="examine") as pool:
        for entry in pool.map(one, pairs):
            checked.append(entry)
            if progress:
                progress(len(checked), len(pairs))
    return checked


def threads() -> int:
    """How many threads read files: the cores this process may use, 8 at most."""
    return max(1, min(8, len(os.sched_getaffinity(0))))
