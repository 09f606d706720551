"""What the lead and its database thread say to each other, and what a worker holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.storage.artifacts import Artifacts
from search.storage.leases import LeaseHandle
from search.storage.statements import Owner
from search.study.trial_attributes import Attempt, nothing_known
from trainer.config import RunConfig
from trainer.reports import EpochReport, Failure, Resume, Saved

WEIGHTS, PICTURE = "best.safetensors", "worst-and-median.png"
"""Files beside a trial's checkpoints, written before its last epoch is told."""


@dataclass(frozen=True)
class StartTrial:
    """Train this from the next epoch boundary on."""

    key: int
    run: RunConfig
    resume: Resume | None
    label: str
    token: int
    """Of the lease that it is trained under; whatever is told about it carries it."""
    folder: Path
    """Where its files go: one folder a token, so that no two holders share one."""


@dataclass(frozen=True)
class DropTrial:
    """Forget this member: pruned, or lost to another worker."""

    key: int


@dataclass(frozen=True)
class EpochDone:
    """One epoch of one member, on its way to the database.

    The trial goes on from the checkpoint of an earlier epoch, until this one's is `CheckpointWritten`.
    """

    key: int
    token: int
    report: EpochReport
    weights: Saved | None = None
    """The best epoch's weights, with the last report."""
    picture: Path | None = None
    """Of the worst and median validation cases, with the last report, where one was drawn."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """The member's share of the seconds between two epochs: checkpoint, database, idle."""


@dataclass(frozen=True)
class CheckpointWritten:
    """A checkpoint that is on disk, of the epoch that was told last of a member."""

    key: int
    token: int
    epoch: int
    saved: Saved
    replay: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TrialFailed:
    """A member that failed, on its way to the database."""

    key: int
    token: int
    failure: Failure


@dataclass(frozen=True)
class HeldTrial:
    """A trial in this worker's hands."""

    held: LeaseHandle
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
    """The last one that was stored by this worker."""
    holders: tuple[Attempt, ...] = ()
    """All who held the trial, this one last."""
    here: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part that this holder spent."""
    epochs: int = 0
    """Epochs that this holder trained."""
    passes: float | None = None
    """Sum over them of the teacher's passes a student step; None where nobody counted."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of each loss term in the gradient, in the last epoch; nothing where that was not measured."""
    pictured: bool = False
    """Whether its picture was uploaded, or cannot be."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a desk has to know about its worker."""

    owner: Owner
    slots: int
    runs: Path
    ranks: int
    environment: Mapping[str, Any]
    breach: Callable[[RunConfig], str | None]
    """The limit that a run breaks, in words; None where it keeps them."""
    ttl: float = 60.0
    """Seconds that a lease's beat may stand still before others may take the trial."""
    known: Callable[[RunConfig], Mapping[str, Any]] = nothing_known
    """The attributes of a run that are known before it is trained."""
    artifacts: Artifacts | None = None
    """Where files for the dashboard go; None where they cannot be kept."""
    images: bool = False
    """Whether pictures of validation images may be drawn and uploaded."""
    note_every: float | None = None
    """Seconds between two writings of the studies' notes for the dashboard, over all leads; None: none are written."""

    @property
    def draws(self) -> bool:
        """Whether a picture is drawn of each trial that completes."""
        return self.images and self.artifacts is not None
