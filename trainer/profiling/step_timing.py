"""A few timed steps of what a space holds: data, teacher, smallest and largest student, validation, memory."""

import resource
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.output import Output
from trainer.config import RunConfig
from trainer.data.streams.batches import BatchImages
from trainer.distributed.ranks import Ranks
from trainer.engine.resources import SharedResources
from trainer.engine.student import Student
from trainer.evaluation.metrics import validate
from trainer.profiling.slots import StepTimings

REPEATS = 3
"""Timed steps of each kind, after one that is not; their median counts."""
BATCHES = 6
"""Batches at least that are taken to see how fast they come, after one that is not timed."""


def measure(
    smallest: RunConfig, largest: RunConfig, taught: RunConfig | None, resources: SharedResources
) -> StepTimings:
    """What two runs cost on this rank, and the teacher of a third; no collective runs in it.

    Data is opened and decoded where it was not, which takes its time once; it and the teacher stay in `resources`.
    Raises what building a run or opening its data raises.
    """
    ranks = resources.ranks
    data = _data(resources, largest)
    free = free_bytes(ranks.device)
    teacher = 0.0
    if taught is not None and taught.data.views is None:
        images = _batch(resources, taught)[0]
        teacher = _median(lambda: resources.teacher_forward(taught, images, frozenset()), ranks)
    small, large = (_costs(run, resources) for run in (smallest, largest))
    return StepTimings(
        data=data,
        teacher=teacher,
        student=(small.step, large.step),
        validation=(small.validation, large.validation),
        member_bytes=(small.member, large.member),
        step_bytes=large.beyond,
        free_bytes=free,
        checkpoint_bytes=(small.checkpoint, large.checkpoint),
        steps=resources.stream(largest).steps,
    )


class _Costs(NamedTuple):
    """What one student costs: seconds of a step and of a validation; bytes between steps, beyond them in a step, and on
    disk."""

    step: float
    validation: float
    member: int
    beyond: int
    checkpoint: int


def _costs(run: RunConfig, resources: SharedResources) -> _Costs:
    ranks = resources.ranks
    images, target = _batch(resources, run)
    teacher = resources.teacher(run)
    before, high = _allocated(ranks.device), _peak(ranks.device)
    student = Student(
        run,
        resources.data(run),
        teacher=None if teacher is None else teacher.taps,
        steps=resources.stream(run).steps,
        ranks=ranks,
        monitor="dice",
    )
    student.begin_epoch()
    output = resources.teacher_forward(run, images, student.teacher_taps)
    lasting = _allocated(ranks.device) - before if ranks.device.type == "cuda" else _member_bytes(student)
    step = _median(lambda: _step(student, images, target, output), ranks)
    beyond = max(_peak(ranks.device) - high - lasting, 0)
    # The weights of the best epoch are kept beside those of the last one.
    kept = _bytes(student.state()) + _bytes(student.eval_network.state_dict())
    # On a CPU a checkpoint that is being written lies in the same memory.
    member = lasting if ranks.device.type == "cuda" else lasting + kept
    scored = _once(lambda: _validated(student, resources, run, ranks), ranks)
    return _Costs(step, scored, member, beyond, kept)


def _batch(resources: SharedResources, run: RunConfig) -> tuple[BatchImages, Tensor]:
    """Images and target of a run's first batch, on the device."""
    with closing(resources.stream(run).epoch(0)) as batches:
        batch = next(batches)
    device = resources.ranks.device
    return BatchImages(batch.images.to(device)), batch.target(device)


def free_bytes(device: torch.device) -> int:
    """Memory that nobody has taken: of a GPU, else of this machine or of what its control group leaves of it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(meminfo["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _data(resources: SharedResources, run: RunConfig) -> float:
    """Seconds until the next batch where batches are taken as fast as they come."""
    stream = resources.stream(run)
    with closing(stream.epoch(0)) as batches:  # what is read and imported once
        next(batches)
    start, taken = time.perf_counter(), 0
    for epoch in count(1):
        with closing(stream.epoch(epoch)) as batches:
            taken += sum(1 for _ in islice(batches, BATCHES))
        resources.ranks.watchdog.beat()
        if taken >= BATCHES:
            break
    return (time.perf_counter() - start) / taken


def _step(student: Student, images: BatchImages, target: Tensor, teacher: Output | None) -> None:
    student.backward(student.forward(images.normalised(student.network.normalisation), target, teacher))
    student.update()
    if student.fault is not None:
        raise RuntimeError(student.fault.message)


def _validated(student: Student, resources: SharedResources, run: RunConfig, ranks: Ranks) -> None:
    """This rank's share of a validation, without the sum at its end: the other ranks measure nothing."""
    with ranks.reducing_by(lambda tensor: tensor):
        validate(student.eval_network, resources.data(run), "validation", ranks=ranks, precision=run.precision)


def _once(work: Callable[[], object], ranks: Ranks) -> float:
    _wait(ranks)
    start = time.perf_counter()
    work()
    _wait(ranks)
    ranks.watchdog.beat()
    return time.perf_counter() - start


def _median(work: Callable[[], object], ranks: Ranks) -> float:
    return statistics.median([_once(work, ranks) for _ in range(1 + REPEATS)][1:])


def _wait(ranks: Ranks) -> None:
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _peak(device: torch.device) -> int:
    """The most bytes that this process ever had, on a CPU all of its memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _member_bytes(student: Student) -> int:
    return _bytes([student.flat.weights, student.flat.sums, student.optimizer.state, student.eval_network.state_dict()])


def _bytes(value: object) -> int:
    """The bytes of all tensors in a value."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
