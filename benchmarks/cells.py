"""A file of results, one JSON object a line: what is there is not measured again, and what ends early loses nothing."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Cells:
    """The lines of one file. keys: the fields that say which cell of a table a line is."""

    def __init__(self, path: Path, keys: tuple[str, ...]) -> None:
        self.path, self.keys = path, keys
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        self._lines = {self._key(line): line for line in lines}

    def _key(self, line: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(line[name] for name in self.keys)

    def __contains__(self, cell: Mapping[str, Any]) -> bool:
        return self._key(cell) in self._lines

    def add(self, **line: Any) -> None:
        """Write a line, over that of the same cell."""
        line["date"] = datetime.now(UTC).date().isoformat()
        self._lines[self._key(line)] = line
        text = "".join(f"{json.dumps(each)}\n" for each in self._lines.values())
        partial = self.path.with_name(f"{self.path.name}.partial")
        partial.write_text(text)
        partial.replace(self.path)
        print(json.dumps(line), file=sys.stderr, flush=True)

    def lines(self, **where: Any) -> list[dict[str, Any]]:
        """The lines with these values, in the order in which they were first measured."""
        return [line for line in self._lines.values() if all(line[name] == value for name, value in where.items())]
