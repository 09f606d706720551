"""The page: a pure function of the report's document. What users wrote is escaped, and no script is in it."""

import base64
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from search.report import confirmed_figures, search_figures, series_figures
from search.report.content.document import Report, Study
from search.report.content.number_format import shown
from search.report.series_tables import across, series_tables
from search.report.svg import Drawn
from search.report.table_formats import Cell, Table
from search.report.tables import tables

HERE = Path(__file__).resolve().parent
ABSENT = "\N{EN DASH}"
"""For a value that is not known."""


@dataclass(frozen=True)
class Shown:
    """One study with what is made from it for the page."""

    study: Study
    anchor: str
    tables: dict[str, Table]
    figures: dict[str, Drawn]

    @property
    def contents(self) -> list[tuple[str, str]]:
        """(anchor, words) of the parts."""
        confirmed = [("confirmed", "Confirmed"), ("where", "Where it holds")]
        pictures = [("pictures", "Pictures")]
        return [
            ("answer", "Answer"),
            *(confirmed if self.study.confirmed is not None else []),
            ("size", "Score against size"),
            ("arms", "Arms" if len(self.study.search.arms) > 1 else "Trials"),
            ("search", "The search"),
            ("cost", "Cost"),
            *(pictures if self.study.pictures else []),
            ("limits", "Limits"),
            *([("published", "Published by others")] if self.study.published is not None else []),
            ("again", "Data and commands"),
        ]


def page(report: Report) -> str:
    """The page as HTML, without outside files."""
    studies = [
        Shown(
            study,
            f"s{place}",
            {table.name: table.for_readers() for table in tables(study)},
            {figure.name: figure for figure in drawn(study)},
        )
        for place, study in enumerate(report.studies, 1)
    ]
    template = _environment().get_template("page.html.j2")
    style = Markup((HERE / "page.css").read_text(encoding="utf-8"))  # noqa: S704 - a file of the program's own
    beside = {
        "across": [table.for_readers() for table in across(report)],
        "together": search_figures.draw_figures_across(report),
        "series": [(part, [table.for_readers() for table in series_tables(part)]) for part in report.series],
        "sizes": series_figures.draw_series_figures(report),
    }
    return template.render(report=report, studies=studies, style=style, **beside)


def drawn(study: Study) -> list[Drawn]:
    """All figures of a study."""
    figures = [] if study.confirmed is None else confirmed_figures.draw_confirmed_figures(study.search, study.confirmed)
    figures += search_figures.draw_search_figures(study.search)
    return figures


@lru_cache(1)
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(number=number, cell=cell, inline=inline)
    return made


def number(value: float | None, kind: str = "short") -> Markup:
    """A number with its full value beside the digits that are shown."""
    if value is None:
        return Markup(ABSENT)  # noqa: S704 - a dash
    return Markup('<data value="{}">{}</data>').format(repr(value), shown(value, kind))


def cell(value: Cell, kind: str) -> str | Markup:
    """What stands in a cell of a column of that kind."""
    if value is None or value == "":
        return ABSENT
    if isinstance(value, str | bool):
        return str(value).lower() if isinstance(value, bool) else value
    return number(value, "short" if kind == "text" else kind)


def inline(figure: Drawn) -> str:
    """A figure as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}"
