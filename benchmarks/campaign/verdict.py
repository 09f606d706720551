"""What came of the faults, read from the database and the checkpoints' folders, never from the workers' own words."""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from search.storage.schema import FINISHED, FREE, HELD, PAUSED, arms, attempts, leases

OPEN = (HELD, FREE)


@dataclass
class Touched:
    """A trial that was in a victim's hands when a fault hit."""

    token: int
    owner: str | None
    epoch: int
    """The newest epoch whose checkpoint lay on disk."""


@dataclass
class Wound:
    """One fault, from its first harm to the moment when every trial it touched had moved on."""

    kind: str
    began: float
    touched: dict[int, Touched]
    over: float | None = None
    """Monotonic seconds when the harm was over."""
    healed: float | None = None
    proof: str = ""

    def narrow(self, owners: AbstractSet[str]) -> None:
        """Only the trials of these owners were touched."""
        self.touched = {trial: was for trial, was in self.touched.items() if was.owner in owners}

    @property
    def recovery(self) -> float | None:
        """Seconds from the end of the harm to the last trial's next epoch."""
        return None if self.healed is None or self.over is None else max(0.0, self.healed - self.over)


@dataclass
class Count:
    """What one search came to."""

    finished: int = 0
    owed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """Trials missing from a budget, or without a lease."""
    twice: list[str] = field(default_factory=list)
    """Trials above a budget, finished twice, or with two values of one epoch."""
    stuck: list[str] = field(default_factory=list)


