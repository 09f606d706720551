"""This process among its siblings: the only file that knows torch.distributed.

Every wait that blocks the host is polled: a signal handler runs meanwhile, and a stall ends in `RanksLost`.
"""

import os
import pickle
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, ClassVar, Self, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.cli.rank_variables import given_variables, place_in_world, rank_variable
from trainer.distributed.stores import Meeting, meet
from trainer.distributed.supervisor import say_once
from trainer.distributed.watchdog import Watchdog
from trainer.reports import Stopped

T = TypeVar("T")
W = TypeVar("W")
Reducer = Callable[[Tensor], Tensor]
"""A tensor of this rank to the sum over the ranks."""

_STOPPED = "asked to stop while images were scored"
_POLL_SECONDS = 2e-3
_SPIN_SECONDS = 0.1
"""Time for which a wait keeps its core: on virtual machines a core that sleeps is slower for a while after each short
wait."""
_LEAST_IMAGES = 8
ALONE_SECONDS = 20.0
"""Time after which a rank that still waits for its siblings says so; starting them takes some seconds."""
_MEETING_SECONDS = 60.0
"""Time within which siblings must come, however small the stall limit: starting takes seconds."""


class RanksLost(Exception):
    """A sibling broke, stalled or left: nothing can be agreed any more, so the caller must end this process."""


