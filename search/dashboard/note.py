"""`python -m search note`: write where a search stands into the notes of its studies, with figures, for the dashboard.

The leaders of a search do this by themselves, in a process of their own: drawing must not delay training.
"""

import argparse
import hashlib
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

from loguru import logger
from optuna import Study, load_study
from optuna_dashboard import get_note, save_note
from optuna_dashboard.artifact import get_artifact_path

from search.answer.summary import confirmation
from search.dashboard.figures import Picture, draw
from search.dashboard.note_text import EmbeddedFigure, note_body, study_attributes
from search.storage.database import Database, open_storage
from search.storage.errors import patient
from search.storage.searches import notes_begun
from search.storage.url import add_storage, storage_url
from search.study.artifacts import Artifacts
from search.study.progress import progress_of
from search.study.snapshot import SearchSnapshot, read
from search.study.trial_attributes import shares_of
from trainer.errors import refusal_text

TIME_LIMIT_SECONDS = 150
"""How long a process in the background may take before it ends itself."""
MARK = "---\n\n*Write below this line; what stands above is written anew while the search runs.*"
"""The line of a note below which what a person writes stays."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name")
    add_storage(parser)
    parser.add_argument("--name", help="the study's name in the database, where the workers had another")
    parser.add_argument(
        "--artifacts",
        type=Path,
        metavar="DIR",
        help="folder of pictures and figures, as the workers and the dashboard have it; without it: tables alone",
    )
    parser.add_argument("--in-background", action="store_true", help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Write the notes of all arms."""
    if args.in_background:
        # The process that started this one may have ended: this one ends itself, whatever it waits for.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIME_LIMIT_SECONDS)
        os.nice(10)
    name = args.name or args.study
    with patient("note"):
        opened = open_storage(storage_url(args.storage), create=False)
        written = write(opened, name, args.artifacts)
    logger.info("{}: {}", name, written)
    return 0


def write(opened: Database, name: str, folder: Path | None) -> str:
    """Write the notes of a search's studies, and with a confirmation's those of its search; returns what was done, in
    words. Raises UserError for an unknown study."""
    rows = read(opened, name)
    began = rows.search.noted
    pictures: Mapping[str, EmbeddedFigure] = {}
    without: str | None = "no folder for files was given, or none that can be written (`--artifacts`)"
    if folder is not None:
        drawn = draw(rows)
    if notes_begun(opened.engine, rows.search.search_id) != began:
        return "left to another process, which began later"
    if folder is not None:
        try:
            pictures, without = _kept(opened, rows, drawn, folder), None
        except OSError as error:
            without = f"their folder cannot be written ({refusal_text(error)})"
            logger.warning("note: {}: {}", folder, without)
    progress, confirmed = progress_of(rows, opened.searches.closed), confirmation(opened, rows)
    terms = {arm: list(shares_of(trials)) for arm, trials in rows.trials.items()}
    studies = {arm.name: arm.study_id for arm in rows.arms}
    for arm in rows.arms:
        body = note_body(
            progress,
            confirmed,
            terms,
            arm=arm.name,
            studies=studies,
            pictures=pictures,
            without=without,
            now=rows.now,
        )
        study = _study(opened, arm.study_id)
        save_note(study, f"{body}\n\n{MARK}{_below(get_note(study))}")
        for key, value in study_attributes(progress, confirmed, arm.name).items():
            study.set_user_attr(key, value)
    written = f"{len(studies)} notes with {len(pictures)} figures"
    if rows.confirms is None or rows.confirms not in opened.searches.names():
        return written
    # Nobody works on the search any more, and its notes are what people look at.
    return f"{written}; {rows.confirms}: {write(opened, rows.confirms, folder)}"


def _below(note: str) -> str:
    """The part of a note that people wrote: all below the mark, or the whole note where it has no mark."""
    if MARK in note:
        return note.split(MARK, 1)[1]
    return f"\n\n{note}" if note else ""


def _kept(
    opened: Database, rows: SearchSnapshot, pictures: Mapping[str, Picture], folder: Path
) -> dict[str, EmbeddedFigure]:
    """Put the figures into the dashboard's folder, as files of the main search's study; all notes show the same.

    The address changes with the contents, so that no browser shows an old figure. Raises OSError.
    """
    artifacts = Artifacts(folder, opened.storage)
    owner = rows.arms[0].study_id
    study = _study(opened, owner)
    embedded = {}
    with tempfile.TemporaryDirectory() as place:
        for key, picture in pictures.items():
            path = Path(place) / picture.name
            path.write_bytes(picture.data)
            artifact_id = artifacts.to_study(owner, picture.name, path, "image/png")
            version = hashlib.sha256(picture.data).hexdigest()[:12]
            embedded[key] = EmbeddedFigure(f"{get_artifact_path(study, artifact_id)}?v={version}", picture.alt)
    return embedded


def _study(opened: Database, study_id: int) -> Study:
    return load_study(study_name=opened.storage.get_study_name_from_id(study_id), storage=opened.storage)
