"""The messages between the leader and its database thread, and what a worker holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.storage.leases import LeaseHandle
from search.storage.statements import Owner
from search.study.artifacts import Artifacts
from search.study.trial_attributes import Attempt, no_attributes
from trainer.config import RunConfig
from trainer.reports import EpochReport, Failure, Resume, Saved

WEIGHTS, PICTURE = "best.safetensors", "worst-and-median.png"
"""Files beside a trial's checkpoints, written before its last epoch is reported."""


@dataclass(frozen=True)
class StartTrial:
    """Train this from the next epoch boundary on."""

    key: int
    run: RunConfig
    resume: Resume | None
    label: str
    token: int
    """The fencing token of the lease that it is trained under; every message about the trial carries it."""
    folder: Path
    """Where its files go: one folder a token, so that no two holders share one."""


@dataclass(frozen=True)
class DropTrial:
    """Forget this trial: it was pruned, paused, or lost to another worker."""

    key: int
    keep_checkpoint: bool = False
    """Whether its newest checkpoint is still to be written: it was paused."""


@dataclass(frozen=True)
class EpochDone:
    """One epoch of one trial, on its way to the database.

    The trial resumes from the checkpoint of an earlier epoch until `CheckpointWritten` names this one's.
    """

    key: int
    token: int
    report: EpochReport
    weights: Saved | None = None
    """The best epoch's weights, with the last report."""
    picture: Path | None = None
    """A picture of the worst and median validation cases, with the last report, where one was drawn."""
    overhead: Mapping[str, float] = field(default_factory=dict)
    """The trial's share of the seconds between two epochs: checkpoint, database, idle."""


@dataclass(frozen=True)
class CheckpointWritten:
    """A checkpoint that is on disk; it counts where no later epoch of the trial was reported."""

    key: int
    token: int
    epoch: int
    saved: Saved
    replay: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TrialFailed:
    """A trial that failed, on its way to the database."""

    key: int
    token: int
    failure: Failure


Item = EpochDone | TrialFailed | CheckpointWritten
"""What the database thread stores."""


@dataclass(frozen=True)
class HeldTrial:
    """A trial in this worker's hands."""

    lease: LeaseHandle
    label: str
    run: RunConfig
    seconds: dict[str, float] = field(default_factory=dict)
    gpu_seconds: float = 0.0
    best_epoch: int | None = None
    best_score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    """All scores of the best epoch."""
    checkpoint: Path | None = None
    epoch: int = 0
    """The last epoch that this worker stored."""
    holders: tuple[Attempt, ...] = ()
    """All workers that held the trial, this one last."""
    own_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part that this holder spent."""
    epochs: int = 0
    """Epochs that this holder trained."""
    passes: float | None = None
    """Sum over these epochs of the teacher's passes a student step; None where nobody counted."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of each loss term in the gradient, in the last epoch; empty where that was not measured."""
    waits: str | None = None
    """What the disk does not take of it, as it stands with the trial; None where it takes all."""
    picture_handled: bool = False
    """Whether its picture was uploaded, or cannot be."""


@dataclass(frozen=True)
class WorkerSettings:
    """What the database thread has to know about its worker."""

    owner: Owner
    slots: int
    runs: Path
    ranks: int
    environment: Mapping[str, Any]
    breach: Callable[[RunConfig], str | None]
    """The limit that a run breaks, as text; None where it keeps all."""
    ttl: float = 60.0
    """Seconds without a heartbeat after which others may take a trial."""
    known: Callable[[RunConfig], Mapping[str, Any]] = no_attributes
    """The attributes of a run that are known before it is trained."""
    artifacts: Artifacts | None = None
    """Where files for the dashboard go; None where they cannot be kept."""
    images: bool = False
    """Whether pictures of validation images may be drawn and uploaded."""
    spare: tuple[Path, ...] = ()
    """Folders for what `runs` does not take when this worker ends, to be tried in this order."""
    note_every: float | None = None
    """Seconds between two writings of the studies' notes for the dashboard, over all workers; None: no notes."""

    @property
    def draws(self) -> bool:
        """Whether a picture is drawn of each trial that completes."""
        return self.images and self.artifacts is not None
