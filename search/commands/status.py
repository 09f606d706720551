"""`python -m search status`: where a search stands, from the database alone, without data, teacher or study file."""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from search.answer.summary import confirmation, progress_words, rule_words, score_words
from search.planning import slots
from search.storage.database import Database, open_storage
from search.storage.errors import AWAY, patient
from search.storage.url import add_storage, storage_url
from search.study import code_version
from search.study.progress import an_hour
from search.study.progress import figures as figures_of
from search.study.snapshot import read
from trainer.cli.durations import format_duration
from trainer.distributed.signals import until_interrupted
from trainer.errors import UserError, one_line

EVERY = 5.0
"""Seconds between two looks of --watch."""
RUNNING = 24
"""Running trials that are listed at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name")
    add_storage(parser)
    parser.add_argument("--name", help="the study's name in the database, where the workers had another")
    parser.add_argument("--json", action="store_true", help="the same figures as one JSON document (a line each look)")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=EVERY,
        metavar="SECONDS",
        help=f"look again every so many seconds (default {EVERY:g}) until the search has ended; Ctrl-C leaves",
    )


def main(args: argparse.Namespace) -> int:
    """Print the tables, once or again and again."""
    if args.watch is not None and not 0.1 <= args.watch <= 86400:
        raise UserError(f"--watch {args.watch:g}: give seconds from 0.1 to 86400")
    name = args.name or args.study
    with patient("status"):
        opened = open_storage(storage_url(args.storage), create=False)
        figures = look(opened, name)
    if args.watch is not None:
        return _watch(opened, name, args.watch, figures, as_json=args.json)
    if args.json:
        print(json.dumps(figures, allow_nan=False, sort_keys=True, indent=1))
    else:
        print("\n".join(lines(figures)))
    return 0


def look(opened: Database, name: str) -> dict[str, Any]:
    """The figures of a search, with those of its confirmation. Raises UserError where the study is unknown."""
    rows = read(opened, name)
    own = {"storage": opened.label, **figures_of(rows, opened.searches.closed)}
    return own | {"confirms": rows.confirms, "confirmation": confirmation(opened, rows)}


def _watch(opened: Database, name: str, every: float, figures: dict[str, Any], *, as_json: bool) -> int:
    """Look again every so many seconds until the search has ended; a database that is away is waited for."""
    screen = Screen()
    with suppress(KeyboardInterrupt), until_interrupted() as pause:
        while True:
            screen.show([json.dumps(figures, allow_nan=False, sort_keys=True)] if as_json else lines(figures))
            if figures["ended"]:
                break
            pause(every)
            while (found := _again(opened, name)) is None:
                pause(every)
            figures = found
    return 0


def _again(opened: Database, name: str) -> dict[str, Any] | None:
    try:
        return look(opened, name)
    except AWAY as error:
        print(f"the database does not answer, looking again: {one_line(error)[:100]}", file=sys.stderr)
        return None


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
        sys.stdout.write(up + "".join(f"{line}\x1b[K\n" for line in fitting) + "\x1b[J")
        sys.stdout.flush()
        self._drawn = len(fitting)


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures of `look` as a person reads them."""
    text = [
        f"{figures['study']}  {figures['identity'][:8]}  [{figures['storage']}]"
        + (f"  no new trials: {figures['closed']}" if figures["closed"] else "")
        + ("  ended" if figures["ended"] else "")
    ]
    text += _arms(figures)
    if figures["front"]:
        text += _front(figures)
    text.append(progress(figures))
    text += _confirmation(figures)
    if figures["teacher"] is not None:
        text.append(f"teacher {figures['metric']} {figures['teacher']:.4f}")
    text += _cost(figures)
    format_duration = code_version.line(figures["versions"])
    text += [] if format_duration is None else [format_duration]
    for name, ends in figures["workers"].items():
        text.append(f"worker {name}: " + ", ".join(f"{count} {why}" for why, count in sorted(ends.items())))
    text += [running_line(trial, figures["metric"]) for trial in figures["running"][:RUNNING]]
    if len(figures["running"]) > RUNNING:
        text.append(f"running: {len(figures['running']) - RUNNING} more")
    text += [f"failed {one['arm']} #{one['trial']} ({one['class']}): {one['message']}" for one in figures["failures"]]
    return text


