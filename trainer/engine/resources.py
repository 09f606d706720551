"""What all trials of a process share: data, streams of batches and teachers, brought into memory once and kept."""

import os
from collections.abc import Collection, Hashable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import models
from models.config import NetworkTeacher, TeacherConfig
from models.output import Output, Segmenter, Taps, whole
from trainer.config import Precision, RunConfig
from trainer.data import DataSet, open_data, stream_key
from trainer.data.stream import Stream, Workers, normalise, threads
from trainer.distributed.ranks import Ranks
from trainer.evaluation.metrics import autocast
from trainer.teacher.probability_maps import Maps
from trainer.teacher.stored_logits import UNSTORED, StoredLogits


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


class SharedResources:
    """Data sets, streams and teachers, kept from trial to trial."""

    def __init__(self, ranks: Ranks, cache: Path, counters: Counters) -> None:
        self._ranks, self._cache, self._counters = ranks, cache, counters
        self._data: dict[str, DataSet] = {}
        self._streams: dict[Hashable, Stream] = {}
        self._workers = Workers(threads(ranks.world))
        self._teachers: dict[Hashable, Segmenter] = {}
        self._views: dict[Hashable, StoredLogits] = {}

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
                workers=self._workers,
                pinned=self._ranks.device.type == "cuda",
            )
        return self._streams[name]

    def let_go_but(self, used: Collection[Hashable]) -> None:
        """Forget what was prepared for other streams than these."""
        for name, stream in self._streams.items():
            if name not in used:
                stream.let_go()

    def count_pictures(self) -> None:
        """Bring `decoded` up to date; data sets draw when they are asked."""
        self._counters.decoded = sum(data.decoded for data in self._data.values())

    def teacher(self, run: RunConfig) -> Segmenter | None:
        """The frozen teacher of a run that needs one. Raises what loading raises."""
        if run.teacher is None or not run.methods():
            return None
        name = (run.teacher.model_dump_json(), run.data.model_dump_json(), run.precision)
        if name not in self._teachers:
            from trainer.teacher import assessment as teacher

            network = teacher.load(run, self.data(run), device=self._ranks.device)
            self._teachers[name] = halved(network, run.precision)
            self._counters.opened += 1
        return self._teachers[name]

    def taps(self, run: RunConfig) -> Taps | None:
        """The taps of a run's teacher; None without one. Raises what loading raises.

        Where its logits are stored the teacher stays on disk, and its taps are those that its settings promise.
        """
        if run.teacher is None or not run.methods():
            return None
        if run.data.views is not None:
            return _promised_taps(run.teacher, self.data(run))
        network = self.teacher(run)
        return None if network is None else network.taps

    def visible(self, run: RunConfig) -> Segmenter | None:
        """The teacher of a run where it can be asked about any image; None without one, and for stored maps."""
        network = self.teacher(run)
        return None if isinstance(network, Maps) else network

    def prepare(self, run: RunConfig, epoch: int) -> None:
        """Make what is missing of the logits that a stream epoch needs, where the run's views are stored.

        Ranks and workers of a machine share the work. Asked to stop, it leaves the rest to `ask`. Raises DataError and
        what loading raises.
        """
        views = self._views_of(run)
        if views is None:
            return
        stream, ranks = self.stream(run), self._ranks
        place = (ranks.group * ranks.world + ranks.rank) / (ranks.groups * ranks.world)
        # Workers that started together begin at different places, so that none repeats what another does just now.
        first = int(place * views.chunks) + os.getppid()
        with closing(stream.pictures(stream.view(epoch), views.missing(stream.view(epoch), first))) as batches:
            for batch in batches:
                ranks.pulse.beat()
                if ranks.stop_asked:
                    return
                views.make(stream.view(epoch), batch.indices, batch.images)

    def ask(
        self, run: RunConfig, epoch: int, indices: tuple[int, ...], images: Tensor, taps: frozenset[str]
    ) -> Output | None:
        """The teacher's logits and these taps of it, in float32, on a batch of a stream epoch: training indices and
        normalised images (N, C, *S).

        It runs in the precision of the run, so that a neighbour of another precision changes nothing.
        """
        views, view = self._views_of(run), self.stream(run).view(epoch)
        if views is None:
            return self.hear(run, images, taps)
        return Output(views.heard(view, indices, partial(self._pictures, run, view)), {})

    def _pictures(self, run: RunConfig, view: int, indices: tuple[int, ...]) -> Tensor:
        with closing(self.stream(run).pictures(view, [indices])) as batches:
            return next(batches).images

    def _views_of(self, run: RunConfig) -> StoredLogits | None:
        """The stored logits that a run listens to; None where its teacher is asked for each batch."""
        if run.data.views is None or run.teacher is None or not run.methods():
            return None
        name = (stream_key(run), teacher_key(run))
        if name not in self._views:
            from trainer.teacher.open import content

            sha256 = content(run.teacher)
            ask = partial(self._said, run)
            self._views[name] = StoredLogits(self._cache, run, self.data(run), sha256, self._ranks.device, ask)
        return self._views[name]

    def _said(self, run: RunConfig, view: int, indices: tuple[int, ...], pixels: Tensor) -> Tensor:
        network = self.teacher(run)
        if isinstance(network, Maps):
            return network.warped(run.seed, view, indices)
        output = self.hear(run, normalise(pixels.to(self._ranks.device, non_blocking=True)), frozenset())
        if output is None:
            raise RuntimeError("a run without a teacher asked for its logits")
        return output.logits

    @torch.no_grad()
    def hear(self, run: RunConfig, images: Tensor, taps: frozenset[str]) -> Output | None:
        """One pass of the run's teacher over normalised images, whatever is stored of it; None without a teacher."""
        network = self.teacher(run)
        if network is None:
            return None
        if isinstance(network, Maps):
            raise ValueError(UNSTORED)
        self._counters.teacher_forwards += 1
        self._counters.teacher_taps += len(taps)
        with autocast(self._ranks.device, run.precision):
            output = network(images)
        return whole(output, taps)


def _promised_taps(config: TeacherConfig, data: DataSet) -> Taps:
    """The taps of a teacher as its settings say; only a network of ours has any."""
    if not isinstance(config, NetworkTeacher):
        return {}
    with torch.device("meta"):
        return models.build(config, in_channels=data.channels, classes=data.classes).taps


def halved(network: Segmenter, precision: Precision) -> Segmenter:
    """A frozen network whose convolutions and matrices lie in the precision that autocast would bring them to in every
    pass; its outputs are the same bit for bit."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    for module in network.modules():
        if kind is not None and isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.weight.data = module.weight.data.to(kind)
    return network


def teacher_key(run: RunConfig) -> Hashable:
    """Runs of one stream with equal lessons listen to the same teacher pass; None: to none."""
    return (run.teacher.model_dump_json(), run.precision) if run.teacher is not None and run.methods() else None
