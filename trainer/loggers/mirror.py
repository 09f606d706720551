"""What each kind of mirror is: a place that epochs are copied to, a trial at a time, and that may fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.reports import EpochReport


@dataclass(frozen=True)
class Origin:
    """Whose figures are copied, and below which folder."""

    folder: Path
    name: str
    """Of the study, or of the file of a single run."""
    uuid: str | None = None
    """Of the search in its database, the same for all its workers on all machines; None: it is a single run."""


class Mirror(Protocol):
    """One place where figures go. All may raise anything."""

    def begin(self, trial: str, epoch: int) -> None:
        """A trial begins, or goes on, with this epoch: what is there of it and of later ones is trained again."""

    def write(self, trial: str, report: EpochReport) -> None:
        """One epoch of one trial."""

    def leave(self, trial: str) -> None:
        """This process trains the trial no more: it ended, is paused, or another worker has it. `begin` may follow."""

    def beat(self) -> None:
        """Time went by: what tells that this process lives is written again. Called every few seconds at least."""

    def close(self) -> None:
        """Nothing more comes."""


def epoch_values(report: EpochReport) -> Mapping[str, float]:
    """An epoch's figures by name: `score/dice`, `loss/kl`, `seconds/teacher`, ..."""
    groups = {"score": report.scores or {}, "loss": report.losses, "seconds": report.seconds}
    return {f"{group}/{name}": float(value) for group, values in groups.items() for name, value in values.items()}
