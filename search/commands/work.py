"""`python -m search work`: a worker on this machine, whose exit code and words are its ranks' own.

The ranks are those of `torchrun search/worker.py`; see trainer/distributed/supervisor.py for what is different.
"""

import argparse
import os
import shlex
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from search import worker
from search.storage.url import storage_url
from trainer.cli.numbers import MOST_SECONDS, whole
from trainer.cli.parser import CommandLine
from trainer.distributed.agent import INTERRUPTED, TERMINATED, signals_as_before
from trainer.distributed.supervisor import check_ranks, supervise
from trainer.repository import LARGEST_STUDY, STUDIES

if TYPE_CHECKING:
    from search.series.members import SeriesSpec
    from search.spec.load import StudySpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study, how its ranks are started, and the worker's own flags."""
    parser.usage = "%(prog)s [options] STUDY"
    parser.add_argument("study", metavar="STUDY", help=worker.STUDY_HELP)
    ranks = parser.add_argument_group("processes")
    ranks.add_argument(
        "--ranks",
        default="auto",
        metavar="N|gpu|auto",
        help="processes on this machine: a number; gpu: one for each GPU; auto (default): the same, or one without GPU",
    )
    ranks.add_argument(
        "--restarts",
        type=whole(0),
        default=3,
        metavar="N",
        help="start ranks that died again, so often at most (default 3)",
    )
    ranks.add_argument(
        "--stop-seconds",
        type=whole(1, int(MOST_SECONDS)),
        default=100,
        metavar="SECONDS",
        help="time from a signal until ranks that have not ended are killed (default 100)",
    )
    worker.add_flags(parser)


def main(args: argparse.Namespace) -> int:
    """Work until nothing is left or a signal asks for a stop; returns the exit code.

    What is wrong with a study file is said by its ranks, once: reading it takes as long as half of torch's import.
    """
    check_ranks(args.ranks)
    worker.refuse_bad_flags(args)
    if _may_be_series(args.study):
        from search.series.members import load_series, series_named

        series = series_named(args.study)
        if series is not None:
            return _work_on_series(args, load_series(series, args.set))
    _warn_of_many_ranks(args)
    code = _supervised(args)
    if code == 0:
        name = args.name or Path(args.study).stem
        logger.info("next: python -m search status {}", shlex.quote(name))
    say_how_to_go_on(code)
    return code


def _may_be_series(study: str) -> bool:
    """Whether the word stands in the file that a command's word names: then it is read, which takes its time."""
    given = Path(study)
    named = given.suffix == ".toml" or len(given.parts) > 1
    for file in [given] if named else [folder / f"{study}.toml" for folder in STUDIES]:
        with suppress(OSError, ValueError):  # said by whoever reads it, as is a file larger than a study's
            if file.is_file():
                with file.open("rb") as content:
                    return b"series" in content.read(LARGEST_STUDY)
    return False


def _work_on_series(args: argparse.Namespace, series: "SeriesSpec") -> int:
    """Each member in turn, until none has anything left."""
    from search.series.members import each_member
    from search.series.turns import take_turns

    each = each_member(args, [str(spec.source) for spec in series.members])
    members = {spec.name: own for spec, own in zip(series.members, each, strict=True)}
    _warn_of_many_ranks(args)

    def work(spec: "StudySpec") -> int:
        with signals_as_before():
            return _supervised(members[spec.name])

    code = take_turns(series, work, lambda: _why_over(args, series))
    if code == 0:
        logger.info("next: python -m search status {}", shlex.quote(series.name))
    say_how_to_go_on(code)
    return code


def _why_over(args: argparse.Namespace, series: "SeriesSpec") -> str | None:
    """Why no member begins anything more; a database that is away is no reason: the next worker waits for it."""
    from search.series.turns import why_over
    from search.storage.database import open_storage  # with Optuna, which the first line does not wait for
    from search.storage.errors import DatabaseUnavailable, patient

    try:
        with patient("worker"):
            opened = open_storage(storage_url(args.storage), create=False)
            try:
                return why_over(opened, series)
            finally:
                opened.engine.dispose()
    except DatabaseUnavailable:
        return None


def _warn_of_many_ranks(args: argparse.Namespace) -> None:
    cores = len(os.sched_getaffinity(0))
    if args.ranks.isdecimal() and int(args.ranks) > cores:
        logger.warning(
            "--ranks {}: this machine lets it use {} cores; more ranks than that wait for each other", args.ranks, cores
        )


def _supervised(args: argparse.Namespace) -> int:
    """The ranks of one study; returns their exit code."""
    script, arguments = Path(worker.__file__), ["--study", args.study, *flags(args)]
    return supervise(script, arguments, ranks=args.ranks, restarts=args.restarts, stop_seconds=args.stop_seconds)


def say_how_to_go_on(code: int) -> None:
    """Where a signal ended the ranks."""
    if code in (INTERRUPTED, TERMINATED):
        logger.info("the same command goes on with its trials")


def flags(args: argparse.Namespace, without: Collection[str] = ()) -> list[str]:
    """The worker's own flags among the arguments, as words again."""
    own = CommandLine(add_help=False)
    worker.add_flags(own)
    arguments: list[str] = []
    for name, default in vars(own.parse_args([])).items():
        value = getattr(args, name)
        if value != default and name not in without:
            flag = f"--{name.replace('_', '-')}"
            arguments += [f"{flag}={each}" for each in (value if isinstance(value, list) else [value])]
    return arguments
