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
FIRST_SECONDS = 1.0
"""Seconds of an epoch after which a terminal shows how far it is."""
RECENT = 5
"""Epochs, the newest, that a rate is taken over: the first ones read, decode and warm up."""


class Progress:
    """Hears every report of a run on the lead.

    rate and ETA are measured over the last few epochs heard here. `best` is the best value of `metric` so far with its
    epoch. resumed: it does not begin with the first one.
    """

    def __init__(self, epochs: int, metric: str = "dice", *, resumed: bool = False) -> None:
        self.started = time.monotonic()
        self.best: tuple[float, int] | None = None
        self._epochs, self._metric = epochs, metric
        self._ends = deque([self.started], maxlen=RECENT + 1)
        """When the last epochs ended, and the one before them."""
        self._printed_at = float("-inf")
        self._terminal = sys.stderr.isatty()
        self._epoch: int | None = None if resumed else 0
        self.inside = InsideEpoch(
            lambda line: logger.info("{}", line),
            show=self._show if self._terminal else None,
            about=lambda: "this epoch" if self._epoch is None else f"epoch {self._epoch + 1}/{self._epochs}",
            best=self._best,
        )
        """Hears how far the epoch is that is trained."""

    def hear(self, report: EpochReport) -> None:
        """Say where the run stands, unless it was said just now."""
        self.inside.epoch_ended()
        self._epoch = report.epoch
        self._ends.append(time.monotonic())
        if report.scores is not None and (self.best is None or report.scores[self._metric] > self.best[0]):
            self.best = (report.scores[self._metric], report.epoch)
        now = time.monotonic()
        if self._terminal:
            self._show("" if report.final else self.line(report))
        elif report.final or now - self._printed_at >= LOG_SECONDS:
            self._printed_at = now
            logger.info("{}", self.line(report))

    def _best(self) -> str:
        return "" if self.best is None else f"(best {self.best[0]:.3f} @ {self.best[1]})"

    def _show(self, line: str) -> None:
        control(sys.stderr, CLEAR)
        sys.stderr.write(line)
        sys.stderr.flush()

    def line(self, report: EpochReport) -> str:
        """Epoch, validation Dice, best so far, losses, rate and time left."""
        width = len(str(self._epochs))
        parts = [f"epoch {report.epoch:>{width}}/{self._epochs}"]
        if report.scores is not None:
            parts.append(f"validation {self._metric} {report.scores[self._metric]:.3f}")
        if best := self._best():
            parts.append(best)
        parts.append("losses " + " ".join(f"{name} {value:.3g}" for name, value in report.losses.items()))
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        parts.append(f"{each:.2g} s/epoch" if each < 99.5 else f"{each:.0f} s/epoch")
        if not report.final:
            parts.append(f"ETA {format_short_duration(each * (self._epochs - report.epoch))}")
        return "  ".join(parts)


class InsideEpoch:
    """How far an epoch is that takes longer than a few seconds: a `Pulse`.

    In a log a line every few seconds, of which fast epochs have none; where `show` is given, on a terminal, a line that
    is written over. about: what the line begins with. best: what it ends with.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        show: Callable[[str], None] | None = None,
        about: Callable[[], str] = lambda: "this epoch",
        best: Callable[[], str] = lambda: "",
    ) -> None:
        self._say, self._about, self._best = show or say, about, best
        self._least = TERMINAL_SECONDS if show is not None else COUNT_LOG_SECONDS
        self._first = FIRST_SECONDS if show is not None else COUNT_LOG_SECONDS
        self._began: float | None = None
        """When the epoch began; None between two."""
        self._spoken_at = float("-inf")
        self._units: deque[tuple[float, int]] = deque()
        """When how many units of this piece were done, the newest."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Hear that `done` of `total` are done."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if done == 0:
            self._units.clear()
        self._units.append((now, done))
        while len(self._units) > RECENT + 1 and now - self._units[1][0] > COUNT_LOG_SECONDS:
            self._units.popleft()
        if done and now - self._began >= self._first and now - self._spoken_at >= self._least:
            self._spoken_at = now
            self._say(self._line(what, done, total))

    def epoch_ended(self) -> None:
        """What is heard next is of another epoch."""
        self._began = None
        self._units.clear()

    def _line(self, what: str, done: int, total: int) -> str:
        (began, before), (ended, _) = self._units[0], self._units[-1]
        rate = (done - before) / max(ended - began, 1e-3)
        left = f"ETA {format_short_duration((total - done) / rate)}" if rate else ""
        speed = f"{rate:.3g} a second" if rate else ""
        return "  ".join(filter(None, (f"{self._about()}: {what} {done}/{total}", speed, left, self._best())))


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
