"""What a worker does about a disk that takes nothing: where files go meanwhile, room kept back, and who is shown it."""

import os
import stat
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from weakref import finalize

from search.execution.messages import HeldTrial
from search.storage.leases import Leases
from search.storage.schema import leases
from search.storage.statements import LeaseLost
from search.storage.url import NETWORK_DISKS, disk_kind
from search.study.trial_attributes import WAITS
from trainer.errors import UserError

RESERVE_BYTES = 4 * 2**20
"""What a worker keeps back beside a local database: room for the last reports and names of files."""
REPEAT_SECONDS = 60.0
"""The time between two lines about the same wait."""


def spare_folders(given: Path | None, runs: Path) -> tuple[Path, ...]:
    """Folders for what `runs` does not take when a worker ends, to be tried in this order.

    The one that was given; without one, private folders on other disks of this machine. None where `runs` is a network
    disk: other hosts would look for what is named there, and not find it. Raises UserError.
    """
    if given is not None:
        if given.exists() and not given.is_dir():
            raise UserError(f"--spare {given}: is no folder; name one on another disk than --runs")
        return (given.resolve(),)
    if disk_kind(runs) in NETWORK_DISKS:
        return ()
    parents = (Path(tempfile.gettempdir()), Path("/dev/shm"))  # noqa: S108 - private folders, see `usable`
    device = runs.stat().st_dev
    others = [parent for parent in parents if parent.is_dir() and parent.stat().st_dev != device]
    return tuple(parent / _own_name() for parent in others)


def usable(folder: Path) -> bool:
    """Make a spare folder where it is missing; whether it may be used: one in a place where everybody may make folders
    has to be this account's alone. Raises OSError."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    status = folder.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return ours or folder.name != _own_name()


def _own_name() -> str:
    return f"kd-spare-{os.getuid()}"


class Reserve:
    """Room on a disk that is given free when it is needed most. The file has no name, so nothing of it is ever left."""

    def __init__(self, folder: Path | None) -> None:
        """folder: None keeps nothing back; on a disk that is full already, or cannot do it, neither."""
        self._close: finalize[..., Reserve] | None = None
        if folder is not None:
            with suppress(OSError):
                self._keep(folder)

    def _keep(self, folder: Path) -> None:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".reserve-")
        self._close = finalize(self, os.close, descriptor)
        Path(name).unlink()
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            self.release()  # it holds what there was
            raise

    def release(self) -> None:
        """Give the room free."""
        if self._close is not None:
            self._close()


def mark(own: Leases, held: MutableMapping[int, HeldTrial], refusal: str | None) -> None:
    """Store with each held trial what it waits for, and take it away again. One that was lost is left to the next
    heartbeat. Raises what the database raises."""
    for key, trial in list(held.items()):
        if trial.waits == refusal:
            continue
        with suppress(LeaseLost):
            own.change(trial.lease, {"beat": leases.c.beat + 1}, attributes={WAITS: refusal})
            held[key] = replace(trial, waits=refusal)
