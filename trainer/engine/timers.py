"""Wall time by part and member: on CUDA by the device's own clock, so that nothing waits to be measured."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from trainer.distributed.ranks import Ranks

PARTS = ("data", "teacher", "student", "validation")
"""The parts of every epoch; a run's last one may have more."""

Mark = float | torch.cuda.Event


class Stopwatch:
    """Seconds of each part, shared evenly by the members that used it."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._cuda = ranks.device.type == "cuda"
        self._laps: list[tuple[str, tuple[int, ...], Mark, Mark]] = []
        self._started = time.perf_counter()

    @contextmanager
    def part(self, name: str, keys: Sequence[int]) -> Iterator[None]:
        """Whatever runs inside counts as that part of those members."""
        before = self._mark()
        yield
        self._laps.append((name, tuple(keys), before, self._mark()))

    def shares(self, keys: Sequence[int]) -> dict[int, dict[str, float]]:
        """Seconds by member and part since the watch was made; `other` is what no part claims, shared by `keys`.

        On CUDA it waits until the device has done its work.
        """
        last = self._laps[-1][-1] if self._laps else 0.0
        if isinstance(last, torch.cuda.Event):
            self._ranks.poll(last.query, "the device")
        seconds: dict[int, dict[str, float]] = defaultdict(lambda: dict.fromkeys(PARTS, 0.0))
        claimed = 0.0
        for name, users, before, after in self._laps:
            length = _between(before, after)
            claimed += length
            for key in users:
                seconds[key][name] = seconds[key].get(name, 0.0) + length / len(users)
        rest = max(time.perf_counter() - self._started - claimed, 0.0)
        return {key: {**seconds[key], "other": rest / len(keys)} for key in keys}

    def _mark(self) -> Mark:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _between(before: Mark, after: Mark) -> float:
    if isinstance(before, float) or isinstance(after, float):
        return float(after) - float(before)  # type: ignore[arg-type]
    return float(before.elapsed_time(after)) / 1000
