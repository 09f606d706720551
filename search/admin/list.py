"""`python -m search list`: all searches of a database, a line each, from the database alone."""

import argparse
import json
from dataclasses import asdict, dataclass

from search.storage.database import Database, open_storage
from search.storage.errors import patient
from search.storage.url import add_storage, storage_url
from search.study.progress import SearchProgress, an_hour, progress_of
from search.study.settings import owner
from search.study.snapshot import SearchSnapshot, read
from trainer.cli.durations import format_duration

ROW = "{:<28}{:<24}{:<10}{:>11}{:>9}{:>9}{:>8}{:>8}  {}"
HEADS = ("study", "owner", "state", "finished", "running", "an hour", "hours", "failed", "best so far, unconfirmed")
CUT = {0: 27, 1: 23}
"""Characters that a column of names has, by its place."""


@dataclass(frozen=True)
class ListedSearch:
    """One search of a database."""

    study: str
    owner: str | None
    """Who began it, as `account@host`; None for those from before that was kept."""
    state: str
    """working, waiting (no worker holds a trial), stopping, closed, or ended."""
    finished: int
    of: int
    running: int
    failed: int
    trials_an_hour: float | None
    gpu_hours: float
    metric: str
    best: float | None
    """Of the main search, unconfirmed."""
    idle_seconds: float | None
    """Since the last trial ended, where no worker holds one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    add_storage(parser)
    parser.add_argument("--json", action="store_true", help="the same figures as one JSON document")


def main(args: argparse.Namespace) -> int:
    """Print a line a search."""
    with patient("list"):
        opened = open_storage(storage_url(args.storage), create=False)
        searches = listed(opened)
    if args.json:
        document = {"storage": opened.label, "searches": [asdict(each) for each in searches]}
        print(json.dumps(document, allow_nan=False, sort_keys=True, indent=1))
        return 0
    print(f"{opened.label}: {len(searches)} search{'' if len(searches) == 1 else 'es'}")
    if searches:
        print(ROW.format(*HEADS).rstrip())
    print("\n".join(_line(each) for each in searches))
    return 0


def listed(opened: Database) -> list[ListedSearch]:
    """Every search by its name, members of a series by their numbers; what is deleted meanwhile is left out."""
    rows = (read(opened, name) for name in opened.searches.names() if opened.searches.search(name) is not None)
    return [_of(each, progress_of(each, opened.searches.closed)) for each in rows]


def _of(rows: SearchSnapshot, progress: SearchProgress) -> ListedSearch:
    arms = progress.arms.values()
    held = sum(progress.holding.values())
    best = next(iter(arms)).best
    ends = rows.ended().values()
    return ListedSearch(
        study=progress.study,
        owner=owner(rows.search.settings),
        state=_state(rows, progress, held),
        finished=sum(arm.finished for arm in arms),
        of=sum(arm.of for arm in arms),
        running=held,
        failed=sum(arm.failures for arm in arms),
        trials_an_hour=progress.trials_an_hour,
        gpu_hours=progress.gpu_hours,
        metric=progress.metric,
        best=None if best is None else best.score,
        idle_seconds=None if held or not ends else max(0.0, rows.now - max(ends)),
    )


def _state(rows: SearchSnapshot, progress: SearchProgress, held: int) -> str:
    if progress.ended:
        return "closed" if rows.search.closed else "ended"
    if progress.closed is not None:
        return "stopping"
    return "working" if held else "waiting"


def _line(each: ListedSearch) -> str:
    """One search as a person reads it."""
    idle = "" if each.idle_seconds is None else f"; last trial ended {format_duration(each.idle_seconds)} ago"
    best = "none yet" if each.best is None else f"{each.metric} {each.best:.4f}"
    rate = "" if each.trials_an_hour is None else an_hour(each.trials_an_hour)
    cells = (
        *(_cut(text, CUT[place]) for place, text in enumerate((each.study, each.owner or "-"))),
        each.state,
        f"{each.finished}/{each.of}",
        each.running,
        rate,
        f"{each.gpu_hours:.2f}",
        each.failed,
    )
    return ROW.format(*cells, best + idle)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}~"
