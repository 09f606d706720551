"""What the trials of a search tell together: ranges whose end is best, importance, expected best, rungs, hours."""

import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search.planning.limits import milliseconds
from search.report.content.document import Cost
from search.samplers.storage_view import quantiles_within
from search.spec.config import Latency
from search.storage.leases import LeaseDetails
from search.storage.schema import FINISHED
from search.study.outcomes import has_final_score, pruned
from trainer.config import RunConfig
from trainer.errors import UserError

SHARE = 0.1
"""The best tenth of the trials trained to their end, and not fewer than FEWEST_FOR_EDGES."""
FEWEST_FOR_EDGES = 5
NEAR = 0.1
"""Within a tenth of the range, on its own scale."""

Hit = tuple[str, Any, Literal["lowest", "highest"], int, int, str]


def edges_of(trials: Sequence[FrozenTrial], *, maximize: bool, along: Collection[str]) -> Iterator[Hit]:
    """(parameter, end, lowest or highest, hits, of, words) for each range of which at least half of the best trials lie
    at one end; of a front's parameter, where the very best trial has its first or last number.
    along: the names of the front's parameters.

    Chance alone puts one trial in ten there.
    """
    done = [t for t in trials if t.state.name == "COMPLETE" and t.values and math.isfinite(t.values[0])]
    done.sort(key=lambda t: t.values[0], reverse=maximize)
    if len(done) < FEWEST_FOR_EDGES:
        return
    best = _best_of(done, along)
    for name in sorted({name for trial in best for name in trial.params}):
        if name in along:
            yield from _front_end(name, done[0])
            continue
        live = [trial for trial in best if name in trial.params]
        if len(live) < FEWEST_FOR_EDGES:
            continue
        places = [_place(trial.distributions[name], trial.params[name]) for trial in live]
        for which, hits in (("lowest", _count(places, 0.0)), ("highest", _count(places, 1.0))):
            if 2 * hits >= len(live):
                end = _ends(live[0].distributions[name])[0 if which == "lowest" else 1]
                sentence = (
                    f"{name} = {end:g} is the space's end, and {hits} of the best {len(live)} trials lie there: widen"
                )
                yield name, end, "lowest" if which == "lowest" else "highest", hits, len(live), sentence


def _best_of(done: Sequence[FrozenTrial], along: Collection[str]) -> list[FrozenTrial]:
    """The best tenth within each choice of the front, so that the largest network does not speak for all."""
    groups: dict[Any, list[Any]] = {}
    for trial in done:
        groups.setdefault(tuple(trial.params.get(name) for name in along), []).append(trial)
    return [t for group in groups.values() for t in group[: max(FEWEST_FOR_EDGES, math.ceil(SHARE * len(group)))]]


def _front_end(name: str, first: Any) -> Iterator[Hit]:
    if name not in first.params:
        return
    choices = [c for c in first.distributions[name].choices if isinstance(c, int | float) and not isinstance(c, bool)]
    value = first.params[name]
    if len(choices) > 1 and value in (min(choices), max(choices)):
        which: Literal["lowest", "highest"] = "lowest" if value == min(choices) else "highest"
        yield name, value, which, 1, 1, f"{name} = {value:g} is the space's end, and the best trial has it: widen"


def _ends(distribution: Any) -> tuple[float, float]:
    choices = getattr(distribution, "choices", None)
    return (distribution.low, distribution.high) if choices is None else (min(choices), max(choices))


def _place(distribution: Any, value: Any) -> float | None:
    """Where a value lies in its range, from 0 to 1; None where the range has no ends."""
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        if len(choices) < 3 or not all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices):
            return None
        return sorted(choices).index(value) / (len(choices) - 1)
    low, high = float(distribution.low), float(distribution.high)
    if high <= low:
        return None
    if distribution.log:
        return float(math.log(value / low) / math.log(high / low))
    return float((value - low) / (high - low))


def _count(places: Sequence[float | None], end: float) -> int:
    return sum(place is not None and abs(place - end) <= NEAR for place in places)


def cost_of(leases: Sequence[LeaseDetails]) -> Cost:
    """The device hours of some trials by how they ended, and their hours by part."""
    ended: dict[str, float] = defaultdict(float)
    parts: Counter[str] = Counter()
    for lease in leases:
        ended[_outcome(lease)] += lease.gpu_seconds / 3600
        parts.update({part: seconds / 3600 for part, seconds in json.loads(lease.seconds or "{}").items()})
    return Cost(
        hours=sum(ended.values()),
        by_outcome=dict(sorted(ended.items())),
        outcome_shares=_shares(ended),
        by_part=dict(sorted(parts.items())),
        part_shares=_shares(parts),
    )


