"""Whether a run can be built, and what it costs, computed on the meta device: no file is read, no weight is drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import torch

import losses
import models
from models.config import EnsembleTeacher, NetworkConfig, NetworkTeacher, SmpNetwork
from models.output import Segmenter
from trainer.checkpoint import Ready
from trainer.config import BlobsData, DataConfig, RunConfig, VolumeData
from trainer.data.augment import check_preset
from trainer.data.classes import channels_of, classes_of, dims_of, overlaps, size_of
from trainer.data.masks import regions_of
from trainer.errors import DataError, UserError, one_line
from trainer.teacher.stored_logits import refuse_taps


@dataclass(frozen=True)
class Facts:
    """What is known of a run before anything is trained."""

    params: int
    """Parameters of the student that training uses."""
    stored_params: int
    """All of its parameters, as files hold them."""
    flops: int
    """Floating-point operations of the student's forward pass over one image of data.size; 2 for each multiply-add."""
    teacher_params: int | None
    """None for a run without a live KD term, and for a teacher that is no single network of ours."""
    teacher_flops: int | None
    live_terms: tuple[str, ...]
    """The losses that train the run, in the order of the file."""


def check(run: RunConfig, *, ranks: int = 1) -> Facts:
    """Build student, teacher and losses without weights, and pass images of `data.size` through them.

    ranks: that train the run together. Raises ValueError in one line that begins with the field, also for what cannot
    be trained: a size that a network does not take, or one image a rank where batch normalisation needs two values.
    """
    channels, classes = channels_of(run.data), len(classes_of(run.data))
    try:
        if not isinstance(run.data, VolumeData):
            check_preset(run.data.augment)
        regions_of(run.data)
    except DataError as error:
        raise ValueError(str(error)) from error
    if isinstance(run.data, BlobsData):
        refuse_large_batch(run, run.data.train)
    student = _network(run.student, run.data, "student", channels, classes)
    _refuse_single_values(run, student, ranks)
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
                regions=overlaps(run.data),
                dims=dims_of(run.data),
                heads=student.deep_heads,
            )
        taps |= loss.teacher_taps()
    refuse_taps(run, taps)
    params, flops = _counted(run.student, run.data)
    teacher_params, teacher_flops = _counted(taught, run.data) if isinstance(taught, NetworkTeacher) else (None, None)
    return Facts(
        params=params,
        stored_params=models.parameters(student),
        flops=flops,
        teacher_params=teacher_params,
        teacher_flops=teacher_flops,
        live_terms=tuple(run.live_terms()),
    )


def _counted(config: NetworkConfig | NetworkTeacher, pictures: DataConfig) -> tuple[int, int]:
    """The parameters that training uses, and operations of a forward pass over one image."""
    return _counts(config, channels_of(pictures), len(classes_of(pictures)), size_of(pictures), dims_of(pictures))


@lru_cache(maxsize=256)
def _counts(
    config: NetworkConfig | NetworkTeacher, channels: int, classes: int, size: int | tuple[int, ...], dims: int
) -> tuple[int, int]:
    """The same; arms, choices and ranges of a study share networks, and a worker looks at them twice."""
    live, flops = (
        count(config, in_channels=channels, classes=classes, size=size, dims=dims)
        for count in (models.live_parameters, models.flops)
    )
    return live, flops


def refuse_large_batch(run: RunConfig, images: int) -> None:
    """Raise ValueError in one line that begins with the field where a batch is larger than the training part."""
    if run.batch_size > images:
        unit = "patches of an epoch" if dims_of(run.data) == 3 else "images"
        raise ValueError(f"batch_size = {run.batch_size}: more than the {images} training {unit}; {images} fit at most")


def refuse_absent_weights(run: RunConfig) -> None:
    """Fetch the pretrained weights that a run's student starts from, where they are not here. Raises ValueError in one
    line that begins with the field where they cannot be had."""
    config = run.student
    if config.fetches and config.checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            models.build(
                config,
                in_channels=channels_of(run.data),
                classes=len(classes_of(run.data)),
                size=size_of(run.data),
                dims=dims_of(run.data),
            )


