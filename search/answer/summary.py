"""What became of a study's confirmation, in a few figures: `status` and the dashboard's note tell them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search.answer.build import answer, chosen_or_best, distillation
from search.answer.comparisons import TEST, metric_of, unit_of_metric
from search.answer.document import ConfirmedPart
from search.answer.score_arrays import describe_thresholds
from search.confirm.plan import confirmations, plan_of
from search.confirm.results import Confirmed, confirmed
from search.storage.database import Database
from search.study.progress import progress_of
from search.study.snapshot import SearchSnapshot, read


@dataclass(frozen=True)
class NetworkScore:
    """The score of one confirmed network on test, each seed at its own threshold."""

    score: float
    """The mean over seeds."""
    low: float | None
    """The lower end of its interval; None where it has none, as `high` then."""
    high: float | None
    seeds: int
    thresholds: Sequence[float]
    """That of each seed; empty where none was recorded."""


@dataclass(frozen=True)
class ConfirmedResult:
    """What a confirmation showed that has ended with a score on test."""

    metric: str
    network: str | None
    """The configuration to ship, or the search's best where there is none; None where neither has a score."""
    what: str | None
    """What that configuration is, as a person reads it."""
    ship: bool
    """Whether `network` is the one to ship."""
    distillation: str
    """What is known of its effect: a verdict, or "not asked" where the search has no teacher."""
    networks: Mapping[str, NetworkScore]
    """By configuration, of those that have a score."""
    missing: Sequence[str]
    """What was to be measured and was not."""
    length_unit: str = "px"
    """Of distances."""


@dataclass(frozen=True)
class ConfirmationSummary:
    """The newest confirmation of a study in a few figures; its fields are those of `status --json`."""

    study: str
    """The study that is confirmed."""
    name: str
    study_id: int
    """The dashboard's study of the confirmation's main arm."""
    finished: int
    trials: int
    """How many are planned."""
    failed: int
    ended: bool
    result: ConfirmedResult | None
    """None until it has ended with a score on test."""
    report: str
    """The command that writes the whole report."""

    def as_json(self) -> dict[str, Any]:
        """The form that `status --json` prints; a unit of lengths stands there where it is not px."""
        document = asdict(self)
        if document["result"] is not None and document["result"]["length_unit"] == "px":
            del document["result"]["length_unit"]
        return document


def confirmation(opened: Database, rows: SearchSnapshot) -> ConfirmationSummary | None:
    """The newest confirmation of a study, or of the study that a confirmation belongs to; None where there is none.

    Torch is not loaded.
    """
    names = opened.searches.names()
    of = rows.confirms or str(rows.search.name)
    begun = confirmations(of, names)
    if not begun:
        return None
    snapshot = rows if rows.search.name == begun[-1] else read(opened, begun[-1])
    progress = progress_of(snapshot, opened.searches.closed)
    arms = progress.arms.values()
    known = of in names and progress.ended
    return ConfirmationSummary(
        study=of,
        name=begun[-1],
        study_id=snapshot.arms[0].study_id,
        finished=sum(arm.finished for arm in arms),
        trials=plan_of(begun[-1], snapshot.record).trials,
        failed=sum(arm.failures for arm in arms),
        ended=progress.ended,
        result=_result(confirmed(opened, of, sized=False), read(opened, of)) if known else None,
        report=f"python -m search report {of}",
    )


def _result(confirmed: Confirmed, search: SearchSnapshot) -> ConfirmedResult | None:
    if not any(each.part == TEST and each.seed is not None for each in confirmed.findings):
        return None
    part = answer(confirmed)
    best = chosen_or_best(part)
    asked = search.taught(search.arms[0].name)
    return ConfirmedResult(
        metric=metric_of(confirmed),
        network=None if best is None else best.name,
        what=None if best is None else best.words,
        ship=part.chosen is not None,
        distillation=distillation(part).replace("_", " ") if asked else "not asked",
        networks=_networks(part),
        missing=list(part.missing),
        length_unit=confirmed.findings[0].length_unit,
    )


def _networks(part: ConfirmedPart) -> dict[str, NetworkScore]:
    return {
        each.name: NetworkScore(
            score=each.test,
            low=each.low,
            high=each.high,
            seeds=len(each.by_seed),
            thresholds=[threshold for _, threshold in each.thresholds],
        )
        for each in part.networks
        if each.test is not None
    }


def score_text(result: ConfirmedResult, network: str) -> str:
    """`test dice 0.8712 [0.8601, 0.8823], mean over 5 seeds at thresholds 0.5 to 0.65`."""
    of = result.networks[network]
    interval = "" if of.low is None else f" [{of.low:.4f}, {of.high:.4f}]"
    unit = unit_of_metric(result.metric, result.length_unit)
    seeds = "one seed" if of.seeds == 1 else f"mean over {of.seeds} seeds"
    at = f" at {describe_thresholds(of.thresholds)}" if of.thresholds else ""
    return f"test {result.metric} {of.score:.4f}{unit and ' '}{unit}{interval}, {seeds}{at}"


def rule_text(result: ConfirmedResult) -> str:
    """What stands before the network that is named."""
    if result.ship:
        return "to ship is"
    why = "nothing is near enough to the teacher" if "teacher" in result.networks else "no teacher to compare with"
    return f"{why}, the search's best is"


def progress_text(counts: ConfirmationSummary) -> str:
    """`12 of 30 trials finished, 1 failed`."""
    failed = f", {counts.failed} failed" if counts.failed else ""
    return f"{counts.finished} of {counts.trials} trials finished{failed}"
