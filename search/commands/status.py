"""`python -m search status`: where a search stands, from the database alone, without data, teacher or study file."""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from search.answer.power import powerless_search
from search.answer.summary import ConfirmationSummary, confirmation, progress_text, rule_text, score_text
from search.planning import slots
from search.series.state import SeriesState, series_state, state_lines
from search.storage.database import Database, open_storage
from search.storage.errors import look_again, patient
from search.storage.schema import PAUSED
from search.storage.url import add_storage, storage_url
from search.study import code_version
from search.study.class_scores import shown_score
from search.study.progress import RunningTrial, SearchProgress, an_hour, progress_of
from search.study.snapshot import read
from trainer.cli.durations import format_duration
from trainer.cli.parser import add_watch, check_watch
from trainer.cli.printable import control, printable
from trainer.distributed.signals import until_interrupted

WATCH_SECONDS = 5.0
"""How long --watch waits between two readings of the database."""
LEAST_ROOM = 2**20
"""Bytes on the disk of a local database; with less, its workers are near their last report."""
RUNNING = 24
"""Running trials that are listed at most."""


@dataclass(frozen=True)
class Status:
    """What the command prints."""

    storage: str
    """The database's URL without its password."""
    progress: SearchProgress
    confirmation: ConfirmationSummary | None
    """What `search.answer.summary.confirmation` says; None where there is no confirmation."""
    powerless: str | None = None
    """Why a confirmation, of which there is none, could show nothing."""
    disk: str | None = None
    """That the disk of a local database has no room left; None where it has, or a server has the database."""

    def as_json(self) -> dict[str, Any]:
        """The document of --json."""
        return {
            "storage": self.storage,
            **self.progress.as_json(),
            "confirmation": None if self.confirmation is None else self.confirmation.as_json(),
            "disk": self.disk,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name, or that of a series")
    add_storage(parser)
    parser.add_argument("--name", help="the study's name in the database, where the workers had another")
    parser.add_argument("--json", action="store_true", help="the same figures as one JSON document (a line each look)")
    add_watch(parser, "look", WATCH_SECONDS)


def main(args: argparse.Namespace) -> int:
    """Print the tables, once or again and again."""
    check_watch(args, least=0.1)
    name = args.name or args.study
    with patient("status"):
        opened = open_storage(storage_url(args.storage), create=False)
        first = look_at_any(opened, name)
    if args.watch is not None:
        return _watch(opened, name, args.watch, first, as_json=args.json)
    if args.json:
        print(json.dumps(first.as_json(), allow_nan=False, sort_keys=True, indent=1))
    else:
        print("\n".join(_lines_of(first)))
    return 0


def look_at_any(opened: Database, name: str) -> Status | SeriesState:
    """What the database says of a search, or of all members of a series. Raises UserError where it has neither."""
    series = series_state(opened, name)
    return look(opened, name) if series is None else series


def _lines_of(seen: Status | SeriesState) -> list[str]:
    return state_lines(seen) if isinstance(seen, SeriesState) else lines(seen)


def _ended(seen: Status | SeriesState) -> bool:
    return seen.ended if isinstance(seen, SeriesState) else seen.progress.ended


def look(opened: Database, name: str) -> Status:
    """What the database says of a search and its confirmation. Raises UserError where the study is unknown."""
    rows = read(opened, name)
    begun = confirmation(opened, rows)
    progress = progress_of(rows, opened.searches.closed)
    return Status(opened.label, progress, begun, None if begun else powerless_search(rows), full_disk(opened))


def full_disk(opened: Database) -> str | None:
    """That nothing can be stored in a local database: then its rows are older than what its workers trained."""
    url = opened.engine.url
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    folder = Path(url.database).absolute().parent
    free = shutil.disk_usage(folder).free
    return (
        None if free >= LEAST_ROOM else f"disk: {folder} has {free // 1024} KiB left; workers wait until there is room"
    )


def _watch(opened: Database, name: str, every: float, status: Status | SeriesState, *, as_json: bool) -> int:
    """Look again every so many seconds until the search has ended; an unavailable database is waited for."""
    screen = Screen()
    with suppress(KeyboardInterrupt), until_interrupted() as pause:
        while True:
            document = [json.dumps(status.as_json(), allow_nan=False, sort_keys=True)] if as_json else []
            screen.show(document or _lines_of(status))
            if _ended(status):
                break
            pause(every)
            while (latest := look_again(partial(look_at_any, opened, name))) is None:
                pause(every)
            status = latest
    return 0


class Screen:
    """Draws texts over each other on a terminal, and below each other elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = 0

    def show(self, text: Sequence[str]) -> None:
        """The text in place of the one before, in a single write: nothing flickers."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        if not self._terminal:
            head = [] if text and text[0].startswith("{") else [f"---- {stamp}"]
            print("\n".join([*head, *text]), flush=True)
            return
        columns, rows = shutil.get_terminal_size()
        # A line that wraps, or a text that is longer than the screen, could not be drawn over.
        fitting = [line[:columns] for line in [*text, f"{stamp}  Ctrl-C leaves"][: rows - 1]]
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        control(sys.stdout, up + "".join(f"{printable(line)}\x1b[K\n" for line in fitting) + "\x1b[J")
        sys.stdout.flush()
        self._drawn = len(fitting)


def lines(status: Status) -> list[str]:
    """The status as a person reads it."""
    progress = status.progress
    text = [
        f"{progress.study}  {progress.identity[:8]}  [{status.storage}]"
        + (f"  no new trials: {progress.closed}" if progress.closed else "")
        + ("  ended" if progress.ended else "")
    ]
    text += _arms(progress, best_heading(status))
    text += _by_class(progress)
    if progress.front:
        text += _front(progress)
    text += [] if progress.tied is None else [progress.tied]
    text.append(pace_line(progress))
    text += _confirmation(status)
    text += [] if status.disk is None else [status.disk]
    if progress.teacher is not None:
        text.append(f"teacher {progress.metric} {progress.teacher:.4f}")
    text += _cost(progress)
    versions = code_version.line(progress.versions)
    text += [] if versions is None else [versions]
    for name, ends in progress.workers.items():
        text.append(f"worker {name}: " + ", ".join(f"{count} {why}" for why, count in sorted(ends.items())))
    text += [running_line(trial, progress.metric) for trial in progress.running[:RUNNING]]
    if len(progress.running) > RUNNING:
        text.append(f"running: {len(progress.running) - RUNNING} more")
    text += [f"began again {one.arm} #{one.trial}: {one.why}" for one in progress.rejected[-RUNNING:]]
    text += [f"failed {one.arm} #{one.trial} ({one.failure}): {one.message}" for one in progress.failures]
    return text


def _confirmation(status: Status) -> list[str]:
    """What training again on fresh seeds showed, or how far that is, or how to begin it."""
    progress, begun = status.progress, status.confirmation
    if begun is None:
        known = progress.ended and any(arm.best is not None for arm in progress.arms.values())
        if known and status.powerless is not None:
            nothing = f"unconfirmed; a confirmation could show nothing: {status.powerless}"
            return [nothing, f"next: python -m search report {progress.study}"]
        return [f"unconfirmed; next: python -m search confirm {progress.study}"] if known else []
    result = begun.result
    if result is None or result.network is None:
        state = "has ended without a score on test" if begun.ended else "no result before it has ended"
        return [f"confirmation {begun.name}: {progress_text(begun)}; {state}"]
    best = f"{result.network} ({result.what}), {score_text(result, result.network)}"
    confirmed = f"confirmed by {begun.name} ({progress_text(begun)})"
    return [
        f"{confirmed}: {rule_text(result)} {best}; distillation: {result.distillation}",
        f"more: {begun.report}",
    ]


def _cost(progress: SearchProgress) -> list[str]:
    """Where the time went, how many students shared a pass of the teacher, and the forecast of `--slots auto`."""
    total = sum(progress.seconds.values())
    parts = ", ".join(f"{part} {spent / total:.0%}" for part, spent in sorted(progress.seconds.items()) if total)
    of = "" if progress.gpu_hours_of is None else f" of {progress.gpu_hours_of:g}"
    passes = progress.teacher_passes
    shared = "" if passes is None else f"  {passes:.3g} teacher passes a student step"
    text = [f"device hours {progress.gpu_hours:.3f}{of}  {parts}{shared}"]
    return text if progress.forecast is None else [*text, slots.line(progress.forecast)]


def pace_line(progress: SearchProgress) -> str:
    """The search's speed and when it will be done, in one line."""
    rate = progress.trials_an_hour
    speed = "pace unknown" if rate is None else f"pace {an_hour(rate)} trials an hour"
    if progress.ended:
        return f"{speed}; the search has ended"
    eta = progress.eta_seconds
    if eta is None:
        return f"{speed}; ETA unknown ({progress.eta_unknown})"
    when = time.strftime("%a %H:%M", time.localtime(time.time() + eta))
    return f"{speed}; ETA {format_duration(eta)} (about {when})"


def running_line(trial: RunningTrial, metric: str) -> str:
    """One trial that is begun and not finished: `running kd #12 on gpu1: epoch 5 of 20, for 3 min, dice 0.8712`."""
    where = (
        f"on {trial.host}"
        if trial.host is not None
        else "(paused)"
        if trial.state == PAUSED
        else f"({trial.state}, waits for a worker)"
    )
    of = "" if trial.epochs is None else f" of {trial.epochs}"
    since = "" if trial.seconds is None else f", for {format_duration(trial.seconds)}"
    again = f", attempt {trial.attempt}" if trial.attempt > 1 else ""
    score = "" if trial.score is None else f", {metric} {trial.score:.4f}"
    waits = "" if trial.waits is None else f"; {trial.waits}"
    return f"running {trial.arm} #{trial.trial} {where}: epoch {trial.epoch}{of}{since}{again}{score}{waits}"


def _arms(progress: SearchProgress, best_of: str) -> list[str]:
    heads = ("complete", "pruned", "running", "waiting", "of")
    unit = f" {progress.unit}" if progress.unit else ""
    best = {
        name: "" if arm.best is None else f"{progress.metric} {arm.best.score:.4f}{unit} (#{arm.best.trial})"
        for name, arm in progress.arms.items()
    }
    width = max(26, *(len(each) + 2 for each in best.values()))
    text = [f"{'arm':<14}" + "".join(f"{head:>9}" for head in heads) + f"   {best_of:<{width}}failed"]
    for name, arm in progress.arms.items():
        counts = (arm.complete, arm.pruned, arm.running, arm.waiting, arm.of)
        failed = ", ".join(f"{count} {kind}" for kind, count in arm.failed.items()) or "0"
        failed += f"; {arm.paused} paused" if arm.paused else ""
        text.append(f"{name:<14}" + "".join(f"{count:>9}" for count in counts) + f"   {best[name]:<{width}}{failed}")
    return text


def _by_class(progress: SearchProgress) -> list[str]:
    """The scores of single classes of each arm's best trial, a line an arm; nothing with one foreground class."""
    text = []
    for name, arm in progress.arms.items():
        known = {} if arm.best is None else arm.best.by_class
        score = shown_score(progress.metric, known)
        parts = [
            f"{label} {known[f'{score}.{label}']:.4f}" for label in progress.classes if f"{score}.{label}" in known
        ]
        if parts:
            text.append(f"{name:<14}{score} by {progress.kind}: {', '.join(parts)}")
    return text


def best_heading(status: Status) -> str:
    """What the best scores of the arms are."""
    if status.progress.confirms is not None:
        return "best seed, on validation"
    begun = status.confirmation
    return "best so far, unconfirmed" if begun is None or begun.result is None else "best on validation"


def _front(progress: SearchProgress) -> list[str]:
    names = list(progress.arms)
    choices = ["-" if line.choice is None else str(line.choice) for line in progress.front]
    along = ", ".join(_shortened(path) for path in str(progress.along).split(", "))
    wide = max(14, *(len(text) + 1 for text in (along, *choices)))
    text = [f"{along:<{wide}}{'complete':>9}{'params':>10}" + "".join(f"{'best ' + name:>18}" for name in names)]
    for line, choice in zip(progress.front, choices, strict=True):
        size = "" if line.params_m is None else f"{line.params_m:.3g} M"
        cells = "".join(f"{line.best[name]:>18.4f}" if name in line.best else f"{'':>18}" for name in names)
        text.append(f"{choice:<{wide}}{line.complete:>9}{size:>10}{cells}")
    return text


def _shortened(path: str, most: int = 13) -> str:
    """A path within a column: its last words, as many as fit."""
    while len(path) > most and "." in path:
        path = path.partition(".")[2]
    return path if len(path) <= most else f"{path[: most - 1]}~"
