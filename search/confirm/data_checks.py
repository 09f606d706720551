"""A confirmation with its data and teacher at hand: what is refused before a test row is read, and the opening."""

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from loguru import logger

from search.confirm.plan import Plan, identities, stored_plan
from search.spec.config import Confirm
from search.spec.load import StudySpec
from search.storage.database import Database, open_storage
from search.storage.errors import patient, repeated
from search.storage.evidence import TEACHER, Evidence
from search.storage.url import label_of, storage_url
from search.study.create import Identity
from trainer.cli.progress import InsideEpoch
from trainer.config import DataConfig, PictureData, PolypData, RunConfig
from trainer.data.dataset import DataSet, Opening, Part
from trainer.data.splits.folders import PATTERN
from trainer.errors import DataError, UserError

if TYPE_CHECKING:
    from trainer.distributed.ranks import Ranks
    from trainer.engine.resources import SharedResources
    from trainer.evaluation.per_image import FinalEvaluation
    from trainer.teacher.assessment import Facts

T = TypeVar("T")


def planned(args: argparse.Namespace) -> StudySpec:
    """The confirmation that a worker's flags name, as it stands in the database. Raises UserError."""
    if args.set:
        raise UserError(f"--set {args.set[0]}: {args.study} is planned already; see: python -m search confirm --help")
    return _waited(args, lambda: stored_plan(args.storage, args.study)).spec()


def checked(plan: Plan, resources: "SharedResources") -> "Facts | None":
    """Open data and teacher as every configuration will, and refuse what would make the answer worthless.

    Reads no test row: that there are some, and that nobody saw them, is known by counting and by hashes. Returns
    what is known of the teacher. Every rank calls it. Raises UserError, DataError, CheckpointError.
    """
    from trainer.teacher import assessment

    run = _taught(plan)
    data = resources.data(run)
    _same(plan, "data", data.content_hash)
    if not data.image_hashes("test"):
        raise UserError(
            f"{plan.study}: the split has no test rows, so nothing can be confirmed; "
            "a split file needs rows with split = test"
        )
    unseen = unseen_sources(run.data, plan.table, resources.cache)
    facts = None
    if run.teacher is not None and run.methods():
        facts = assessment.floor(run, data, ranks=resources.ranks, teacher=resources.opened_teacher(run))
        _same(plan, "teacher", facts.sha256)
    for name, source in unseen.items():
        _refuse_seen(name, source, data, frozenset() if facts is None else facts.trained_on)
    return facts


def unseen_sources(data: DataConfig, table: Confirm, cache: Path) -> dict[str, DataSet]:
    """The unseen sources of [confirm] by name; no picture is decoded. Raises UserError for one that is not there or
    holds no images with masks."""
    from trainer.data.sets.pictures import open_unseen

    sources = {}
    for name in table.unseen:
        try:
            sources[name] = open_unseen(data, name, cache=cache, masks_pattern=table.masks_pattern)
        except DataError as error:
            # Folders speak of the flag; a study file has a key of that meaning.
            raise UserError(f"confirm.{error}".replace(f"{PATTERN} ", "confirm.masks_pattern = ")) from error
    return sources


def _refuse_seen(name: str, source: DataSet, data: DataSet, taught: Collection[str]) -> None:
    """Raise UserError for a source of which something was seen: an image, or one that looks like it."""
    from trainer.data.perceptual_hash import alike

    images = source.image_hashes("test")
    parts: tuple[Part, ...] = ("train", "validation", "test")
    known = {image: part for part in parts for image in data.image_hashes(part)}
    shared = next((known[image] for image in images if image in known), None)
    if shared is not None:
        raise UserError(f"confirm.unseen: {name}: some of its images are in the {shared} part of the data; remove it")
    if any(image in taught for image in images):
        raise UserError(f"confirm.unseen: {name}: the teacher was trained on some of its images; remove it")
    if isinstance(data.config, PolypData | PictureData) and data.config.near_duplicates == "accept":
        return
    for part in parts[:2]:
        pairs = alike(data.sketches(part), source.sketches("test"))
        if pairs:
            one = data.samples(part)[pairs[0].first].name
            raise UserError(
                f"confirm.unseen: {name}: {len({pair.second for pair in pairs})} of its images look like images of the "
                f"{part} part, such as {one}; remove it"
            )


