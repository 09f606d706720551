"""The record of who opened the test rows, when and for what: one JSON line each, kept for ever."""

import getpass
import json
import os
import socket
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from trainer.atomic_files import sync_folder
from trainer.data.dataset import Opening, Part
from trainer.errors import DataError

FILE = "openings.jsonl"


def record_opening(folder: Path, purpose: str) -> Opening:
    """Append one line to `folder`/openings.jsonl; it is on the disk before the right to read test rows is returned.

    Raises DataError where the purpose is empty or the line cannot be written: without a record there is no opening.
    """
    if not purpose.strip():
        raise DataError("opening of the test rows: the purpose is empty; say what they are read for")
    opening = Opening(who=who(), when=datetime.now(UTC).isoformat(timespec="seconds"), purpose=purpose)
    line = (json.dumps(asdict(opening), ensure_ascii=False) + "\n").encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
        sync_folder(folder)
    except OSError as error:
        raise DataError(f"{folder / FILE}: the opening cannot be recorded ({error}); test rows stay closed") from error
    return opening


def read_openings(folder: Path) -> list[Opening]:
    """All openings recorded in the folder, oldest first; none where there is no record. Raises DataError."""
    path = folder / FILE
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    try:
        return [Opening(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: holds a line that is no opening record ({error}); repair it by hand") from error


def require_opening(part: Part, opening: Opening | None) -> None:
    """Raise DataError where test rows are read without a record."""
    if part == "test" and opening is None:
        raise DataError(
            "test rows are closed: only confirmation and `python -m trainer evaluate --open-test` read them, "
            "and leave a record"
        )


def who() -> str:
    """Who runs this process: `account@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
