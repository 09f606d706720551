"""Whether a run can be built, and what it costs, computed on the meta device: no file is read, no weight is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

import losses
import models
from models.config import EnsembleTeacher, NetworkConfig, NetworkTeacher
from models.output import Segmenter
from trainer.config import BlobsData, Pictures, RunConfig
from trainer.data.augment import check_preset
from trainer.errors import DataError
from trainer.teacher.stored_logits import refuse_taps

CHANNELS: Mapping[str, int] = {"blobs": 3, "polyp": 3}
"""Channels of each data set's images, as its `channels` says once it is open."""
CLASSES: Mapping[str, int] = {"blobs": 2, "polyp": 2}
"""Classes of each data set's masks, as its `classes` says once it is open."""


@dataclass(frozen=True)
class Facts:
    """What is known of a run before anything is trained."""

    params: int
    """Parameters of the student."""
    flops: int
    """Floating-point operations of the student's forward pass over one image of data.size; 2 for each multiply-add."""
    teacher_params: int | None
    """None for a run without a live KD term, and for a teacher that is no single network of ours."""
    teacher_flops: int | None
    live_terms: tuple[str, ...]
    """The losses that train the run, in the order of the file."""


def check(run: RunConfig) -> Facts:
    """Build student, teacher and losses without weights. Raises ValueError in one line that begins with the field."""
    channels, classes = CHANNELS[run.data.name], CLASSES[run.data.name]
    try:
        check_preset(run.data.augment)
    except DataError as error:
        raise ValueError(str(error)) from error
    if isinstance(run.data, BlobsData) and run.data.train < run.batch_size:
        raise ValueError(f"batch_size = {run.batch_size}: more than the {run.data.train} images of data.train")
    student = _network(run.student, run.data, "student", channels, classes)
    taught = run.teacher if run.methods() else None
    teacher = _network(taught, run.data, "teacher", channels, classes) if isinstance(taught, NetworkTeacher) else None
    members = taught.members if isinstance(taught, EnsembleTeacher) else ()
    for member in members:
        if isinstance(member, NetworkTeacher):
            _network(member, run.data, "teacher", channels, classes)
    taps = frozenset[str]()
    for name, term in run.live_terms().items():
        with torch.device("meta"):
            loss = losses.build(
                name,
                term,
                student=student.taps,
                # A teacher without taps is refused below, with a message of its own.
                teacher=None if taught is None else student.taps if teacher is None else teacher.taps,
                classes=classes,
            )
        taps |= loss.teacher_taps()
    refuse_taps(run, taps)
    size = {"in_channels": channels, "classes": classes, "size": run.data.size}
    return Facts(
        params=models.parameters(student),
        flops=models.flops(run.student, **size),
        teacher_params=None if teacher is None else models.parameters(teacher),
        teacher_flops=models.flops(taught, **size) if isinstance(taught, NetworkTeacher) else None,
        live_terms=tuple(run.live_terms()),
    )


def _network(
    config: NetworkConfig | NetworkTeacher, pictures: Pictures, role: str, channels: int, classes: int
) -> Segmenter:
    with torch.device("meta"):
        network = models.build(config, in_channels=channels, classes=classes)
    if pictures.size % network.stride:
        near = max(round(pictures.size / network.stride), 1) * network.stride
        raise ValueError(
            f"data.size = {pictures.size}: the {role} {config.name} takes multiples of {network.stride}; try {near} "
            "(multiples of 32 suit every network)"
        )
    return network
