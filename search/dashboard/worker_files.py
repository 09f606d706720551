"""What workers write of themselves by `--log prometheus`, put together for `python -m search metrics --workers`.

Workers of many machines share the folder; so one process can answer for all, and none of them opens a port.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loguru import logger

from trainer.errors import one_line
from trainer.loggers.prometheus import FAMILIES, PREFIX

STALE_SECONDS = 120.0
"""A file that nobody wrote for so long is left out: its worker writes every few seconds while it lives."""


class WorkerFiles:
    """The families of all workers that live, as the client library's registry wants them."""

    def __init__(self, folder: Path) -> None:
        """folder: what the workers have as `--log-dir`; it may come later than this process."""
        self._folder = folder / "prometheus"
        self._refused: set[Path] = set()
        """Files that were named in the log."""

    def collect(self) -> Iterator[Any]:
        """Each family once, with the samples of every file."""
        merged: dict[str, Any] = {}
        for path in sorted(self._folder.glob(f"{PREFIX}*.prom")):
            for family in self._families(path):
                if family.name in merged:
                    merged[family.name].samples += family.samples
                elif family.name in FAMILIES:
                    merged[family.name] = family
        yield from merged.values()

    def _families(self, path: Path) -> list[Any]:
        from prometheus_client.parser import text_string_to_metric_families

        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                return []
            return list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
        except FileNotFoundError:  # its worker has just ended
            return []
        except (OSError, ValueError) as error:
            if path not in self._refused:
                self._refused.add(path)
                logger.warning("{}: left out: {}", path, one_line(f"{type(error).__name__}: {error}"))
            return []
