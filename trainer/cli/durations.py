"""Durations as people read them; each page keeps the form that fits its room."""


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