class Inspector:
    """Looks at one search through an engine of its own, straight at the server."""

    def __init__(self, engine: sa.Engine, search_id: int, runs: Path) -> None:
        self.engine = engine
        self.search_id = search_id
        self.runs = runs
        self._tables = sa.MetaData()
        self._tables.reflect(engine, only=["trials", "trial_intermediate_values"])

    def open_leases(self) -> list[Any]:
        """Leases that are not finished."""
        query = (
            sa.select(leases, arms.c.name.label("arm"))
            .join(arms, arms.c.study_id == leases.c.study_id)
            .where(arms.c.search_id == self.search_id, leases.c.state.in_(OPEN))
        )
        with self.engine.connect() as connection:
            return list(connection.execute(query))

    def wound(self, kind: str) -> Wound:
        """Note what a fault may touch: the trials in anybody's hands."""
        rows = self.open_leases()
        touched = {
            row.trial_id: Touched(row.token, row.owner, max(row.epoch, self._on_disk(row.arm, row.number)))
            for row in rows
        }
        return Wound(kind, time.monotonic(), touched)

    def _on_disk(self, arm: str, number: int) -> int:
        names = [path.stem for path in self.runs.glob(f"*/{arm}/{number}/*/epoch-*.pt")]
        return max((int(name.removeprefix("epoch-")) for name in names), default=0)

    def healed(self, wound: Wound) -> bool:
        """Whether every touched trial was finished, paused, or trained beyond where it stood."""
        if not wound.touched:
            return True
        query = sa.select(leases.c.trial_id, leases.c.state, leases.c.epoch).where(
            leases.c.trial_id.in_(list(wound.touched))
        )
        with self.engine.connect() as connection:
            rows = connection.execute(query).all()
        return all(row.state in (FINISHED, PAUSED) or row.epoch > wound.touched[row.trial_id].epoch for row in rows)

    def epochs_lost(self, wounds: Sequence[Wound]) -> dict[str, list[int]]:
        """By kind of fault: for each touched trial that changed hands, the epochs that were trained again."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(attempts.c.trial_id, attempts.c.token, attempts.c.first_epoch)).all()
        first = {(row.trial_id, row.token): row.first_epoch for row in rows}
        found: dict[str, list[int]] = defaultdict(list)
        for wound in wounds:
            for trial_id, was in wound.touched.items():
                begins = first.get((trial_id, was.token + 1))
                if begins is not None:
                    found[wound.kind].append(max(0, was.epoch - (begins - 1)))
        return found

    def count(self) -> Count:
        """The books of the search, once it has ended."""
        result = Count()
        trials, values = self._tables.tables["trials"], self._tables.tables["trial_intermediate_values"]
        with self.engine.connect() as connection:
            for arm in connection.execute(sa.select(arms).where(arms.c.search_id == self.search_id)):
                rows = connection.execute(
                    sa.select(trials.c.trial_id, trials.c.number, trials.c.state).where(
                        trials.c.study_id == arm.study_id
                    )
                ).all()
                held = {r.trial_id: r for r in connection.execute(sa.select(leases).filter_by(study_id=arm.study_id))}
                ends = connection.execute(
                    sa.select(attempts.c.trial_id, attempts.c.why).where(attempts.c.trial_id.in_(list(held)))
                ).all()
                steps = connection.execute(
                    sa.select(values.c.trial_id, values.c.step).where(values.c.trial_id.in_(list(held)))
                ).all()
                _count_arm(result, arm, rows, held, ends, steps)
        return result


def _count_arm(
    result: Count, arm: Any, rows: Sequence[Any], held: dict[int, Any], ends: Sequence[Any], steps: Sequence[Any]
) -> None:
    states = Counter(str(getattr(row.state, "name", row.state)) for row in rows)
    done = states["COMPLETE"] + states["PRUNED"]
    result.finished += done
    result.owed += arm.trials
    if done < arm.trials:
        result.lost.append(f"{arm.name}: {done} of {arm.trials} finished")
    if done > arm.trials:
        result.twice.append(f"{arm.name}: {done} of {arm.trials} finished")
    numbers = sorted(row.number for row in rows)
    if numbers != list(range(len(numbers))):
        result.twice.append(f"{arm.name}: trial numbers are not 0..{len(numbers) - 1}, each once")
    finishes = Counter(end.trial_id for end in ends if end.why in ("finished", "pruned"))
    curves: dict[int, list[int]] = defaultdict(list)
    for step in steps:
        curves[step.trial_id].append(step.step)
    for row in rows:
        lease, label = held.get(row.trial_id), f"{arm.name} #{row.number}"
        state = str(getattr(row.state, "name", row.state))
        if state in ("RUNNING", "WAITING"):
            result.stuck.append(f"{label} is {state}")
        if lease is None:
            result.lost.append(f"{label} has no lease")
            continue
        if lease.failure is not None:
            result.failed[lease.failure] += 1
        if finishes[row.trial_id] > 1:
            result.twice.append(f"{label} finished {finishes[row.trial_id]} times")
        result.lost += _gaps(label, curves[row.trial_id])


def _gaps(label: str, steps: Sequence[int]) -> list[str]:
    """The study validates every epoch, so a curve counts 1, 2, 3, ..."""
    curve = sorted(steps)
    return [] if curve == list(range(1, len(curve) + 1)) else [f"{label} has gaps in its curve: {curve}"]


def table(wounds: Sequence[Wound], epochs: dict[str, list[int]]) -> list[str]:
    """Markdown: a line a kind of fault."""
    lines = [
        "| fault | injected | trials in its hands | changed hands | epochs of work lost a trial: mean, worst "
        "| seconds to recovery: median, worst |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in sorted({wound.kind for wound in wounds}):
        mine = [wound for wound in wounds if wound.kind == kind]
        touched = sum(len(wound.touched) for wound in mine)
        moved = epochs.get(kind, [])
        times = [wound.recovery for wound in mine if wound.recovery is not None and wound.touched]
        lost = f"{statistics.mean(moved):.2f}, {max(moved)}" if moved else "0, 0"
        spent = f"{statistics.median(times):.1f}, {max(times):.1f}" if times else "-"
        lines.append(f"| {kind} | {len(mine)} | {touched} | {len(moved)} | {lost} | {spent} |")
    return lines
