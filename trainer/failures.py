"""What went wrong in one member on one rank, before the ranks agree that it failed."""

import traceback
from dataclasses import dataclass

import torch

from trainer.config import RunConfig
from trainer.distributed.ranks import RanksLost
from trainer.errors import CheckpointError, DataError
from trainer.reports import FailureKind

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class LocalFailure:
    """An exception as words; it holds no frame and so no tensor."""

    kind: FailureKind
    message: str
    detail: str = ""


def local_failure(error: Exception, run: RunConfig) -> LocalFailure:
    """The words for an exception in a member's part of the work.

    Raises the exception itself where no single member is to blame: siblings lost, or a device that can do nothing more.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in text.lower() for word in _MEMORY)
    if isinstance(error, RanksLost) or (isinstance(error, torch.AcceleratorError) and not memory):
        raise error
    detail = "".join(traceback.format_exception(error))
    if memory:
        network = " ".join(filter(None, [run.student.name, run.student.scale]))
        where = f"{network}, batch_size {run.batch_size}, size {run.data.size}"
        less = f"batch_size {run.batch_size // 2}, " if run.batch_size > 1 else ""
        remedy = f"try {less}a smaller network or size, or fewer students side by side (--slots)"
        return LocalFailure(FailureKind.OUT_OF_MEMORY, f"out of memory: {where}; {remedy}", detail)
    if isinstance(error, DataError):
        return LocalFailure(FailureKind.BAD_DATA, text, detail)
    if isinstance(error, CheckpointError):
        return LocalFailure(FailureKind.STORAGE, text, detail)
    return LocalFailure(FailureKind.BUG, f"{type(error).__name__}: {text}", detail)


def not_finite(run: RunConfig, epoch: int) -> LocalFailure:
    """The words for a loss or gradient that became infinite or no number at all."""
    rate = f"lr {run.optim.lr:g}, precision {run.precision}"
    return LocalFailure(
        FailureKind.NOT_FINITE, f"loss or gradient not finite in epoch {epoch} ({rate}); a lower lr may help"
    )
