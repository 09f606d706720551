"""What `search validate` says of a series: a line a member, and the sum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.commands.preflight import Preflight
from search.planning.time_forecast import duration_range
from search.planning.training_work import TrainingWork, describe_work, total_work
from search.series.members import SeriesSpec, distinct_teachers
from search.spec.load import StudySpec
from trainer.errors import counted

Seconds = tuple[float, float]
"""For the smallest and for the largest students."""


@dataclass(frozen=True)
class MemberCheck:
    """What is known of one member."""

    spec: StudySpec
    facts: Preflight | None
    """None where it cannot be built."""
    problems: Sequence[str]
    """What stands in its way, one line each."""


@dataclass(frozen=True)
class SeriesCheck:
    """What is known of a series before its first trial."""

    series: SeriesSpec
    members: Sequence[MemberCheck]

    @property
    def problems(self) -> list[str]:
        """All members' problems, each once."""
        return list(dict.fromkeys(problem for member in self.members for problem in member.problems))

    def total(self, kind: str) -> Seconds | None:
        """The sum of all members' forecasts, "search" or "confirm"; None where one has none."""
        pairs = [_seconds(member, kind) for member in self.members]
        known = [pair for pair in pairs if pair is not None]
        return None if len(known) < len(pairs) else (sum(low for low, _ in known), sum(high for _, high in known))

    @property
    def work(self) -> TrainingWork | None:
        """The sum of all members' operations, each distinct teacher taught once; None where one is not counted."""
        counted_work = {member.spec.name: member.facts.work for member in self.members if member.facts is not None}
        every = [work for work in counted_work.values() if work is not None]
        if len(every) < len(self.members):
            return None
        taught = (counted_work[spec.name] for spec in distinct_teachers([member.spec for member in self.members]))
        return total_work(every, teaching=sum(work.teaching for work in taught if work is not None))

    def as_json(self) -> dict[str, Any]:
        """The document of `validate --json`."""
        table = self.series.series.table
        return {
            "series": self.series.name,
            "file": str(self.series.series.file),
            "axes": {axis: list(choices) for axis, choices in self.series.series.axes.items()},
            "limits": {"gpu_hours": table.gpu_hours, "wall": table.wall},
            "trials": self.trials,
            "search_seconds": self.total("search"),
            "confirm_seconds": self.total("confirm"),
            "work": None if self.work is None else self.work.as_json(),
            "problems": self.problems,
            "members": [_member_json(member) for member in self.members],
        }

    @property
    def trials(self) -> int:
        """Of all members and arms."""
        return sum(arm.trials for member in self.members for arm in member.spec.arms)


def series_lines(check: SeriesCheck) -> list[str]:
    """The same as lines for people."""
    series, specs = check.series.series, check.series.members
    rows = [_cells(member) for member in check.members]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    text = [f"series    {series.name}  {len(specs)} members"]
    for axis, choices in series.axes.items():
        text.append(f"          {axis}: {', '.join(choices)}")
    text += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    teachers = len(distinct_teachers(specs))
    text.append(
        f"teachers  {teachers} to teach: python -m trainer teach {series.file}" if teachers else "teachers  none"
    )
    text.append(f"sum       {_sum(check)}")
    if check.work is not None:
        text += [f"{word:<9} {line}" for word, line in zip(("work", ""), describe_work(check.work), strict=True)]
    text += [f"limits    {bound}" for bound in _limits(check)]
    text += [f"note      {line}" for line in _dropped(specs)]
    if check.problems:
        return [*text, *(f"error     {problem}" for problem in check.problems)]
    return [
        *text,
        "ok        nothing was written but decoded pictures" if _opened(check) else "ok        nothing written",
    ]


def _dropped(specs: Sequence[StudySpec]) -> list[str]:
    """What members do without of what all share, a line each, with the members."""
    members: dict[str, list[str]] = {}
    for spec in specs:
        for entry in spec.dropped:
            members.setdefault(entry, []).append(spec.name)
    return [f"{', '.join(names)}: without {entry}" for entry, names in members.items()]


def _opened(check: SeriesCheck) -> bool:
    return any(member.facts is not None and member.facts.data is not None for member in check.members)


def _cells(member: MemberCheck) -> tuple[str, ...]:
    spec, facts = member.spec, member.facts
    label = "" if spec.series is None else spec.series.label
    sizes = [size.params_m for arm in facts.arms for size in arm.sizes] if facts is not None else []
    span = (
        ""
        if not sizes
        else f"{min(sizes):.3g} M"
        if min(sizes) == max(sizes)
        else f"{min(sizes):.3g} to {max(sizes):.3g} M"
    )
    pair = _seconds(member, "search")
    return (
        spec.name,
        label,
        "" if facts is None else f"spec {facts.identity[:8]}",
        counted(sum(arm.trials for arm in spec.arms), "trial"),
        span,
        "" if pair is None else f"about {duration_range(pair)}",
        "error" if member.problems else "ok",
    )


def _seconds(member: MemberCheck, kind: str) -> Seconds | None:
    time = None if member.facts is None else member.facts.time
    return None if time is None else time.search_seconds if kind == "search" else time.confirm_seconds


def _sum(check: SeriesCheck) -> str:
    parts = [counted(check.trials, "trial")]
    searched, confirmed = check.total("search"), check.total("confirm")
    parts += [] if searched is None else [f"about {duration_range(searched)} if none is pruned"]
    parts += [] if confirmed is None else [f"confirmations {duration_range(confirmed)}"]
    timed = searched is not None
    return ", ".join(parts) + ("; one worker, measured here" if timed else "; no steps were timed")


def _limits(check: SeriesCheck) -> list[str]:
    table = check.series.series.table
    parts = [] if table.gpu_hours is None else [f"{table.gpu_hours:g} GPU-hours"]
    parts += [] if table.wall is None else [f"{table.wall} from the first trial of any member"]
    return [f"of all members together: {', '.join(parts)}"] if parts else []


def _member_json(member: MemberCheck) -> dict[str, Any]:
    place = member.spec.series
    return {
        "name": member.spec.name,
        "label": "" if place is None else place.label,
        "choices": {} if place is None else place.choices,
        "problems": list(member.problems),
        "study": None if member.facts is None else member.facts.as_json(),
    }
