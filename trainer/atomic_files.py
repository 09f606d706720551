"""Files that are whole or not there, also after a power cut."""

import contextlib
import os
from pathlib import Path

from trainer.errors import DataError, UserError


def write_text(path: Path, text: str) -> None:
    """Write a small file beside its place, onto the disk, and rename it. Raises DataError."""
    try:
        _write(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_output(path: Path, text: str) -> None:
    """The same for the file that a command's --output names. Raises UserError."""
    if path.is_dir():
        raise UserError(f"--output {path}: a folder; name a file in it")
    try:
        _write(path, text)
    except OSError as error:
        raise UserError(f"--output {path}: {error.strerror}; the former file is as it was") from None


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder onto the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            beside.unlink()
        raise