def ranks_per_trial(world: int, batch_size: int) -> int:
    """The largest divisor of `world` that leaves each rank at least 8 images of the global batch; 1 where none does."""
    divisors = (ranks for ranks in range(world, 0, -1) if world % ranks == 0)
    return next((ranks for ranks in divisors if batch_size // ranks >= _LEAST_IMAGES), 1)


class ToHost:
    """A small tensor on its way to the host; `get` waits for it, polled."""

    def __init__(self, ranks: "Ranks", tensor: Tensor) -> None:
        self._ranks = ranks
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = tensor.detach().clone()

    def get(self) -> list[float]:
        """The values. Raises RanksLost where the device does not deliver within the stall limit."""
        if self._event is not None:
            self._ranks.poll(self._event.query, "a value from the device")
        self._ranks.watchdog.beat()
        return [float(value) for value in self._host.reshape(-1).tolist()]


class Ranks:
    """The ranks that train one cohort together. `Ranks()` is one process alone: the same calls, nothing to wait for.

    rank, world: this process's place in its group, and how many the group has.
    group, groups: which of the torchrun's groups this is, and how many there are; they meet in `all_gather_world`
    alone. leads: whether this rank does what is done once.
    """

    _joins: ClassVar[Iterator[int]] = count()

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.rank, self.world, self.group, self.groups = 0, 1, 0, 1
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)  # events and streams are those of the current device
        self._wish, self._first = [False], 0
        self._stall, self._grace = float("inf"), float("inf")
        self.watchdog = Watchdog()
        """Ends this process where its work hangs; every sum, value on the host and scored batch is a sign of life."""
        self._host: dist.ProcessGroup | None = None
        self._tensors: dist.ProcessGroup | None = None
        self._meeting: Meeting | None = None
        self._reducer: Reducer | None = None
        self._agreement: _Agreement | None = None
        """Of the `attempt` that is under way."""

    @classmethod
    def join(
        cls, ranks_per_trial: int = 1, *, stall: float, grace: float = 10.0, device: torch.device | str | None = None
    ) -> Self:
        """Meet the siblings that torchrun started and cut them into groups of `ranks_per_trial`.

        stall: seconds that a sibling may be late before it counts as lost; grace: the same once a stop was asked for.
        Without torchrun, or as its only rank, this is one process, which meets nobody. Raises ValueError where ranks
        and devices do not fit or a variable of torchrun's is missing, RanksLost where the siblings do not come.
        """
        index, world = place_in_world()
        if ranks_per_trial < 1 or world % ranks_per_trial:
            fits = ", ".join(str(n) for n in range(1, world + 1) if world % n == 0)
            raise ValueError(f"--ranks-per-trial: {ranks_per_trial} does not divide the {world} ranks; known: {fits}")
        ranks = cls(_device(device))
        ranks._stall, ranks._grace = stall, min(grace, stall)
        # A little later than siblings give up on this rank: their message says more.
        ranks.watchdog = Watchdog(stall + min(stall / 4, 10.0))
        if world > 1:
            with _notice_when_alone(index, world):
                ranks._meet(index, world, ranks_per_trial)
        return ranks

    def _meet(self, index: int, world: int, size: int) -> None:
        # gloo's own limit lies behind ours: it must not end a wait that we still allow.
        limit = timedelta(seconds=2 * self._stall + 60)
        # A name of its own for each meeting: addresses of an earlier one, or of ranks before a restart, are not found.
        tag = f"trainer/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(self._joins)}"
        with _lost("meeting the siblings"):
            self._meeting = meet(tag, index, world, timedelta(seconds=max(self._stall, _MEETING_SECONDS)))
            store = self._meeting.store
            dist.init_process_group("gloo", store=store, rank=index, world_size=world, timeout=limit)
            for first in range(0, world, size):
                members = list(range(first, first + size))
                host = dist.new_group(members, timeout=limit, backend="gloo")
                tensors = dist.new_group(members, timeout=limit, backend="nccl") if self.device.type == "cuda" else host
                if index in members:
                    self._host, self._tensors = host, tensors
        self.rank, self.world = index % size, size
        self.group, self.groups, self._first = index // size, world // size, index // size * size
        self.all_gather_world(
            None
        )  # gloo's meeting ends rank by rank: one that left at once would break that of a slower one

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def stop_asked(self) -> bool:
        """Whether this rank wishes to stop."""
        return self._wish[0]

    def ask_to_stop(self) -> None:
        """Wish that all ranks of the group stop; safe in a signal handler. It travels with the next step's flag."""
        self._wish[0] = True

    def pause_point(self) -> None:
        """A sign of life between two pieces of work that another process can do again, such as two scored images.

        Raises Stopped where this rank was asked to stop and may leave: alone, or inside `attempt` before the first sum,
        where all ranks agree on it.
        """
        self.watchdog.beat()
        if self._wish[0] and (self.world == 1 or (self._agreement is not None and not self._agreement.reached)):
            raise Stopped(_STOPPED)

    def all_gather_unless_stopped(self, value: T) -> list[T]:
        """Every rank's value as `all_gather` has it. Raises Stopped on all ranks where one wishes to stop."""
        answers = self.all_gather((value, self._wish[0]))
        if any(asked for _, asked in answers):
            raise Stopped(_STOPPED)
        return [each for each, _ in answers]

    def broadcast(self, value: T) -> T:
        """The lead's value on every rank; other ranks' values are not looked at."""
        if self.world == 1:
            return value
        packed = pickle.dumps(value) if self.leads else b""
        length = torch.tensor([len(packed)], dtype=torch.int64)
        self._run("broadcast", lambda: dist.broadcast(length, self._first, group=self._host, async_op=True))
        content = _bytes(packed) if self.leads else torch.empty(int(length.item()), dtype=torch.uint8)
        self._run("broadcast", lambda: dist.broadcast(content, self._first, group=self._host, async_op=True))
        return cast("T", _unpack(content))

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks, on every rank."""
        return self._gather(value, self.world, self._host)

    def all_gather_world(self, value: T) -> list[T]:
        """The same over the ranks of all groups; all of them call it."""
        return self._gather(value, self.world * self.groups, None)

    def _gather(self, value: T, world: int, group: dist.ProcessGroup | None) -> list[T]:
        if world == 1:
            return [value]
        packed = _bytes(pickle.dumps(value))
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
        length = torch.tensor([packed.numel()], dtype=torch.int64)
        self._run("all_gather", lambda: dist.all_gather(lengths, length, group=group, async_op=True))
        longest = int(max(lengths).item())
        padded = torch.nn.functional.pad(packed, (0, longest - packed.numel()))
        contents = [torch.zeros(longest, dtype=torch.uint8) for _ in range(world)]
        self._run("all_gather", lambda: dist.all_gather(contents, padded, group=group, async_op=True))
        return [_unpack(content[: int(length.item())]) for content, length in zip(contents, lengths, strict=True)]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over the ranks, in place; equal bit for bit on all of them.

        A tensor on the host has its sum at return; one on a CUDA device has it in the order of the device's stream.
        """
        return self._sum(tensor) if self._reducer is None else self._reducer(tensor)

    @contextmanager
    def reducing_by(self, reducer: Reducer) -> Iterator[None]:
        """Inside, `all_reduce` is this function."""
        outer, self._reducer = self._reducer, reducer
        try:
            yield
        finally:
            self._reducer = outer

    def _sum(self, tensor: Tensor) -> Tensor:
        self.watchdog.beat()
        if self.world == 1:
            return tensor
        if tensor.is_cuda:
            with _lost("all_reduce"):
                dist.all_reduce(tensor, group=self._tensors)
        else:
            self._run("all_reduce", lambda: dist.all_reduce(tensor, group=self._host, async_op=True))
        return tensor

    def attempt(self, work: Callable[["Ranks"], T], describe: Callable[[Exception], W]) -> T | W:
        """Do what may fail on this rank alone; every rank calls it. Returns the result, or the description of the first
        failure; where a rank was stopped at a `pause_point`, all raise Stopped.

        Before their first sum inside `work` the ranks agree that all have come to it, so no rank waits there for one
        that failed before. What `work` does beyond that must not fail on some ranks only.
        """
        agreement = self._agreement = _Agreement(self)

        def agreed_sum(tensor: Tensor) -> Tensor:
            agreement.reach()
            return self._sum(tensor)

        try:
            with self.reducing_by(agreed_sum):
                result = work(self)
            agreement.reach()
        except _ElsewhereError as error:
            failure: W | Stopped = error.args[0]
            return self._unless_stopped(failure)
        except Exception as error:
            if agreement.reached:
                raise
            own = error if isinstance(error, Stopped) else describe(error)
            return self._unless_stopped(next(each for each in self.all_gather(own) if each is not None))
        finally:
            self._agreement = None
        return result

    @staticmethod
    def _unless_stopped(failure: W | Stopped) -> W:
        if isinstance(failure, Stopped):
            raise failure
        return failure

    def to_host(self, tensor: Tensor) -> ToHost:
        """Start to bring a small tensor to the host."""
        return ToHost(self, tensor)

    def poll(self, done: Callable[[], bool], what: str) -> None:
        """Wait until `done`. Raises RanksLost after the stall limit, or after the grace once a stop was asked for."""
        started = time.monotonic()
        asked = float("inf")
        while not done():
            now = time.monotonic()
            if now - started > self._stall:
                raise RanksLost(f"rank {self.rank} waited {self._stall:g} s for {what}; a sibling hangs")
            asked = min(asked, now) if self.stop_asked else asked
            if now - asked > self._grace:
                raise RanksLost(f"rank {self.rank} was asked to stop and waited {self._grace:g} s for {what}")
            if now - started < _SPIN_SECONDS:
                select.select((), (), (), 0)  # lets this process's other threads run, and does not sleep
                os.sched_yield()
            else:
                time.sleep(_POLL_SECONDS)

    def _run(self, what: str, start: Callable[[], Any]) -> None:
        with _lost(what):
            work = start()
            self.poll(work.is_completed, what)
            work.wait()

    def leave(self) -> None:
        """Part from the siblings after all have come here; `join` works again afterwards."""
        if self._host is None:
            return
        self.all_gather(None)
        self._host = self._tensors = None
        with _lost("leave"):
            dist.destroy_process_group()
        if self._meeting is not None:
            self._meeting.close()
            self._meeting = None


class _ElsewhereError(Exception):
    """A sibling failed before it came to the first sum; holds the description of its failure."""


class _Agreement:
    """Before their first sum the ranks tell each other, once, that they have come to it."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.reached = False

    def reach(self) -> None:
        """Raises _ElsewhereError where a sibling failed before."""
        if self.reached:
            return
        self.reached = True
        for failure in self._ranks.all_gather(None):
            if failure is not None:
                raise _ElsewhereError(failure)


def _device(asked: torch.device | str | None) -> torch.device:
    """This rank's device: the one asked for, else its own GPU, else the CPU."""
    if asked is not None:
        return torch.device(asked)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    here, devices = rank_variable("LOCAL_WORLD_SIZE", 1, least=1), torch.cuda.device_count()
    if here > devices:
        raise ValueError(f"--nproc-per-node: {here} ranks but {devices} devices; start at most {devices} ranks a host")
    return torch.device("cuda", rank_variable("LOCAL_RANK", 0))


@contextmanager
def _notice_when_alone(index: int, world: int) -> Iterator[None]:
    """Where the siblings do not come, say once which variables make this process wait for them."""
    line = (
        f"rank {index} of {world} still waits for its siblings after {ALONE_SECONDS:g} s ({given_variables()}); start "
        "all of them with torchrun, or for a single process: unset RANK WORLD_SIZE"
    )
    timer = threading.Timer(ALONE_SECONDS, say_once, (line,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _lost(what: str) -> Iterator[None]:
    """What torch.distributed raises (all are RuntimeErrors), and a folder or port that is not to be had, mean that the
    group is broken."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise RanksLost(f"{what}: {(str(error).strip() or type(error).__name__).splitlines()[0]}") from error


def _bytes(packed: bytes) -> Tensor:
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def _unpack(content: Tensor) -> Any:
    return pickle.loads(content.numpy().tobytes())  # noqa: S301 - bytes of a sibling that runs this same program