def _shares(hours: Mapping[str, float]) -> dict[str, float]:
    total = sum(hours.values())
    return {name: spent / total for name, spent in sorted(hours.items())} if total else {}


def _outcome(lease: LeaseDetails) -> str:
    if lease.state != FINISHED:
        return "unfinished"
    if lease.failure is not None:
        return "failed"
    return "pruned" if pruned(lease) else "complete"


MOST = 48
"""Values of n that a curve has at most."""


def expected_best(scores: Sequence[float], n: int, *, maximize: bool = True) -> float:
    """The mean, over all sets of n of these scores, of the set's best; n from 1 to len(scores).

    With the N scores in rising order it is the sum over i of x_i C(i - 1, n - 1) / C(N, n): draws without replacement,
    unbiased for the best of n new draws, where draws with replacement are too low (Tang et al. 2020, "Showing Your Work
    Doesn't Always Work", section 3; the question is that of Dodge et al. 2019, "Show Your Work").
    """
    ordered = np.sort(np.asarray(scores, dtype=float) * (1 if maximize else -1))
    count = len(ordered)
    if not 1 <= n <= count:
        raise ValueError(f"n = {n}: from 1 to {count} scores")
    places = np.arange(n, count + 1)
    chances = np.exp(_log_choose(places - 1, n - 1) - _log_choose(np.array([count]), n))
    return float(ordered[n - 1 :] @ chances) * (1 if maximize else -1)


def curve(scores: Sequence[float], *, maximize: bool = True) -> list[tuple[int, float]]:
    """(n, expected best of n) for some n from 1 to all, denser where the curve bends."""
    count = len(scores)
    if not count:
        return []
    steps = sorted({max(1, round(math.exp(x))) for x in np.linspace(0.0, math.log(count), MOST)} | {count})
    return [(n, expected_best(scores, n, maximize=maximize)) for n in steps]


def _log_choose(of: np.ndarray, n: int) -> np.ndarray:
    from scipy.special import gammaln

    log_count: np.ndarray = gammaln(of + 1) - gammaln(n + 1) - gammaln(of - n + 1)
    return log_count


FEWEST_FOR_IMPORTANCE = 20
"""Trials trained to their end that a first answer needs: the best tenth has to be more than one."""
REDRAWN = 40
"""Sets of trials, drawn with replacement, from which the spread is taken."""

_SAYS_NOTHING = "Parameter importances will be equal"
"""What Optuna warns of where too few trials, or their ties, leave nothing to compare."""

Found = list[tuple[str, float, float, float]]


def importance_of(trials: Sequence[FrozenTrial], *, maximize: bool, along: Collection[str]) -> tuple[Found, int]:
    """((parameter, share, low, high), largest first) and how many trials were judged; nothing for fewer than
    FEWEST_FOR_IMPORTANCE, nor where the best tenth cannot be told from the others: all scores tie, or nearly all, so
    that it is so in more than a tenth of the sets drawn anew.

    PED-ANOVA (Watanabe, Bansal and Hutter 2023): how far the best tenth's values differ from all trials'; parameters
    that live under a condition count by how often they do. With a front, trials are ranked within their choice of its
    parameters, which are left out: the question is then what makes a network good among those of its size. low, high:
    of the middle eight tenths of REDRAWN sets of trials drawn anew.
    """
    done = [t for t in trials if t.state == TrialState.COMPLETE and t.values and math.isfinite(t.values[0])]
    if len(done) < FEWEST_FOR_IMPORTANCE:
        return [], len(done)
    if along:
        done = [t for t in quantiles_within(*along)(list(trials)) if t.state == TrialState.COMPLETE]
    whole = _importances(done, maximize=maximize, along=along)
    if not whole:
        return [], len(done)
    draws = np.random.default_rng(0).integers(len(done), size=(REDRAWN, len(done)))
    redrawn = [_importances([done[i] for i in row], maximize=maximize, along=along) for row in draws]
    redrawn = [shares for shares in redrawn if shares]
    if len(redrawn) < 0.9 * REDRAWN:
        return [], len(done)
    importances = []
    for name, share in sorted(whole.items(), key=lambda item: (-item[1], item[0])):
        spread = np.quantile([shares.get(name, 0.0) for shares in redrawn], [0.1, 0.9])
        importances.append((name, share, float(spread[0]), float(spread[1])))
    return importances, len(done)


