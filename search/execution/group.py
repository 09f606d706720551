"""The ranks of one group, as the search sees them."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from search.execution.messages import StartTrial
from search.exit_codes import EndReason
from trainer.distributed.watchdog import Watchdog

T = TypeVar("T")


@dataclass(frozen=True)
class GroupEnd:
    """Why a group of ranks ends. Compare by reason; the text is for people."""

    reason: EndReason
    text: str


ASKED_TO_STOP = GroupEnd(EndReason.ASKED_TO_STOP, "asked to stop")


@dataclass(frozen=True)
class Plan:
    """What every rank does before the next epoch and in it."""

    dismiss: tuple[int, ...]
    begin: tuple[StartTrial, ...]
    members: int
    """The number of trials that train in the next epoch."""
    end: GroupEnd | None
    """Why the group ends now; None while it goes on."""


class Group(Protocol):
    """The ranks of one group: `trainer.distributed.ranks.Ranks`, and `SingleProcess` in the simulation."""

    @property
    def leads(self) -> bool:
        """Whether this rank is the leader, which does what is done once."""

    @property
    def stop_asked(self) -> bool:
        """Whether this rank was asked to stop."""

    def broadcast(self, value: T) -> T:
        """The leader's value, on every rank; those of other ranks are ignored."""

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank, in the order of ranks."""

    def ask_to_stop(self) -> None:
        """Ask all ranks of the group to stop; safe in a signal handler."""

    def all_gather_world(self, value: T) -> list[T]:
        """Every value of the ranks of all groups of this torchrun; all of them call it."""

    @property
    def watchdog(self) -> Watchdog:
        """The watchdog of this rank, which ends it where it does nothing for too long."""


class SingleProcess:
    """A group of one process that needs no torch."""

    leads = True

    def __init__(self) -> None:
        self._stop = False
        self.watchdog = Watchdog()

    @property
    def stop_asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self._stop

    def broadcast(self, value: T) -> T:
        """The value itself."""
        return value

    def all_gather(self, value: T) -> list[T]:
        """The value alone."""
        return [value]

    def all_gather_world(self, value: T) -> list[T]:
        """The value alone."""
        return [value]

    def ask_to_stop(self) -> None:
        """Stop at the next epoch boundary."""
        self._stop = True
