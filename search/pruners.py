"""Pruners by the name that a study file gives them, and their verdict on one trial."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from search.curve_rule import CurveRule
from search.promotion import Promotion
from search.samplers.front import FrontChoice, choice_of
from search.samplers.storage_view import same_choice, study_recorded, study_through
from trainer.errors import counted, nearest


@dataclass(frozen=True)
class PrunerSettings:
    """A pruner by name. Epochs count from 1; nothing is pruned before epoch `warmup_epochs` + 1.

    `startup` (median, percentile): trials of the same choice that must be COMPLETE before any is pruned.
    `percentile`: the share that goes on, in percent. `patience`, `min_delta` (patient): epochs without a score that is
    better than those before by more than that. `lower`, `upper` (threshold): scores beyond them end a trial.
    `min_epochs`, `reduction` (halving, hyperband, promote): the first rung and the factor from rung to rung; one trial
    in `reduction` passes a rung. The first rung is never inside the warmup.
    `min_epochs`, `factor`, `startup`, `idle_below` (curves): as `CurveRule` has them.
    `epochs`: how long a trial is at most; hyperband spreads its brackets over it.
    `exact` (hyperband): whether there are as many brackets as there are rungs; else as many as Optuna computes, which
    is one less where a logarithm in floating point falls short of a whole number (243 epochs with reduction 3).
    """

    name: str
    epochs: int
    startup: int = 5
    warmup_epochs: int = 0
    reduction: int = 3
    min_epochs: int = 1
    exact: bool = True
    percentile: float = 25.0
    patience: int = 5
    min_delta: float = 0.0
    lower: float | None = None
    upper: float | None = None
    factor: float = 1.5
    idle_below: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in PRUNERS:
            raise ValueError(f"pruner.name: unknown {self.name!r}{nearest(self.name, PRUNERS)}")
        least = {"epochs": 1, "startup": 0, "warmup_epochs": 0, "reduction": 2, "min_epochs": 1, "patience": 1}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                raise ValueError(f"pruner.{name}: {value} is not at least {low}")
        if self.name in ("halving", "hyperband", "promote", "curves") and self.first_rung() > self.epochs:
            field = "min_epochs" if self.min_epochs > self.warmup_epochs else "warmup_epochs"
            value = getattr(self, field)
            raise ValueError(f"pruner.{field}: {value} leaves no rung within {counted(self.epochs, 'epoch')}; lower it")

    def first_rung(self) -> int:
        """The epoch of the first rung of halving, and of hyperband's most impatient bracket."""
        return max(self.min_epochs, self.warmup_epochs + 1)

    def brackets(self) -> int:
        """The brackets of hyperband: floor(log_reduction(epochs / first rung)) + 1 (Li et al. 2018), exactly."""
        count, rung = 1, self.first_rung() * self.reduction
        while rung <= self.epochs:
            count, rung = count + 1, rung * self.reduction
        return count


def _median(settings: PrunerSettings) -> BasePruner:
    # Optuna's warmup is the first step that may be pruned.
    return MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=settings.warmup_epochs + 1)


def _percentile(settings: PrunerSettings) -> BasePruner:
    return PercentilePruner(
        settings.percentile, n_startup_trials=settings.startup, n_warmup_steps=settings.warmup_epochs + 1
    )


def _threshold(settings: PrunerSettings) -> BasePruner:
    low = -math.inf if settings.lower is None else settings.lower
    high = math.inf if settings.upper is None else settings.upper
    return ThresholdPruner(lower=low, upper=high, n_warmup_steps=settings.warmup_epochs + 1)


