"""`python -m search close`: a study is over, for good. Its running trials are finished, nothing else ever begins."""

import argparse
import json
import shlex
from collections import Counter
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from search.execution.checkpoint_writer import remove
from search.series.state import begun_members, place_of
from search.storage.database import Database, creation_lock, open_storage
from search.storage.errors import patient
from search.storage.leases import LeaseRow
from search.storage.lookup import known_search
from search.storage.schema import FREE, HELD, PAUSED
from search.storage.searches import CLOSE, SearchRow
from search.storage.statements import LeaseLost
from search.storage.url import add_storage, storage_url
from search.study.outcomes import end_paused
from search.study.trial_attributes import failure

WITHDRAWN = "withdrawn"
"""The failure class of a trial that still waited when its study was closed."""
WHY = "the study was closed before it began"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name, or that of a series: all of its members")
    add_storage(parser)
    parser.add_argument("--name", help="the study's name in the database, where the workers had another")
    parser.add_argument("--json", action="store_true", help="the same figures as one JSON document (a line a study)")


def main(args: argparse.Namespace) -> int:
    """Close the study, or all members of a series, and say what became of their trials."""
    url = storage_url(args.storage)
    with patient("close"):
        opened = open_storage(url, create=False)
        members = begun_members(opened, args.study, args.name)
        if members:
            with creation_lock(url):
                opened.searches.wish_of_series(place_of(members[0]).name, CLOSE)
        rows = members or [known_search(opened, args.study, args.name)]
        counts = [close(opened, url, row.search_id) for row in rows]
    for row, each in zip(rows, counts, strict=True):
        _tell(args, opened, row, each)
    return 0


def _tell(args: argparse.Namespace, opened: Database, row: SearchRow, counts: dict[str, int]) -> None:
    """What became of the trials of one search."""
    if args.json:
        whose = {"study": row.name, "storage": opened.label, "before": bool(row.closed)}
        print(json.dumps({**whose, **counts}, sort_keys=True))
        return
    print(
        f"{row.name}: closed{' before' if row.closed else ''}; waiting trials withdrawn {counts['withdrawn']}, "
        f"paused trials pruned {counts['pruned']}  [{opened.label}]"
    )
    left = counts["held"] + counts["free"]
    if left:
        print(f"{left} unfinished trials ({counts['held']} held, {counts['free']} free) are left to the workers")
    print(f"next: python -m search {'status' if left else 'report'} {shlex.quote(row.name)}")


def close(opened: Database, url: str, search_id: int) -> dict[str, int]:
    """End a search for good; the same again does what a former call may have left undone.

    Returns how many trials were withdrawn and pruned by this call, and how many are held and free.
    """
    with creation_lock(url):
        opened.searches.close(search_id)
    # Nothing is admitted from here on: what waits or is paused can only become less.
    study_ids = [arm.study_id for arm in opened.searches.arms_of(search_id)]
    withdrawn = sum(_withdraw(opened, study_id) for study_id in study_ids)
    pruned = sum(_prune(opened, row) for row in opened.leases.of_studies(study_ids) if row.state == PAUSED)
    states = Counter(row.state for row in opened.leases.of_studies(study_ids))
    return {"withdrawn": withdrawn, "pruned": pruned, "held": states[HELD], "free": states[FREE]}


def _withdraw(opened: Database, study_id: int) -> int:
    """Take the queue of one arm back; returns how many trials were in it."""
    count = 0
    for trial in opened.storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.WAITING,)):
        lease = {"study_id": study_id, "number": trial.number, "failure": WITHDRAWN, "message": WHY}
        count += _end(opened, trial._trial_id, lease)
    return count


def _prune(opened: Database, row: LeaseRow) -> int:
    """A paused trial is pruned where it stands; 1 where it was still paused."""
    end = end_paused(opened, row.trial_id)
    if end is None:
        return 0  # a worker took it before the close, or another close was quicker
    remove(None if end.checkpoint is None else Path(end.checkpoint))
    return 1


def _end(opened: Database, trial_id: int, lease: dict[str, object]) -> int:
    try:
        with opened.fence.withdraw(trial_id, paused=False, lease=lease, attributes=failure(WITHDRAWN, WHY)):
            opened.storage.set_trial_state_values(trial_id, TrialState.FAIL, None)
    except (LeaseLost, UpdateFinishedTrialError):
        return 0  # a worker took it before the close, or another close was quicker
    return 1
