"""The comparisons that a search exists for, and what may be said of each.

`gain`: the winner of the search with KD less the winner of a search without, of those with no more parameters.
`kd_term_effect`: a winner less the same run with its KD weight zero. `tuning_gain`: the winner without KD less the
untuned network. All are on the fresh seeds, paired by seed and image. A winner is what the search itself found best on
validation: choosing again among what was confirmed would favour the arm of which more was confirmed. Of a score that is
better when lower, a gain is a difference below zero.

A study that deals its trials over methods, none among them, has `gain[METHOD]` in the place of `gain`: the best of a
method less the best of none with no more parameters. These claims are a family of their own, corrected over them.

With more than one foreground class, these claims are of the mean over classes and one family; single classes are a
second one (`class_comparisons`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search.answer.document import SEARCH_THRESHOLD, Comparison, Verdict, claim_title, method_claim, method_of
from search.answer.score_arrays import ScoreArray, describe_thresholds, difference, level
from search.answer.uncertainty import Estimate, holm
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed
from search.spec.config import MAIN
from trainer.evaluation.score_names import SCORE_KINDS, confirmed_name, unit_of

TEST = "test"
Grids = dict[tuple[str, str], ScoreArray]

FAMILY = ("gain", "kd_term_effect", "tuning_gain")
"""Claims that are corrected together. Others are described beside them."""


@dataclass(frozen=True)
class Pair:
    """Two networks that are compared."""

    name: str
    minuend: Configuration
    subtrahend: Configuration
    what: str
    """The comparison in words, for a sentence."""


def metric_of(confirmed: Confirmed) -> str:
    """The column that is compared: the objective where it is a score of single images, else Dice. An objective at the
    best threshold is compared at the threshold of each seed."""
    columns = confirmed.findings[0].columns if confirmed.findings else {}
    name = confirmed_name(confirmed.objective)
    return name if name in columns else "dice"


def search_threshold(objective: str) -> float | None:
    """The threshold of every score of a search; None where each network has the one that is best for it."""
    return None if SCORE_KINDS[objective.partition(".")[0]].thresholded else SEARCH_THRESHOLD


def lower_is_better(metric: str) -> bool:
    """Whether a score is better when lower."""
    return SCORE_KINDS[metric.partition(".")[0]].direction == "minimize"


def bounds_of(metric: str) -> tuple[float, float]:
    """Where every value of a score lies, and so every mean."""
    return SCORE_KINDS[metric.partition(".")[0]].bounds


def bounds_of_difference(metric: str) -> tuple[float, float]:
    """Where the difference of two values of a score lies: -1 to 1 for a share."""
    low, high = bounds_of(metric)
    return low - high, high - low


def unit_of_metric(metric: str, length_unit: str) -> str:
    """The unit of a length, `px` or `mm`; empty for a share."""
    return unit_of(metric.partition(".")[0], spacing=length_unit == "mm")


def on_validation(grids: Grids, configuration: Configuration, metric: str) -> float | None:
    """Mean validation score of the fresh seeds."""
    grid = grids.get((configuration.name, "validation"))
    estimate = None if grid is None else level(grid, metric)
    return None if estimate is None else estimate.value


def first(among: Iterable[Configuration]) -> Configuration | None:
    """What its search ranked first."""
    return min(among, key=lambda each: each.rank, default=None)


def pairs(confirmed: Confirmed) -> list[Pair]:
    """The comparisons that can be made, the main control first."""
    winner = first(c for c in confirmed.configurations if c.role == "winner")
    if winner is None:
        return []
    compared = _method_pairs(confirmed)
    for place, arm in enumerate(_control_arms(confirmed, winner)):
        controls = [c for c in confirmed.configurations if c.role == "control" and c.arm == arm]
        control = first(c for c in controls if c.params <= winner.params)
        if control is not None:
            distilled = _without_kd(control) and not _without_kd(winner)
            name = "gain" if place == 0 and distilled else f"gain over {arm}"
            compared.append(Pair(name, winner, control, f"the best of {arm} with no more parameters"))
    ablation = next((c for c in confirmed.configurations if c.role == "ablation"), None)
    taught = next((c for c in confirmed.configurations if ablation is not None and c.name == ablation.of), None)
    if ablation is not None and taught is not None:
        compared.append(Pair("kd_term_effect", taught, ablation, "the same run with its KD weight zero"))
    defaults = next((c for c in confirmed.configurations if c.role == "defaults"), None)
    gain = next((p for p in compared if p.name == "gain"), None)
    untaught = first(c for c in _searched(confirmed) if _without_kd(c)) if confirmed.methods else None
    tuned = winner if _without_kd(winner) else untaught if gain is None else gain.subtrahend
    if defaults is not None and tuned is not None:
        compared.append(Pair("tuning_gain", tuned, defaults, "the untuned network of the winner's size"))
    return compared


def _searched(confirmed: Confirmed) -> list[Configuration]:
    """What the main search itself trained, whatever its role here."""
    return [c for c in confirmed.configurations if c.arm == MAIN and c.role in ("winner", "control")]


def _method_pairs(confirmed: Confirmed) -> list[Pair]:
    """The best of each method with the best of none that has no more parameters; the best method first."""
    compared = []
    for method in confirmed.methods:
        best = first(c for c in _searched(confirmed) if c.run["method"] == method)
        if best is not None:
            control = first(c for c in _searched(confirmed) if _without_kd(c) and c.params <= best.params)
            if control is not None:
                compared.append(Pair(method_claim(method), best, control, "the best of none with no more parameters"))
    return sorted(compared, key=lambda pair: pair.minuend.rank)


def comparisons(confirmed: Confirmed, grids: Grids, parts: Sequence[str], confidence: float) -> list[Comparison]:
    """Every comparison on test and, outside of the corrected family, on every unseen source."""
    metric = metric_of(confirmed)
    compared = pairs(confirmed)
    claims = [c for pair in compared for part in parts if (c := _claim(grids, pair, part, metric, confidence))]
    claims += _missing(confirmed, {c.name for c in claims}, confidence)
    known = [i for i, c in enumerate(claims) if c.part == TEST and c.p is not None]
    families = (
        [i for i in known if claims[i].name in FAMILY],
        [i for i in known if method_of(claims[i].name) is not None],
    )
    return judged_together(claims, *families)


def class_comparisons(
    confirmed: Confirmed, grids: Grids, claims: Sequence[Comparison], confidence: float
) -> list[Comparison]:
    """The second family: on test, each class of every claim of FAMILY whose mean over classes is shown.

    Corrected among themselves (Holm). That the first family is tested before keeps the risk of a false claim of a
    single class: where its mean is not shown, no class is looked at. Empty with one foreground class.
    """
    metric = metric_of(confirmed)
    bare = metric.partition(".")[0]
    of_means = [c for c in claims if c.part == TEST and (c.name in FAMILY or method_of(c.name) is not None)]
    shown = {c.name for c in of_means if c.verdict == "shown"}
    compared = [
        (pair, label)
        for pair in pairs(confirmed)
        if pair.name in shown
        for label in class_labels(confirmed)
        if f"{bare}.{label}" != metric
    ]
    made_claims = [
        claim.model_copy(update={"label": label})
        for pair, label in compared
        if (claim := _claim(grids, pair, TEST, f"{bare}.{label}", confidence)) is not None
    ]
    return judged_together(made_claims, [i for i, c in enumerate(made_claims) if c.p is not None])


def class_labels(confirmed: Confirmed) -> list[str]:
    """The foreground classes in the order of their labels, where there are several; they are columns of their own."""
    columns = confirmed.findings[0].columns if confirmed.findings else {}
    return [name.partition(".")[2] for name in columns if name.startswith("dice.")]


def judged_together(claims: list[Comparison], *families: Sequence[int]) -> list[Comparison]:
    """The claims with their verdicts, those of a family corrected over all of it."""
    for family in families:
        corrected = holm([claims[i].p or 0.0 for i in family])
        for i, p in zip(family, corrected, strict=True):
            claims[i] = claims[i].model_copy(update={"p_holm": p})
    return [_judged(claim) for claim in claims]


def _control_arms(confirmed: Confirmed, winner: Configuration) -> list[str]:
    """Arms of controls: first those of the winner's kind of network."""
    controls = [c for c in confirmed.configurations if c.role == "control" and c.arm != MAIN]
    arms = dict.fromkeys(c.arm for c in controls)
    alike = {c.arm for c in controls if _kind(c) == _kind(winner)}
    return sorted(arms, key=lambda arm: arm not in alike)


