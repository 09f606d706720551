"""What a message says about a name that is none of the known ones. Free of torch."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, shown: int = 40) -> str:
    """`; known: a, b; nearest: a`, to be put behind a message; beyond `shown` known names only the nearest five."""
    names = list(dict.fromkeys(known))
    short = len(names) <= shown
    close = difflib.get_close_matches(name, names, n=1 if short else 5, cutoff=0.5)
    listed = f"; known: {', '.join(names)}" if short and names else ""
    return f"{listed}; nearest: {', '.join(close)}" if close else listed


class OptionError(ValueError):
    """One line about one option of a network; it begins with the option's name, and `models.build` says whose it is."""
