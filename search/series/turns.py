"""A worker's way through a series: the first member that has something left, then the next one."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from loguru import logger

from search.exit_codes import MAX_FAILED, MISTAKE
from search.series.members import SeriesSpec
from search.spec.load import StudySpec
from search.study.settings import series_wish
from trainer.distributed.agent import INTERRUPTED, TERMINATED, signals_as_before
from trainer.errors import UserError, on_stderr

if TYPE_CHECKING:
    from search.storage.database import Database

WORST = (1, MISTAKE, MAX_FAILED)
"""Exit codes of members after which the others still have their turn, the worst first."""


def take_turns(series: SeriesSpec, work: Callable[[StudySpec], int], why_over: Callable[[], str | None]) -> int:
    """Let `work` have each member in their order until it has nothing left; returns the worst exit code of them.

    A signal ends it at once, with its code. why_over: asked before each member that follows another; why no member may
    begin anything more, or None.
    """
    codes: dict[str, int] = {}
    for spec in series.members:
        reason = why_over() if codes else None
        if reason is not None:
            logger.info("{}: ends before {}: {}", series.name, spec.name, reason)
            break
        logger.info("{}: {} of {}{}", series.name, spec.name, len(series.members), _label(spec))
        codes[spec.name] = work(spec)
        if codes[spec.name] in (INTERRUPTED, TERMINATED):
            return codes[spec.name]
    for name, code in codes.items():
        if code:
            logger.warning("{}: {} ended with exit code {}", series.name, name, code)
    return worst(list(codes.values()))


def in_turn(arguments: Iterable[Namespace], act: Callable[[Namespace], int]) -> int:
    """What a command does, once for each member; what is wrong with one of them is said, and the others have their
    turn. Returns the worst exit code, or at once that of a signal. Raises UserError for a database that is away."""
    from search.storage.errors import DatabaseUnavailable  # with Optuna, which a look at study files does not need

    codes: list[int] = []
    for args in arguments:
        try:
            with signals_as_before():
                codes.append(act(args))
        except DatabaseUnavailable:
            raise
        except UserError as error:
            on_stderr(str(error))
            codes.append(MISTAKE)
        if codes[-1] in (INTERRUPTED, TERMINATED):
            return codes[-1]
    return worst(codes)


def worst(codes: Sequence[int]) -> int:
    """The worst of some exit codes: a bug before a mistake before max_failed; 0 where all are 0."""
    bad = [code for code in codes if code]
    return min(bad, key=lambda code: WORST.index(code) if code in WORST else -1, default=0)


def why_over(opened: "Database", series: SeriesSpec) -> str | None:
    """Why no member of a series begins anything: its limits, or what a person wished of it; None: they may."""
    if any(series_wish(row.settings) is not None for row in opened.searches.members(series.name)):
        return "the series was asked to stop, or is closed"
    place = series.members[0].series
    closed = None if place is None else opened.searches.series_closed(place.model_dump(mode="json"))
    return None if closed is None else closed.text


def _label(spec: StudySpec) -> str:
    return f" ({spec.series.label})" if spec.series is not None and spec.series.label else ""
