"""The table of measured times: what `profile` writes and a study's [limits] latency_ms reads. Free of torch."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trainer.atomic_files import write_text
from trainer.errors import UserError, nearest, received
from trainer.repository import expand

_NOT_SHAPE = frozenset(
    {"name", "checkpoint", "weights", "min_dice", "mean", "std", "deep_supervision", "initialisation"}
)
"""Options of a network on which its speed does not depend."""


@dataclass(frozen=True)
class Row:
    """One measurement: a row of the table, with its columns in this order."""

    network: str
    """A name in [run.student]."""
    options: str
    """What else decides over its speed: `width=8`, `encoder=resnet18`; joined by a space."""
    size: int
    """Side of the input, pixels."""
    batch: int
    device: str
    """cpu or cuda."""
    runtime: str
    """onnxruntime or torch."""
    threads: int
    median_ms: float
    """The median time of one pass of `batch` pictures, which a limit is compared with."""
    p95_ms: float
    images_per_second: float
    peak_mb: float
    """Memory that loading and passes took beyond what the process had, at its peak, MB (10^6 bytes)."""
    passes: int
    processor: str
    flags: str
    cores: int
    versions: str
    measured: str
    """UTC date."""

    @property
    def what(self) -> tuple[str, str, int]:
        """What a limit looks up."""
        return self.network, self.options, self.size

    @property
    def place(self) -> tuple[object, ...]:
        """A later measurement replaces the one of the same place."""
        return (*self.what, self.batch, self.device, self.runtime, self.threads, self.processor)


COLUMNS = tuple(field.name for field in fields(Row))
_KINDS: dict[str, type] = {field.name: field.type for field in fields(Row)}  # type: ignore[misc]  # all are classes here


def options_of(network: BaseModel) -> str:
    """The options of a network's configuration that decide over its speed, sorted."""
    values = network.model_dump(mode="json", exclude_none=True)
    return " ".join(f"{name}={values[name]}" for name in sorted(values) if name not in _NOT_SHAPE)


def read(path: Path) -> list[Row]:
    """The rows of a table. Raises UserError with the line: unknown columns, cells that are no numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); `python -m search profile` writes such a table") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for name in reader.fieldnames or []:
        if name not in COLUMNS:
            raise UserError(f"{path}, line 1: unknown column {name!r}{nearest(name, COLUMNS)}")
    absent = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
    if absent:
        raise UserError(f"{path}, line 1: column {absent[0]}: missing; expected {','.join(COLUMNS)}")
    return [_row(path, reader.line_num, cells) for cells in reader]


def extend(path: Path, rows: Iterable[Row]) -> None:
    """Write rows into a table, over those of the same place; others stay. Raises UserError, DataError."""
    table = {row.place: row for row in (read(path) if path.exists() else [])}
    table |= {row.place: row for row in rows}
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, name) for name in COLUMNS] for row in table.values())
    write_text(path, text.getvalue())


def located(table: str) -> Path:
    """Where a table named in a study lies; $VARIABLES and ~ are filled in. Raises UserError for one that is not set."""
    return expand(table, "limits.latency.table", error=UserError)


def looked_up(rows: Sequence[Row], what: tuple[str, str, int], where: str) -> float:
    """Milliseconds of one picture. where: the table, for messages.

    Raises UserError where the table has no such network at one picture a pass, or has it twice.
    """
    network, options, size = what
    name = f"{network} {options} at size {size}"
    matching = [row for row in rows if row.what == what and row.batch == 1]
    if not matching:
        known = sorted({f"{row.network} {row.options} at size {row.size}" for row in rows if row.batch == 1})
        raise UserError(
            f"{where}: has no time of {name}{nearest(name, known)}; measure it on the target: "
            "python -m search profile STUDY -o TABLE"
        )
    if len(matching) > 1:
        apart = ("device", "runtime", "threads", "processor")
        differ = next(column for column in apart if len({getattr(row, column) for row in matching}) > 1)
        values = " and ".join(str(getattr(row, differ)) for row in matching[:2])
        raise UserError(f"{where}: has {name} with {differ} {values}; give each target a table of its own")
    return matching[0].median_ms


def _row(path: Path, line: int, cells: dict[str, str]) -> Row:
    if None in cells or None in cells.values():
        raise UserError(f"{path}, line {line}: expected {len(COLUMNS)} cells: {','.join(COLUMNS)}")
    values: dict[str, Any] = {}
    for name in COLUMNS:
        try:
            values[name] = _KINDS[name](cells[name])
        except ValueError:
            raise UserError(f"{path}, line {line}: {name} = {received(cells[name])}: expected a number") from None
    if not values["median_ms"] > 0:
        raise UserError(f"{path}, line {line}: median_ms = {cells['median_ms']}: expected a time above 0")
    return Row(**values)
