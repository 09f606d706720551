"""`python -m search export --confirmed --package DIR`: the chosen student of a confirmation, with its evidence."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.confirm.plan import confirmations
from search.confirm.results import Confirmed, PerImageScores
from search.storage.database import Database
from search.storage.leases import LeaseDetails
from search.study.outcomes import trained_to_end
from search.study.snapshot import read
from trainer.errors import UserError, nearest

if TYPE_CHECKING:
    from search.answer.document import ConfirmedPart
    from trainer.package.model_card import Confirmation, Score

Weights = Mapping[tuple[str, int], Path]
"""The files of a confirmation by configuration and seed."""


@dataclass(frozen=True)
class SelectedStudent:
    """Which configuration is shipped, and what is known of it beside its own scores."""

    name: str
    why: str
    """One sentence."""
    intervals: Mapping[str, tuple[float, float, float]]
    """Part -> low, high, confidence of its score there, mean over images and seeds; only parts that have one."""
    claims: tuple[str, ...]
    """One sentence each."""


@dataclass(frozen=True)
class Shipped:
    """What is packed."""

    weights: Path
    thresholds: tuple[float, ...]
    """One, or one a region where these differ; none with more than two classes."""
    confirmation: "Confirmation"


def with_evidence(confirmed: Confirmed, chosen: SelectedStudent, weights: Weights) -> Shipped:
    """The network of the chosen configuration whose seed has the median validation score; of two in the middle, the
    worse. The best seed would be a choice by chance, and test has chosen nothing.

    Raises UserError where the configuration was not trained again, or its weights are not here.
    """
    from trainer.package.model_card import Confirmation

    scores = [each for each in confirmed.findings if each.configuration == chosen.name]
    seeds = [each for each in scores if each.part == "validation" and each.seed is not None]
    if not seeds:
        known = sorted({each.configuration for each in confirmed.findings if each.seed is not None})
        raise UserError(f"--configuration {chosen.name}: was not trained again{nearest(chosen.name, known)}")
    metric = _metric(confirmed)
    sign = -1 if _lower_is_better(metric) else 1
    ranked = sorted(seeds, key=lambda each: (sign * _mean(each, metric), each.seed))
    middle = ranked[(len(ranked) - 1) // 2]
    seed = middle.seed or 0
    file = weights.get((chosen.name, seed))
    if file is None or not file.is_file():
        raise UserError(
            f"{confirmed.study}: the weights of {chosen.name} seed {seed} are not at "
            f"{file or 'any place that was noted'}; run it "
            "where the folder of the confirmation's --runs is reached under the same path"
        )
    why = (
        f"{chosen.why} Of its {len(ranked)} seeds, seed {seed} has the median score on validation "
        f"({_mean(middle, metric):.4f})."
    )
    confirmation = Confirmation(
        confirmed.study, chosen.name, seed, why, tuple(_scores(confirmed, chosen, scores, seed)), chosen.claims
    )
    return Shipped(file, middle.thresholds, confirmation)


def _scores(
    confirmed: Confirmed, chosen: SelectedStudent, per_image: Sequence[PerImageScores], seed: int
) -> "list[Score]":
    """For each part: these weights, and the mean over seeds with its interval."""
    from search.answer.score_arrays import describe_thresholds
    from trainer.package.model_card import Score

    metric = _metric(confirmed)
    title, scores = metric.capitalize(), list[Score]()
    for part in dict.fromkeys(each.part for each in per_image):
        there = [each for each in per_image if each.part == part and each.images]
        over = f"mean over {there[0].scored}s" if there else ""
        label = f"{title} of these weights, {over}"
        own = [each for each in there if each.seed == seed]
        scores += [
            Score(
                part,
                len(each.images),
                f"{label}, at {describe_thresholds(each.thresholds)}",
                _mean(each, metric),
                scored=each.scored,
            )
            for each in own
        ]
        if len(there) > 1:
            mean = statistics.fmean(_mean(each, metric) for each in there)
            at = describe_thresholds(threshold for each in there for threshold in each.thresholds)
            label = f"{title}, {over} and {len(there)} seeds, at {at}"
            scores.append(Score(part, len(there[0].images), label, mean, chosen.intervals.get(part), there[0].scored))
    return scores


def _metric(confirmed: Confirmed) -> str:
    from search.answer.comparisons import metric_of

    return metric_of(confirmed)


def _lower_is_better(metric: str) -> bool:
    from search.answer.comparisons import lower_is_better

    return lower_is_better(metric)


def _mean(findings: PerImageScores, metric: str) -> float:
    return statistics.fmean(findings.columns[metric])


def weights_of(opened: Database, study: str) -> Weights:
    """Where the newest confirmation of a study left its weights. Raises UserError where there is none."""
    names = confirmations(study, opened.searches.names())
    if not names:
        raise UserError(f"study {study!r}: is not confirmed yet; python -m search confirm {study}")
    rows = read(opened, names[-1])
    return {
        (arm, _seed(lease)): Path(str(lease.weights))
        for arm, leases in rows.leases.items()
        for lease in leases
        if trained_to_end(lease)
    }


def _seed(lease: LeaseDetails) -> int:
    return int(json.loads(lease.known_run)["seed"])


def by_rule(confirmed: Confirmed) -> SelectedStudent:
    """What the rule of [confirm] chooses. Raises UserError where no network keeps it."""
    from search.answer.build import answer

    part = answer(confirmed)
    if part.chosen is None:
        known = [each.name for each in confirmed.configurations if each.role != "teacher"]
        raise UserError(
            f"{confirmed.study}: no network to ship: {part.choice}; pack one all the same: --configuration {known[0]}"
        )
    return _chosen(part, part.chosen, _metric(confirmed), f"It is {part.choice}.")


def by_hand(confirmed: Confirmed, name: str) -> SelectedStudent:
    """A configuration that somebody names. Raises UserError for an unknown one."""
    from search.answer.build import answer

    known = [each.name for each in confirmed.configurations if each.role != "teacher"]
    if name not in known:
        raise UserError(f"--configuration {name}: not in the confirmation of {confirmed.study}{nearest(name, known)}")
    part = answer(confirmed)
    rule = "which chooses none" if part.chosen is None else f"which chooses {part.chosen}"
    return _chosen(part, name, _metric(confirmed), f"It was chosen by hand, not by the rule of [confirm], {rule}.")


def _chosen(part: "ConfirmedPart", name: str, metric: str, why: str) -> SelectedStudent:
    """With the intervals of its scores and the claims that speak of it, those that cannot be estimated included."""
    level = part.confidence
    intervals = {
        each.part: (each.low, each.high, level)
        for each in part.scores
        if (metric, each.network, each.by) == ("dice", name, "all")  # the tables' intervals are of Dice
        and each.low is not None
        and each.high is not None
    }
    network = next(each for each in part.networks if each.name == name)
    if network.low is not None and network.high is not None:
        intervals["test"] = (network.low, network.high, level)
    return SelectedStudent(
        name, why, intervals, tuple(c.words for c in (*part.claims, *part.class_claims) if c.minuend in (name, ""))
    )