class Patience(BasePruner):
    """Ends a trial whose best score of the last `patience` epochs is not better than its best before by more than
    `min_delta`; NaN is no score. Optuna's PatientPruner ends what became worse by more than that: with it a network
    that has collapsed, and has Dice 0 in each epoch, goes on to its end."""

    def __init__(self, patience: int, min_delta: float, warmup_epochs: int) -> None:
        self._patience, self._min_delta, self._warmup = patience, min_delta, warmup_epochs

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial stands still at its newest report."""
        last = trial.last_step
        if last is None or last <= max(self._warmup, self._patience):
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        scores = {step: sign * v for step, v in trial.intermediate_values.items() if not math.isnan(v)}
        recent = max((v for step, v in scores.items() if step > last - self._patience), default=-math.inf)
        before = max((v for step, v in scores.items() if step <= last - self._patience), default=-math.inf)
        return recent <= before + self._min_delta


def _patient(settings: PrunerSettings) -> BasePruner:
    return Patience(settings.patience, settings.min_delta, settings.warmup_epochs)


def _hyperband(settings: PrunerSettings) -> BasePruner:
    first, most = settings.first_rung(), settings.epochs
    if settings.exact:
        # Optuna takes nothing but the number of brackets from it, and offers no parameter for that: halfway between the
        # last bracket's first rung and the next one its logarithm is far from a whole number.
        last = first * settings.reduction ** (settings.brackets() - 1)
        most = last + last * (settings.reduction - 1) // 2
    return HyperbandPruner(min_resource=first, max_resource=most, reduction_factor=settings.reduction)


def _halving(settings: PrunerSettings) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=settings.first_rung(), reduction_factor=settings.reduction)


def _none(settings: PrunerSettings) -> BasePruner:  # noqa: ARG001 - every builder takes the settings
    return NopPruner()


def _promote(settings: PrunerSettings) -> BasePruner:
    return Promotion(settings.epochs, settings.first_rung(), settings.reduction)


def _curves(settings: PrunerSettings) -> BasePruner:
    return CurveRule(settings.epochs, settings.first_rung(), settings.factor, settings.startup, settings.idle_below)


PRUNERS: dict[str, Callable[[PrunerSettings], BasePruner]] = {
    "median": _median,  # worse than the median of finished trials at this epoch (Golovin et al. 2017, section 3.2.1)
    "percentile": _percentile,  # the same with another share than half
    "hyperband": _hyperband,  # halving in several brackets of differing patience (Li et al. 2018)
    "halving": _halving,  # asynchronous successive halving (Li et al. 2020)
    "promote": _promote,  # the same with trials paused in place of ended (search/promotion.py)
    "curves": _curves,  # paused, and promoted by a model of learning curves (search/curve_rule.py)
    "patient": _patient,  # no better for some epochs (Prechelt 1998)
    "threshold": _threshold,  # beyond a bound
    "none": _none,
}


def pruner(settings: PrunerSettings) -> BasePruner:
    """The pruner of one arm. It is not given to the study: Optuna would then hide other brackets from the sampler."""
    return PRUNERS[settings.name](settings)


VERDICT = "kd_search:verdict"
"""The system attribute of a trial that holds the last verdict at a rung: `{"step": 9, "prune": true}`."""


RUNGS = "kd_search:rungs"
"""The system attribute of a trial that holds the epoch of each rung that was noted: `{"completed_rung_0": 3}`."""


PROMOTED = "kd_search:promoted"
"""The system attribute of a trial that holds the epoch of the rung from which it was promoted: up to there it is paused
no more, also where it trains epochs again because their checkpoint was not there yet."""


@dataclass(frozen=True)
class Verdict:
    """Whether a trial ends here, and what has to be stored of that."""

    prune: bool
    notes: Mapping[str, Any] = field(default_factory=dict)
    """System attributes of the trial, to be written in one transaction: with them the same question has the same
    answer, and without any of them it was never asked."""


def stored_verdict(trial: FrozenTrial) -> bool | None:
    """The verdict on the trial's newest report that is stored; None where there is none. One that ends the trial holds
    for all later reports, too."""
    stored = trial.system_attrs.get(VERDICT)
    if stored is None or not (stored["prune"] or stored["step"] == trial.last_step):
        return None
    return bool(stored["prune"])


def passes(trial: FrozenTrial) -> bool:
    """Whether it is stored that the trial goes on from its newest report."""
    promoted = trial.system_attrs.get(PROMOTED)
    again = promoted is not None and trial.last_step is not None and trial.last_step <= promoted
    return again or stored_verdict(trial) is not None


def judge(pruner: BasePruner, study: Study, trial: FrozenTrial, *, front: FrontChoice | None = None) -> Verdict:
    """Whether the trial, with its newest intermediate value stored, ends here; judged among trials of its own choice.

    `trial` must be read after the report. Nothing is written. At a rung, Optuna's halving and hyperband would note the
    score and, asked again about the same report, take the rung for passed: here the verdict is noted with it. Other
    pruners keep nothing and may be asked again. Do not ask after the last epoch: a trial that has trained to its end is
    COMPLETE whatever its rank.
    """
    before = stored_verdict(trial)
    if before is not None:
        return Verdict(before)
    if front is not None:
        study = study_through(study, same_choice(choice_of(front, trial)))
    if not isinstance(pruner, SuccessiveHalvingPruner | HyperbandPruner):
        return Verdict(bool(pruner.prune(study, trial)))  # some of Optuna's answer with numpy's
    recorded, notes = study_recorded(study)
    prune = pruner.prune(recorded, trial)
    judged = {VERDICT: {"step": trial.last_step, "prune": prune}} if notes or prune else {}
    rungs = {**trial.system_attrs.get(RUNGS, {}), **dict.fromkeys(notes, trial.last_step)}
    return Verdict(prune, {**notes, **judged, **({RUNGS: rungs} if notes else {})})


def should_prune(pruner: BasePruner, study: Study, trial: FrozenTrial, *, front: FrontChoice | None = None) -> bool:
    """`judge`, with what has to be stored written by the study's storage; no lease is looked at."""
    verdict = judge(pruner, study, trial, front=front)
    for key, value in verdict.notes.items():
        study._storage.set_trial_system_attr(trial._trial_id, key, value)
    return verdict.prune
