"""Files of a trial that no row names any more."""

from pathlib import Path

from loguru import logger

from search.execution.messages import WEIGHTS


def remove(path: Path | None) -> None:
    """Remove a file that nobody needs; a disk that refuses keeps it."""
    try:
        if path is not None:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("{} stays on disk: {}", path, error.strerror)


def sweep(place: Path, token: int) -> None:
    """Remove all checkpoints of a trial that is over, whoever wrote them, and weights of other holders than `token`'s.

    place: the trial's folder, which has one for each holder.
    """
    for path in place.glob("*/*epoch-*"):
        # What this worker is still writing comes as `Written`, of a trial that is over.
        if path.parent.name != str(token) or not path.name.startswith("."):
            remove(path)
    for path in place.glob(f"*/*{WEIGHTS}*"):
        if path.parent.name != str(token):
            remove(path)
