"""How early a trial's fate could be told: where trials were pruned, and how early scores agree with final ones."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.storage.schema import FINISHED

FEWEST_FOR_RUNGS = 8
"""Trials trained to their end that a correlation needs."""
POINTS = 12
"""Epochs that are told at most."""


def pruned_at(leases: Sequence[Any]) -> list[tuple[int, int]]:
    """(epoch, how many trials were pruned after it), rising."""
    gone = [r.epoch for r in leases if r.state == FINISHED and r.failure is None and r.weights is None]
    return sorted(Counter(gone).items())


def rungs_of(leases: Sequence[Any], trials: Sequence[Any], choices: Mapping[int, Any]) -> list[tuple[int, int, float]]:
    """(epoch, trials, Spearman's rank correlation with the final score) over trials that were trained to their end.

    Ranks are taken within trials of the same choice of the front, so that a size that is better at every epoch does
    not make the correlation. Pruned trials have no final score: among the others, which are more alike, the correlation
    is lower than it would be among all.
    """
    final = {
        r.trial_id: r.best_score
        for r in leases
        if r.state == FINISHED and r.failure is None and r.weights is not None and r.best_score is not None
    }
    at: dict[int, list[tuple[Any, float, float]]] = defaultdict(list)
    for trial in trials:
        if trial._trial_id in final:
            for epoch, value in trial.intermediate_values.items():
                if math.isfinite(value):
                    at[epoch].append((choices.get(trial._trial_id), value, final[trial._trial_id]))
    epochs = sorted(epoch for epoch, points in at.items() if len(points) >= FEWEST_FOR_RUNGS)
    if len(epochs) > POINTS:
        epochs = sorted({epochs[round(place)] for place in np.linspace(0, len(epochs) - 1, POINTS)})
    found = [(epoch, len(at[epoch]), _correlation(at[epoch])) for epoch in epochs]
    return [(epoch, count, value) for epoch, count, value in found if value is not None]


def _correlation(points: Sequence[tuple[Any, float, float]]) -> float | None:
    groups: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for choice, early, late in points:
        groups[choice].append((early, late))
    one = np.concatenate([_centred([early for early, _ in group]) for group in groups.values()])
    two = np.concatenate([_centred([late for _, late in group]) for group in groups.values()])
    norm = math.sqrt(float(one @ one) * float(two @ two))
    return float(one @ two) / norm if norm > 0 else None


def _centred(values: Sequence[float]) -> np.ndarray:
    """Ranks from -1/2 to 1/2 about their mean; ties share the mean of theirs."""
    from scipy.stats import rankdata

    ranks = np.asarray(rankdata(values), dtype=float)
    centred: np.ndarray = (ranks - ranks.mean()) / max(len(values), 1)
    return centred
