"""What of a data set lies in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from trainer.data.downloads.sources import Source


class Count(NamedTuple):
    """Files of one pattern."""

    pattern: str
    there: int
    expected: int

    @property
    def short(self) -> bool:
        """Whether some are missing."""
        return self.there < self.expected


def counts_in(folder: Path, source: Source) -> list[Count]:
    """Files of the form that the folder comes nearest to, pattern by pattern. A folder that is missing holds none."""
    return min((_counts(folder, form) for form in source.forms), key=_lacking)


def is_complete(counts: list[Count]) -> bool:
    """Whether no pattern has fewer files than are known."""
    return not any(count.short for count in counts)


def _counts(folder: Path, form: Mapping[str, int]) -> list[Count]:
    return [Count(pattern, sum(1 for _ in folder.glob(pattern)), expected) for pattern, expected in form.items()]


def _lacking(counts: list[Count]) -> float:
    """The share of files that are missing."""
    return sum(max(0, count.expected - count.there) for count in counts) / sum(count.expected for count in counts)