def refuse_other_size(made: Ready, pictures: DataConfig) -> None:
    """Raise UserError in one line where a trained network does not take pictures of the side that the data has."""
    reason = _refusal(made.network, channels_of(pictures), pictures.size)
    if reason is not None:
        raise UserError(
            f"data.size = {pictures.size}: {made.path} was made for {made.run.data.size} and does not take it "
            f"({reason}); give --set data.size={made.run.data.size}"
        )


def _network(
    config: NetworkConfig | NetworkTeacher, pictures: DataConfig, role: str, channels: int, classes: int
) -> Segmenter:
    with torch.device("meta"):
        network = models.build(
            config, in_channels=channels, classes=classes, size=size_of(pictures), dims=dims_of(pictures)
        )
    if isinstance(pictures, VolumeData):  # `models.build` refused the patches that the network does not take
        return network
    if pictures.size % network.stride:
        near = max(round(pictures.size / network.stride), 1) * network.stride
        raise ValueError(
            f"data.size = {pictures.size}: the {role} {config.name} takes multiples of {network.stride}; try {near} "
            "(multiples of 32 suit every network)"
        )
    reason = _refused(config, channels, classes, pictures.size) if isinstance(config, SmpNetwork) else None
    if reason is not None:
        sizes = _sizes(pictures.size, network.stride, lambda size: _refused(config, channels, classes, size) is None)
        remedy = f"sizes that fit: {sizes}" if sizes else "choose another encoder"
        raise ValueError(
            f"data.size = {pictures.size}: the {role} {_named(config)} does not take it ({reason}); {remedy}"
        )
    return network


def _refuse_single_values(run: RunConfig, student: Segmenter, ranks: int) -> None:
    """Batch normalisation cannot train on a single value: one image whose map is one pixel."""
    if run.batch_size < ranks:
        raise ValueError(
            f"batch_size = {run.batch_size}: smaller than the {ranks} ranks that share it; take {ranks} at least, or "
            f"fewer ranks"
        )
    channels, size = channels_of(run.data), run.data.size
    if run.batch_size // ranks > 1 or dims_of(run.data) == 3 or _refusal(student.train(), channels, size) is None:
        return
    sizes = _sizes(size, student.stride, lambda other: _refusal(student, channels, other) is None)
    larger = f", or data.size = {sizes}" if sizes else ""
    share = "" if ranks == 1 else f" a rank (of {ranks})"
    raise ValueError(
        f"batch_size = {run.batch_size}: with one image{share} the student {_named(run.student)} at data.size = {size} "
        f"has to normalise a single value; take batch_size = {2 * ranks} or more{larger}"
    )


def _refusal(network: Segmenter, channels: int, size: int) -> str | None:
    """Why one image of a size does not pass through a network, on its device; None where it does."""
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            network(torch.zeros(1, channels, size, size, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        # Each of the libraries that encoders come from refuses a size in its own way.
        return one_line(error)[:90]
    return None


@lru_cache(maxsize=256)
def _refused(config: NetworkConfig | NetworkTeacher, channels: int, classes: int, size: int) -> str | None:
    """The same of a network that is built for that size, in evaluation mode."""
    try:
        with torch.device("meta"):
            network = models.build(config, in_channels=channels, classes=classes, size=size).eval()
    except ValueError as error:
        return one_line(error)
    return _refusal(network, channels, size)


def _sizes(size: int, stride: int, fits: Callable[[int], bool]) -> str:
    """The nearest sizes that fit, smaller and larger; empty where none of those near does."""
    step = max(stride, 16)
    near = sorted({*range(step, 4 * size + 2 * step, step), *_USUAL} - {size}, key=lambda other: abs(other - size))
    return ", ".join(map(str, sorted(islice(filter(fits, near[:TRIED]), SHOWN))))


_USUAL = (224, 256, 384)
"""Sizes that encoders of a fixed size are made for."""
TRIED, SHOWN = 12, 3
"""Sizes that are tried in place of one that does not fit, and those that a message names."""


def _named(config: NetworkConfig | NetworkTeacher) -> str:
    return f"{config.name} {config.scale}" if isinstance(config, SmpNetwork) else config.name
