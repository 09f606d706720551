"""How a trial ended, read from its lease: the one place in which pages, exports and confirmations look it up.

A pruned trial and a trial that was trained to its end are both finished without a failure. Weights tell them apart:
they are written in the transaction that ends a trial after its last epoch, and at no other time. A paused trial has not
ended: samplers see it as pruned, and it is told so where nobody goes on with it.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from search.spec.arms import Arm
from search.spec.strategies import PausingConfig
from search.storage.database import Database
from search.storage.leases import LeaseDetails, LeaseRow, paused_of
from search.storage.schema import FINISHED
from search.storage.statements import LeaseLost, Withdrawal
from search.study.class_scores import foreground_of, has_regions
from search.study.snapshot import SearchSnapshot
from trainer.evaluation.score_names import at_best_threshold


def completed_or_pruned(lease: LeaseDetails) -> bool:
    """Whether a trial took a place of the budget: it was trained to its end, or it was pruned."""
    return lease.state == FINISHED and lease.failure is None


def trained_to_end(lease: LeaseDetails) -> bool:
    """Whether a trial had its last epoch, so that its weights are kept; it may have no score."""
    return completed_or_pruned(lease) and lease.weights is not None


def pruned(lease: LeaseDetails) -> bool:
    """Whether a trial ended before its last epoch without having failed."""
    return completed_or_pruned(lease) and lease.weights is None


def has_final_score(lease: LeaseDetails) -> bool:
    """Whether a trial was trained to its end and has a finite score, so that it can be ranked against others."""
    return trained_to_end(lease) and lease.best_score is not None and math.isfinite(lease.best_score)


@dataclass(frozen=True)
class Tie:
    """Trials of different parameters with one score, to the last bit."""

    trials: int
    score: float
    instead: str
    """The score by which a study tells them apart."""


def largest_tie(rows: SearchSnapshot) -> Tie | None:
    """Most trials that have their last score alike, though other parameters; None where no two have.

    Of scores of overlap at a threshold of 0.5, which no two networks have alike but where their masks are: all empty,
    as a rule, or all full. That they are all perfect is left out, and so are confirmations, whose seeds have thresholds
    of their own.
    """
    instead = None if rows.confirms is not None else at_best_threshold(rows.metric)
    if instead is None or (foreground_of(rows) and not has_regions(rows)):
        return None
    params = {trial._trial_id: frozenset(trial.params.items()) for trials in rows.trials.values() for trial in trials}
    of_score: defaultdict[float, set[Any]] = defaultdict(set)
    for arm, leases in rows.leases.items():
        for lease in leases:
            if has_final_score(lease) and lease.known_score < 1:
                of_score[lease.known_score].add((arm, params[lease.trial_id]))
    score, runs = max(of_score.items(), key=lambda entry: len(entry[1]), default=(0.0, set()))
    return Tie(len(runs), score, instead) if len(runs) > 1 else None


def end_all_paused(opened: Database, arms: Mapping[int, Arm], rows: Sequence[LeaseRow]) -> list[LeaseRow]:
    """Tell paused trials PRUNED, but of arms that keep theirs; returns those that this process ended.

    arms: by study id. rows: as they were read; what is returned names the checkpoints that were there at the end.
    """
    ends = []
    for row in paused_of(rows).values():
        settings = arms[row.study_id].pruner
        keeps = isinstance(settings, PausingConfig) and settings.keep_paused
        if not keeps and (end := end_paused(opened, row.trial_id)) is not None:
            ends.append(replace(row, checkpoint=end.checkpoint))
    return ends


def end_paused(opened: Database, trial_id: int) -> Withdrawal | None:
    """Tell a paused trial PRUNED where it stands, with its newest score; None where it was paused no more.

    The checkpoint in what is returned is left to the caller, who may remove the file: no row names it any more.
    """
    trial = opened.storage.get_trial(trial_id)
    last = trial.last_step
    values = None if last is None else [trial.intermediate_values[last]]
    lease = {"checkpoint": None, **({} if last is None else {"epoch": last})}
    try:
        with opened.fence.withdraw(trial_id, paused=True, lease=lease) as end:
            opened.storage.set_trial_state_values(trial_id, TrialState.PRUNED, values)
    except (LeaseLost, UpdateFinishedTrialError):
        return None  # somebody goes on with it, or has ended it before
    return end
