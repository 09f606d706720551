"""Folders of a command's ranks that nobody has to clear up: removed at its end, or by the next one if it is killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PLACE = "KD_TEMPORARY"
"""Variable that names the folder to the agent and the ranks of a command, for their own temporary folders."""
MEETING_FOLDER = "KD_MEETING_FOLDER"
"""Variable that names the folder in which the ranks of an agent of ours meet."""
_LOCK = ".kd-search-lock"
"""The file whose lock says that a command lives; a folder without it is none of ours, whatever its name."""


@contextmanager
def swept_folder(prefix: str) -> Iterator[Path]:
    """A private folder that is removed at the end, with those of its prefix that killed commands left behind.

    A lock says that a command still lives: the kernel gives it free with the process, whatever ends that, and it holds
    between containers that share the disk, where a process id would mean somebody else.
    """
    _sweep(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        begun = Path(name) / f"{_LOCK}.new"
        descriptor = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            begun.rename(Path(name) / _LOCK)  # whoever sees it sees it locked
            yield Path(name)
        finally:
            os.close(descriptor)


def place() -> Path:
    """Where agents and ranks make temporary folders: that of their command, or the machine's."""
    return Path(os.environ.get(PLACE) or tempfile.gettempdir())


def _sweep(prefix: str) -> None:
    """Remove what is left over; what another account made, or a disk refuses to remove, stays."""
    with suppress(OSError):
        for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            own = not folder.is_symlink() and folder.is_dir() and folder.lstat().st_uid == os.getuid()
            if own and _is_left_over(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
