"""Whose holder is gone: judged by the watcher's own monotonic clock, never by a time that somebody wrote down."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from search.storage.leases import Seen
from search.storage.schema import HELD


@dataclass
class Watch:
    """Whose beat stood still, on the watcher's own monotonic clock; an interruption of contact begins anew."""

    ttl: float
    _since: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    _contact: float | None = None

    def stale(self, rows: Sequence[Seen], now: float) -> list[Seen]:
        """The held leases whose beat stood still for a whole time-to-live; `now` in monotonic seconds."""
        if self._contact is not None and now - self._contact > self.ttl / 2:
            self._since.clear()
        self._contact = now
        seen: dict[int, tuple[int, int, float]] = {}
        for row in rows:
            if row.state == HELD:
                before = self._since.get(row.trial_id)
                same = before is not None and before[:2] == (row.token, row.beat)
                seen[row.trial_id] = before if same and before is not None else (row.token, row.beat, now)
        self._since = seen
        return [row for row in rows if row.trial_id in seen and now - seen[row.trial_id][2] >= self.ttl]

    def interrupt(self) -> None:
        """Contact with the database was lost: what was seen before proves nothing."""
        self._since.clear()
