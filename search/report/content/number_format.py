"""How numbers are written, in one place: page, LaTeX and words agree."""

from collections.abc import Callable

from trainer.cli.durations import format_duration

MINUS = "\N{MINUS SIGN}"


def _score(value: float) -> str:
    return f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _plain(value: float) -> str:
    """A value as somebody typed it, such as an epoch or a setting; no separators."""
    return f"{value:.6g}"


def _short(value: float) -> str:
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if 0 < abs(value) < 0.0995 else f"{100 * value:.0f} %"


def _correlation(value: float) -> str:
    """Two digits; a zero has no sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def _hours(value: float) -> str:
    """Hours as a duration: `8.2 s`, `12 min`, `3 h 20 min`."""
    seconds = 3600 * value
    return f"{seconds:.1f} s" if seconds < 10 else format_duration(seconds)


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


KINDS: dict[str, Callable[[float], str]] = {
    "score": _score,  # Dice and its kind
    "signed": _signed,  # a difference of scores
    "count": _count,
    "plain": _plain,
    "short": _short,  # three digits
    "percent": _percent,  # of a share in [0, 1]
    "p": _probability,
    "correlation": _correlation,
    "hours": _hours,  # a duration
}
"""Kind of a number -> how it is written."""


def shown(value: float, kind: str) -> str:
    """A number as people read it, with a true minus sign."""
    text = KINDS[kind](value)
    return f"{MINUS}{text[1:]}" if text.startswith("-") else text
