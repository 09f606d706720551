"""Batches for training and for scoring.

A training batch depends on the data, the batch size, the seed, the stream epoch and nothing else: not on ranks, threads
or who listens. `Batch` and `ScoredBatch` stay on the CPU with 8 bits a channel; `normalise` runs where the network is.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.normalisation import IMAGENET, Normalisation
from trainer.cli.rank_variables import rank_variable
from trainer.data import augment, stream_key
from trainer.data.classes import bits_of
from trainer.data.dataset import DataSet, Opening, Part, Picture, Pixels, Placement
from trainer.data.masks import Regions
from trainer.errors import DataError
from trainer.seeds import derive

__all__ = ["Batch", "BatchImages", "ScoredBatch", "Stream", "normalise", "renormalised", "scored", "stream_key"]

_MOST_THREADS = 8
_AHEAD = 2
"""Batches kept ready beyond those in work."""


class Batch(NamedTuple):
    """This rank's share of a training batch."""

    images: Tensor
    """(n, S, S, C) uint8 or uint16."""
    masks: Tensor
    """(n, S, S) uint8 labels, 255 ignored."""
    indices: tuple[int, ...]
    regions: Regions | None = None
    """What the labels are where data has regions."""

    def target(self, device: torch.device) -> Tensor:
        """What losses compare with, on the device: labels (n, S, S) int64; of regions (n, regions, S, S) uint8, 1
        inside, 0 outside. 255 is ignored."""
        labels = self.masks.to(device, non_blocking=True)
        return labels.long() if self.regions is None else self.regions.targets(labels)


class ScoredBatch(NamedTuple):
    """Pictures to be scored at native size, those of one size next to each other."""

    images: Tensor
    """(n, S, S, C) uint8 or uint16."""
    masks: tuple[Pixels, ...]
    """n native masks (height, width)."""
    placements: tuple[Placement, ...]
    indices: tuple[int, ...]
    start: int
    """Where the batch begins in the order of `scored_order`."""


class Workers:
    """Threads that make batches, for any number of streams; they wait between epochs and end with this object."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="stream")


class _Making:
    """Batches in the making, a little ahead of who takes them."""

    def __init__(
        self, workers: Workers, make: Callable[[tuple[int, ...]], Batch], shares: Iterable[tuple[int, ...]]
    ) -> None:
        self._pool, self._make, self._todo = workers.pool, make, iter(shares)
        self.waiting: deque[Future[Batch]] = deque()
        self._submit(workers.threads + _AHEAD)

    def _submit(self, most: int) -> None:
        self.waiting.extend(self._pool.submit(self._make, share) for share in islice(self._todo, most))

    def next(self) -> Batch:
        """Wait for the next batch."""
        batch = self.waiting.popleft().result()
        self._submit(1)
        return batch

    def stop(self) -> None:
        """Begin nothing more; the few batches at work are finished and dropped.

        It does not wait for them: garbage collection may call this from the very thread that makes one.
        """
        for future in self.waiting:
            future.cancel()
        self.waiting.clear()


class Stream:
    """Augmented training batches, epoch by epoch, for one rank.

    Batches are made ahead by the threads of `workers` (default: own ones, which end with the stream), where no
    batch is begun once an epoch is over or its iterator closed. pinned: batches lie in memory that a GPU fetches by
    itself. Raises DataError with fewer images than a batch, ValueError for a world larger than the batch.
    """

    steps: int
    """Batches an epoch; the last images that fill no batch are left out, others in each epoch."""
    seconds_waited: float
    """Time that the listener waited for batches since the stream was made."""

    def __init__(
        self,
        data: DataSet,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        workers: Workers | None = None,
        pinned: bool = False,
    ) -> None:
        self._count = len(data.samples("train"))
        if self._count < batch_size:
            raise DataError(
                f"batch_size = {batch_size}: the training part has only {self._count} images; expected at least a batch"
            )
        if world > batch_size:
            raise ValueError(f"batch_size = {batch_size}: smaller than the {world} ranks that share it")
        if not 0 <= rank < world:
            raise ValueError(f"rank = {rank}: expected 0 to {world - 1}")
        self.steps = self._count // batch_size
        self.seconds_waited = 0.0
        self._data = data
        self._batch_size = batch_size
        self._seed = seed
        self._rank, self._world = rank, world
        self._workers = workers or Workers(threads(world))
        self._ahead: tuple[int, _Making] | None = None
        self._pinned = pinned
        self._idle: SimpleQueue[augment.Augment] = SimpleQueue()
        augment.check_preset(data.config.augment)

    def epoch(self, number: int) -> Generator[Batch]:
        """The batches of stream epoch `number` (from 0). Raises DataError where a file turns out bad."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == number:
            return self._taken(lambda: ahead[1])
        if ahead is not None:
            ahead[1].stop()
        return self.pictures(self.view(number), self._shares(number))

    def prepare(self, number: int) -> None:
        """Begin with the first batches of the stream epoch that will probably be asked for next."""
        self.let_go()
        self._ahead = number, self._making(self.view(number), self._shares(number))

    def let_go(self) -> None:
        """Forget what was prepared and not asked for."""
        if self._ahead is not None:
            self._ahead[1].stop()
            self._ahead = None

    def view(self, number: int) -> int:
        """Which of the augmentations of an image stream epoch `number` shows."""
        views = self._data.config.views
        return number if views is None else number % views

    def pictures(self, view: int, shares: Iterable[tuple[int, ...]]) -> Generator[Batch]:
        """These training images in one of their augmentations, a batch a share; shares are asked for a little ahead."""
        return self._taken(lambda: self._making(view, shares))

    def _making(self, view: int, shares: Iterable[tuple[int, ...]]) -> _Making:
        make: Callable[[tuple[int, ...]], Batch] = lambda share: self._batch(view, share)  # noqa: E731  one line says it
        return _Making(self._workers, make, shares)

    def _taken(self, begin: Callable[[], _Making]) -> Generator[Batch]:
        making = begin()
        try:
            while making.waiting:
                start = time.perf_counter()
                batch = making.next()
                self.seconds_waited += time.perf_counter() - start
                yield batch
        finally:
            making.stop()

    def _shares(self, number: int) -> list[tuple[int, ...]]:
        """Training indices of this rank by step."""
        order = np.random.default_rng(derive(self._seed, "order", number)).permutation(self._count)
        batches = order[: self.steps * self._batch_size].reshape(self.steps, self._batch_size)
        own = np.array_split(np.arange(self._batch_size), self._world)[self._rank]
        return [tuple(batch[own].tolist()) for batch in batches]

    def _batch(self, view: int, share: tuple[int, ...]) -> Batch:
        size = self._data.config.size
        shape = (len(share), size, size)
        depth = torch.uint16 if bits_of(self._data.config) > 8 else torch.uint8
        images = torch.empty((*shape, self._data.channels), dtype=depth, pin_memory=self._pinned)
        masks = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
        pixels, labels = images.numpy(), masks.numpy()
        try:
            change = self._idle.get_nowait()
        except Empty:
            change = augment.build(self._data.config.augment)
        for at, index in enumerate(share):
            pixels[at], labels[at] = self._one(change, view, index)
        self._idle.put(change)
        return Batch(images, masks, share, self._data.regions)

    def _one(self, change: augment.Augment, view: int, index: int) -> tuple[Picture, Pixels]:
        try:
            return change(*self._data.fitted("train", index), derive(self._seed, "augment", view, index))
        except DataError:
            raise
        except (
            Exception
        ) as error:  # of whatever library decodes or augments: the user needs to know which picture it was
            name = self._data.samples("train")[index].name
            raise DataError(f"{name}: cannot be read or augmented ({type(error).__name__}: {error})") from error


