"""One epoch of a stream for the members that share it: each batch once, each teacher once a batch."""

from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.output import Output
from trainer.config import Replay, RunConfig
from trainer.data.streams.batches import Batch, BatchImages
from trainer.data.streams.stream import Stream
from trainer.distributed.ranks import Ranks, ToHost
from trainer.engine.flat_parameters import Room
from trainer.engine.resources import Counters, SharedResources, teacher_key
from trainer.engine.student import StepFlags, Student
from trainer.engine.timers import Stopwatch
from trainer.failures import LocalFailure, not_finite
from trainer.reports import Failure, FailureKind, Pulse, Stopped


@dataclass
class CohortMember:
    """A run in a slot."""

    key: int
    run: RunConfig
    slot: int
    follow: Replay | None
    """The recorded joins that it must repeat, for a run that is trained again."""
    replay: Replay = ()
    student: Student | None = None
    """None only where building it failed on this rank."""
    room: Room = field(default_factory=Room)
    """Memory for the copies that its checkpoints are written from."""
    stream: Stream | None = None
    fault: LocalFailure | None = None
    """What went wrong on this rank when it was admitted."""
    agreed: bool = False
    """Whether all ranks have agreed that it was admitted."""
    ran: bool = False
    """Whether it has trained an epoch in this cohort."""

    @property
    def trained(self) -> Student:
        if self.student is None:
            raise RuntimeError(f"member {self.key} has no student on this rank")
        return self.student


@dataclass
class StreamEpoch:
    """The members of one stream, through one epoch of it.

    Every rank takes the same steps in the same order, whatever fails on it: a member that fails sends zeros and a flag.
    The host reads the flags of step i-1 at step i+1, so it never waits for the device inside a step.
    """

    ranks: Ranks
    members: list[CohortMember]
    """The members that train, in the order of their slots; those that fail are taken out."""
    epoch: int
    """The number of the stream's epoch, from 0."""
    resources: SharedResources
    watch: Stopwatch
    counters: Counters
    pulse: Pulse | None = None
    """Hears how many steps are done."""
    failures: dict[int, Failure] = field(default_factory=dict)
    _flags: deque[dict[int, ToHost]] = field(default_factory=deque)

    def run(self) -> dict[int, Failure]:
        """Train until the stream's epoch ends or no member is left. Returns the failures; raises Stopped."""
        stream = self.members[0].stream
        if stream is None:
            raise RuntimeError("a member without a stream cannot train")
        for member in self.members:
            member.trained.begin_epoch()
        self._prepare()
        batches = stream.epoch(self.epoch)
        try:
            self._tell(0, stream.steps)
            for step in range(stream.steps):
                self._read_flags(behind=1)
                if not self.members:
                    break
                self._step(batches)
                self._tell(step + 1, stream.steps)
            self._read_flags(behind=0)
            self._agree()
        finally:
            batches.close()
        return self.failures

    def _tell(self, done: int, steps: int) -> None:
        if self.pulse is not None:
            self.pulse("training step", done, steps)

    def _step(self, batches: Iterator[Batch]) -> None:
        indices, images, target = self._fetch(batches)
        outputs = self._teacher_outputs(indices, images)
        flags = {}
        for member in self.members:
            student = member.trained
            with self.watch.part("student", [member.key]):
                own = None if images is None else images.normalised(student.network.normalisation)
                sums = student.forward(own, target, outputs.get(teacher_key(member.run)))
                self.ranks.all_reduce(sums)
                offered = student.offered()
                if offered is not None:
                    self.ranks.all_reduce(offered)
                    student.absorb(offered)
                self.ranks.all_reduce(student.backward(sums))
                flags[member.key] = student.update()
            self.counters.student_steps += 1
        self._flags.append(flags)

    def _fetch(self, batches: Iterator[Batch]) -> tuple[tuple[int, ...], BatchImages | None, Tensor | None]:
        """The next batch on the device; a batch that cannot be had is every member's fault."""
        try:
            with self.watch.part("data", self._keys()):
                batch = next(batches)
                images = BatchImages(batch.images.to(self.ranks.device, non_blocking=True))
                for member in self.members:
                    images.normalised(member.trained.network.normalisation)
                target = batch.target(self.ranks.device)
        except Exception as error:  # noqa: BLE001 - it becomes the members' fault, which the ranks agree on
            for member in self.members:
                member.trained.fail(error)
            return (), None, None
        self.counters.batches += 1
        return batch.indices, images, target

    def _prepare(self) -> None:
        """Stored logits of this epoch's view, where the members have views."""
        for learners in self._by_teacher().values():
            with self._teaching(learners):
                self.resources.prepare(learners[0].run, self.epoch)

    def _teacher_outputs(self, indices: tuple[int, ...], images: BatchImages | None) -> dict[Hashable, Output | None]:
        """The output of each teacher that a member still needs, computed once, by the teacher's key."""
        outputs: dict[Hashable, Output | None] = {}
        if images is None or not len(images):
            return outputs
        for key, learners in self._by_teacher().items():
            with self._teaching(learners):
                taps = frozenset[str]().union(*(member.trained.teacher_taps for member in learners))
                outputs[key] = self.resources.teacher_output(learners[0].run, self.epoch, indices, images, taps)
        return outputs

    def _by_teacher(self) -> dict[Hashable, list[CohortMember]]:
        """The members that still need a teacher, by its key."""
        classes: dict[Hashable, list[CohortMember]] = {}
        for member in self.members:
            if member.trained.fault is None and member.trained.needs_teacher:
                classes.setdefault(teacher_key(member.run), []).append(member)
        return classes

    @contextmanager
    def _teaching(self, learners: list[CohortMember]) -> Iterator[None]:
        """A teacher's work for these members; where it fails, that is their fault."""
        try:
            with self.watch.part("teacher", [member.key for member in learners]):
                yield
        except Exception as error:  # noqa: BLE001 - it becomes the members' fault, which the ranks agree on
            for member in learners:
                member.trained.fail(error)

    def _read_flags(self, behind: int) -> None:
        """Read the flags of all steps but the last `behind`: drop who failed, stop where a rank wishes to."""
        while len(self._flags) > behind:
            flags = {key: StepFlags(*values.get()) for key, values in self._flags.popleft().items()}
            if any(each.stop > 0 for each in flags.values()):
                raise Stopped(f"asked to stop in stream epoch {self.epoch}")
            for member in [m for m in self.members if m.key in flags and flags[m.key].failed > 0]:
                self._drop(member)

    def _agree(self) -> None:
        """Drop who failed on any rank after its last flag."""
        if self.members:
            failed_by_rank = self.ranks.all_gather([member.trained.fault is not None for member in self.members])
            for member, failed in list(zip(self.members, zip(*failed_by_rank, strict=True), strict=True)):
                if any(failed):
                    self._drop(member)

    def _drop(self, member: CohortMember) -> None:
        epoch = member.trained.epoch + 1
        faults = [fault for fault in self.ranks.all_gather(member.trained.fault) if fault is not None]
        fault = faults[0] if faults else not_finite(member.run, epoch)
        self.failures[member.key] = Failure(fault.kind, fault.message, epoch, fault.detail)
        self.members.remove(member)
        member.student = None
        if fault.kind is FailureKind.OUT_OF_MEMORY and self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()

    def _keys(self) -> list[int]:
        return [member.key for member in self.members]
