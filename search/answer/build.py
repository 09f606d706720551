"""The whole answer of a confirmed study, and which student and which comparison its sentences are about."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from search.answer.comparisons import (
    TEST,
    Grids,
    bounds_of,
    class_comparisons,
    class_labels,
    comparisons,
    metric_of,
    non_inferiority,
    on_validation,
    search_threshold,
)
from search.answer.distances import distances
from search.answer.document import Comparison, ConfirmedPart, Network, Opening, Verdict, claim_title, method_of
from search.answer.power import needed
from search.answer.score_arrays import ScoreArray, describe_rule, level, score_arrays
from search.answer.subgroups import class_scores, reliability, scores
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed
from search.storage.evidence import OpeningRecord

CONFIDENCE = 0.95
"""Confidence of the intervals, and of the family of claims together."""


def answer(confirmed: Confirmed, latency: Callable[[Configuration], float | None] | None = None) -> ConfirmedPart:
    """Claims, the network to ship, and the tables. latency: milliseconds an image, where they are known.

    Raises ValueError where networks were not measured on the same images.
    """
    grids, metric = score_arrays(confirmed), metric_of(confirmed)
    parts = _parts(confirmed)
    near, chosen = non_inferiority(confirmed, grids, metric)
    claims = comparisons(confirmed, grids, parts, CONFIDENCE)
    name = None if chosen is None else chosen.name
    order = [(c.name, part) for part in ("validation", *parts) for c in confirmed.configurations]
    shown = [grids[key] for key in order if key in grids]
    return ConfirmedPart(
        networks=tuple(_network(each, grids, metric, latency, confirmed, name) for each in confirmed.configurations),
        claims=(*claims, *near),
        class_claims=tuple(class_comparisons(confirmed, grids, claims, CONFIDENCE)),
        distances=tuple(distances(confirmed, grids, CONFIDENCE)),
        scores=tuple(row for grid in shown for row in scores(grid, CONFIDENCE)),
        class_scores=tuple(row for grid in shown for row in class_scores(grid, class_labels(confirmed), CONFIDENCE)),
        reliability=tuple(reliability(grid) for grid in shown if grid.part != "validation"),
        thresholds=tuple(_thresholds(shown)),
        threshold_rule=describe_rule(confirmed),
        chosen=name,
        choice=_choice(confirmed, near, chosen),
        margin=confirmed.choose.margin,
        margin_metric=near[0].unit.partition(",")[0] if near else confirmed.choose.metric,
        length_unit=next((each.length_unit for each in confirmed.findings), "px"),
        scored=next((each.scored for each in confirmed.findings), "image"),
        confidence=confirmed.choose.confidence,
        openings=tuple(_opening(each) for each in confirmed.openings),
        missing=confirmed.missing,
        needed=needed(confirmed, grids, metric, CONFIDENCE),
    )


def _parts(confirmed: Confirmed) -> Sequence[str]:
    """Test, then the unseen sources in their order."""
    seen = dict.fromkeys(each.part for each in confirmed.findings)
    return [TEST, *(part for part in seen if part not in ("validation", TEST))]


def _network(
    each: Configuration,
    grids: Grids,
    metric: str,
    latency: Callable[[Configuration], float | None] | None,
    confirmed: Confirmed,
    chosen: str | None,
) -> Network:
    teacher = next((c.params for c in confirmed.configurations if c.role == "teacher"), 0)
    grid = grids.get((each.name, TEST))
    test = None if grid is None else level(grid, metric)
    low, high = (None if test is None else test.interval(CONFIDENCE, bounds_of(metric))) or (None, None)
    return Network(
        name=each.name, role=each.role, arm=each.arm, of=each.of, rank=each.rank, trial=each.trial,
        words=describe_network(each),
        searched=each.searched, searched_threshold=search_threshold(confirmed.objective),
        thresholds=_own_thresholds(each, grids), validation=on_validation(grids, each, metric),
        test=None if test is None else test.value, low=low, high=high,
        by_seed=() if grid is None else tuple(_by_seed(grid, metric)),
        params_m=each.params / 1e6, gflops=each.gflops, latency_ms=None if latency is None else latency(each),
        share_of_teacher=each.params / teacher if teacher else None, chosen=each.name == chosen,
    )  # fmt: skip


def describe_network(configuration: Configuration) -> str:
    """The network in a few words: `unet, width 8`."""
    kind: dict[str, Any] = dict(configuration.run["teacher" if configuration.role == "teacher" else "student"])
    facts = [f"{key} {kind[key]}" for key in ("width", "encoder") if kind.get(key) is not None]
    return ", ".join([str(kind["name"]), *facts])


def _by_seed(grid: ScoreArray, metric: str) -> Iterator[tuple[int, float]]:
    for seed, row in zip(grid.seeds, grid.values(metric), strict=False):
        yield seed, float(row.mean())


def _own_thresholds(each: Configuration, grids: Grids) -> tuple[tuple[int | None, float], ...]:
    """Those of the part that most seeds were scored on."""
    measured = [grid for (name, _), grid in grids.items() if name == each.name]
    return max((grid.thresholds for grid in measured), key=len, default=())


def _thresholds(shown: Sequence[ScoreArray]) -> Iterator[tuple[str, float]]:
    """By rule anew for each seed on validation; the mean of them."""
    for name in dict.fromkeys(grid.configuration for grid in shown):
        grids = [grid.thresholds for grid in shown if grid.configuration == name]
        values = [at for _, at in max(grids, key=len)]
        if values:
            yield name, round(sum(values) / len(values), 6)


def _choice(confirmed: Confirmed, near: Sequence[Comparison], chosen: Configuration | None) -> str:
    size = {"params": "parameters", "gflops": "floating-point operations"}[confirmed.choose.smallest]
    rule = (
        f"the one with the fewest {size} of those shown to lie at most {confirmed.choose.margin:g} below the teacher "
        f"on test ({confirmed.choose.confidence:.0%}, one-sided, Holm)"
    )
    if not near:
        return f"{rule}: no teacher was measured, so none was chosen"
    passed = sum(claim.verdict == "shown" for claim in near)
    return f"{rule}: {passed} of {len(near)} do" + ("" if chosen is None else f", {chosen.name} is the smallest")


def _opening(each: OpeningRecord) -> Opening:
    when = datetime.fromtimestamp(each.when, UTC).isoformat(timespec="seconds")
    return Opening(who=each.who, when=when, purpose=each.purpose, configurations=tuple(each.configurations))


def methods_claims(part: ConfirmedPart) -> list[Comparison]:
    """The claims of the ways of distilling that a study dealt its trials over, the search's best first."""
    return [c for c in part.claims if c.part == TEST and method_of(c.name) is not None]


