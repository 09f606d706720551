"""`python -m search delete`: a study, or a whole series, leaves the database, with its confirmations and its files.

What stays is who opened the test rows for it: a name that is used again inherits what was seen under it.
"""

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from search.confirm.plan import confirmations
from search.series.state import begun_members, place_of
from search.storage.database import Database, creation_lock, open_storage
from search.storage.errors import patient
from search.storage.evidence import Evidence
from search.storage.lookup import known_search
from search.storage.schema import HELD
from search.storage.searches import SearchRow
from search.storage.url import add_storage, storage_url
from search.study.artifacts import artifact_ids
from trainer.cli.printable import printable
from trainer.errors import UserError, counted


@dataclass
class Deleted:
    """What left the database and the disk."""

    studies: list[str]
    """The study, or the members of the series, and their confirmations."""
    trials: int = 0
    folders: list[str] = field(default_factory=list)
    """Of checkpoints and weights, removed here."""
    elsewhere: list[str] = field(default_factory=list)
    """Those that are not on this machine under --runs."""
    files: int = 0
    """Of the dashboard."""
    openings: int = 0
    """Records of an opening of the test rows, which stay."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name, or that of a series: all of its members")
    add_storage(parser)
    parser.add_argument("--name", help="the study's name in the database, where the workers had another")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="the workers' folder of checkpoints (default runs)",
    )
    parser.add_argument(
        "--artifacts", type=Path, metavar="DIR", help="the dashboard's files (default: artifacts in --runs)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask; needed where nobody can answer")
    parser.add_argument(
        "--anyway", action="store_true", help="although workers hold trials: they notice it and begin nothing more"
    )
    parser.add_argument("--json", action="store_true", help="what was deleted, as one JSON document")


def main(args: argparse.Namespace) -> int:
    """Say what will be gone, ask, and delete it."""
    url = storage_url(args.storage)
    with patient("delete"):
        opened = open_storage(url, create=False)
        whole, searches = _searches(opened, args.study, args.name)
        _refuse_held(opened, searches, anyway=args.anyway)
    if not args.yes:
        _ask(opened, whole, searches, args)
    with patient("delete"):
        gone = delete(opened, url, searches, args.runs, args.artifacts or args.runs / "artifacts", anyway=args.anyway)
    if args.json:
        print(json.dumps({"storage": opened.label, **vars(gone)}, sort_keys=True))
        return 0
    print(f"{', '.join(gone.studies)}: deleted, {counted(gone.trials, 'trial')}  [{opened.label}]")
    if gone.folders or gone.files:
        print(f"removed {' '.join([*gone.folders, counted(gone.files, 'file') + ' of the dashboard'])}")
    if gone.elsewhere:
        print(f"not here, remove where the workers ran: {' '.join(gone.elsewhere)}")
    if gone.openings:
        print(f"kept: {counted(gone.openings, 'record')} of who opened its test rows, and when")
    return 0


def _searches(opened: Database, study: str, name: str | None) -> tuple[str, list[SearchRow]]:
    """The name of the study or series, and its searches, each after its confirmations, which mean nothing without
    it."""
    members = begun_members(opened, study, name)
    whole = place_of(members[0]).name if members else None
    known, rows = opened.searches.names(), list[SearchRow]()
    for row in members or [known_search(opened, study, name)]:
        rows += [known_search(opened, each) for each in confirmations(row.name, known)]
        rows.append(row)
    return whole or rows[-1].name, rows


def _refuse_held(opened: Database, searches: Sequence[SearchRow], *, anyway: bool) -> None:
    for row in searches:
        held = sum(lease.state == HELD for lease in opened.leases.of_studies(_study_ids(opened, row)))
        if held and not anyway:
            name = shlex.quote(row.name)
            raise UserError(
                f"study {row.name!r}: workers hold {counted(held, 'trial')}; stop them first: python -m search stop "
                f"{name} --now --wait; where they are dead, or may lose their work, add --anyway"
            )


def _ask(opened: Database, whole: str, searches: Sequence[SearchRow], args: argparse.Namespace) -> None:
    """Raises UserError where the answer is not the name of the study or series, or nobody can give one."""
    storage = "" if args.storage is None else f" --storage {shlex.quote(opened.label)}"
    names = [each.name for each in searches if each.name != whole]
    also = "" if not names else f", with {', '.join(names)}"
    print(f"deletes {whole}{also} from {opened.label}, and their files under {args.runs.absolute()}; for good")
    print(f"a copy of the whole database first: python -m search db backup{storage} -o before.backup")
    if not sys.stdin.isatty():
        raise UserError(f"study {whole!r}: nobody can be asked here; --yes deletes it without a question")
    if input(f"type {printable(whole)} to delete it: ").strip() != whole:
        raise UserError(f"study {whole!r}: that was not its name; nothing was deleted")


def delete(
    opened: Database, url: str, searches: Sequence[SearchRow], runs: Path, artifacts: Path, *, anyway: bool = False
) -> Deleted:
    """Delete searches from the database, then their files. Repeated after an interrupt, it goes on with what is left.

    Raises UserError where a worker has begun a trial meanwhile, unless `anyway`.
    """
    gone = Deleted(sorted(row.name for row in searches))
    evidence = Evidence(opened.engine)
    for row in searches:
        with creation_lock(url):
            _refuse_held(opened, [row], anyway=anyway)
            ids = _study_ids(opened, row)
            files = [each for study_id in ids for each in artifact_ids(opened.storage, study_id)]
            gone.trials += sum(opened.storage.get_n_trials(study_id) for study_id in ids)
            # Files first: a search that is still in the database can be deleted again, files without one cannot.
            gone.files += sum(_unlinked(artifacts / each) for each in files)
            _remove(runs / row.uuid, gone)
            for study_id in ids:
                opened.storage.delete_study(study_id)
            opened.searches.forget(ids)
            evidence.forget(row.uuid)
    gone.openings = sum(len(evidence.openings(row.name)) for row in searches)
    return gone


def _study_ids(opened: Database, row: SearchRow) -> list[int]:
    """The Optuna studies of a search's arms that are still there."""
    lost = opened.searches.gone_arms(row.search_id)
    return [arm.study_id for arm in opened.searches.arms_of(row.search_id) if arm.study_id not in lost]


def _remove(folder: Path, gone: Deleted) -> None:
    if folder.is_dir() and not folder.is_symlink():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be removed ({error.strerror}); the study is still there") from error
        gone.folders.append(str(folder))
    else:
        gone.elsewhere.append(str(folder))


def _unlinked(file: Path) -> bool:
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{file}: cannot be removed ({error.strerror}); the study is still there") from error
    return True
