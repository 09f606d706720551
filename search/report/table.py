"""A table as page, CSV and LaTeX show it."""

from dataclasses import dataclass, replace

Cell = bool | int | float | str | None
LONG, WIDE = 30, 9
"""Rows and columns that a page shows as they are at most."""


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

    def told(self) -> "Table":
        """Without the columns in which nothing stands, for readers; a script's columns do not come and go."""
        kept = [
            place
            for place in range(len(self.columns))
            if place == 0 or any(row[place] is not None and row[place] != "" for row in self.rows)
        ]
        columns = tuple(self.columns[place] for place in kept)
        return replace(self, columns=columns, rows=tuple(tuple(row[place] for place in kept) for row in self.rows))

    @property
    def long(self) -> bool:
        """Whether it is folded on the page."""
        return len(self.rows) > LONG

    @property
    def wide(self) -> bool:
        """Whether paper needs a smaller print of it."""
        return len(self.columns) > WIDE
