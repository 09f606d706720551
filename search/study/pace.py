"""How fast a search goes, and when it will be done, as far as that can be said honestly."""

from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 5
"""Finished trials that a rate needs."""
LATEST = 20
"""Finished trials, the newest, that a rate is taken over."""


@dataclass(frozen=True)
class Pace:
    """A search's speed."""

    trials_an_hour: float | None
    """Over the newest finished trials (all, where none is left), in the time in which somebody worked; None while there
    are too few."""
    eta_seconds: float | None
    """Until all is done at this rate; None where that cannot be said."""
    unknown: str | None
    """Why it cannot be said."""


def pace_of(
    ended: Sequence[float], attempts: Sequence[tuple[float, float | None]], now: float, *, held: int, left: int
) -> Pace:
    """The speed from when trials ended and when attempts at them were under way, in seconds of one clock.

    ended: of the trials that completed or were pruned. attempts: (began, ended or None). held: trials that somebody
    trains now. left: trials that are still to be finished.
    """
    if len(ended) < FEWEST:
        why = f"{len(ended)} of {FEWEST} finished trials that a rate needs" if left else None
        return Pace(None, None if left else 0.0, why)
    in_order = sorted(ended)
    recent = in_order[-LATEST:] if left else in_order  # what is over is told as a whole
    start = in_order[-LATEST - 1] if len(in_order) > len(recent) else min(began for began, _ in attempts)
    busy = _covered([(max(began, start), now if end is None else end) for began, end in attempts])
    rate = 3600 * len(recent) / max(busy, 1e-3)
    if left == 0:
        return Pace(rate, 0.0, None)
    if held == 0:
        return Pace(rate, None, "no worker holds a trial")
    return Pace(rate, 3600 * left / rate, None)


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of some spans; a night in which no worker ran does not count."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        if end > max(begin, reached):
            total += end - max(begin, reached)
            reached = end
    return total


def told(seconds: float) -> str:
    """A duration in two words: `41 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def an_hour(rate: float) -> str:
    """A rate in digits that can be read: `0.42`, `17.3`, `5,180`."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