def _kind(configuration: Configuration) -> str:
    return str(configuration.run["student"]["name"])


def _without_kd(configuration: Configuration) -> bool:
    return bool(configuration.run["method"] == "none")


def _claim(grids: Grids, pair: Pair, part: str, metric: str, confidence: float) -> Comparison | None:
    minuend, subtrahend = grids.get((pair.minuend.name, part)), grids.get((pair.subtrahend.name, part))
    if minuend is None or subtrahend is None:
        return None
    estimate, seeds = difference(minuend, subtrahend, metric)
    length = unit_of_metric(metric, minuend.one.length_unit)
    unit = f"{metric} ({length})" if length else metric
    what = f"{unit}, mean over {minuend.one.scored}s"
    claim = made(pair, part, estimate, seeds, metric=metric, unit=what, confidence=confidence)
    return _at_thresholds(claim, minuend, subtrahend)


def _at_thresholds(claim: Comparison, minuend: ScoreArray, subtrahend: ScoreArray) -> Comparison:
    """The claim with the thresholds of both networks."""
    both = (tuple(threshold for _, threshold in each.thresholds) for each in (minuend, subtrahend))
    return claim.model_copy(update={"thresholds": tuple(both)})


def made(
    pair: Pair,
    part: str,
    estimate: Estimate | None,
    seeds: int,
    *,
    metric: str,
    unit: str,
    confidence: float,
    margin: float | None = None,
) -> Comparison:
    """A claim without its verdict. unit: of the estimate, with what it is a mean over. With a margin its p is
    one-sided, of a difference of at most -margin."""
    interval = None if estimate is None else estimate.interval(confidence, bounds_of_difference(metric))
    p = None if estimate is None else estimate.two_sided() if margin is None else estimate.above(-margin)
    low, high = interval or (None, None)
    return Comparison(
        name=pair.name, part=part, minuend=pair.minuend.name, subtrahend=pair.subtrahend.name,
        estimate=None if estimate is None else estimate.value, low=low, high=high, confidence=confidence, p=p,
        p_holm=None, unit=unit, images=0 if estimate is None else estimate.images,
        groups=0 if estimate is None else estimate.groups, seeds=seeds, margin=margin, verdict="not estimable",
        reason="no seed that both were trained with" if estimate is None else estimate.reason, words=pair.what,
        lower_is_better=lower_is_better(metric),
    )  # fmt: skip


