"""A search's figures, from what the database holds of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.dashboard.curves import Curve, curves_figure
from search.dashboard.figures import Dot, best_figure, size_figure
from search.plotting import Scale
from search.storage.schema import FINISHED
from search.study.progress import Rows

SIZE_LABEL = "parameters of the student (millions)"


@dataclass(frozen=True)
class Picture:
    """One figure, as a PNG file."""

    name: str
    alt: str
    """What it shows, in words."""
    data: bytes


def draw(rows: Rows) -> dict[str, Picture]:
    """The figures by what they show: `size` where parameters are known, `best`, `curves`."""
    scale = Scale(rows.metric, rows.maximize, rows.teacher)
    arms = [arm.name for arm in rows.arms]
    dots, curves = dots_of(rows), curves_of(rows)
    finished = {arm: len(_finished(rows.leases[arm])) for arm in arms}
    label = SIZE_LABEL if not dots or rows.params_m() else str(rows.along)
    pictures = {
        "curves": Picture(
            "curves.png",
            "Curves of running trials against the band of finished trials",
            curves_figure(curves, arms, scale, rows.along),
        ),
    }
    if rows.confirms is None:  # of seeds the best one says nothing
        alt = "Best score so far by arm over finished trials"
        pictures["best"] = Picture("best.png", alt, best_figure(dots, finished, scale))
    if not dots or any(dot.size is not None for dot in dots):
        alt = "Score against the size of the student, with each arm's front"
        pictures["size"] = Picture("size.png", alt, size_figure(dots, arms, scale, label))
    return pictures


def dots_of(rows: Rows) -> list[Dot]:
    """The trials that were trained to their end, in the order in which they ended.

    Where no trial tells its parameters (a simulation builds no networks), a choice that is a number stands for them.
    """
    ended, sizes = rows.ended(), rows.params_m()
    if not sizes:
        choices = {lease.trial_id: rows.choice(lease) for lease in rows.every}
        sizes = {key: float(value) for key, value in choices.items() if isinstance(value, int | float)}
    found = []
    for arm, leases in rows.leases.items():
        over = sorted(_finished(leases), key=lambda r: (ended.get(r.trial_id, 0.0), r.number))
        for place, r in enumerate(over, 1):
            if r.weights is not None and r.best_score is not None and math.isfinite(r.best_score):
                dot = Dot(arm, r.number, r.best_score, sizes.get(r.trial_id), place)
                found.append((ended.get(r.trial_id, 0.0), dot))
    return [dot for _, dot in sorted(found, key=lambda pair: pair[0])]


def _finished(leases: Sequence[Any]) -> list[Any]:
    """The trials that completed or were pruned."""
    return [lease for lease in leases if lease.state == FINISHED and lease.failure is None]


def curves_of(rows: Rows) -> list[Curve]:
    """The validated epochs of all trials but failed ones."""
    found = []
    for arm, trials in rows.trials.items():
        leases = {lease.trial_id: lease for lease in rows.leases[arm]}
        for trial in trials:
            lease = leases.get(trial._trial_id)
            if lease is None or lease.failure is not None:
                continue
            points = [(e, v) for e, v in sorted(trial.intermediate_values.items()) if math.isfinite(v)]
            choice = rows.choice(lease)
            if points:
                running = trial.state.name == "RUNNING"
                found.append(Curve(trial.number, arm, "" if choice is None else str(choice), points, running))
    return found
