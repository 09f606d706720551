"""How many students train side by side: a rule over a few timed steps, and what follows from it.

A cohort of K students shares one teacher pass and one batch a step, so a step takes `data + teacher + K students`. The
rule takes the smallest K at which the shared part is at most a tenth of that: beyond it another student saves little,
and each trial takes longer to answer. Memory, the trials that may be in flight, and `MOST` bound it.
"""

import math
from dataclasses import dataclass

AUTO = "auto"
"""In place of a number of students: as many as the rule says."""
USUAL = 4
"""Students side by side where nobody says how many, or nothing could be measured."""
SHARED = 0.1
"""The part of a step that teacher and data may take."""
MOST = 16
"""A worker that dies costs its students an epoch each, or two."""
FILLED = 0.8
"""The part of the free memory that students may take; the rest is for what was not measured."""


@dataclass(frozen=True)
class StepTimings:
    """What was measured on one rank. Pairs are of the smallest and the largest student of a space."""

    data: float
    """Seconds until the next batch, when batches are taken as fast as they come."""
    teacher: float
    """Seconds of a teacher's pass over a batch; 0 where no run has a teacher, or its logits are stored."""
    student: tuple[float, float]
    """Seconds of a step."""
    validation: tuple[float, float]
    """Seconds of a validation pass."""
    member_bytes: tuple[int, int]
    """What a student keeps between steps, on the device."""
    step_bytes: int
    """What the largest student's step takes beyond that; steps follow one another, so one such room serves all."""
    free_bytes: int
    """Memory that was free on the device before."""
    checkpoint_bytes: tuple[int, int]
    steps: int
    """Batches of an epoch."""

    @property
    def shared(self) -> float:
        """Seconds of a step that do not grow with the number of students."""
        return self.data + self.teacher


@dataclass(frozen=True)
class SlotChoice:
    """A number of students, and what bound it."""

    slots: int
    because: str


def choose(timings: StepTimings, *, in_flight: int) -> SlotChoice:
    """The number of students by the rule; at least 1, whatever was measured.

    in_flight: trials that may run at once, over all arms and workers.
    """
    student = max(_middle(timings.student), 1e-9)
    wished = max(1, math.ceil(timings.shared * (1 - SHARED) / SHARED / student - 1e-9))
    room = timings.free_bytes * FILLED - timings.step_bytes
    fits = int(room // max(timings.member_bytes[1], 1))
    bounds = {
        f"teacher and data are then {share(timings, wished):.0%} of a step": wished,
        "more do not fit into memory": fits,
        "no more trials may be in flight": in_flight,
        f"never more than {MOST}": MOST,
    }
    because = min(bounds, key=bounds.__getitem__)
    return SlotChoice(max(1, bounds[because]), because)


def share(timings: StepTimings, slots: int) -> float:
    """The part of a step that teacher and data take with so many students, 0 to 1."""
    return timings.shared / max(timings.shared + slots * _middle(timings.student), 1e-9)


def epoch_seconds(timings: StepTimings, slots: int) -> tuple[float, float]:
    """Wall time of an epoch of so many students, all of the smallest and all of the largest kind, with validation."""
    small, large = (
        timings.steps * (timings.shared + slots * step) + slots * scored
        for step, scored in zip(timings.student, timings.validation, strict=True)
    )
    return small, large


def forecast(timings: StepTimings, slots: int, *, epochs: int, trials: int, ranks: int) -> list[str]:
    """What a search of so many trials costs, a line each, if none were pruned and all ran through."""
    small, large = epoch_seconds(timings, slots)
    hours = [seconds * epochs * trials / slots * ranks / 3600 for seconds in (small, large)]
    kept = [size * slots / 1e6 for size in timings.checkpoint_bytes]
    return [
        f"a step: data {timings.data * 1e3:.1f} ms, teacher {timings.teacher * 1e3:.1f} ms, student "
        f"{_range(timings.student[0] * 1e3, timings.student[1] * 1e3)} ms; validation "
        f"{_range(*timings.validation)} s a student",
        f"{slots} at a time: an epoch of {timings.steps} steps takes {_range(small, large)} s, of which teacher and "
        f"data {share(timings, slots):.0%} of the steps; {_range(*hours)} device-hours for {trials} trials without "
        f"pruning; checkpoints {_range(*kept)} MB",
    ]


def _middle(pair: tuple[float, float]) -> float:
    return (pair[0] + pair[1]) / 2


def _range(low: float, high: float) -> str:
    ends = f"{low:.3g}", f"{high:.3g}"
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
