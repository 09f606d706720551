"""Numbers as words of a command line: each flag says its range, and what lies outside is a mistake of one line."""

import argparse
import math
from collections.abc import Callable

MOST_SECONDS = 1e9
"""Of a flag that takes seconds, some thirty years: no system waits longer."""


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """The `type` of a flag that takes a whole number from `least` to `most`, both included."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number {_range(least, most)}")
        return number

    return read


def real(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """The `type` of a flag that takes a finite number from `least` to `most`, both included. above: without `least`."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or not least <= number <= most or (above and number == least):
            raise argparse.ArgumentTypeError(f"{text!r}: expected a number {_range(least, most, above=above)}")
        return number

    return read


def _range(least: float, most: float, *, above: bool = False) -> str:
    low, high = (str(end) if isinstance(end, int) else f"{end:g}" for end in (least, most))
    if above:
        return f"above {low}" if most == math.inf else f"above {low}, at most {high}"
    return f"of {low} or more" if most == math.inf else f"from {low} to {high}"
