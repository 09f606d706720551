"""How a run goes, for who waits for it: one line that is written over on a terminal, plain lines in a log."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from loguru import logger

from trainer.cli.durations import format_short_duration
from trainer.cli.printable import CLEAR, control
from trainer.reports import EpochReport

Item = TypeVar("Item")

LOG_SECONDS = 10.0
"""Seconds between two lines in a log."""
COUNT_LOG_SECONDS = 5.0
"""The same where files are counted."""
TERMINAL_SECONDS = 0.1
"""Seconds between two changes of a line on a terminal."""
RECENT = 5
"""Epochs, the newest, that a rate is taken over: the first ones read, decode and warm up."""


class Progress:
    """Hears every report of a run on the lead.

    rate and ETA are measured over the last few epochs heard here. `best` is the best value of `metric` so far with its
    epoch.
    """

    def __init__(self, epochs: int, metric: str = "dice") -> None:
        self.started = time.monotonic()
        self.best: tuple[float, int] | None = None
        self._epochs, self._metric = epochs, metric
        self._ends = deque([self.started], maxlen=RECENT + 1)
        """When the last epochs ended, and the one before them."""
        self._printed_at = float("-inf")
        self._terminal = sys.stderr.isatty()

    def hear(self, report: EpochReport) -> None:
        """Say where the run stands, unless it was said just now."""
        self._ends.append(time.monotonic())
        if report.scores is not None and (self.best is None or report.scores[self._metric] > self.best[0]):
            self.best = (report.scores[self._metric], report.epoch)
        now = time.monotonic()
        if self._terminal:
            control(sys.stderr, CLEAR)
            if not report.final:
                sys.stderr.write(self.line(report))
            sys.stderr.flush()
        elif report.final or now - self._printed_at >= LOG_SECONDS:
            self._printed_at = now
            logger.info("{}", self.line(report))

    def line(self, report: EpochReport) -> str:
        """Epoch, validation Dice, best so far, losses, rate and time left."""
        width = len(str(self._epochs))
        parts = [f"epoch {report.epoch:>{width}}/{self._epochs}"]
        if report.scores is not None:
            parts.append(f"validation {self._metric} {report.scores[self._metric]:.3f}")
        if self.best is not None:
            parts.append(f"(best {self.best[0]:.3f} @ {self.best[1]})")
        parts.append("losses " + " ".join(f"{name} {value:.3g}" for name, value in report.losses.items()))
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        parts.append(f"{each:.2g} s/epoch" if each < 99.5 else f"{each:.0f} s/epoch")
        if not report.final:
            parts.append(f"ETA {format_short_duration(each * (self._epochs - report.epoch))}")
        return "  ".join(parts)


class Counting:
    """Progress of long work on single things, such as files: how many, how fast, how long still.

    On a terminal one line that is written over and goes away at the end; in a log a line every few seconds, so that
    short work says nothing.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._printed_at = time.monotonic()
        self._done = 0
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Hear that `done` of `total` are done."""
        now = time.monotonic()
        if done <= self._done:  # the next part of a data set
            self._began = now
        self._done = done
        if self._terminal and done == total:
            control(sys.stderr, CLEAR)
            sys.stderr.flush()
        elif now - self._printed_at >= (TERMINAL_SECONDS if self._terminal else COUNT_LOG_SECONDS):
            self._printed_at = now
            rate = done / max(now - self._began, 1e-3)
            line = (
                f"{self._what} {done}/{total}  {rate:.3g} a second  ETA {format_short_duration((total - done) / rate)}"
            )
            if self._terminal:
                control(sys.stderr, CLEAR)
            print(line, end="" if self._terminal else "\n", file=sys.stderr)
            sys.stderr.flush()


def counted_items(what: str, items: Iterable[Item], total: int) -> Iterator[Item]:
    """The items as they come, with a `Counting` of those whose work is done."""
    counting = Counting(what)
    for done, item in enumerate(items, 1):
        yield item
        counting(done, total)


def counted_calls(what: str, keep: Callable[[int, Item], None], total: int) -> Callable[[int, Item], None]:
    """A function of an index and a value that is called `total` times, with a `Counting` of its calls."""
    counting = Counting(what)
    done = 0

    def call(index: int, value: Item) -> None:
        nonlocal done
        keep(index, value)
        done += 1
        counting(done, total)

    return call
