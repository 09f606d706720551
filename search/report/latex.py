"""A table as LaTeX: `booktabs` rules, nothing in it that LaTeX would run."""

import re

from search.report.numbers import MINUS, shown
from search.report.table import Cell, Column, Table

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


def latex(table: Table) -> str:
    """A whole `table` float; it needs \\usepackage{booktabs}."""
    layout = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    heads = " & ".join(escaped(column.title) for column in table.columns)
    rows = "\n".join(f"{' & '.join(map(_cell, row, table.columns))} \\\\" for row in table.rows)
    label = re.sub(r"[^A-Za-z0-9-]", "-", table.name)
    return (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{escaped(table.title)}}}\\label{{tab:{label}}}\n"
        f"\\begin{{tabular}}{{{layout}}}\n\\toprule\n{heads} \\\\\n\\midrule\n{rows}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
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
