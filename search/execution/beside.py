"""The time of a group between its epochs: copies and weights, the wait for the database, and what nobody trains in."""

import time


class Beside:
    """Counts from the end of one epoch's checkpoints to the beginning of the next epoch, where somebody trains then."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._database = self._idle = 0.0

    def anew(self) -> None:
        """What went before belongs to no trial, or was told: count from here."""
        self._since = time.monotonic()
        self._database = self._idle = 0.0

    def waited(self, seconds: float) -> None:
        """So much of it was spent on the database."""
        self._database += seconds

    def training(self) -> None:
        """An epoch begins: plans were shared and new members built, which was idle time for those who train."""
        self._idle = max(time.monotonic() - self._since - self._database, 0.0)

    def shares(self, checkpoint: float, members: int) -> dict[str, float]:
        """Each member's seconds by part; checkpoint: for copies, for writers that were not done, and for weights."""
        spent = {"checkpoint": checkpoint, "database": self._database, "idle": self._idle}
        return {part: seconds / max(members, 1) for part, seconds in spent.items()}
