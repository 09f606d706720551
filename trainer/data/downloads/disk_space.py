"""Room on the disk, looked at before anything is written."""

import os
from pathlib import Path

from trainer.errors import DataError

KEPT_FREE = 64 * 1024**2
"""Bytes that are left to everybody else."""


def require_room(folder: Path, size: int, purpose: str) -> None:
    """Refuse to begin what does not fit. size: bytes to be written; purpose: what they are, for the message.

    Raises DataError, OSError where the folder cannot be looked at.
    """
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    if size + KEPT_FREE > free:
        raise DataError(
            f"{folder}: {purpose} takes {readable(size)}, and {readable(free)} are free; make room, or name a folder "
            "on another disk"
        )


def readable(size: int) -> str:
    """Bytes for people, in powers of 1000."""
    if size < 1000:
        return f"{size} bytes"
    number, units = size / 1000, ["kB", "MB", "GB", "TB"]
    while number >= 999.5 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.3g} {units[0]}"