def scored(
    data: DataSet, part: Part, *, rank: int, world: int, batch_size: int, opening: Opening | None = None
) -> Iterator[ScoredBatch]:
    """Every picture of a part once over all ranks, in batches that do not depend on the world: batch b is rank b mod
    world's.

    Nothing is repeated to even the ranks out, so a rank may get no batch. Raises DataError for an empty part and for
    test rows without an opening, at the call.
    """
    order = scored_order(data, part, opening)
    if not order:
        raise DataError(f"the data has no {part} images; a split file needs rows with split = {part}")
    return _scored(data, part, order, range(rank * batch_size, len(order), world * batch_size), batch_size, opening)


def scored_order(data: DataSet, part: Part, opening: Opening | None = None) -> list[int]:
    """Indices of a part by native size, so that pictures of one size are brought back to it together."""
    return sorted(
        range(len(data.samples(part, opening))), key=lambda index: (data.placement(part, index, opening), index)
    )


def normalise(images: Tensor, how: Normalisation = IMAGENET) -> Tensor:
    """(n, S, S, C) uint8 or uint16 on any device to (n, C, S, S) float32, less the mean, over the deviation.

    What was padded is black, as augmentation fills it, and so is normalised like any black pixel. Channels stay last in
    memory, which is how convolutions are fastest. No constant is sent to the device, so nothing waits for it.
    """
    top = 65535 if images.dtype == torch.uint16 else 255
    out = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
    for channel, (mean, std) in enumerate(zip(how.mean, how.std, strict=True)):
        out[:, channel].sub_(top * mean).div_(top * std)
    return out


def renormalised(images: Tensor, given: Normalisation, wanted: Normalisation) -> Tensor:
    """Images (N, C, H, W) that were normalised one way in another, but for rounding in float32."""
    channels = zip(given.mean, given.std, wanted.mean, wanted.std, strict=True)
    rows = [
        images[:, channel] * (std / other_std) + (mean - other_mean) / other_std
        for channel, (mean, std, other_mean, other_std) in enumerate(channels)
    ]
    return torch.stack(rows, dim=1)


class BatchImages:
    """The images of a batch where the networks are: each normalisation is computed once, for all who ask for it."""

    def __init__(self, pixels: Tensor) -> None:
        """pixels: (n, S, S, C) uint8 or uint16 on the networks' device."""
        self._pixels = pixels
        self._normalised: dict[Normalisation, Tensor] = {}

    def __len__(self) -> int:
        return len(self._pixels)

    def normalised(self, how: Normalisation) -> Tensor:
        """(n, C, S, S) float32; nobody may change it."""
        if how not in self._normalised:
            self._normalised[how] = normalise(self._pixels, how)
        return self._normalised[how]


def threads(world: int) -> int:
    """This rank's part of its host's cores, 8 at most.

    torchrun says how many ranks share the host, which may be more than those of this group.
    """
    local = rank_variable("LOCAL_WORLD_SIZE", world, least=1)
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) // local))


def _scored(
    data: DataSet, part: Part, order: list[int], starts: range, batch_size: int, opening: Opening | None
) -> Iterator[ScoredBatch]:
    for start in starts:
        indices = tuple(order[start : start + batch_size])
        images = np.stack([data.fitted(part, index, opening)[0] for index in indices])
        yield ScoredBatch(
            images=torch.from_numpy(images),
            masks=tuple(data.native_mask(part, index, opening) for index in indices),
            placements=tuple(data.placement(part, index, opening) for index in indices),
            indices=indices,
            start=start,
        )
