"""The exit codes of every command of a search and of its workers."""

from enum import Enum, auto

MISTAKE = 2
"""The user has to mend something, such as a value in a file or a file of the data."""
MAX_FAILED = 3
"""So many trials failed that the search ended."""
EXIT_CODES = {
    0: "done; of a worker: nothing is left to do, or it was asked to stop",
    1: "not as promised: the program found that something it promises does not hold, or has a bug",
    MISTAKE: "your mistake, in one line: the field, the value, what is known, and what to do",
    MAX_FAILED: "max_failed: so many trials failed that the search ended",
    130: "interrupted",
    141: "whoever read the output went away first, such as head",
    143: "TERM, USR1 or HUP told a worker to stop, and its trials were given back",
}
"""Code -> what it means."""


class EndReason(Enum):
    """Why a worker ends."""

    NOTHING_LEFT = auto()
    """No trial is left to train: the budget is used, or the search admits none any more."""
    ASKED_TO_STOP = auto()
    """A signal or `search stop --now` asked it to."""
    BAD_DATA = auto()
    """A file of the data cannot be used, so that every trial would fail."""
    MAX_FAILED = auto()
    """So many trials failed that the search ended."""


CODE_OF_END: dict[EndReason, int] = {
    EndReason.NOTHING_LEFT: 0,
    EndReason.ASKED_TO_STOP: 0,
    EndReason.BAD_DATA: MISTAKE,
    EndReason.MAX_FAILED: MAX_FAILED,
}
"""Reason -> a worker's exit code."""
