"""Batches for training, epoch by epoch.

A batch depends on the data, the batch size, the seed, the stream epoch and nothing else: not on ranks, threads or who
listens. It stays on the CPU as its examples are kept; `normalise` runs where the network is.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch

from trainer.cli.rank_variables import rank_variable
from trainer.data.classes import dims_of
from trainer.data.dataset import DataSet, Pixels
from trainer.data.streams.batches import Batch
from trainer.data.streams.examples import Array, examples_of
from trainer.errors import DataError
from trainer.seeds import derive

_MOST_THREADS = 8
_TORCH_TYPES = {np.uint8: torch.uint8, np.uint16: torch.uint16, np.float32: torch.float32}
_AHEAD = 2
"""Batches kept ready beyond those in work."""


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
        self._examples = examples_of(data)
        self._count = self._examples.count
        if self._count < batch_size:
            unit = "patches an epoch" if dims_of(data.config) == 3 else "images"
            raise DataError(
                f"batch_size = {batch_size}: the training part has only {self._count} {unit}; expected at least a batch"
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
        """These examples in one of their augmentations, a batch a share; shares are asked for a little ahead."""
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
        """Indices of the examples of this rank by step."""
        order = np.random.default_rng(derive(self._seed, "order", number)).permutation(self._count)
        batches = order[: self.steps * self._batch_size].reshape(self.steps, self._batch_size)
        own = np.array_split(np.arange(self._batch_size), self._world)[self._rank]
        return [tuple(batch[own].tolist()) for batch in batches]

    def _batch(self, view: int, share: tuple[int, ...]) -> Batch:
        made, count = self._examples, len(share)
        kind = _TORCH_TYPES[made.image_type]
        images = torch.empty((count, *made.image_shape), dtype=kind, pin_memory=self._pinned)
        masks = torch.empty((count, *made.mask_shape), dtype=torch.uint8, pin_memory=self._pinned)
        pixels, labels = images.numpy(), masks.numpy()
        for at, index in enumerate(share):
            self._one(view, index, pixels[at], labels[at])
        return Batch(images, masks, share, self._data.regions)

    def _one(self, view: int, index: int, image: Array, mask: Pixels) -> None:
        try:
            self._examples.make(index, derive(self._seed, "augment", view, index), image, mask)
        except DataError:
            raise
        except (
            Exception
        ) as error:  # of whatever library decodes or augments: the user needs to know which picture it was
            name = self._examples.name(index)
            raise DataError(f"{name}: cannot be read or augmented ({type(error).__name__}: {error})") from error


def threads(world: int) -> int:
    """This rank's part of its host's cores, 8 at most.

    torchrun says how many ranks share the host, which may be more than those of this group.
    """
    local = rank_variable("LOCAL_WORLD_SIZE", world, least=1)
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) // local))
