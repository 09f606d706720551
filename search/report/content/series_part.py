"""The members of a series beside each other: their networks, their ways of distilling, and which differences are shown.

Members are compared group by group: what two of them share beside the method. A way of distilling stands there with the
network that its search ranked first on validation, and is compared with the best of none that has no more parameters,
on the same test images and with the same fresh seeds; all such differences of a series are one family (Holm).
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.answer.build import CONFIDENCE, chosen_or_best
from search.answer.comparisons import TEST, Pair, judged_together, made, metric_of, unit_of_metric
from search.answer.document import Comparison, method_claim, method_of
from search.answer.score_arrays import ScoreArray, difference, score_arrays
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed
from search.report.content.document import (
    ClassMean,
    MethodScore,
    SeriesDifference,
    SeriesMember,
    SeriesPart,
    Study,
)
from search.spec.load import SeriesPlace
from search.study.snapshot import NO_METHOD

DICE, HD95 = "dice", "hd95_missed_as_diagonal"
"""Columns of the method table: the overlap, and the distance that every image has."""


@dataclass(frozen=True)
class MadeStudy:
    """A study of the report with what it was made from."""

    study: Study
    place: SeriesPlace | None
    """None of a study that is no member of a series."""
    confirmed: Confirmed | None
    """None before the first network was scored on test."""
    run: Mapping[str, Any]
    """Its [run], as its search was begun."""


@dataclass(frozen=True)
class _Entry:
    """One way of distilling, or none, of one group."""

    method: str
    group: str
    study: str
    configuration: Configuration
    array: ScoreArray
    metric: str


def series_part(members: Sequence[MadeStudy]) -> SeriesPart:
    """The part of a series. members: those that were begun, in the order of their numbers; at least one."""
    places = [made_study.place for made_study in members if made_study.place is not None]
    series = places[0].name
    every = [entry for made_study in members for entry in _entries(made_study)]
    entries = _best_of_each(every)
    groups = tuple(dict.fromkeys(entry.group for entry in entries))
    ranks = {group: _ranks([e for e in entries if e.group == group]) for group in groups}
    methods = dict.fromkeys(entry.method for entry in entries)
    full = {m: [ranks[g][m] for g in groups] for m in methods if all(m in ranks[g] for g in groups)}
    mean_ranks = {method: statistics.fmean(of_groups) for method, of_groups in full.items()}
    ordered = sorted(methods, key=lambda m: (m not in mean_ranks, mean_ranks.get(m, 0.0), list(methods).index(m)))
    begun = {place.number for place in places}
    of = max(place.of for place in places)
    missing = [f"{series}.{number}: not begun" for number in range(1, of + 1) if number not in begun]
    missing += [f"{m.study.name}: not confirmed" for m in members if m.confirmed is None]
    return SeriesPart(
        name=series,
        axes={axis: _choices(places, axis) for axis in places[0].choices},
        of=of,
        metric=members[0].study.search.metric,
        length_unit=entries[0].array.one.length_unit if entries else "px",
        members=tuple(_member(made_study) for made_study in members),
        groups=groups,
        methods=tuple(ordered),
        mean_ranks=mean_ranks,
        scores=tuple(_score(entry, ranks[entry.group].get(entry.method)) for entry in entries),
        differences=tuple(_differences(entries, every)),
        missing=tuple(missing),
    )


def _choices(places: Sequence[SeriesPlace], axis: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place.choices[axis] for place in places if axis in place.choices))


def _axes_that_set(place: SeriesPlace, prefix: str) -> list[str]:
    return [each.axis for each in place.axes if any(f"{path}.".startswith(prefix) for path in each.sets)]


def _group(made_study: MadeStudy) -> str:
    """What a member shares with those that it is compared with: all its choices but those of the method."""
    place = made_study.place
    if place is None or not place.choices:
        return (None if place is None else place.title) or made_study.study.name
    by_method = _axes_that_set(place, "run.method.")
    return ", ".join(choice for axis, choice in place.choices.items() if axis not in by_method) or place.name


def _panel(place: SeriesPlace | None) -> str:
    """The choice of the first axis that sets the data; empty where there is none."""
    axes = [] if place is None else _axes_that_set(place, "run.data.")
    return "" if place is None or not axes else place.choices[axes[0]]


def _member(made_study: MadeStudy) -> SeriesMember:
    study, place, search = made_study.study, made_study.place, made_study.study.search
    facts: dict[str, Any] = {
        "study": study.name,
        "label": "" if place is None else place.label,
        "choices": {} if place is None else place.choices,
        "panel": _panel(place),
        "state": "confirmed" if study.confirmed is not None else search.state,
        "method": made_study.run.get("method"),
    }
    teacher, best = search.teacher, search.arms[0].best
    if teacher is not None and search.arms[0].taught:
        facts |= {"teacher": teacher.network, "teacher_params_m": teacher.params_m, "teacher_score": teacher.score}
    if study.confirmed is not None:
        return SeriesMember.model_validate({**_EMPTY, **facts, **_confirmed_facts(study)})
    if best is not None:
        facts |= {"network": best.network, "params_m": best.params_m, "gflops": best.gflops, "score": best.score}
    return SeriesMember.model_validate({**_EMPTY, **facts})


_EMPTY: dict[str, Any] = dict.fromkeys(name for name in SeriesMember.model_fields) | {
    "part": "validation, unconfirmed",
    "seeds": 0,
}


def _confirmed_facts(study: Study) -> dict[str, Any]:
    part = study.confirmed
    best = None if part is None else chosen_or_best(part)
    facts: dict[str, Any] = {"part": TEST}
    if part is None:
        return facts
    teacher = next((network for network in part.networks if network.role == "teacher"), None)
    if teacher is not None:
        facts |= {"teacher": teacher.words, "teacher_params_m": teacher.params_m}
        facts |= {"teacher_gflops": teacher.gflops, "teacher_score": teacher.test}
    if best is not None:
        means = [score for _, score in best.by_seed]
        facts |= {"network": best.words, "params_m": best.params_m, "gflops": best.gflops, "score": best.test}
        facts |= {"low": best.low, "high": best.high, "seeds": len(means), "deviation": _deviation(means)}
    return facts


def _deviation(means: Sequence[float]) -> float | None:
    return statistics.stdev(means) if len(means) > 1 else None


def _entries(made_study: MadeStudy) -> Iterator[_Entry]:
    """The winners and controls that a member confirmed, in the order in which their searches ranked them."""
    confirmed = made_study.confirmed
    if confirmed is None:
        return
    arrays, metric = score_arrays(confirmed), metric_of(confirmed)
    searched = [c for c in confirmed.configurations if c.role in ("winner", "control")]
    students = {str(c.run["student"]["name"]) for c in searched}
    for each in sorted(searched, key=lambda c: c.rank):
        array = arrays.get((each.name, TEST))
        if array is not None:
            student = str(each.run["student"]["name"])
            group = _group(made_study) if len(students) == 1 else f"{_group(made_study)}, {student}"
            yield _Entry(str(each.run["method"]), group, made_study.study.name, each, array, metric)


def _best_of_each(entries: Sequence[_Entry]) -> list[_Entry]:
    """One entry a method and group: what its search ranked first."""
    chosen: dict[tuple[str, str], _Entry] = {}
    for entry in entries:
        chosen.setdefault((entry.group, entry.method), entry)
    return list(chosen.values())


def _means(array: ScoreArray, column: str) -> list[float]:
    """The mean over images, a seed; nothing where the column was not kept for all images."""
    if not array.has(column):
        return []
    return [float(row.mean()) for row in array.values(column) if not np.isnan(row).any()]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _ranks(entries: Sequence[_Entry]) -> dict[str, int]:
    """Method -> place by mean Dice, the best first; equal ones share the better place."""
    known = {entry.method: mean for entry in entries if (mean := _mean(_means(entry.array, DICE))) is not None}
    return {method: 1 + sum(other > mean for other in known.values()) for method, mean in known.items()}


def _score(entry: _Entry, rank: int | None) -> MethodScore:
    dice, distance = _means(entry.array, DICE), _means(entry.array, HD95)
    labels = [name.partition(".")[2] for name in entry.array.one.columns if name.startswith(f"{DICE}.")]
    return MethodScore(
        method=entry.method,
        group=entry.group,
        study=entry.study,
        configuration=entry.configuration.name,
        dice=_mean(dice),
        dice_deviation=_deviation(dice),
        hd95=_mean(distance),
        hd95_deviation=_deviation(distance),
        seeds=len(entry.array.seeds),
        images=len(entry.array.one.images),
        rank=rank,
        classes=tuple(_class_mean(entry.array, label) for label in labels),
    )


def _class_mean(array: ScoreArray, label: str) -> ClassMean:
    dice, distance = _means(array, f"{DICE}.{label}"), _means(array, f"{HD95}.{label}")
    return ClassMean(
        label=label,
        dice=_mean(dice),
        dice_deviation=_deviation(dice),
        hd95=_mean(distance),
        hd95_deviation=_deviation(distance),
    )


def _differences(entries: Sequence[_Entry], every: Sequence[_Entry]) -> Iterator[SeriesDifference]:
    """Each way of distilling less none of its group, judged together. every: all that was confirmed."""
    pairs = [(entry, _none_for(entry, every)) for entry in entries if entry.method != NO_METHOD]
    claims = [_claim(entry, none) for entry, none in pairs]
    family = [place for place, claim in enumerate(claims) if claim.p is not None]
    for (entry, _), claim in zip(pairs, judged_together(claims, family), strict=True):
        yield SeriesDifference(
            method=method_of(claim.name) or entry.method,
            group=entry.group,
            minuend=claim.minuend,
            subtrahend=claim.subtrahend,
            metric=entry.metric,
            estimate=claim.estimate,
            low=claim.low,
            high=claim.high,
            p=claim.p,
            p_holm=claim.p_holm,
            images=claim.images,
            groups=claim.groups,
            seeds=claim.seeds,
            verdict=claim.verdict,
            reason=claim.reason,
        )


def _none_for(entry: _Entry, every: Sequence[_Entry]) -> _Entry | None:
    """What was trained without distillation in the same group, with no more parameters."""
    return next(
        (
            other
            for other in every
            if (other.method, other.group) == (NO_METHOD, entry.group)
            and other.configuration.params <= entry.configuration.params
        ),
        None,
    )


def _claim(entry: _Entry, none: _Entry | None) -> Comparison:
    """The difference, before it is judged."""
    why = "nothing without distillation and with no more parameters was confirmed"
    estimate, seeds = None, 0
    if none is not None and none.array.one.images != entry.array.one.images:
        why = f"{none.study} was measured on other test images"
    elif none is not None:
        why = "no seed that both were trained with"
        estimate, seeds = difference(entry.array, none.array, entry.metric)
    against = entry.configuration if none is None else none.configuration
    pair = Pair(method_claim(entry.method), entry.configuration, against, "the best of none with no more parameters")
    unit = unit_of_metric(entry.metric, entry.array.one.length_unit)
    what = f"{entry.metric}{unit and f' ({unit})'}, mean over {entry.array.one.scored}s"
    claim = made(pair, TEST, estimate, seeds, metric=entry.metric, unit=what, confidence=CONFIDENCE)
    named = {"minuend": f"{entry.study} {claim.minuend}"}
    named["subtrahend"] = "" if none is None else f"{none.study} {none.configuration.name}"
    return claim.model_copy(update=named | ({"reason": why} if estimate is None else {}))
