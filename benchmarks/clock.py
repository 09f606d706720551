"""Two clocks around everything that an arm does, a kernel that says how fast the machine is now, and ratios."""

import json
import os
import random
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

_TICKS = os.sysconf("SC_CLK_TCK")


class Seconds(NamedTuple):
    """A moment, or a stretch of time, on both clocks."""

    wall: float
    cpu: float
    """User and system time of the process, of its ended children and of its living ones."""

    def since(self, earlier: "Seconds") -> "Seconds":
        """The stretch between two moments."""
        return Seconds(self.wall - earlier.wall, self.cpu - earlier.cpu)

    def over(self, count: float) -> "Seconds":
        """The same for one of `count`."""
        return Seconds(self.wall / count, self.cpu / count)


def now() -> Seconds:
    """Both clocks. Living children are read from /proc: a loader's workers are only joined when it ends."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in used)
    return Seconds(time.perf_counter(), cpu + sum(_cpu_of(pid) for pid in _children(os.getpid())))


def now_of(pid: int) -> Seconds:
    """Both clocks for a process that this one started and has not waited for; its children are not in it.

    The CPU seconds of one that runs are as old as the scheduler's last tick, up to 10 ms.
    """
    # By clock_getcpuclockid(3), for which Python has no call: what /proc says is rounded to hundredths besides.
    return Seconds(time.perf_counter(), time.clock_gettime(~pid << 3 | 2))


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            words = path.read_text().split()
        except OSError:
            continue  # this thread has just ended
        for word in words:
            found += [int(word), *_children(int(word))]
    return found


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it ended between the two looks, and was counted with the ended ones or will be
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak() -> int:
    """The most memory in MB that this process had; what getrusage says begins with that of the process it came from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


class Account:
    """What an arm did, for the process that started it."""

    def __init__(self) -> None:
        self.begun = now()
        self.epochs: list[tuple[int, int, Seconds]] = []
        """(own epoch, trials in it, the moment of its end)."""
        self.counts: dict[str, int] = {"steps": 0, "epochs": 0, "validation_images": 0, "trials": 0}
        self.facts: dict[str, Any] = {}

    def begin(self) -> None:
        """Imports are over: time runs from here."""
        self.begun = now()

    def epoch_over(self, own: int, trials: int) -> None:
        """An epoch of so many trials ended now."""
        self.epochs.append((own, trials, now()))

    def write(self, path: Path) -> None:
        """Close the account: seconds a trial with its start, seconds a trial's epoch after the first, counts, facts."""
        whole = now().since(self.begun).over(self.counts["trials"])
        document = {
            "trial": whole._asdict(),
            "epoch": self._steady()._asdict(),
            "counts": self.counts,
            "facts": {**self.facts, "peak_mb": peak()},
        }
        path.write_text(json.dumps(document))

    def _steady(self) -> Seconds:
        """The mean slope between the ends of successive epochs of the same trials."""
        pairs = [
            (later[2].since(earlier[2]), later[1])
            for earlier, later in zip(self.epochs, self.epochs[1:], strict=False)
            if later[0] == earlier[0] + 1
        ]
        total = sum(trials for _, trials in pairs)
        return Seconds(sum(s.wall for s, _ in pairs) / total, sum(s.cpu for s, _ in pairs) / total)


def calibrate(seconds: float = 1.0) -> Seconds:
    """What one pass, forward and backward, through a fixed convolution takes now."""
    torch.set_num_threads(1)
    image = torch.ones(4, 32, 96, 96)
    weight = torch.ones(32, 32, 3, 3, requires_grad=True)
    began, passes = now(), 0
    while time.perf_counter() - began.wall < seconds:
        functional.conv2d(image, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]
        passes += 1
    return now().since(began).over(passes)


def interval(ratios: Sequence[float], share: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Bootstrap interval of the median."""
    draw = random.Random(0)  # noqa: S311 - no secret
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(draws))
    cut = round(draws * (1 - share) / 2)
    return medians[cut], medians[-cut - 1]


def cpu_flags() -> str:
    """The processor's name and those of its flags that decide how fast networks are on it."""
    text = Path("/proc/cpuinfo").read_text()
    name = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "?")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    known = sorted({f for f in flags if f.startswith(("avx", "amx", "fma"))})
    return f"{name}, {os.cpu_count()} cores; {' '.join(known)}"
