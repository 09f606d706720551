"""What a comparison of methods shows: claims as `search confirm` makes them, a row a method."""

import math
import statistics
from collections.abc import Iterator, Mapping

from benchmarks.cells import Cells
from benchmarks.method_comparison.units import SCORE, best_trial, methods
from search.answer.build import CONFIDENCE
from search.answer.comparisons import TEST, Pair, comparisons, pairs
from search.answer.document import Comparison, method_claim
from search.answer.power import LONG, POWER, SHORT, measured, smallest_gain
from search.answer.score_arrays import ScoreArray, difference, score_arrays
from search.answer.uncertainty import estimate
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed, PerImageScores
from search.planning.network_costs import student_size
from search.spec.config import MAIN, Choose
from search.spec.load import StudySpec


def done(spec: StudySpec, cells: Cells) -> Confirmed:
    """What is finished as `search confirm` would have it: methods whose seeds are all trained."""
    groups: list[int] = next((line["groups"] for line in cells.lines(kind="teacher")), [])
    configurations: list[Configuration] = []
    scores: list[PerImageScores] = []
    for method in methods(spec):
        lines = [line for line in cells.lines(kind="seed", method=method) if line["failed"] is None]
        best = best_trial(cells, method)
        if best is None or len(lines) < len(spec.confirm.seeds):
            continue
        run = spec.main.resolve(best["params"])
        params, gflops = student_size(run)
        configurations.append(
            Configuration(
                name=method,
                role="winner",
                arm=MAIN,
                of=None,
                rank=0,
                trial=best["number"],
                searched=best["validation"],
                params=params,
                gflops=gflops,
                run=run.model_dump(mode="json"),
            )
        )
        scores += [
            PerImageScores(
                part=TEST, threshold=None, images=tuple(map(str, range(len(groups)))), sources=("",) * len(groups),
                groups=tuple(map(str, groups)), columns={"dice": tuple(line["test"])}, calibration=(),
                configuration=method, seed=line["number"],
            )
            for line in lines
        ]  # fmt: skip
    configurations.sort(key=lambda each: -(each.searched or 0.0))
    ranked = tuple(Configuration(**{**vars(each), "rank": rank}) for rank, each in enumerate(configurations, 1))
    return Confirmed(
        study=spec.name, objective="dice", configurations=ranked, findings=tuple(scores), budgets={}, choose=Choose(),
        openings=(), missing=(), methods=tuple(each.name for each in ranked if each.name != "none"),
    )  # fmt: skip


def table(spec: StudySpec, cells: Cells) -> Iterator[str]:
    """Lines of Markdown: what could have been shown, then a row a method."""
    confirmed = done(spec, cells)
    arrays = score_arrays(confirmed)
    claims = {each.name: each for each in comparisons(confirmed, arrays, [TEST], CONFIDENCE)} if arrays else {}
    yield from introduction(spec, cells, len(confirmed.methods))
    yield "| method | best of six, published | test Dice, deviation of seeds | gain | p (Holm) | | shown from |"
    yield "|---|---|---|---|---:|---|---:|"
    every = len(methods(spec)) - 1
    smallest = {pair.name: shown_from(pair, arrays, every) for pair in pairs(confirmed) if pair.name in claims}
    for method in methods(spec):
        best = best_trial(cells, method)
        published = cells.lines(kind="trial", method=method, number=0)
        if best is None:
            continue
        trials = f"{best['validation']:.3f}, {published[0].get('validation', math.nan):.3f}"
        array, claim = arrays.get((method, TEST)), claims.get(method_claim(method))
        yield f"| {method} | {trials} | {' | '.join(_cells(array, claim, smallest.get(method_claim(method))))} |"
    there, hours = len(confirmed.methods), sum(line["cpu_seconds"] for line in cells.lines()) / 3600
    yield ""
    yield (
        f"{there} methods are compared and {every - there} are missing; p is corrected over those that are there. "
        f"{hours:.1f} hours of the processor so far."
    )