def _importances(trials: Sequence[FrozenTrial], *, maximize: bool, along: Collection[str]) -> dict[str, float]:
    """Share by parameter, summing to 1; nothing where Optuna warns that its equal shares say nothing."""
    names = sorted({name for trial in trials for name in trial.params if name not in along})
    study = optuna.create_study(direction="maximize" if maximize else "minimize")
    study.add_trials(trials)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        shares = optuna.importance.get_param_importances(study, params=names)
    texts = [str(one.message) for one in given]
    for one, text in zip(given, texts, strict=True):
        # Few trials under a condition: the spread of the redrawn sets says it in numbers.
        if _SAYS_NOTHING not in text and "importance of the parameter may be inaccurate" not in text:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return {} if any(_SAYS_NOTHING in text for text in texts) else {name: float(x) for name, x in shares.items()}


def importance_unknown(judged: int) -> str:
    """Why `importance_of` tells nothing of so many trials."""
    if judged < FEWEST_FOR_IMPORTANCE:
        return f"{judged} of the {FEWEST_FOR_IMPORTANCE} trials that it needs were trained to their end"
    return "the scores tie, so that the best tenth cannot be told from the others"


FEWEST_FOR_RUNGS = 8
"""Trials trained to their end that a correlation needs."""
POINTS = 12
"""Epochs that are told at most."""


def pruned_at(leases: Sequence[LeaseDetails]) -> list[tuple[int, int]]:
    """(epoch, how many trials were pruned after it), rising."""
    gone = [lease.epoch for lease in leases if pruned(lease)]
    return sorted(Counter(gone).items())


def rungs_of(
    leases: Sequence[LeaseDetails], trials: Sequence[FrozenTrial], choices: Mapping[int, Any]
) -> list[tuple[int, int, float]]:
    """(epoch, trials, Spearman's rank correlation with the final score) over trials that were trained to their end.

    Ranks are taken within trials of the same choice of the front, so that a size that is better at every epoch does
    not make the correlation. Pruned trials have no final score: among the others, which are more alike, the correlation
    is lower than it would be among all.
    """
    final = {lease.trial_id: lease.known_score for lease in leases if has_final_score(lease)}
    at: dict[int, list[tuple[Any, float, float]]] = defaultdict(list)
    for trial in trials:
        if trial._trial_id in final:
            for epoch, value in trial.intermediate_values.items():
                if math.isfinite(value):
                    at[epoch].append((choices.get(trial._trial_id), value, final[trial._trial_id]))
    epochs = sorted(epoch for epoch, points in at.items() if len(points) >= FEWEST_FOR_RUNGS)
    if len(epochs) > POINTS:
        epochs = sorted({epochs[round(place)] for place in np.linspace(0, len(epochs) - 1, POINTS)})
    correlations = [(epoch, len(at[epoch]), _correlation(at[epoch])) for epoch in epochs]
    return [(epoch, count, value) for epoch, count, value in correlations if value is not None]


def _correlation(points: Sequence[tuple[Any, float, float]]) -> float | None:
    groups: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for choice, early, late in points:
        groups[choice].append((early, late))
    one = np.concatenate([_centred([early for early, _ in group]) for group in groups.values()])
    two = np.concatenate([_centred([late for _, late in group]) for group in groups.values()])
    norm = math.sqrt(float(one @ one) * float(two @ two))
    # Rounding leaves a little of what is zero.
    return round(float(one @ two) / norm, 12) + 0.0 if norm > 0 else None


def _centred(values: Sequence[float]) -> np.ndarray:
    """Ranks from -1/2 to 1/2 about their mean; ties share the mean of theirs."""
    from scipy.stats import rankdata

    ranks = np.asarray(rankdata(values), dtype=float)
    centred: np.ndarray = (ranks - ranks.mean()) / max(len(values), 1)
    return centred


Times = Callable[[Mapping[str, Any]], float | None]
"""From a complete run, as JSON holds it, to milliseconds; None where they are not known."""


def times(limits: Mapping[str, Any], table: str | None) -> Times:
    """By the table that was named, else by that of the study's limits. Raises UserError for a named one without use.

    A network that the study's own table lacks, and a table that is not on this machine, leave a time unknown.
    """
    if table is not None:
        bound = Latency(max=1.0, table=table)
        return lambda run: milliseconds(bound, RunConfig.model_validate(run))
    if limits.get("latency_ms") is None:
        return lambda _run: None
    bound = Latency.model_validate(limits["latency_ms"])

    def known(run: Mapping[str, Any]) -> float | None:
        try:
            return milliseconds(bound, RunConfig.model_validate(run))
        except UserError:
            return None

    return known
