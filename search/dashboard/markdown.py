"""Markdown in which nothing that users wrote comes alive: no link, no picture, no HTML, no table of its own."""

import re
from collections.abc import Sequence

LONGEST = 80
"""Characters of a text that are shown."""

WIDE = "\N{EM SPACE}"


def code(text: object, longest: int = LONGEST) -> str:
    """Any text as one code span, in one line and cut where it is long; an empty one as a dash.

    Inside a code span markdown knows no escapes, links, entities or HTML; what could end it is a run of backticks as
    long as its fence, a line break, or, in a table, a bar. A bar is shown as a look-alike.
    """
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    line = line.replace("|", "\N{BOX DRAWINGS LIGHT VERTICAL}")
    if not line:
        return "\N{EN DASH}"
    if len(line) > longest:
        line = f"{line[: longest - 3]}..."
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table whose first `left` columns are words and the others numbers; cells are markdown already.

    The dashboard draws tables without borders: wide spaces keep the columns apart.
    """
    heads = [*heads[:1], *(f"{WIDE}{head}" for head in heads[1:])]
    rows = [
        [cell if place == 0 or place >= left else f"{WIDE}{cell}" for place, cell in enumerate(row)] for row in rows
    ]
    ruler = [":--" if place < left else "--:" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ruler, *rows])
