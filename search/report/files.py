"""A report on disk: page, JSON, figures, and its tables as CSV and LaTeX, each written whole or not at all."""

import csv
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

from search.report import search_figures, series_figures
from search.report.content.document import Report, Study
from search.report.page import drawn, page
from search.report.series_tables import across, tables_of_series
from search.report.svg import Drawn
from search.report.table_formats import Table, latex
from search.report.tables import tables
from trainer.atomic_files import write_output

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula at the beginning of a text."""


class Places(NamedTuple):
    """Where a report is written."""

    page: Path
    json: Path
    tables: Path
    figures: Path


def places(output: Path) -> Places:
    """The places for what -o names: a folder, or the page itself."""
    if output.suffix.lower() in (".html", ".htm"):
        beside = [output.with_name(f"{output.stem}-{kind}") for kind in ("tables", "figures")]
        return Places(output, output.with_suffix(".json"), *beside)
    return Places(output / "report.html", output / "report.json", output / "tables", output / "figures")


def write_report(report: Report, output: Path) -> Places:
    """Write all files, the page last. Raises UserError where one cannot be written."""
    at = places(output)
    write_output(at.json, text_of(report))
    for name, table in named(report):
        write_output(at.tables / f"{name}.csv", csv_text(table))
        write_output(at.tables / f"{name}.tex", latex(table))
    for name, figure in drawings(report):
        write_output(at.figures / f"{name}.svg", figure.svg.decode())
    write_output(at.page, page(report))
    return at


def text_of(report: Report) -> str:
    """report.json: strict JSON, without NaN."""
    return json.dumps(report.model_dump(mode="json"), allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def named(report: Report) -> list[tuple[str, Table]]:
    """Every table with the name of its files; those of several studies begin with the study."""
    by_name = [(slug(table.name), table) for table in [*tables_of_series(report), *across(report)]]
    for prefix, study in _prefixed(report):
        by_name += [(f"{prefix}{slug(table.name)}", table) for table in tables(study)]
    return by_name


def drawings(report: Report) -> list[tuple[str, Drawn]]:
    """Every figure with the name of its file."""
    together = [*series_figures.draw_series_figures(report), *search_figures.draw_figures_across(report)]
    by_name = [(slug(each.name), each) for each in together]
    return by_name + [
        (f"{prefix}{slug(each.name)}", each) for prefix, study in _prefixed(report) for each in drawn(study)
    ]


def _prefixed(report: Report) -> list[tuple[str, Study]]:
    one = len(report.studies) == 1
    return [("" if one else f"{i}-{slug(study.name)}-", study) for i, study in enumerate(report.studies, 1)]


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
