"""One run alone: a cohort of one."""

from collections.abc import Iterator
from pathlib import Path

from trainer.config import Replay, RunConfig
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.reports import EpochReport, Failure, Pulse, Resume, RunFailed

ALONE = 0
"""The key of the only member."""


def fit(
    run: RunConfig,
    *,
    cache: Path,
    ranks: Ranks | None = None,
    replay: Replay | None = None,
    resume: Resume | None = None,
    monitor: str = "dice",
    save: Path | None = None,
    export: Path | None = None,
    pulse: Pulse | None = None,
) -> Iterator[EpochReport]:
    """Train a run and yield a report after each epoch, the same on every rank. Closing the iterator ends training.

    replay: the stream epochs that the run must see, as recorded; without it the stream begins at 0.
    save: where all of the state is written after each epoch; export: where the best weights are after each validation.
    pulse: hears on the lead how far an epoch is.
    Raises TrialFailed, Stopped (both agreed by all ranks) and RanksLost.
    """
    ranks = ranks or Ranks()
    cohort = Cohort(ranks, slots=1, cache=cache, monitor=monitor, pulse=pulse if ranks.leads else None)
    cohort.admit(ALONE, run, resume, follow=replay or None)
    while True:
        report = cohort.epoch().get(ALONE)
        if isinstance(report, Failure):
            raise RunFailed(report)
        if report is None:
            return
        if ranks.leads and save is not None:
            cohort.snapshot(ALONE)(save)
        if ranks.leads and export is not None and report.scores is not None:
            cohort.export(ALONE, export)
        yield report
        if report.final:
            return
