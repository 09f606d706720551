"""The ranks of one group, as the search sees them."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from search.execution.messages import Begin
from trainer.distributed.watchdog import Pulse

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What every rank does before and in the next epoch."""

    dismiss: tuple[int, ...]
    begin: tuple[Begin, ...]
    members: int
    """How many train in the next epoch."""
    end: str | None
    """Why the group ends now; None while it goes on."""


class Group(Protocol):
    """The ranks of one group: `trainer.distributed.ranks.Ranks`, and `Alone` in the simulation."""

    @property
    def leads(self) -> bool:
        """Whether this rank does what is done once."""

    @property
    def stop_asked(self) -> bool:
        """Whether this rank wishes to stop."""

    def share(self, value: T) -> T:
        """The lead's value on every rank; other ranks' values are not looked at."""

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank, in the order of ranks."""

    def ask_to_stop(self) -> None:
        """Wish that all ranks of the group stop; safe in a signal handler."""

    def everyone(self, value: T) -> list[T]:
        """The same over the ranks of all groups of this torchrun; all of them call it."""

    @property
    def pulse(self) -> Pulse:
        """Ends a rank that does nothing for too long."""


class Alone:
    """A group of one process that needs no torch."""

    leads = True

    def __init__(self) -> None:
        self._stop = False
        self.pulse = Pulse()

    @property
    def stop_asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self._stop

    def share(self, value: T) -> T:
        """The value itself."""
        return value

    def gather(self, value: T) -> list[T]:
        """The value alone."""
        return [value]

    def everyone(self, value: T) -> list[T]:
        """The value alone."""
        return [value]

    def ask_to_stop(self) -> None:
        """Stop at the next epoch boundary."""
        self._stop = True
