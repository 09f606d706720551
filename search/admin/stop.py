"""`python -m search stop`: no trial begins any more until the wish is taken back; on request until nobody holds one."""

import argparse
import math
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loguru import logger

from search.series.state import begun_members, place_of
from search.storage.database import Database, creation_lock, open_storage
from search.storage.errors import look_again, patient
from search.storage.leases import LeaseDetails
from search.storage.lookup import known_search
from search.storage.schema import HELD
from search.storage.searches import STOP, SearchRow
from search.storage.url import add_storage, storage_url
from search.study.progress import read_progress
from trainer.distributed.signals import until_interrupted
from trainer.errors import UserError

LOOK_SECONDS = 1.0
"""Seconds between two looks while waiting."""
TELL_SECONDS = 30.0
"""Seconds after which waiting says again what it waits for."""
SILENT_SECONDS = 120.0
"""Seconds without a heartbeat after which a holder counts as dead: twice the time-to-live that workers have."""

WISHES = {
    "drain": "no worker begins another trial; those that run go on to their end",
    "now": "workers see it within 10 s and give their trials back at the end of their epoch; none begins another",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name or file, or those of a series: all of its members")
    add_storage(parser)
    parser.add_argument("--name", help="the same as the workers were given")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--now", action="store_true", help="do not wait for running trials: give them back")
    how.add_argument("--undo", action="store_true", help="take the wish back: workers may be started again")
    parser.add_argument(
        "--wait",
        nargs="?",
        type=float,
        const=math.inf,
        metavar="SECONDS",
        help="return when no worker holds a trial any more, at most after so many seconds (default: no limit); "
        "Ctrl-C ends the waiting alone",
    )


def main(args: argparse.Namespace) -> int:
    """Write the wish, say who holds what, and wait where that was asked for."""
    if args.wait is not None and (args.undo or not args.wait > 0):
        raise UserError("--wait: goes with a stop, not with --undo" if args.undo else f"--wait {args.wait:g}: above 0")
    wish = None if args.undo else "now" if args.now else "drain"
    url = storage_url(args.storage)
    with patient("stop"):
        opened = open_storage(url, create=False)
        # The database knows the search by name: stopping must not need its file.
        members = begun_members(opened, args.study, args.name)
        if members:
            with creation_lock(url):
                opened.searches.wish_of_series(place_of(members[0]).name, None if wish is None else STOP)
        asked = [_ask(opened, row, wish) for row in members or [known_search(opened, args.study, args.name)]]
    for each in asked:
        _tell(opened, each, wish, waits=args.wait is not None)
    codes = [0 if args.wait is None else _wait(opened, each.row, each.held, args.wait) for each in asked]
    return max(codes)


@dataclass(frozen=True)
class _Asked:
    """A search that was asked to stop, or no longer is."""

    row: SearchRow
    ended: bool
    """Whether it had ended before."""
    held: Sequence[LeaseDetails]


def _ask(opened: Database, row: SearchRow, wish: str | None) -> _Asked:
    ended = read_progress(opened, row.name).ended
    opened.searches.ask_to_stop(row.search_id, wish)
    return _Asked(row, ended, _held(opened, row.search_id))


def _tell(opened: Database, asked: _Asked, wish: str | None, *, waits: bool) -> None:
    row, where = asked.row, f"[{opened.label}]"
    if wish is None:
        text = "closed for good; workers may finish its trials, and begin none"
        print(f"{row.name}: {text if row.closed else 'workers may begin trials again'}  {where}")
        # Until now the wish itself may have been the end of the search.
        if not row.closed and not read_progress(opened, row.name).ended:
            print(f"next: python -m search work {shlex.quote(row.name)}")
        return
    print(f"{row.name}: {_answer(row, wish, ended=asked.ended)}  {where}")
    if asked.held and not waits:
        print(f"still held: {_holders_text(asked.held)}; --wait returns when nobody holds one any more")


def _answer(row: SearchRow, wish: str, *, ended: bool) -> str:
    if row.closed:
        return f"closed for good already{'' if ended else '; ' + WISHES[wish]}"
    if ended:
        return (
            "has ended already; the wish to stop stays, so to go on later with a larger budget, first take it back: "
            "stop --undo"
        )
    return WISHES[wish]


def _held(opened: Database, search_id: int) -> Sequence[LeaseDetails]:
    study_ids = [arm.study_id for arm in opened.searches.arms_of(search_id)]
    return [lease for lease in opened.leases.details(study_ids) if lease.state == HELD]


def _holders_text(held: Sequence[LeaseDetails]) -> str:
    """`3 trials (2 by gpu1, 1 by gpu2)`."""
    hosts = Counter(lease.host for lease in held)
    by = ", ".join(f"{count} by {host}" for host, count in sorted(hosts.items(), key=str))
    return f"{len(held)} trial{'' if len(held) == 1 else 's'} ({by})"


class _Beats:
    """Which holders still live, by their heartbeats: the clock is this process's, the beats are the database's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved: dict[tuple[int, int], tuple[int, float]] = {}

    def silent(self, held: Sequence[LeaseDetails]) -> bool:
        """Whether none of the holders has shown a sign of life for SILENT_SECONDS seconds."""
        now = self._clock()
        last = [self._last(lease, now) for lease in held]
        return bool(last) and all(now - moved > SILENT_SECONDS for moved in last)

    def _last(self, lease: LeaseDetails, now: float) -> float:
        key = (lease.trial_id, lease.token)
        beat, moved = self._moved.get(key, (None, now))
        if beat != lease.beat:
            moved = now
        self._moved[key] = (lease.beat, moved)
        return moved


def _wait(opened: Database, row: SearchRow, held: Sequence[LeaseDetails], most: float) -> int:
    """Until nobody holds a trial; 0 then, also where the holders are dead. Raises UserError after `most` seconds."""
    began, printed_at, beats = time.monotonic(), -math.inf, _Beats()
    shown = ""
    try:
        with until_interrupted() as pause:
            while held and not beats.silent(held):
                if _holders_text(held) != shown or time.monotonic() - printed_at > TELL_SECONDS:
                    shown, printed_at = _holders_text(held), time.monotonic()
                    logger.info("{}: still held: {}", row.name, shown)
                if time.monotonic() - began > most:
                    text = f"{row.name}: still held after {most:g} s: {_holders_text(held)}; wait longer, or stop --now"
                    raise UserError(text)
                pause(min(LOOK_SECONDS, most))
                held = _again(opened, row, held)
    except KeyboardInterrupt:
        print(f"{row.name}: the wish stands, nobody waits for it any more; still held: {_holders_text(held)}")
        return 130
    if held:
        print(
            f"{row.name}: {_holders_text(held)} are held by workers without a sign of life for {SILENT_SECONDS:g} s; "
            "the next worker takes them over"
        )
    else:
        print(f"{row.name}: no trial is held any more")
    return 0


def _again(opened: Database, row: SearchRow, held: Sequence[LeaseDetails]) -> Sequence[LeaseDetails]:
    seen = look_again(lambda: (known_search(opened, row.name), _held(opened, row.search_id)))
    if seen is None:
        return held
    now, held = seen
    if held and now.stop is None and not now.closed:
        raise UserError(f"{row.name}: somebody took the wish back (stop --undo); still held: {_holders_text(held)}")
    return held
