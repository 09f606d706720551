"""A worker from its study to its end: `prepare` what it trains with, `connect` to the database, then train.

A search and a confirmation differ in what is checked before they train and in what is measured afterwards; both are
prepared into the same value. Data and teacher are opened once here, and every later step takes them from there.
"""

import argparse
import functools
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from search.confirm import data_checks
from search.execution.connect import AskedToStopError, connect
from search.execution.database_thread import DatabaseThread
from search.execution.disk_waits import spare_folders
from search.execution.epoch_loop import run_group
from search.execution.group import ASKED_TO_STOP, GroupEnd
from search.execution.messages import WorkerSettings
from search.execution.owner import this_owner
from search.execution.progress_lines import EpochLine
from search.planning.limits import breach, refuse_hopeless
from search.planning.network_costs import Cost, costs, refuse_absent_weights, refuse_large_batches
from search.planning.slots import FORECAST, Slots, choose_slots, kept
from search.spec.identity import arm_identity
from search.spec.load import StudySpec, identity, record
from search.storage.database import Database, open_storage
from search.storage.errors import patient
from search.storage.url import label_of, storage_url
from search.study import code_version
from search.study.artifacts import Artifacts
from search.study.create import Identity, open_search
from search.study.trial_attributes import TeacherScore, attribute_builder
from trainer import loggers
from trainer.atomic_files import private_folder
from trainer.cli.live_line import LiveLine
from trainer.cli.progress import InsideEpoch
from trainer.data.dataset import examples_an_epoch
from trainer.engine.changed_numbers import REVISION
from trainer.errors import UserError, refusal_text
from trainer.profiling.slots import AUTO
from trainer.reports import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.distributed.ranks import Ranks
    from trainer.engine.resources import SharedResources
    from trainer.evaluation.per_image import FinalEvaluation
    from trainer.reports import EpochReport
    from trainer.teacher.assessment import Facts


@dataclass(frozen=True)
class WorkerInputs:
    """What a worker trains with, known before it has a database."""

    resources: "SharedResources"
    """Data and teacher, open."""
    identity: Identity
    """What the study is by its contents."""
    teacher: TeacherScore | None
    """How good the teacher is; None where no student has one."""
    slots: Slots
    examination: "FinalEvaluation | None"
    """What is measured after a run's last epoch; None in a search."""


def work(args: argparse.Namespace, spec: StudySpec, ranks: "Ranks", live_line: LiveLine) -> GroupEnd:
    """Train trials of the study until none is left or somebody asks to stop; returns why. Every rank calls it.

    args: the worker's flags. live_line: shows the newest epochs. Raises UserError, DataError, CheckpointError,
    RanksLost.
    """
    place = label_of(storage_url(args.storage))
    try:
        inputs = prepare(args, spec, ranks)
    except Stopped:  # while a teacher was scored
        with suppress(AskedToStopError):
            connect(ranks, None, place=place, patience=args.database_wait)  # where other groups learn of it
        return ASKED_TO_STOP
    known_costs = functools.cache(partial(_costs, spec, ranks.world))  # once, however often the database is tried
    begin = partial(_database_thread, args, spec, inputs, known_costs) if ranks.leads else None
    try:
        database = connect(ranks, begin, place=place, patience=args.database_wait)
    except AskedToStopError:
        return ASKED_TO_STOP
    return _train(args, spec, inputs, database, live_line)


def prepare(args: argparse.Namespace, spec: StudySpec, ranks: "Ranks") -> WorkerInputs:
    """Open data and teacher, refuse what cannot be searched or confirmed with them, and decide on the slots.

    Every rank calls it. Raises UserError, DataError, CheckpointError.
    """
    from trainer.engine.resources import SharedResources

    resources = SharedResources(ranks, args.cache)
    refuse_large_batches(spec, examples_an_epoch(resources.data(spec.run)))
    refuse_absent_weights(spec)
    if spec.confirms is None:
        facts, examination = _teacher_facts(spec, resources), None
        who = _identity(spec, resources, facts)
    else:
        who, facts, examination = data_checks.contents(args, spec, resources)
    teacher = None if facts is None else TeacherScore(facts.dice, facts.overlap_text())
    slots = choose_slots(spec, resources) if args.slots == AUTO else Slots(args.slots)
    return WorkerInputs(resources, who, teacher, slots, examination)


def _teacher_facts(spec: StudySpec, resources: "SharedResources") -> "Facts | None":
    """What is known of the study's teacher, once it was found good enough; None where there is none."""
    from trainer.teacher import assessment
    from trainer.teacher.open import naming

    data = resources.data(spec.run)
    if spec.run.teacher is None:
        return None
    with naming(spec.source):
        return assessment.floor(spec.run, data, ranks=resources.ranks, teacher=resources.opened_teacher(spec.run))