GAIN, TERM, TEACHER = "gain", "kd_term_effect", "not_below_teacher"
"""Names of the claims that the sentences speak of."""


def distillation(part: ConfirmedPart) -> Verdict:
    """Whether distillation is the reason, on test: shown where both comparisons show it, with the tuned control and
    with the same network without its KD term; worse where one of them is worse. Of a study along its methods: shown
    where the gain of any of them is, corrected over all; worse where all are."""
    by_method = {c.verdict for c in methods_claims(part)}
    if by_method:
        order: tuple[Verdict, ...] = ("shown", "not_shown", "worse")
        return next((verdict for verdict in order if verdict in by_method), "not estimable")
    verdicts = [c.verdict for name in (GAIN, TERM) if (c := claim(part, name)) is not None]
    if "worse" in verdicts:
        return "worse"
    if not verdicts or set(verdicts) == {"not estimable"}:
        return "not estimable"
    return "shown" if set(verdicts) == {"shown"} else "not_shown"


def verdict_lines(claims: Iterable[Comparison]) -> list[str]:
    """What was shown on test and what was not, a line each: `shown: gain of tuning`, `not shown: ...`.

    Comparisons with the teacher's margin are left out: they are of each network, and choose the one to ship.
    """
    asked = [each for each in claims if each.part == TEST and each.margin is None]
    lines = []
    for verdict in ("shown", "not_shown", "worse", "not estimable"):
        own = [each for each in asked if each.verdict == verdict]
        names = [claim_title(each.name) for each in own if not each.label]
        for name in dict.fromkeys(each.name for each in own if each.label):
            labels = ", ".join(each.label or "" for each in own if each.label and each.name == name)
            names.append(f"{claim_title(name)} of {labels} alone")
        if names:
            lines.append(f"{verdict.replace('_', ' ')}: {', '.join(names)}")
    return lines


def claim(part: ConfirmedPart, name: str) -> Comparison | None:
    """The claim of a name on test, of the network to ship where there are several."""
    claims = [c for c in part.claims if c.name == name and c.part == "test"]
    of_chosen = [c for c in claims if c.minuend == part.chosen]
    return next(iter([*of_chosen, *claims]), None)


def chosen_or_best(part: ConfirmedPart) -> Network | None:
    """The network to ship; where there is none, of the winners with a test score the one that its search ranked first:
    a choice by the test score would make that too high."""
    chosen = next((network for network in part.networks if network.name == part.chosen), None)
    scored = [network for network in part.networks if network.role == "winner" and network.test is not None]
    return chosen or min(scored, key=lambda network: network.rank, default=None)
