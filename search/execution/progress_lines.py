"""The lines of a worker that trains: how fast the search goes over all its workers, and each trial's last epoch."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search.storage.leases import EpochCount
from trainer.cli.durations import format_short_duration
from trainer.evaluation.score_names import SCORE_KINDS
from trainer.reports import EpochReport

RATE_SECONDS = 120.0
"""A rate is taken over the newest so many seconds: what was slow an hour ago says nothing of the end."""
FEWEST = 3
"""Finished trials of an arm, from which their mean length counts; before, each is taken to need all its epochs."""


@dataclass(frozen=True)
class ArmBudget:
    """What one arm is allowed."""

    trials: int
    epochs: int
    """The epochs of a trial that is not pruned."""


class SearchRate:
    """Told from time to time how many epochs are stored, it knows how fast they come and what is left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, counts: Mapping[int, EpochCount]) -> None:
        """counts: of every arm, by its study."""
        now, epochs = self._clock(), sum(count.epochs for count in counts.values())
        if self._samples and epochs < self._samples[-1][1]:
            self._samples.clear()  # a trial began again; what is trained twice would look like a pause
        self._samples.append((now, epochs))
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_SECONDS:
            self._samples.popleft()

    @property
    def epochs_a_second(self) -> float | None:
        """The rate over the newest samples; None before there are two with an epoch between them."""
        if len(self._samples) < 2:
            return None
        (began, before), (ended, after) = self._samples[0], self._samples[-1]
        return (after - before) / (ended - began) if after > before and ended > began else None

    def text(self, counts: Mapping[int, EpochCount], arms: Mapping[int, ArmBudget]) -> str:
        """Rate and time left, such as `31 epochs/min  ETA 12 min`; empty while nothing is known."""
        rate = self.epochs_a_second
        if rate is None:
            return ""
        left = sum(epochs_left(counts.get(study_id, EpochCount()), arm) for study_id, arm in arms.items())
        speed = f"{60 * rate:.3g} epochs/min"
        return f"{speed}  ETA {format_short_duration(left / rate)}" if left else speed


def epochs_left(count: EpochCount, arm: ArmBudget) -> float:
    """The epochs that an arm will still train, if its trials go on being pruned as they were."""
    mean = count.finished_epochs / count.finished if count.finished >= FEWEST else float(arm.epochs)
    to_begin = max(arm.trials - count.finished - count.unfinished, 0)
    return to_begin * mean + max(count.unfinished * mean - count.unfinished_epochs, 0.0)


class EpochLine:
    """One line with the newest epoch of every trial that this worker trains, for a terminal."""

    def __init__(self, epochs: Mapping[str, int], metric: str, show: Callable[[str], None]) -> None:
        """epochs: of a trial, by its arm. show: takes the line, again after each report."""
        self._epochs, self._metric, self._show = epochs, metric, show
        self._reports: dict[str, EpochReport] = {}
        self._best: tuple[float, str] | None = None
        self._lower = SCORE_KINDS[metric.partition(".")[0]].direction == "minimize"
        self._round: set[str] = set()
        """Trials that reported since one of them reported twice: the others were pruned or are over."""

    def add(self, trial: str, report: EpochReport) -> None:
        """A trial, `ARM-NUMBER`, trained an epoch."""
        if trial in self._round:
            self._reports = {name: each for name, each in self._reports.items() if name in self._round}
            self._round = set()
        self._round.add(trial)
        if report.scores is not None:
            score = report.scores[self._metric]
            if self._best is None or (score < self._best[0] if self._lower else score > self._best[0]):
                self._best = score, trial
        self._reports[trial] = report
        self._show(self._text())

    def best(self) -> str:
        """The best score that this worker saw, with its trial; empty before the first."""
        if self._best is None:
            return ""
        arm, _, number = self._best[1].rpartition("-")
        return f"(best here {self._metric} {self._best[0]:.3f} of {arm} #{number})"

    def _text(self) -> str:
        """Short enough for four trials in 80 columns: an arm is named once for the trials that follow each other."""
        parts, before = [f"{self._metric}:"], ""
        for trial, report in sorted(self._reports.items(), key=lambda pair: pair[0].rpartition("-")[0]):
            arm, _, number = trial.rpartition("-")
            score = "" if report.scores is None else f" {report.scores[self._metric]:.3f}"
            parts.append(f"{'' if arm == before else f'{arm} '}#{number} {report.epoch}/{self._epochs[arm]}{score}")
            before = arm
        return "  ".join(parts)
