"""Seconds of a training step, a teacher's pass and a scored picture, from a few steps on a small batch, in seconds.

Nothing is read or trained for good: networks are built with random weights and see random images, so a pretrained
encoder is not fetched and no teacher's file is needed. What is measured is scaled to a run's own batch, and is less
exact than `trainer.profiling.step_timing`, which needs the data and the teacher themselves.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

import models
from models.config import NetworkConfig, NetworkTeacher
from models.output import Segmenter
from trainer.config import RunConfig, VolumeData
from trainer.data.classes import channels_of, classes_of, dims_of, input_sides, size_of
from trainer.data.dataset import DataSet, examples_an_epoch
from trainer.data.sets.volumes import VolumeCases
from trainer.data.streams.stream import Stream
from trainer.errors import UserError, received
from trainer.evaluation.metrics import autocast
from trainer.evaluation.native_slices import window_of

SMALLEST_BATCH = 2
"""Batch normalisation needs more than one value a channel."""
REPEATS = 2
"""Timed passes of one batch size, after one that is not; the faster one counts: a pause is not the network's."""


@dataclass(frozen=True)
class QuickTimings:
    """What a few steps took; pairs are of the smallest and the largest student of a space."""

    device: str
    """What it was measured on, in words."""
    steps: int
    """Batches of an epoch."""
    validation_images: int
    """Pictures of validation; of volumes the windows that cover its cases."""
    data: float
    """Seconds of a batch of pictures by itself: decoding, augmenting."""
    teacher: float
    """Seconds of a teacher's pass over a batch; 0 where no run is taught by a network that can be built."""
    student: tuple[float, float]
    """Seconds of a step of training over a batch."""
    scored: tuple[float, float]
    """Seconds of one picture, or window, of validation."""

    def epoch_seconds(self, slots: int) -> tuple[float, float]:
        """Wall time of one epoch of one student among `slots` that share teacher and data."""
        shared = (self.data + self.teacher) / slots
        low, high = (
            self.steps * (shared + step) + self.validation_images * scored
            for step, scored in zip(self.student, self.scored, strict=True)
        )
        return low, high

    def without_teacher(self) -> "QuickTimings":
        """The same for runs that no teacher teaches."""
        return replace(self, teacher=0.0)


def measure_quickly(
    smallest: RunConfig,
    largest: RunConfig,
    taught: RunConfig | None,
    data: DataSet,
    *,
    device: torch.device,
    seconds: float = 5.0,
) -> QuickTimings:
    """Time what two students and the teacher of a third run cost, within about `seconds` (> 0).

    The batch is doubled while time is left, up to the run's own. Raises what building a network raises, and DataError
    for a picture that cannot be read.
    """
    part = seconds / 6
    steps = examples_an_epoch(data) // largest.batch_size
    threads, chosen = torch.get_num_threads(), _chosen_threads()
    torch.set_num_threads(chosen)  # as a worker's process does
    try:
        return _measured(smallest, largest, taught, data, steps, device, part)
    finally:
        torch.set_num_threads(threads)


def _chosen_threads() -> int:
    """What a worker's process is given. Raises UserError."""
    text = os.environ.get("OMP_NUM_THREADS", "1")
    first = text.partition(",")[0].strip()
    if not (first.isascii() and first.isdecimal()) or int(first) < 1:
        raise UserError(
            f"OMP_NUM_THREADS = {received(text)}: expected a whole number of at least 1; set it, or unset it"
        )
    return int(first)


def _measured(
    smallest: RunConfig,
    largest: RunConfig,
    taught: RunConfig | None,
    data: DataSet,
    steps: int,
    device: torch.device,
    part: float,
) -> QuickTimings:
    """The same, `part` seconds for each of the things that are timed."""
    teacher = 0.0
    if taught is not None and taught.data.views is None and isinstance(taught.teacher, NetworkTeacher):
        teacher = _forward(_network(taught.teacher, taught, device), taught, taught.batch_size, device, part)
    runs = (smallest,) if smallest.student == largest.student else (smallest, largest)
    networks = [(run, _network(run.student, run, device)) for run in runs]
    student = [_training(network, run, device, part) for run, network in networks]
    together = window_of(data.config).batch if isinstance(data.config, VolumeData) else 1
    scored = [_forward(network, run, together, device, part / 2) / together for run, network in networks]
    return QuickTimings(
        device=describe(device),
        steps=steps,
        validation_images=_passes(data),
        data=_data(data, largest, part),
        teacher=teacher,
        student=(student[0], student[-1]),
        scored=(scored[0], scored[-1]),
    )


