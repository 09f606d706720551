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
from trainer.data.classes import dims_of, size_of
from trainer.data.streams.batches import BatchImages
from trainer.data.streams.stream import Stream, Workers, threads
from trainer.distributed.ranks import Ranks
from trainer.evaluation.metrics import autocast
from trainer.teacher.open import OpenedTeacher, content, wanted
from trainer.teacher.open import opened as open_teacher
from trainer.teacher.probability_maps import StoredMaps
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
    """Data sets, streams and teachers, opened once and kept from trial to trial.

    cache: the folder of decoded data. counters: what was done with them so far.
    """

    def __init__(self, ranks: Ranks, cache: Path) -> None:
        self.counters = Counters()
        self.ranks, self.cache = ranks, cache
        self._data: dict[str, DataSet] = {}
        self._streams: dict[Hashable, Stream] = {}
        self._workers = Workers(threads(ranks.world))
        self._teachers: dict[tuple[str, str, str], OpenedTeacher] = {}
        self._views: dict[Hashable, StoredLogits] = {}

    def data(self, run: RunConfig) -> DataSet:
        """The data of a run. Raises DataError."""
        key = run.data.model_dump_json()
        if key not in self._data:
            self._data[key] = open_data(run.data, cache=self.cache)
            self.counters.opened += 1
        return self._data[key]

    def stream(self, run: RunConfig) -> Stream:
        """This rank's share of the batches of a run. Raises DataError, ValueError."""
        key = stream_key(run)
        if key not in self._streams:
            self._streams[key] = Stream(
                self.data(run),
                batch_size=run.batch_size,
                seed=run.seed,
                rank=self.ranks.rank,
                world=self.ranks.world,
                workers=self._workers,
                pinned=self.ranks.device.type == "cuda",
            )
        return self._streams[key]

    def drop_prefetch_except(self, used: Collection[Hashable]) -> None:
        """Forget what was prepared for other streams than these."""
        for key, stream in self._streams.items():
            if key not in used:
                stream.let_go()

    def count_pictures(self) -> None:
        """Bring `decoded` up to date; data sets draw when they are asked."""
        self.counters.decoded = sum(data.decoded for data in self._data.values())

    def teacher(self, run: RunConfig) -> Segmenter | None:
        """The frozen teacher of a run that needs one. Raises what loading raises."""
        return self.opened_teacher(run).network if run.teacher is not None and run.methods() else None

    def opened_teacher(self, run: RunConfig) -> OpenedTeacher:
        """The teacher that a run names, whether its losses need one or not, with what its files say of themselves.

        Raises CheckpointError.
        """
        key = (_teacher_of(run), run.data.model_dump_json(), run.precision)
        if key not in self._teachers:
            opened = open_teacher(run, self.data(run), device=self.ranks.device)
            halved(opened.network, run.precision)
            self._teachers[key] = opened
            self.counters.opened += 1
        return self._teachers[key]

    def _teacher_hash(self, run: RunConfig) -> str:
        """The sha256 of a run's teacher; its file is read for it only where the teacher is not open."""
        opened = next((opened for key, opened in self._teachers.items() if key[0] == _teacher_of(run)), None)
        return content(wanted(run)) if opened is None else opened.sha256

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
        return None if isinstance(network, StoredMaps) else network

    def prepare(self, run: RunConfig, epoch: int) -> None:
        """Make what is missing of the logits that a stream epoch needs, where the run's views are stored.

        Ranks and workers of a machine share the work. Asked to stop, it leaves the rest to `teacher_output`. Raises
        DataError and what loading raises.
        """
        views = self._views_of(run)
        if views is None:
            return
        stream, ranks = self.stream(run), self.ranks
        place = (ranks.group * ranks.world + ranks.rank) / (ranks.groups * ranks.world)
        # Workers that started together begin at different places, so that none repeats what another does just now.
        first = int(place * views.chunks) + os.getppid()
        with closing(stream.pictures(stream.view(epoch), views.missing(stream.view(epoch), first))) as batches:
            for batch in batches:
                ranks.watchdog.beat()
                if ranks.stop_asked:
                    return
                views.make(stream.view(epoch), batch.indices, batch.images)

    def teacher_output(
        self, run: RunConfig, epoch: int, indices: tuple[int, ...], images: BatchImages, taps: frozenset[str]
    ) -> Output | None:
        """The teacher's logits and these taps of it, in float32, on a batch of a stream epoch: training indices and
        their images.

        It runs in the precision of the run, so that a neighbour of another precision changes nothing.
        """
        views, view = self._views_of(run), self.stream(run).view(epoch)
        if views is None:
            return self.teacher_forward(run, images, taps)
        return Output(views.logits(view, indices, partial(self._pictures, run, view)), {})

    def _pictures(self, run: RunConfig, view: int, indices: tuple[int, ...]) -> Tensor:
        with closing(self.stream(run).pictures(view, [indices])) as batches:
            return next(batches).images

    def _views_of(self, run: RunConfig) -> StoredLogits | None:
        """The stored logits that a run learns from; None where its teacher is run on each batch."""
        if run.data.views is None or run.teacher is None or not run.methods():
            return None
        key = (stream_key(run), teacher_key(run))
        if key not in self._views:
            compute = partial(self._view_logits, run)
            self._views[key] = StoredLogits(
                self.cache, run, self.data(run), self._teacher_hash(run), self.ranks.device, compute
            )
        return self._views[key]

    def _view_logits(self, run: RunConfig, view: int, indices: tuple[int, ...], pixels: Tensor) -> Tensor:
        network = self.teacher(run)
        if isinstance(network, StoredMaps):
            return network.warped(run.seed, view, indices)
        output = self.teacher_forward(run, BatchImages(pixels.to(self.ranks.device, non_blocking=True)), frozenset())
        if output is None:
            raise RuntimeError("a run without a teacher asked for its logits")
        return output.logits

    @torch.no_grad()
    def teacher_forward(self, run: RunConfig, images: BatchImages, taps: frozenset[str]) -> Output | None:
        """One pass of the run's teacher over a batch's images, whatever is stored of it; None without a teacher."""
        network = self.teacher(run)
        if network is None:
            return None
        if isinstance(network, StoredMaps):
            raise ValueError(UNSTORED)
        self.counters.teacher_forwards += 1
        self.counters.teacher_taps += len(taps)
        with autocast(self.ranks.device, run.precision):
            output = network(images.normalised(network.normalisation))
        return whole(output, taps)


def _promised_taps(config: TeacherConfig, data: DataSet) -> Taps:
    """The taps of a teacher as its settings say; only a network of ours has any."""
    if not isinstance(config, NetworkTeacher):
        return {}
    with torch.device("meta"):
        return models.build(
            config,
            in_channels=data.channels,
            classes=data.classes,
            size=size_of(data.config),
            dims=dims_of(data.config),
        ).taps


def _teacher_of(run: RunConfig) -> str:
    return wanted(run).model_dump_json()


_HALVED = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d, nn.Linear)


def halved(network: Segmenter, precision: Precision) -> Segmenter:
    """A frozen network whose convolutions and matrices lie in the precision that autocast would bring them to in every
    pass; its outputs are the same bit for bit."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    for module in network.modules():
        if kind is not None and isinstance(module, _HALVED):
            module.weight.data = module.weight.data.to(kind)
    return network


def teacher_key(run: RunConfig) -> Hashable:
    """Runs of one stream with equal teacher keys share one teacher forward; None without a teacher."""
    return (run.teacher.model_dump_json(), run.precision) if run.teacher is not None and run.methods() else None
