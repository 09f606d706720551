"""Where a trial that changes hands goes on: from the checkpoint that its lease names, as far as this host can tell."""

import hashlib
import json
from pathlib import Path

from loguru import logger

from search.storage.leases import Seen
from trainer.reports import Resume


def on_hand(row: Seen) -> int:
    """The epoch that this host can resume a lease from: its checkpoint's, where the file is here and whole, else 0.

    A checkpoint of the last epoch, which no worker writes, has nothing to go on to: 0 as well.

    A file that is here and cannot be read counts as whole: a disk with an error is no reason to begin anew. Who then
    builds the trial fails for the disk's sake, gives it back, and rests; another host may read it.
    """
    if row.checkpoint is None or row.checkpoint_sha256 is None:
        return 0
    if row.run is not None and row.epoch >= json.loads(row.run)["epochs"]:
        return 0
    try:
        with Path(row.checkpoint).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return 0  # another host's disk, or the file is gone: the trial starts again, visibly
    except OSError as error:
        logger.warning("disk: #{}: {} cannot be read ({})", row.number, row.checkpoint, error.strerror or error)
        return row.epoch
    return row.epoch if digest == row.checkpoint_sha256 else 0


def resume_of(row: Seen, epoch: int) -> Resume | None:
    """Where a taken trial goes on, its checkpoint having been judged good for `epoch`; None: from the beginning."""
    if epoch == 0 or row.checkpoint is None:
        return None
    replay = tuple((own, stream) for own, stream in json.loads(row.replay or "[]"))
    return Resume(Path(row.checkpoint), replay)