def _passes(data: DataSet) -> int:
    """Pictures of a validation, or windows of a patch that slide over its volumes."""
    if not isinstance(data, VolumeCases):
        return len(data.samples("validation"))
    window = window_of(data.settings)
    shapes = [case.way.shape for case in data.cases("validation")]
    return sum(window.count(shape) for shape in shapes)


def describe(device: torch.device) -> str:
    """A device in words: a GPU's name, or the threads of a CPU."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"this CPU, {threads} thread{'s' if threads > 1 else ''}"


def _network(config: NetworkConfig | NetworkTeacher, run: RunConfig, device: torch.device) -> Segmenter:
    """A network with random weights, whatever a study says of pretrained ones."""
    options = {"weights": None} if "weights" in type(config).model_fields else {}
    classes, channels = len(classes_of(run.data)), channels_of(run.data)
    with device:
        return models.build(
            config.model_copy(update=options),
            in_channels=channels,
            classes=classes,
            size=size_of(run.data),
            dims=dims_of(run.data),
        )


def _training(network: Segmenter, run: RunConfig, device: torch.device, seconds: float) -> float:
    network.train()
    optimizer = torch.optim.AdamW(network.parameters())
    classes = len(classes_of(run.data))

    def step(batch: int) -> None:
        images = _images(run, batch, device)
        target = torch.randint(classes, (batch, *images.shape[2:]), device=device)
        with autocast(device, run.precision):
            logits = network(images).logits
        torch.autograd.backward(F.cross_entropy(logits.float(), target))
        optimizer.step()
        optimizer.zero_grad()

    return _scaled(step, run.batch_size, seconds, device)


def _forward(network: Segmenter, run: RunConfig, batch: int, device: torch.device, seconds: float) -> float:
    network.eval()

    @torch.no_grad()
    def forward(batch: int) -> None:
        with autocast(device, run.precision):
            network(_images(run, batch, device))

    return _scaled(forward, batch, seconds, device)


def _images(run: RunConfig, batch: int, device: torch.device) -> Tensor:
    images = torch.randn((batch, channels_of(run.data), *input_sides(run.data)), device=device)
    return images.to(memory_format=torch.channels_last) if images.ndim == 4 else images


def _scaled(work: Callable[[int], None], batch: int, seconds: float, device: torch.device) -> float:
    """Seconds of `work` at this batch, from the largest one that there was time for."""
    end, tried = time.perf_counter() + seconds, min(SMALLEST_BATCH, batch)
    while True:
        took = min(_timed(work, tried, device) for _ in range(1 + REPEATS))
        # The next size takes about twice as long, once to warm up and REPEATS times more.
        if tried == batch or time.perf_counter() + 2 * took * (1 + REPEATS) > end:
            return took * batch / tried
        tried = min(2 * tried, batch)


def _timed(work: Callable[[int], None], batch: int, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    work(batch)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _data(data: DataSet, run: RunConfig, seconds: float) -> float:
    """Seconds until the next batch where batches are taken as fast as they come."""
    stream = Stream(data, batch_size=run.batch_size, seed=run.seed, rank=0, world=1)
    with closing(stream.epoch(0)) as batches:  # what is read and imported once
        next(batches)
    began, taken, epoch = time.perf_counter(), 0, 0
    while taken == 0 or time.perf_counter() - began < seconds / 2:
        epoch += 1
        with closing(stream.epoch(epoch)) as batches:
            taken += sum(1 for _ in islice(batches, 2))
    return (time.perf_counter() - began) / taken
