"""Which parameters decide whether a trial is among the best, and how firmly that is known."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search.samplers.storage_view import quantiles_within

FEWEST_FOR_IMPORTANCE = 20
"""Trials trained to their end that a first answer needs: the best tenth has to be more than one."""
REDRAWN = 40
"""Sets of trials, drawn with replacement, from which the spread is taken."""

Found = list[tuple[str, float, float, float]]


def importance_of(trials: Sequence[Any], *, maximize: bool, along: str | None) -> tuple[Found, int]:
    """((parameter, share, low, high), largest first) and how many trials were judged; nothing for fewer than FEWEST_FOR_IMPORTANCE.

    PED-ANOVA (Watanabe, Bansal and Hutter 2023): how far the best tenth's values differ from all trials'; parameters
    that live under a condition count by how often they do. With a front, trials are ranked within their choice of its
    parameter, which is left out: the question is then what makes a network good among those of its size. low, high: of
    the middle eight tenths of REDRAWN sets of trials drawn anew.
    """
    done = [t for t in trials if t.state == TrialState.COMPLETE and t.values and math.isfinite(t.values[0])]
    if len(done) < FEWEST_FOR_IMPORTANCE:
        return [], len(done)
    if along is not None:
        done = [t for t in quantiles_within(along)(list(trials)) if t.state == TrialState.COMPLETE]
    whole = _importances(done, maximize=maximize, along=along)
    draws = np.random.default_rng(0).integers(len(done), size=(REDRAWN, len(done)))
    redrawn = [_importances([done[i] for i in row], maximize=maximize, along=along) for row in draws]
    found = []
    for name, share in sorted(whole.items(), key=lambda item: (-item[1], item[0])):
        spread = np.quantile([shares.get(name, 0.0) for shares in redrawn], [0.1, 0.9])
        found.append((name, share, float(spread[0]), float(spread[1])))
    return found, len(done)


def _importances(trials: Sequence[FrozenTrial], *, maximize: bool, along: str | None) -> dict[str, float]:
    """Share by parameter, summing to 1."""
    names = sorted({name for trial in trials for name in trial.params if name != along})
    study = optuna.create_study(direction="maximize" if maximize else "minimize")
    study.add_trials(trials)
    with warnings.catch_warnings():
        # Few trials under a condition: the spread of the redrawn sets says it in numbers.
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, params=names)
    return {name: float(value) for name, value in found.items()}
