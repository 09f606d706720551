"""Files and folders that are whole or not there, also after a power cut."""

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.errors import DataError, UserError, refusal_text

FOLDER_MODE = "KD_FOLDER_MODE"
"""Variable with the mode of the folders that hold pictures, weights and databases."""


def write_text(path: Path, text: str) -> None:
    """Write a small file beside its place, onto the disk, and rename it. Raises DataError."""
    try:
        _write(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({refusal_text(error)})") from error


def check_output(path: Path) -> None:
    """Look whether the file that a command's --output names can be written, before it works for it; nothing is made.

    Raises UserError.
    """
    why = _no_place(path)
    if why is not None:
        raise UserError(f"--output {path}: {why}")


def writable(path: Path | None) -> None:
    """Make the folder of a file that is to be written, before hours go into its content; of None and `-` nothing.

    Raises UserError.
    """
    if path is None or str(path) == "-":
        return
    why = _no_place(path)
    if why is not None:
        raise UserError(f"{path}: {why}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {refusal_text(error)}; choose another place") from error


def _no_place(path: Path) -> str | None:
    """Why a file cannot be written, with what to do; None where it can."""
    try:
        if path.is_dir():
            return "a folder; name a file in it"
        there = next(above for above in path.absolute().parents if above.exists())
    except OSError as error:  # a name too long, a folder that nobody may look into
        return f"{refusal_text(error)}; choose another place"
    if not there.is_dir():
        return f"{there} is a file; choose another place"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} must not be written into; choose another place"


def write_output(path: Path, text: str) -> None:
    """Write the file that a command's --output names, whole or not at all. Raises UserError."""
    check_output(path)
    try:
        _write(path, text)
    except OSError as error:
        raise UserError(f"--output {path}: {refusal_text(error)}; the former file is as it was") from None


def write_private(path: Path, text: str) -> None:
    """The same for a file with a secret, which only its owner can read (mode 0600). Raises OSError."""
    _write(path, text, private=True)


def private_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing; nobody but the owner may enter them (mode 0700).

    The variable KD_FOLDER_MODE has another mode for them, in octal digits, such as 2770 for a group that shares them.
    A folder that is there stays as it is. Raises OSError, UserError for a mode that is none.
    """
    if folder.is_dir():
        return
    text = os.environ.get(FOLDER_MODE, "700")
    if not re.fullmatch(r"[0-7]{3,4}", text) or int(text, 8) & 0o700 != 0o700:
        raise UserError(f"{FOLDER_MODE} = {text!r}: expected octal digits that give the owner all rights, such as 2770")
    private_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700)
        folder.chmod(int(text, 8))  # whatever the umask takes away
    except FileExistsError:
        if not folder.is_dir():
            raise


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder onto the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to be written beside its place: onto the disk and renamed at the end, removed where anything was raised.

    private: only its owner can read it (mode 0600), from its first byte on. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if private:
            beside.unlink(missing_ok=True)  # of a process that died and had this number: it may have other rights
        opens, mode = (os.O_EXCL, 0o600) if private else (os.O_TRUNC, 0o666)
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | opens, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            beside.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write that fails names no file
        raise
    sync_folder(path.parent)


def halves(place: Path) -> list[Path]:
    """What killed commands left of a file or folder that is written beside its place, or running ones still write."""
    return sorted(place.parent.glob(f".{glob.escape(place.name)}.*.part*"))


@contextlib.contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to be filled beside its place and renamed at the end, where it takes the place of one that is there;
    removed where anything was raised. What killed processes left of it is removed first, so that its lock must be held.

    Raises OSError.
    """
    for left_over in place.parent.glob(f".{glob.escape(place.name)}.*.tmp"):
        shutil.rmtree(left_over)
    beside = place.parent / f".{place.name}.{os.getpid()}.tmp"
    beside.mkdir()
    try:
        yield beside
        if place.exists():
            shutil.rmtree(place)
        beside.rename(place)
        sync_folder(place.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _write(path: Path, text: str, *, private: bool = False) -> None:
    with whole_file(path, private=private) as file:
        file.write(text.encode())
