"""The trials of one arm by state."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """The trials of one arm by state."""

    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int

    @property
    def admitted(self) -> int:
        """What counts against the budget: every trial that did not fail."""
        return self.complete + self.pruned + self.running + self.waiting

    @property
    def begun(self) -> int:
        """Those of them that do not wait."""
        return self.admitted - self.waiting