def _confirmation(figures: dict[str, Any]) -> list[str]:
    """What training again on fresh seeds showed, or how far that is, or how to begin it."""
    found = figures["confirmation"]
    if found is None:
        known = figures["ended"] and any(arm["best"] is not None for arm in figures["arms"].values())
        return [f"unconfirmed; next: python -m search confirm {figures['study']}"] if known else []
    result = found["result"]
    if result is None or result["network"] is None:
        state = "has ended without a score on test" if found["ended"] else "no result before it has ended"
        return [f"confirmation {found['name']}: {progress_words(found)}; {state}"]
    best = f"{result['network']} ({result['what']}), {score_words(result, result['network'])}"
    begun = f"confirmed by {found['name']} ({progress_words(found)})"
    return [
        f"{begun}: {rule_words(result)} {best}; distillation: {result['distillation']}",
        f"more: {found['report']}",
    ]


def _cost(figures: dict[str, Any]) -> list[str]:
    """Where the time went, how well the teacher was shared, and what was foreseen."""
    total = sum(figures["seconds"].values())
    parts = ", ".join(f"{part} {spent / total:.0%}" for part, spent in sorted(figures["seconds"].items()) if total)
    of = "" if figures["gpu_hours_of"] is None else f" of {figures['gpu_hours_of']:g}"
    passes = figures["teacher_passes"]
    shared = "" if passes is None else f"  {passes:.3g} teacher passes a student step"
    text = [f"device hours {figures['gpu_hours']:.3f}{of}  {parts}{shared}"]
    return text if figures["forecast"] is None else [*text, slots.line(figures["forecast"])]


def progress(figures: dict[str, Any]) -> str:
    """The search's speed and when it will be done, in one line."""
    rate = figures["trials_an_hour"]
    speed = "pace unknown" if rate is None else f"pace {an_hour(rate)} trials an hour"
    if figures["ended"]:
        return f"{speed}; the search has ended"
    eta = figures["eta_seconds"]
    if eta is None:
        return f"{speed}; ETA unknown ({figures['eta_unknown']})"
    when = time.strftime("%a %H:%M", time.localtime(time.time() + eta))
    return f"{speed}; ETA {format_duration(eta)} (about {when})"


def running_line(trial: dict[str, Any], metric: str) -> str:
    """One trial that is begun and not finished: `running kd #12 on gpu1: epoch 5 of 20, for 3 min, dice 0.8712`."""
    where = f"on {trial['host']}" if trial["host"] is not None else f"({trial['state']}, waits for a worker)"
    of = "" if trial["epochs"] is None else f" of {trial['epochs']}"
    since = "" if trial["seconds"] is None else f", for {format_duration(trial['seconds'])}"
    again = f", attempt {trial['attempt']}" if trial["attempt"] > 1 else ""
    score = "" if trial["score"] is None else f", {metric} {trial['score']:.4f}"
    return f"running {trial['arm']} #{trial['trial']} {where}: epoch {trial['epoch']}{of}{since}{again}{score}"


def _arms(figures: dict[str, Any]) -> list[str]:
    heads = ("complete", "pruned", "running", "waiting", "of")
    best_of = best_words(figures)
    text = [f"{'arm':<14}" + "".join(f"{head:>9}" for head in heads) + f"   {best_of:<26}failed"]
    for name, arm in figures["arms"].items():
        best = (
            "" if arm["best"] is None else f"{figures['metric']} {arm['best']['score']:.4f} (#{arm['best']['trial']})"
        )
        failed = ", ".join(f"{count} {kind}" for kind, count in arm["failed"].items()) or "0"
        text.append(f"{name:<14}" + "".join(f"{arm[head]:>9}" for head in heads) + f"   {best:<26}{failed}")
    return text


def best_words(figures: dict[str, Any]) -> str:
    """What the best scores of the arms are."""
    if figures["confirms"] is not None:
        return "best seed, on validation"
    found = figures["confirmation"]
    return "best so far, unconfirmed" if found is None or found["result"] is None else "best on validation"


def _front(figures: dict[str, Any]) -> list[str]:
    names = list(figures["arms"])
    text = [
        f"{_shortened(str(figures['along'])):<14}{'complete':>9}{'params':>10}"
        + "".join(f"{'best ' + name:>18}" for name in names)
    ]
    for line in figures["front"]:
        size = "" if line["params_m"] is None else f"{line['params_m']:.3g} M"
        cells = "".join(f"{line['best'][name]:>18.4f}" if name in line["best"] else f"{'':>18}" for name in names)
        text.append(f"{'-' if line['choice'] is None else line['choice']!s:<14}{line['complete']:>9}{size:>10}{cells}")
    return text


def _shortened(path: str, most: int = 13) -> str:
    """A path within a column: its last words, as many as fit."""
    while len(path) > most and "." in path:
        path = path.partition(".")[2]
    return path if len(path) <= most else f"{path[: most - 1]}~"
