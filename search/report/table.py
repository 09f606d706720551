"""A table as page, CSV and LaTeX show it."""

from dataclasses import dataclass

Cell = bool | int | float | str | None


@dataclass(frozen=True)
class Column:
    """One column. kind: of `numbers.KINDS`, or "text"; numbers in a text column stand as they are."""

    title: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """Values with their columns; the first column heads its row."""

    name: str
    """Of its files: letters, digits and -."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