def contents(
    args: argparse.Namespace, spec: StudySpec, resources: "SharedResources"
) -> "tuple[Identity, Facts | None, FinalEvaluation]":
    """What a worker needs of a confirmation beside its plan. The opening of the test rows is recorded here, before
    anything of them is read, and the teacher is examined where nobody has done it. Every rank calls it."""
    from trainer.evaluation.per_image import FinalEvaluation

    plan: Plan = spec.confirms
    ranks = resources.ranks
    facts = checked(plan, resources)
    opening, todo = _on_lead(ranks, lambda: _waited(args, lambda: _record_opening(args, plan)))
    examination = FinalEvaluation(opening, args.cache, plan.table.unseen, plan.table.masks_pattern)
    if todo and facts is not None and ranks.group == 0:
        _examine_teacher(args, plan, resources, examination)
    who = Identity(plan.identity, identities(plan, spec), plan.record())
    return who, facts, examination


def _record_opening(args: argparse.Namespace, plan: Plan) -> tuple[Opening, bool]:
    """Record it beside the runs and in the database; whether the teacher is still to be examined."""
    from trainer.data import record_opening

    names = [each.name for each in plan.configurations]
    opening = record_opening(args.runs, f"{plan.name}: {', '.join(names)} on seeds {list(plan.table.seeds)}")
    opened, uuid = _stored(args, plan)
    try:
        with patient("confirm"):
            evidence = Evidence(opened.engine)
            evidence.open(plan.study, uuid, opening.who, f"confirmation {plan.name}", names)
            return opening, not evidence.has(uuid, TEACHER)
    finally:
        opened.engine.dispose()


def _examine_teacher(
    args: argparse.Namespace, plan: Plan, resources: "SharedResources", examination: "FinalEvaluation"
) -> None:
    from trainer.evaluation.per_image import evaluate_per_image
    from trainer.failures import LocalFailure

    run, ranks = _taught(plan), resources.ranks
    if ranks.leads:
        logger.info("{}: the teacher is examined", plan.name)
    pulse = InsideEpoch(lambda text: logger.info("{}", text), about=lambda: "the teacher") if ranks.leads else None
    with ranks.watchdog.watching():
        results = evaluate_per_image(
            resources.opened_teacher(run).network, run, resources.data(run), examination, ranks, pulse
        )
    if isinstance(results, LocalFailure):
        # Such as stored maps, which say nothing of other images: the students' comparisons stand without it.
        logger.warning("{}: the teacher is not examined: {}", plan.name, results.message)
        return

    def keep() -> None:
        opened, uuid = _stored(args, plan)
        with patient("confirm"):
            Evidence(opened.engine).keep(uuid, TEACHER, results)
        opened.engine.dispose()

    _on_lead(ranks, lambda: _waited(args, keep))


def _stored(args: argparse.Namespace, plan: Plan) -> tuple[Database, str]:
    with patient("confirm"):
        opened = open_storage(storage_url(args.storage), create=False)
        row = opened.searches.search(plan.name)
    if row is None:
        raise UserError(f"study {plan.name!r} was deleted from {opened.label}")
    return opened, row.uuid


def _taught(plan: Plan) -> RunConfig:
    """The run of the first configuration that a teacher taught; of the first one, where none was."""
    runs = [RunConfig.model_validate(each.run) for each in plan.configurations]
    return next((run for run in runs if run.methods()), runs[0])


def _same(plan: Plan, what: str, content: str) -> None:
    kept = plan.content.get(what)
    if kept is not None and kept != content:
        raise UserError(
            f"{plan.study}: the {what} is not that of the search ({content[:12]}..., it was {kept[:12]}...); "
            "put it back as it was"
        )


def _on_lead(ranks: "Ranks", work: Callable[[], T]) -> T:
    """Work of the lead alone, whose result or mistake is that of all ranks of the group."""
    outcome: tuple[T | None, str | None] = (None, None)
    if ranks.leads:
        try:
            outcome = (work(), None)
        except (UserError, DataError) as error:
            outcome = (None, str(error))
    value, mistake = ranks.broadcast(outcome)
    if mistake is not None:
        raise UserError(mistake)
    return value  # type: ignore[return-value]  # without a mistake it is what the lead's work gave


def _waited(args: argparse.Namespace, work: Callable[[], T]) -> T:
    """What `work` returns, tried again while the database of a worker's flags is away."""
    return repeated(work, place=label_of(storage_url(args.storage)), patience=args.database_wait)