def _missing(confirmed: Confirmed, there: set[str], confidence: float) -> list[Comparison]:
    """The claims of the family that cannot be made, with the reason."""
    reasons = {
        "gain": "no search without KD whose best has no more parameters was confirmed",
        "kd_term_effect": "no winner that a teacher taught was confirmed with and without it",
        "tuning_gain": "no tuned and untuned network without KD was confirmed",
    }
    winner = first(c for c in confirmed.configurations if c.role == "winner")
    if confirmed.methods:
        del reasons["gain"]
        compared = "of this method, or of none with no more parameters, nothing was confirmed"
        reasons = dict.fromkeys(map(method_claim, confirmed.methods), compared) | reasons
    elif winner is not None and _without_kd(winner):
        reasons |= dict.fromkeys(("gain", "kd_term_effect"), "the winner was trained without distillation")
    return [
        Comparison(
            name=name, part=TEST, minuend="", subtrahend="", estimate=None, low=None, high=None, confidence=confidence,
            p=None, p_holm=None, unit="", images=0, groups=0, seeds=0, margin=None, verdict="not estimable",
            reason=reason + (f" ({len(confirmed.missing)} runs are missing)" if confirmed.missing else ""), words="",
        )
        for name, reason in reasons.items() if name not in there
    ]  # fmt: skip


def verdict(estimate: float | None, p: float | None, confidence: float, *, lower: bool = False) -> Verdict:
    """`shown` where the difference is positive and its p is at most 1 - confidence, `worse` where it is negative.

    lower: whether the score is better when lower; then a negative difference is the gain.
    """
    if estimate is None or p is None:
        return "not estimable"
    if p > 1 - confidence or estimate == 0:
        return "not_shown"
    return "shown" if (estimate < 0 if lower else estimate > 0) else "worse"


def _judged(claim: Comparison) -> Comparison:
    p = claim.p if claim.p_holm is None else claim.p_holm
    reached = verdict(claim.estimate, p, claim.confidence, lower=claim.lower_is_better)
    return claim.model_copy(update={"verdict": reached, "words": _sentence(claim, reached)})


def unit_text(claim: Comparison) -> str:
    """`px of hd95_missed_as_diagonal, `, before what else is said of a length; empty for a share."""
    metric, _, unit = claim.unit.partition(",")[0].partition(" (")
    return f"{unit.removesuffix(')')} of {metric}, " if unit else ""


