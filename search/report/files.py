"""A report on disk: page, JSON, figures, and its tables as CSV and LaTeX, each written whole or not at all."""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from search.export import write_beside
from search.report.document import Report
from search.report.latex import latex
from search.report.page import page
from search.report.table import Table
from search.report.tables import across, tables

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula at the beginning of a text."""


def places(output: Path) -> tuple[Path, Path, Path]:
    """(page, JSON, folder of tables) for what -o names: a folder, or the page itself."""
    if output.suffix.lower() in (".html", ".htm"):
        return output, output.with_suffix(".json"), output.with_name(f"{output.stem}-tables")
    return output / "report.html", output / "report.json", output / "tables"


def write(report: Report, output: Path) -> tuple[Path, Path, Path]:
    """Write all files; returns `places`. Raises UserError where one cannot be written."""
    html, json_file, folder = places(output)
    write_beside(json_file, text_of(report))
    for name, table in named(report):
        write_beside(folder / f"{name}.csv", csv_text(table))
        write_beside(folder / f"{name}.tex", latex(table))
    write_beside(html, page(report))
    return html, json_file, folder


def text_of(report: Report) -> str:
    """report.json: strict JSON, without NaN."""
    return json.dumps(report.model_dump(mode="json"), allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def named(report: Report) -> list[tuple[str, Table]]:
    """Every table with the name of its files; those of several studies begin with the study."""
    found = [(slug(table.name), table) for table in across(report)]
    for place, study in enumerate(report.studies, 1):
        prefix = "" if len(report.studies) == 1 else f"{place}-{slug(study.name)}-"
        found += [(f"{prefix}{slug(table.name)}", table) for table in tables(study)]
    return found


def slug(name: str) -> str:
    """A name as a part of a file's name: letters, digits, - and _, at most 80; never a path."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "unnamed"


def csv_text(table: Table) -> str:
    """A table as CSV: numbers in full, and no text that a spreadsheet would run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([inert(column.title) for column in table.columns])
    writer.writerows([["" if cell is None else inert(cell) for cell in row] for row in table.rows])
    return text.getvalue()


def inert(cell: object) -> object:
    """A text that begins like a formula gets an apostrophe, as spreadsheets write such texts; numbers stay."""
    if isinstance(cell, str):
        line = " ".join(cell.split())
        return f"'{line}" if line.startswith(_FORMULA) or cell.startswith(_FORMULA) else line
    return cell


def listed(files: Sequence[Path]) -> str:
    """Paths in one line."""
    return "  ".join(map(str, files))
