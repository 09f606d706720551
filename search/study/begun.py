"""A study as its search was begun. Before encoders were given the mean and deviation that their pretrained weights
expect, all had ImageNet's; a search from then goes on with those, though its file says nothing of it."""

from loguru import logger

from models.config import SmpNetwork
from search.spec.identity import difference
from search.spec.load import StudySpec, load, record
from search.storage.lookup import stored
from trainer.run_file import NETWORKS


def as_begun(spec: StudySpec, storage: str | None) -> StudySpec:
    """The study, or where the database holds it with ImageNet's mean and deviation, that one.

    What a search was begun with is what its record says, and a record without numbers means ImageNet's. The database
    is looked at only where it makes a difference. Raises UserError as `load` does.
    """
    if not any(_chooses_encoder(arm.base.student, [p.path for p in arm.space]) for arm in spec.arms):
        return spec
    older = load(spec.source, spec.overrides, name=spec.name, pretrained="imagenet")
    if record(older) == record(spec):
        return spec
    there = stored(storage, spec.name)
    if there is None or there.record is None:
        return spec
    if any(not line.startswith("content.") for line in difference(there.record, record(older))):
        return spec
    logger.info(
        "{}: goes on with ImageNet's mean and deviation, with which its search was begun; the weights expect others, "
        "which a search under another name gets",
        spec.name,
    )
    return older


def _chooses_encoder(student: object, paths: list[str]) -> bool:
    return isinstance(student, SmpNetwork) or any(path in NETWORKS for path in paths)