def _sentence(claim: Comparison, reached: Verdict) -> str:
    if claim.estimate is None:
        return f"{claim_title(claim.name)}: not estimable: {claim.reason}"
    at = " against ".join(describe_thresholds(each) for each in claim.thresholds if each)
    if at and len({*claim.thresholds[0], *claim.thresholds[1]}) == 1:
        at = describe_thresholds(claim.thresholds[0])
    what = "; ".join(filter(None, (claim.words, at and f"at {at}")))
    of = f"{claim.part}, {claim.label}" if claim.label else claim.part
    lower = f", {unit_text(claim)}lower is better" if claim.lower_is_better else ""
    sentence = f"{claim.minuend} less {claim.subtrahend} ({what}) on {of}: {claim.estimate:+.4f}{lower}"
    if claim.low is None or claim.high is None:
        return f"{sentence}; not estimable: {claim.reason}"
    over = "classes" if claim.label else "claims"
    p = "" if claim.p_holm is None else f", p {claim.p_holm:.3g} corrected over the {over}"
    return f"{sentence} [{claim.low:+.4f}, {claim.high:+.4f}] ({claim.confidence:.0%}{p}): {reached.replace('_', ' ')}"


def claim_line(claim: Comparison) -> str:
    """A claim to be read once: `gain of tuning (kd-1 less defaults): +0.0120, 95% [+0.0012, +0.0231], p 0.031: shown`.

    `words` says the same as a sentence that stands alone, with what the second network is and with both thresholds.
    """
    of = claim_title(claim.name) + (f", {claim.label} alone" if claim.label else "")
    of += "" if claim.margin is None else f" by more than {claim.margin:g}"
    if claim.estimate is None:
        return f"{of}: not estimable: {claim.reason}"
    lower = f" ({unit_text(claim)}lower is better)" if claim.lower_is_better else ""
    line = f"{of} ({claim.minuend} less {claim.subtrahend}): {claim.estimate:+.4f}{lower}"
    if claim.low is None or claim.high is None:
        return f"{line}: not estimable: {claim.reason}"
    p = "" if claim.p_holm is None else f", p {claim.p_holm:.2g}"
    interval = f"{claim.confidence:.0%} [{claim.low:+.4f}, {claim.high:+.4f}]"
    return f"{line}, {interval}{p}: {claim.verdict.replace('_', ' ')}"


def non_inferiority(
    confirmed: Confirmed, grids: Grids, metric: str, part: str = TEST
) -> tuple[list[Comparison], Configuration | None]:
    """Which students are shown not to lie more than the margin below the teacher, and the one to ship.

    Every winner and control is tested one-sided at the chosen confidence, corrected over all of them (Holm), so that
    the smallest that passes may be chosen. The interval has the two-sided confidence of which the test is one side.
    """
    choose = confirmed.choose
    teacher = next((c for c in confirmed.configurations if c.role == "teacher"), None)
    behind = None if teacher is None else grids.get((teacher.name, part))
    metric = choose.metric if behind is not None and choose.metric in behind.one.columns else metric
    if teacher is None or behind is None:
        return [], None
    claims: list[tuple[Configuration, Comparison]] = []
    for each in (c for c in confirmed.configurations if c.role in ("winner", "control")):
        grid = grids.get((each.name, part))
        if grid is not None:
            pair = Pair("not_below_teacher", each, teacher, f"at most {choose.margin:g} below the teacher")
            estimate, seeds = difference(grid, behind, metric)
            two_sided = 2 * choose.confidence - 1
            claim = made(
                pair, part, estimate, seeds, metric=metric, unit=f"{metric}, mean over {grid.one.scored}s",
                confidence=two_sided, margin=choose.margin,
            )  # fmt: skip
            claims.append((each, _at_thresholds(claim, grid, behind)))
    known = [i for i, (_, claim) in enumerate(claims) if claim.p is not None]
    for i, p in zip(known, holm([claims[i][1].p or 0.0 for i in known]), strict=True):
        claims[i] = claims[i][0], _near(claims[i][1], p, choose.confidence)
    passed = [each for each, claim in claims if claim.verdict == "shown"]
    size = (lambda c: c.gflops) if choose.smallest == "gflops" else (lambda c: float(c.params))
    chosen = min(passed, key=lambda c: (size(c), -(on_validation(grids, c, metric) or 0.0)), default=None)
    return [with_sentence(claim) for _, claim in claims], chosen


def _near(claim: Comparison, p: float, confidence: float) -> Comparison:
    shown: Verdict = "shown" if p <= 1 - confidence else "not_shown"
    if claim.high is not None and claim.margin is not None and claim.high < -claim.margin:
        shown = "worse"
    return claim.model_copy(update={"p_holm": p, "verdict": shown})


def with_sentence(claim: Comparison) -> Comparison:
    """The claim with its sentence."""
    return claim.model_copy(update={"words": _sentence(claim, claim.verdict)})
