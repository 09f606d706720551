"""What a cohort says about its members. Free of torch: the search reads it, and the simulation makes it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from trainer.config import Replay, RunConfig


class FailureKind(StrEnum):
    """Why a trial failed or stopped, by the rule that follows from it."""

    PREEMPTED = "preempted"
    """Asked to stop: given back, not charged."""
    LOST = "lost"
    """Its worker vanished: three times at most."""
    OUT_OF_MEMORY = "out_of_memory"
    NOT_FINITE = "not_finite"
    BAD_DATA = "bad_data"
    BUG = "bug"
    STORAGE = "storage"


@dataclass(frozen=True)
class PerImageResult:
    """What one network did on each image of one part of the data, or on each volume where images are slices;
    `trainer.evaluation.per_image` says what the columns are."""

    part: str
    """validation, test, or the name of a source that no split names."""
    threshold: float | None
    """Least probability of the foreground: 0.5, or one that was shown on validation to gain; None with more than two
    classes, where a pixel has the likeliest. Where regions have their own: the mean of these."""
    images: tuple[str, ...]
    """Paths below the data root; names where there are no files; of volumes their cases."""
    sources: tuple[str, ...]
    groups: tuple[str, ...]
    """Patient or sequence; an image without one is its own."""
    columns: Mapping[str, tuple[float, ...]]
    """One value an image or volume; nan where it has none."""
    calibration: tuple[tuple[float, float, float], ...]
    """By bin of the chosen class's probability: pixels, sum of their probability, pixels that are right."""
    calibration_positive: tuple[tuple[float, float, float], ...] = ()
    """By bin of the foreground's probability: pixels, sum of it, pixels that are foreground; nothing of what was
    measured before this was kept."""
    threshold_rule: Literal["best", "gain", "gain-by-region", "likeliest"] = "best"
    """How the threshold was chosen. best: of the best mean Dice on validation, as earlier versions did; gain: as
    `trainer.evaluation.threshold.kept_threshold` does; gain-by-region: the same, of each region by itself; likeliest:
    there is none."""
    length_unit: Literal["px", "mm"] = "px"
    """Of distances: millimetres where the data say how far slices and pixels lie apart."""
    region_thresholds: tuple[float, ...] = ()
    """By region, in their order, where they differ; else `threshold` is that of all."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Every threshold: one, one a region where they differ, or none."""
        return self.region_thresholds or (() if self.threshold is None else (self.threshold,))

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: nan is null."""
        columns = {name: [None if math.isnan(v) else v for v in values] for name, values in self.columns.items()}
        document = {**vars(self), "columns": columns}
        # What was measured in pixels, or at one threshold, is stored as it always was.
        usual = (("length_unit", "px"), ("region_thresholds", ()))
        return {name: value for name, value in document.items() if (name, value) not in usual}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "PerImageResult":
        """What `to_json` gave, read from JSON."""
        columns = {
            name: tuple(math.nan if value is None else float(value) for value in column)
            for name, column in values["columns"].items()
        }
        names = {key: tuple(values[key]) for key in ("images", "sources", "groups")}
        chosen, positive = (
            tuple((float(n), float(c), float(r)) for n, c, r in values.get(key, ()))
            for key in ("calibration", "calibration_positive")
        )
        threshold = None if values["threshold"] is None else float(values["threshold"])
        return PerImageResult(
            values["part"],
            threshold,
            columns=columns,
            calibration=chosen,
            calibration_positive=positive,
            threshold_rule=values.get("threshold_rule", "best"),
            length_unit=values.get("length_unit", "px"),
            region_thresholds=tuple(map(float, values.get("region_thresholds", ()))),
            **names,
        )


@dataclass(frozen=True)
class EpochReport:
    """One epoch of one member; the same on every rank."""

    epoch: int
    """The member's own epoch, from 1."""
    stream_epoch: int
    """The epoch of its stream, from 0."""
    scores: Mapping[str, float] | None
    """Validation scores by name (`dice`, `iou`, ...), means over images; None where the epoch was not validated."""
    losses: Mapping[str, float]
    """Unweighted mean of each live term over the epoch."""
    seconds: Mapping[str, float]
    """The member's share of the epoch's wall time by part: data, teacher, student, validation, other."""
    final: bool
    """Whether this was the run's last epoch."""
    passes: float | None = field(default=None, compare=False)
    """Passes of teachers a student step in this epoch of the process: 1 / K where all K members listen to one.

    None: not counted. Like `seconds` it tells of the neighbours, not of the member.
    """
    measured: tuple[PerImageResult, ...] | None = None
    """With the last epoch, where runs are examined: the best epoch's weights on each part."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of each live term in the gradient, on the first batch of the epoch; nothing where that was not measured."""


@dataclass(frozen=True)
class Failure:
    """A member that ended in the middle of an epoch, by agreement of all ranks; the others went on."""

    kind: FailureKind
    message: str
    epoch: int
    """The own epoch in which it failed, from 1."""
    detail: str = ""
    """The traceback of the first rank that failed, where there is one."""


@dataclass(frozen=True)
class Resume:
    """Where a run goes on: the checkpoint of its last whole epoch and the joins so far."""

    checkpoint: Path | None
    replay: "Replay" = ()


class Saved(NamedTuple):
    """A checkpoint on disk."""

    path: Path
    sha256: str
    size: int
    """Bytes."""


Write = Callable[[Path], Saved]
"""Writes what was copied before, in any thread: beside, fsynced, renamed. Raises OSError where the disk refuses."""


Pulse = Callable[[str, int, int], None]
"""Hears on the lead how far a piece of an epoch is: what is done, such as `training step`, and how many of how many.
The first call of a piece has none done."""


class Stopped(Exception):
    """A wish to stop was agreed by all ranks in the middle of an epoch; the last whole epoch's checkpoints stand
    or are being written."""


class Students(Protocol):
    """Students that train side by side: `trainer.engine.cohort.Cohort`, or the curves of `search simulate` in its
    place.

    `admit`, `dismiss` and `epoch` are called by all ranks of the group in the same order with the same arguments;
    `snapshot`, `export` and `picture` by the lead alone.
    """

    def admit(self, key: int, run: "RunConfig", resume: Resume | None = None) -> None:
        """Take a run into a free slot. Raises ValueError where no slot is free or the key is taken."""

    def dismiss(self, key: int) -> None:
        """Forget a member, trained or not."""

    def epoch(self) -> dict[int, EpochReport | Failure]:
        """Train every member for one epoch. Members that failed are gone afterwards. Raises Stopped."""

    def replay(self, key: int) -> "Replay":
        """The joins of a member so far."""

    def snapshot(self, key: int) -> Write:
        """Copy all of a member's state, its best weights too, so that it can be resumed from what is then written.

        It overwrites the copy before, which must be written. Several threads may copy members of their own at the same
        time.
        """

    def export(self, key: int, path: Path) -> Saved:
        """Write the weights of a member's best epoch as safetensors."""

    def picture(self, key: int, path: Path) -> Path | None:
        """Draw a member's worst and median validation cases at its best epoch; None where nothing can be drawn.

        No collective runs in it, no test image is read, and no member's numbers change.
        """


class RunFailed(Exception):
    """A run that failed by agreement of all its ranks."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.message} (epoch {failure.epoch})")
        self.failure = failure
