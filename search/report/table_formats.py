"""A table of the report as a value, and its LaTeX form.

LaTeX has `booktabs` rules and nothing that LaTeX would run.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from search.answer.document import claim_title
from search.report.content.number_format import MINUS, shown

Cell = bool | int | float | str | None
CLAIM = "claim"
"""Title of the columns that hold the names of claims."""
LONG, WIDE = 30, 9
"""Rows and columns that a page shows as they are at most."""


@dataclass(frozen=True)
class Column:
    """One column. kind: of `number_format.KINDS`, or "text"; numbers in a text column stand as they are."""

    title: str
    kind: str = "text"
    read_as: str | None = None
    """What readers are shown in place of the title."""


@dataclass(frozen=True)
class Table:
    """Values with their columns; the first column heads its row."""

    name: str
    """Name of its files: letters, digits and -."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    colours: Mapping[str, str] = field(default_factory=dict)
    """By class, as #rrggbb: rows that a class heads have its colour beside its name."""

    def for_readers(self) -> "Table":
        """With plain words for names, and without the columns in which nothing stands; a script's tables keep the names
        that JSON has, and their columns do not come and go."""
        kept = [
            place
            for place in range(len(self.columns))
            if place == 0 or any(row[place] is not None and row[place] != "" for row in self.rows)
        ]
        shown_columns = (self.columns[place] for place in kept)
        columns = tuple(replace(each, title=each.read_as or each.title) for each in shown_columns)
        rows = tuple(tuple(_plain(row[place], self.columns[place]) for place in kept) for row in self.rows)
        return replace(self, columns=columns, rows=rows)

    @property
    def long(self) -> bool:
        """Whether it is folded on the page."""
        return len(self.rows) > LONG

    @property
    def wide(self) -> bool:
        """Whether paper needs a smaller print of it."""
        return len(self.columns) > WIDE


def _plain(cell: Cell, column: Column) -> Cell:
    return claim_title(cell) if column.title == CLAIM and isinstance(cell, str) else cell


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\textquotedbl{}",
    MINUS: r"$-$",
    "\N{EN DASH}": "--",
}

PHRASE = 28
"""Characters of a text that stays in one line."""


def latex(table: Table) -> str:
    """A whole `table` float, or a `longtable` where it has more rows than a page. They need \\usepackage{booktabs} and
    \\usepackage{longtable}."""
    table = table.for_readers()
    columns = len(table.columns)
    long = [any(isinstance(row[i], str) and len(str(row[i])) > PHRASE for row in table.rows) for i in range(columns)]
    width = max(0.9 - 0.18 * (columns - sum(long)), 0.2) / max(sum(long), 1)
    kinds = [
        f"p{{{width:.2f}\\textwidth}}" if is_long else "l" if column.kind == "text" else "r"
        for is_long, column in zip(long, table.columns, strict=True)
    ]
    layout = "".join(kinds)
    heads = f"{' & '.join(escaped(column.title) for column in table.columns)} \\\\"
    rows = "\n".join(f"{' & '.join(map(_cell, row, table.columns))} \\\\" for row in table.rows)
    label = re.sub(r"[^A-Za-z0-9-]", "-", table.name)
    caption = f"\\caption{{{escaped(table.title)}}}\\label{{tab:{label}}}"
    body = _float if not table.long else _longtable
    return body(caption, f"{{@{{}}{layout}@{{}}}}", heads, rows, _size(columns))


def _size(columns: int) -> str:
    """What makes that many columns fit a page of 16 cm."""
    if columns <= 7:
        return ""
    return f"\\{'scriptsize' if columns <= 11 else 'tiny'}\\setlength{{\\tabcolsep}}{{2pt}}\n"


def _float(caption: str, layout: str, heads: str, rows: str, size: str) -> str:
    return (
        "% needs \\usepackage{booktabs}\n"
        f"\\begin{{table}}\n\\centering\n{size}{caption}\n"
        f"\\begin{{tabular}}{layout}\n\\toprule\n{heads}\n\\midrule\n{rows}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def _longtable(caption: str, layout: str, heads: str, rows: str, size: str) -> str:
    return (
        "% needs \\usepackage{booktabs} and \\usepackage{longtable}\n"
        f"\\begingroup\n{size}\\begin{{longtable}}{layout}\n{caption} \\\\\n"
        f"\\toprule\n{heads}\n\\midrule\n\\endfirsthead\n"
        f"\\toprule\n{heads}\n\\midrule\n\\endhead\n"
        f"\\bottomrule\n\\endfoot\n{rows}\n\\end{{longtable}}\n\\endgroup\n"
    )


def escaped(text: str) -> str:
    """Text as LaTeX prints it; what LaTeX may not know is a question mark."""
    line = " ".join(text.split())
    return "".join(_SPECIAL.get(c, c if c.isprintable() and ord(c) < 0x250 else "?") for c in line)


def _cell(cell: Cell, column: Column) -> str:
    if cell is None:
        return "--"
    if isinstance(cell, str | bool):
        return escaped(str(cell))
    return escaped(shown(cell, "short" if column.kind == "text" else column.kind))