def _identity(spec: StudySpec, resources: "SharedResources", facts: "Facts | None") -> Identity:
    contents = {
        "data_hash": resources.data(spec.run).content_hash,
        "teacher_hash": None if facts is None else facts.sha256,
    }
    arms = {arm.name: arm_identity(arm, **contents) for arm in spec.arms}
    return Identity(identity(spec, **contents), arms, record(spec, **contents))


def _database_thread(
    args: argparse.Namespace, spec: StudySpec, inputs: WorkerInputs, known_costs: "Callable[[], list[Cost]]"
) -> DatabaseThread:
    """The search in the database, made where it is not there yet. The lead calls it, perhaps more than once."""
    networks = known_costs()
    url, ranks = storage_url(args.storage), inputs.resources.ranks
    with patient("worker"):
        opened = open_storage(url, studies=[arm.study_name for arm in spec.arms])
        search = open_search(opened, url, spec, inputs.identity)
        code_version.warn_of_others(spec.name, search.leases.details(list(search.arms)))
    runs = _runs_folder(args.runs)
    settings = WorkerSettings(
        owner=this_owner(ranks.group),
        slots=inputs.slots.count,
        runs=runs,
        ranks=ranks.world,
        environment=_environment(inputs),
        breach=breach(spec.limits),
        ttl=args.ttl,
        known=attribute_builder(networks, inputs.teacher),
        artifacts=_artifacts(args.artifacts or runs / "artifacts", opened),
        images=spec.dashboard.images == "validation",
        spare=spare_folders(args.spare, runs),
        note_every=args.note_every or None,
    )
    return DatabaseThread(search, settings)


def _environment(inputs: WorkerInputs) -> dict[str, Any]:
    """What a trial keeps of the machine and the program that trained it."""
    import torch

    from trainer.data.augment import picture_libraries

    ranks, slots = inputs.resources.ranks, inputs.slots
    environment: dict[str, Any] = {
        "ranks": ranks.world,
        "threads": torch.get_num_threads(),
        "device": ranks.device.type,
        "torch": str(torch.__version__),
        "libraries": picture_libraries(),
        code_version.CODE: code_version.code_of(),
        "numbers": REVISION,
    }
    if slots.forecast is not None:
        environment[FORECAST] = kept(*slots.forecast, slots.count)
    return environment


def _train(
    args: argparse.Namespace,
    spec: StudySpec,
    inputs: WorkerInputs,
    database: DatabaseThread | None,
    live_line: LiveLine,
) -> GroupEnd:
    from trainer.engine.cohort import Cohort

    ranks, slots = inputs.resources.ranks, inputs.slots.count
    line = EpochLine({arm.name: arm.epochs for arm in spec.arms}, spec.objective.metric, live_line.show)
    inside = InsideEpoch(
        lambda text: logger.info("{}", text),
        show=live_line.show if live_line.shown else None,
        best=line.best if spec.confirms is None else lambda: "",  # seeds of a confirmation are no rivals
    )
    students = Cohort(
        ranks,
        slots=slots,
        cache=args.cache,
        monitor=spec.objective.metric,
        examination=inputs.examination,
        resources=inputs.resources,
        pulse=inside if ranks.leads else None,
    )
    place = f"group {ranks.group} of {ranks.groups}, {ranks.world} ranks on {ranks.device}"
    logger.info("{}: {}, {} slots", spec.name, place, slots)
    kinds = args.mirror if ranks.leads else ()
    uuid = None if database is None else database.search.folder
    with loggers.Loggers(kinds, args.mirror_dir, spec.name, uuid=uuid) as log:

        def on_report(trial: str, report: "EpochReport") -> None:
            inside.epoch_ended()
            log.tell(trial, report)
            line.add(trial, report)

        try:
            return run_group(ranks, students, database, on_report, log.leave)
        finally:
            live_line.clear()


def _costs(spec: StudySpec, ranks: int) -> list[Cost]:
    networks = costs(spec, ranks=ranks)
    refuse_hopeless(spec, networks)
    return networks


def _runs_folder(folder: Path) -> Path:
    try:
        private_folder(folder)
    except OSError as error:
        raise UserError(
            f"--runs {folder}: cannot be made ({refusal_text(error)}); give a folder on a disk with room"
        ) from error
    return folder.resolve()


def _artifacts(folder: Path, opened: Database) -> Artifacts | None:
    """The folder of the dashboard's files; None, after a warning, where it cannot be used: a search needs none."""
    try:
        return Artifacts(folder.resolve(), opened.storage)
    except OSError as error:
        logger.warning(
            "--artifacts {}: cannot be used ({}): the search goes on without pictures", folder, refusal_text(error)
        )
        return None
