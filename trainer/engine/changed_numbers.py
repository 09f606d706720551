"""Changes of the program that gave some runs other numbers on purpose, and which runs of earlier versions they touch.

An export says by `numbers` which revision trained each run; exports from before that was written are revision 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.config import RunConfig


@dataclass(frozen=True)
class Change:
    """One change of what a run computes."""

    revision: int
    """The first revision that has it."""
    touches: Callable[[RunConfig], bool]
    """Whether a run trains to other numbers since then."""
    what: str
    """The setting and what became of it, for a sentence."""


def _relates_two_classes(run: RunConfig) -> bool:
    # All data has two classes so far.
    return "dist" in run.methods() and run.losses.dist is not None and run.losses.dist.beta > 0


def _remembers(run: RunConfig) -> bool:
    return not {"cirkd-memory", "cirkd-region"}.isdisjoint(run.methods())


CHANGES: tuple[Change, ...] = (
    Change(2, _relates_two_classes, "losses.dist.beta has no gradient with two classes any more"),
    Change(3, _remembers, "losses.cirkd-memory and losses.cirkd-region round otherwise"),
)
REVISION = max(change.revision for change in CHANGES)
"""What a run is trained with here."""


def touched(run: RunConfig, revision: int | None) -> str | None:
    """What has changed since a run was trained with this revision (None: the first), in words; None where nothing did
    that it uses."""
    since = [change.what for change in CHANGES if change.revision > (revision or 1) and change.touches(run)]
    return "; ".join(since) or None
