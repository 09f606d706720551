"""The version of the sources that trained a trial: workers of one study may run different ones."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from search.storage.leases import LeaseDetails
from trainer.repository import REPOSITORY

CODE = "code"
"""In a trial's environment: the versions that trained it, joined by `BETWEEN`."""
BETWEEN = "+"
ROOMS = ("trainer", "models", "losses")
"""The packages whose code decides the numbers of a trial."""


@functools.cache
def code_of(root: Path | None = None) -> str:
    """Twelve hex digits of a sha256 over names and contents of the sources; root: this program's own where none."""
    root = root or REPOSITORY
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:12]


def both(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """The versions of a trial that went on elsewhere, for its environment; nothing where neither is known."""
    known = [code for each in (before, after) for code in str(each.get(CODE, "")).split(BETWEEN) if code]
    return {CODE: BETWEEN.join(dict.fromkeys(known))} if known else {}


def versions(leases: Sequence[LeaseDetails]) -> dict[str, int]:
    """Trials by version; a trial that several versions trained counts for each of them."""
    texts = [str(json.loads(lease.environment or "{}").get(CODE, "")) for lease in leases]
    return dict(Counter(code for text in texts for code in text.split(BETWEEN) if code))


def warn_of_others(name: str, leases: Sequence[LeaseDetails]) -> None:
    """Say in one line that trials of this study were trained by other sources than those of this worker."""
    others = {code: count for code, count in versions(leases).items() if code != code_of()}
    if others:
        counts = ", ".join(f"{count} trials by {code}" for code, count in sorted(others.items()))
        logger.warning(
            "{}: this worker's trainer, models and losses are of version {}, but {}: their numbers may not compare; "
            "bring all workers to one version",
            name,
            code_of(),
            counts,
        )


def line(counts: Mapping[str, int]) -> str | None:
    """The line of `status` on several versions; None while there is one."""
    if len(counts) < 2:
        return None
    listed = ", ".join(f"{code}: {count} trials" for code, count in sorted(counts.items()))
    return f"workers run {len(counts)} different versions of trainer, models and losses ({listed})"
