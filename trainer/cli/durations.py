"""Durations as people write and read them; each page keeps the form that fits its room."""

import re

MOST_DAYS = 36_500
"""The longest duration: a hundred years."""

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds(text: str) -> float:
    """Seconds of a duration such as "12h", "90m", "1d", "1h30m". Raises ValueError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or total <= 0:
        raise ValueError(f'{text[:80]!r} is no duration; write it as "12h", "90m" or "1h30m"')
    if total > MOST_DAYS * _UNITS["d"]:
        raise ValueError(f'{text[:80]!r} is longer than "{MOST_DAYS}d", the longest; leave it out for no limit')
    return total


def format_duration(seconds: float) -> str:
    """A duration in two words, for pages: `41 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def format_short_duration(seconds: float) -> str:
    """A duration in two figures or so, for a progress line: `8 s`, `4 min`, `2 h 05`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d}"


def format_limit(seconds: float) -> str:
    """A limit exactly as somebody gave it: `90 s`, `2.5 minutes`."""
    return f"{seconds / 60:g} minutes" if seconds >= 120 else f"{seconds:g} s"


def format_clock(seconds: float) -> str:
    """Minutes and seconds as a stopwatch shows them: `1:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
