"""Opening a search: a process creates it, joins it, or is refused with the difference."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from loguru import logger

from search.proposing.warm_start import warm_trials
from search.spec.config import MAIN
from search.spec.identity import difference
from search.spec.load import StudySpec, record
from search.storage.database import Database, creation_lock
from search.storage.lookup import refuse_others, search_row
from search.storage.ownership import MARK
from search.storage.searches import CLOSE, SearchRow
from search.study.adapter import StudyAdapter
from search.study.settings import changes, series_wish, stored, superseded
from trainer.errors import UserError


@dataclass(frozen=True)
class Identity:
    """The hashes that identify a search beyond its name: a worker with others is refused."""

    search: str
    arms: Mapping[str, str]
    record: Mapping[str, Any]
    """The values that the identity was computed from, to show a difference."""


def open_search(opened: Database, url: str, spec: StudySpec, identity: Identity) -> StudyAdapter:
    """Create the search or join it. Raises UserError with the difference where the stored one is another."""
    with creation_lock(url):
        refuse_others(opened, [arm.study_name for arm in spec.arms])
        _forget_deleted(opened)
        _refuse_series_name(opened, spec)
        search_row = opened.searches.search(spec.name)
        old = search_row is not None and _joins_with_older(opened, spec, search_row, identity)
        studies = {arm.name: study_id_of(opened, arm.study_name, spec.objective.direction) for arm in spec.arms}
        if search_row is not None and not old:
            # A search from before there were marks: the arms that its file no longer names get theirs, too.
            for arm_row in opened.searches.arms_of(search_row.search_id):
                mark(opened, arm_row.study_id, arm_row.study_name)
        rows = [
            dict(
                study_id=studies[arm.name],
                name=arm.name,
                study_name=arm.study_name,
                identity=identity.arms[arm.name],
                trials=arm.trials,
                in_flight=arm.in_flight,
            )
            for arm in spec.arms
        ]
        budget = spec.budget
        values = dict(
            name=spec.name,
            uuid=uuid.uuid4().hex if search_row is None else search_row.uuid,
            identity=identity.search,
            spec=json.dumps(dict(identity.record), allow_nan=False, sort_keys=True),
            settings=stored(spec, None if search_row is None else search_row.settings),
            closed=False,
            max_failed=budget.max_failed,
            gpu_hours=budget.gpu_hours,
            wall_seconds=budget.wall_seconds,
        )
        if search_row is not None and old:
            present = {row.study_id for row in opened.searches.arms_of(search_row.search_id)}
            rows = [row for row in rows if row["study_id"] not in present]
            values |= {
                name: getattr(search_row, name) for name in ("settings", "max_failed", "gpu_hours", "wall_seconds")
            }
        search_id = opened.searches.add_search(values, rows)
        search = StudyAdapter(opened, spec, search_id, str(values["uuid"]), studies)
        if search_row is None or not search_row.closed:
            for arm in spec.arms:
                search.enqueue_all(arm)
    if spec.warm_start is not None:  # outside of the lock, which the older study's database may need
        search.warm_start(warm_trials(opened, spec, spec.warm_start))
    return search


def _refuse_series_name(opened: Database, spec: StudySpec) -> None:
    """A series and a study cannot have one name in a database, and nothing begins in a series that is closed. Raises
    UserError."""
    place = spec.series
    if place is None:
        if spec.confirms is None and opened.searches.members(spec.name):
            raise UserError(f"study {spec.name!r}: a series in {opened.label} has that name; take another (--name)")
        return
    if opened.searches.search(place.name) is not None:
        raise UserError(
            f"series {place.name!r}: a study in {opened.label} has that name; give the series' file another one"
        )
    begun = opened.searches.members(place.name)
    if all(row.name != spec.name for row in begun) and any(series_wish(row.settings) == CLOSE for row in begun):
        raise UserError(f"series {place.name!r}: is closed for good, and {spec.name} was never begun")


def _joins_with_older(opened: Database, spec: StudySpec, search_row: SearchRow, identity: Identity) -> bool:
    """Whether another file was given since this one held; says what differs. Raises UserError for another study."""
    _check_same(opened, spec, search_row, identity)
    old, lines = superseded(spec, search_row.settings), changes(spec, search_row.settings)
    if old and lines:
        logger.warning(
            "{}: {} is an older file, and the database keeps the newer settings ({}); to have its own again, change "
            "it in any way, if only by a comment",
            spec.name,
            spec.source,
            "; ".join(lines),
        )
    for line in () if old else lines:
        logger.info("{}: changed since the last worker joined: {}", spec.name, line)
    return old


def _forget_deleted(opened: Database) -> None:
    """Forget what Optuna deleted in the meantime, of every search in this database.

    SQLite gives out the ids of deleted studies and trials again: what is left of them would bind their successors.
    """
    for name in opened.searches.names():
        search_row = opened.searches.search(name)
        if search_row is None:
            continue
        arms, gone = opened.searches.arms_of(search_row.search_id), opened.searches.gone_arms(search_row.search_id)
        if not gone:
            continue
        # Without its main study a search is no more: a new one under its name starts with nothing.
        everything = any(arm.name == MAIN for arm in arms if arm.study_id in gone)
        opened.searches.forget([arm.study_id for arm in arms] if everything else list(gone))
        for arm in arms:
            if everything and arm.study_id not in gone:
                aside = f"{arm.study_name}.{search_row.uuid[:8]}"
                opened.searches.rename(arm.study_id, aside)
                kept = f"trials of its arm {arm.name} stay as {aside}"
                logger.warning("the main study of {} was deleted: {}", name, kept)
    opened.searches.forget_leftovers()


def _check_same(opened: Database, spec: StudySpec, search_row: SearchRow, identity: Identity) -> None:
    if search_row.identity != identity.search:
        raise UserError(_changed(spec.name, search_row.spec, identity))
    for arm in opened.searches.arms_of(search_row.search_id):
        if identity.arms.get(arm.name, arm.identity) != arm.identity:
            raise UserError(
                f"study {spec.name!r}: its arm {arm.name!r} exists with another run or space; "
                "give the arm another name, or the study (--name)"
            )


def attach_search(opened: Database, spec: StudySpec) -> StudyAdapter:
    """Join a search that exists, without its data and teacher at hand. Raises UserError where it is another."""
    row = search_row(opened, spec.name, remedy="start a worker first")
    lines = [line for line in difference(json.loads(row.spec), record(spec)) if not line.startswith("content.")]
    if lines:
        raise UserError(f"study {spec.name!r} exists with another identity: {'; '.join(lines[:5])}")
    names = {arm.name: arm.study_id for arm in opened.searches.arms_of(row.search_id)}
    missing = [arm.name for arm in spec.arms if arm.name not in names]
    if missing:
        raise UserError(f"study {spec.name!r}: no worker has opened the arm {missing[0]!r} yet; start one first")
    return StudyAdapter(opened, spec, row.search_id, row.uuid, names)


def _changed(name: str, stored: str, identity: Identity) -> str:
    lines = difference(json.loads(stored), identity.record)
    differences = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
    differences = differences or "the identity differs"
    return f"study {name!r} exists with another identity: {differences}; use another name (--name)"


def study_id_of(opened: Database, name: str, direction: Literal["maximize", "minimize"]) -> int:
    """The id of a search's Optuna study, created where it is missing; call it under `creation_lock`.

    One of that name is this program's, as the caller has seen, perhaps of a process that died before it wrote anything
    else.
    """
    with opened.fence.create():
        study = optuna.create_study(study_name=name, storage=opened.storage, direction=direction, load_if_exists=True)
    mark(opened, study._study_id, name)
    return study._study_id


def mark(opened: Database, study_id: int, name: str) -> None:
    """Mark a study of this program that is from before there were marks. Raises UserError for somebody else's, which
    was made a moment ago."""
    if MARK not in opened.storage.get_study_system_attrs(study_id):
        refuse_others(opened, [name])
        opened.storage.set_study_system_attr(study_id, MARK, name)