def beside_dice(spec: StudySpec, cells: Cells, known: Cells, score: str) -> Iterator[str]:
    """Lines of Markdown: what a choice of trials by `score` gives in test Dice, less what a choice by Dice gave."""
    ours, theirs = (score_arrays(done(spec, each)) for each in (cells, known))
    yield f"| method | trial by {SCORE} | trial by {score} | test Dice | | gain |"
    yield "|---|---:|---:|---:|---:|---|"
    gains = []
    for method in methods(spec):
        array, other = ours.get((method, TEST)), theirs.get((method, TEST))
        numbers = [(best_trial(each, method) or {}).get("number") for each in (known, cells)]
        if array is None or other is None:
            continue
        gains.append(array.values("dice") - other.values("dice"))
        means = " | ".join(f"{each.values('dice').mean():.3f}" for each in (other, array))
        same = numbers[0] == numbers[1]
        found = None if same else difference(array, other, "dice")[0]
        low, high = (None if found is None else found.interval(CONFIDENCE)) or (0.0, 0.0)
        gain = "the same trial" if found is None else f"{found.value:+.4f} [{low:+.4f}, {high:+.4f}]"
        yield f"| {method} | {numbers[0]} | {numbers[1]} | {means} | {gain} |"
    if gains:
        whole = estimate(sum(gains[1:], gains[0]) / len(gains), next(iter(ours.values())).one.groups)
        low, high = whole.interval(CONFIDENCE) or (whole.value, whole.value)
        yield f"| mean of {len(gains)} | | | | | {whole.value:+.4f} [{low:+.4f}, {high:+.4f}] |"


def introduction(spec: StudySpec, cells: Cells, finished: int) -> Iterator[str]:
    """What the comparison can show, and how far the teacher is above the student."""
    teacher = next(iter(cells.lines(kind="teacher")), None)
    if teacher is None:
        yield "Nothing is done."
        return
    groups, seeds, claims = len(set(teacher["groups"])), len(spec.confirm.seeds), len(methods(spec)) - 1
    sizes = f"{len(teacher['groups'])} test pictures in {groups} groups, {seeds} seeds, {claims} methods"
    long, short = (smallest_gain(groups, seeds, noise, CONFIDENCE, claims) for noise in (LONG, SHORT))
    yield (
        f"{sizes}: before any training, a true gain was likely ({POWER:.0%}) to be shown from {short:.2f} on with the "
        f"noise of short trainings and from {long:.3f} with that of long ones. Last column: the same with the "
        f"method's own noise here, corrected over all {claims}."
    )
    scores = f"validation Dice {teacher['validation']:.3f}, test {statistics.fmean(teacher['test']):.3f}"
    none = best_trial(cells, "none")
    gap = "" if none is None else f"; the best student without it {none['validation']:.3f} on validation"
    yield f"Teacher: {scores}{gap}. {finished} of {claims} methods are finished."
    yield ""


def shown_from(pair: Pair, arrays: Mapping[tuple[str, str], ScoreArray], claims: int) -> float | None:
    """The smallest gain that is likely to be shown with the noise of a pair, corrected over so many claims."""
    one, other = arrays[pair.minuend.name, TEST], arrays[pair.subtrahend.name, TEST]
    noise = measured(one.values("dice") - other.values("dice"), one.one.groups)
    return smallest_gain(len(set(one.one.groups)), len(one.seeds), noise, CONFIDENCE, claims)


def _cells(array: ScoreArray | None, claim: Comparison | None, smallest: float | None) -> Iterator[str]:
    """Test Dice, gain with its interval, p, verdict and the smallest gain; empty where seeds are missing."""
    seeds = None if array is None else array.values("dice").mean(axis=1)
    yield "" if seeds is None else f"{seeds.mean():.3f} ± {seeds.std(ddof=1):.3f}"
    if claim is None or claim.estimate is None or claim.low is None or claim.p_holm is None:
        yield from ("", "", "", "")
        return
    yield f"{claim.estimate:+.4f} [{claim.low:+.4f}, {claim.high:+.4f}]"
    yield f"{claim.p_holm:.2g}"
    yield claim.verdict.replace("_", " ")
    yield "" if smallest is None else f"{smallest:.3f}"
