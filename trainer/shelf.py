"""What all trials of a process share: data, streams of batches and teachers, brought into memory once and kept."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.output import Output, Segmenter
from trainer.config import RunConfig
from trainer.data import DataSet, open_data, stream_key
from trainer.data.stream import Stream
from trainer.ranks import Ranks
from trainer.scores import autocast
from trainer.student import whole


@dataclass
class Counters:
    """How often the costly things happened in this process."""

    teacher_forwards: int = 0
    """Passes of a teacher over a batch."""
    teacher_taps: int = 0
    """Taps of those passes that were kept for a loss."""
    student_steps: int = 0
    batches: int = 0
    decoded: int = 0
    """Pictures that were decoded or drawn."""
    opened: int = 0
    """Data sets and teachers brought into memory."""


class Shelf:
    """Data sets, streams and teachers, kept from trial to trial."""

    def __init__(self, ranks: Ranks, cache: Path, counters: Counters) -> None:
        self._ranks, self._cache, self._counters = ranks, cache, counters
        self._data: dict[str, DataSet] = {}
        self._streams: dict[Hashable, Stream] = {}
        self._teachers: dict[Hashable, Segmenter] = {}

    def data(self, run: RunConfig) -> DataSet:
        """The data of a run. Raises DataError."""
        name = run.data.model_dump_json()
        if name not in self._data:
            self._data[name] = open_data(run.data, cache=self._cache)
            self._counters.opened += 1
        return self._data[name]

    def stream(self, run: RunConfig) -> Stream:
        """This rank's share of the batches of a run. Raises DataError, ValueError."""
        name = stream_key(run)
        if name not in self._streams:
            self._streams[name] = Stream(
                self.data(run),
                batch_size=run.batch_size,
                seed=run.seed,
                rank=self._ranks.rank,
                world=self._ranks.world,
                pinned=self._ranks.device.type == "cuda",
            )
        return self._streams[name]

    def count_pictures(self) -> None:
        """Bring `decoded` up to date; data sets draw when they are asked."""
        self._counters.decoded = sum(data.decoded for data in self._data.values())

    def teacher(self, run: RunConfig) -> Segmenter | None:
        """The frozen teacher of a run that needs one. Raises what loading raises."""
        if run.teacher is None or not run.methods():
            return None
        name = (run.teacher.model_dump_json(), run.data.model_dump_json())
        if name not in self._teachers:
            from trainer import teacher

            self._teachers[name] = teacher.load(run, self.data(run), device=self._ranks.device)
            self._counters.opened += 1
        return self._teachers[name]

    @torch.no_grad()
    def ask(self, run: RunConfig, images: Tensor, taps: frozenset[str]) -> Output | None:
        """The teacher's logits and these taps of it on normalised images (N, C, *S), in float32.

        It runs in the precision of the run, so that a neighbour of another precision changes nothing.
        """
        network = self.teacher(run)
        if network is None:
            return None
        self._counters.teacher_forwards += 1
        self._counters.teacher_taps += len(taps)
        with autocast(self._ranks.device, run.precision):
            output = network(images)
        return whole(output, taps)


def lesson(run: RunConfig) -> Hashable:
    """Runs of one stream with equal lessons listen to the same teacher pass; None: to none."""
    return (run.teacher.model_dump_json(), run.precision) if run.teacher is not None and run.methods() else None
