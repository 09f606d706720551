"""Where the hours of a search went."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from search.report.content.document import Cost
from search.storage.schema import FINISHED


def cost_of(leases: Sequence[Any]) -> Cost:
    """The device hours of some trials by how they ended, and their hours by part."""
    ended: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for lease in leases:
        ended[_outcome(lease)] += lease.gpu_seconds / 3600
        parts.update({part: seconds / 3600 for part, seconds in json.loads(lease.seconds or "{}").items()})
    return Cost(
        hours=sum(ended.values()),
        by_outcome=dict(sorted(ended.items())),
        outcome_shares=_shares(ended),
        by_part=dict(sorted(parts.items())),
        part_shares=_shares(parts),
    )


def _shares(hours: Counter[str]) -> dict[str, float]:
    total = sum(hours.values())
    return {name: spent / total for name, spent in sorted(hours.items())} if total else {}


def _outcome(lease: Any) -> str:
    if lease.state != FINISHED:
        return "unfinished"
    if lease.failure is not None:
        return "failed"
    return "pruned" if lease.weights is None else "complete"
