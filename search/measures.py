"""What was measured of a trained network, beside its weights on disk until the transaction that ends its trial."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search.evidence import rows_of
from trainer.reports import Measured

FILE = "findings.json"
"""Beside the weights, written before the last epoch is told: who adopts the trial after that finds it there."""


class Unreadable(Exception):
    """Findings that were written and are not there any more."""


def keep(folder: Path, measured: Sequence[Measured]) -> None:
    """Write the findings beside, fsynced, renamed. Raises OSError; then the former file is as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{FILE}.{os.getpid()}.part"
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump([each.to_json() for each in measured], file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / FILE)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def kept(folder: Path, uuid: str, trial_id: int) -> list[dict[str, Any]]:
    """The findings beside a trial's weights as rows of their table. Raises Unreadable."""
    try:
        return rows_of(uuid, trial_id, json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise Unreadable(f"{folder / FILE}: what was measured cannot be read ({error}); is the disk whole?") from error


def sha256_of(path: Path | None) -> str | None:
    """Of a file; None where it cannot be read: a trial is not worth less for that."""
    try:
        if path is not None:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    return None
