"""Where the members of a series stand, from the database alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search.answer.summary import ConfirmedResult, confirmation
from search.spec.load import SeriesPlace
from search.storage.database import Database
from search.storage.searches import SearchRow, series_place
from search.study.progress import SearchProgress, progress_of
from search.study.settings import series_wish
from search.study.snapshot import SearchSnapshot, read


@dataclass(frozen=True)
class MemberState:
    """One member of a series."""

    name: str
    label: str | None
    """What makes it this member; None where it was never begun: the database does not know it."""
    state: str
    """not begun, working, waiting (no worker holds a trial), stopping, closed, or ended."""
    finished: int = 0
    of: int = 0
    running: int = 0
    failed: int = 0
    gpu_hours: float = 0.0
    metric: str = ""
    best: float | None = None
    """Of the main search, unconfirmed."""
    confirmed: float | None = None
    """The test score of its confirmed network."""
    low: float | None = None
    high: float | None = None
    distillation: str | None = None
    """The verdict of its confirmation."""
    ended: bool = False


@dataclass(frozen=True)
class SeriesState:
    """All members of a series."""

    series: str
    storage: str
    members: Sequence[MemberState]
    gpu_hours: float
    gpu_hours_of: float | None
    """What all members together may use."""
    closed: str | None
    """Why nothing begins in any member."""

    @property
    def ended(self) -> bool:
        """Whether no member has anything left."""
        return all(member.ended for member in self.members) or self.closed is not None

    def as_json(self) -> dict[str, Any]:
        """The document of `status --json`."""
        return {**asdict(self), "ended": self.ended}


def place_of(row: SearchRow) -> SeriesPlace:
    """The place of a member in its series."""
    return SeriesPlace.model_validate(series_place(row.settings))


def begun_members(opened: Database, study: str, name: str | None = None) -> list[SearchRow]:
    """The members of a series that were begun, by the series' name or file; none where a search has that name, where a
    command was given another one, or where the database has no such series."""
    series = Path(study).stem if study.endswith(".toml") else study
    if name is not None or opened.searches.search(series) is not None:
        return []
    return opened.searches.members(series)


def series_state(opened: Database, study: str) -> SeriesState | None:
    """Where all members stand; None where the database has no series of that name."""
    rows = begun_members(opened, study)
    if not rows:
        return None
    series = place_of(rows[0]).name
    known = {place_of(row).number: _member(opened, row) for row in rows}
    latest = max((place_of(row) for row in rows), key=lambda place: place.of)
    of = max(latest.of, *known)
    members = [known.get(number, MemberState(f"{series}.{number}", None, "not begun")) for number in range(1, of + 1)]
    closed = opened.searches.series_closed(latest.model_dump(mode="json"))
    wish = next(filter(None, (series_wish(row.settings) for row in rows)), None)
    asked = {"close": "the series is closed for good", "stop": "the series was asked to stop"}.get(wish or "")
    return SeriesState(
        series=series,
        storage=opened.label,
        members=members,
        gpu_hours=sum(member.gpu_hours for member in members),
        gpu_hours_of=latest.gpu_hours,
        closed=asked if closed is None else closed.text,
    )


def _member(opened: Database, row: SearchRow) -> MemberState:
    rows = read(opened, row.name)
    progress = progress_of(rows, opened.searches.closed)
    arms = progress.arms.values()
    held = sum(progress.holding.values())
    best = next(iter(arms)).best
    result = _confirmed(opened, rows)
    network = None if result is None or result.network is None else result.networks.get(result.network)
    return MemberState(
        name=row.name,
        label=place_of(row).label,
        state=_state(row, progress, held),
        finished=sum(arm.finished for arm in arms),
        of=sum(arm.of for arm in arms),
        running=held,
        failed=sum(arm.failures for arm in arms),
        gpu_hours=progress.gpu_hours,
        metric=progress.metric,
        best=None if best is None else best.score,
        confirmed=None if network is None else network.score,
        low=None if network is None else network.low,
        high=None if network is None else network.high,
        distillation=None if result is None else result.distillation,
        ended=progress.ended,
    )


def _confirmed(opened: Database, rows: SearchSnapshot) -> ConfirmedResult | None:
    begun = confirmation(opened, rows)
    return None if begun is None else begun.result


def _state(row: SearchRow, progress: SearchProgress, held: int) -> str:
    if progress.ended:
        return "closed" if row.closed else "ended"
    return "working" if held else "stopping" if progress.closed is not None else "waiting"


def state_lines(state: SeriesState) -> list[str]:
    """A line a member, below what the series is."""
    head = f"{state.series}  series of {len(state.members)}  [{state.storage}]"
    text = [head + (f"  no new trials: {state.closed}" if state.closed else "")]
    heads = ("study", "what", "state", "finished", "failed", "hours", "best, unconfirmed", "confirmed on test")
    cells: list[tuple[str, ...]] = [heads, *(_cells(member) for member in state.members)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    right = (3, 4, 5)
    text += [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    of = "" if state.gpu_hours_of is None else f" of {state.gpu_hours_of:g}"
    return [*text, f"device hours {state.gpu_hours:.3f}{of}", *_next(state)]


def _cells(member: MemberState) -> tuple[str, ...]:
    if member.label is None:
        return (member.name, "", member.state, "", "", "", "", "")
    interval = "" if member.low is None else f" [{member.low:.4f}, {member.high:.4f}]"
    tested = "" if member.confirmed is None else f"{member.metric} {member.confirmed:.4f}{interval}"
    return (
        member.name,
        member.label if len(member.label) <= 48 else f"{member.label[:47]}~",
        member.state,
        f"{member.finished}/{member.of}",
        str(member.failed),
        f"{member.gpu_hours:.2f}",
        "" if member.best is None else f"{member.metric} {member.best:.4f}",
        tested,
    )


def _next(state: SeriesState) -> list[str]:
    if not state.ended:
        return []
    known = [member for member in state.members if member.best is not None]
    if all(member.confirmed is not None for member in known):
        return [f"next: python -m search report {state.series}"]
    return [f"unconfirmed; next: python -m search confirm {state.series}"]
