"""What became of a study's confirmation, in a few figures: `status` and the dashboard's note tell them."""

from typing import Any

from search.answer.build import answer, chosen_or_best, distillation
from search.answer.comparisons import TEST, metric_of
from search.answer.document import ConfirmedPart
from search.answer.score_arrays import describe_thresholds
from search.confirm.plan import confirmations, plan_of
from search.confirm.results import Confirmed, confirmed
from search.storage.database import Database
from search.study.progress import progress_of
from search.study.snapshot import SearchSnapshot, read


def confirmation(opened: Database, rows: SearchSnapshot) -> dict[str, Any] | None:
    """The newest confirmation of a study, or of the study that a confirmation belongs to; None where there is none.

    `study` was confirmed by `name`, whose main arm is the dashboard's study `study_id`: `finished` of `trials`,
    `failed`, `ended`; `result` is None until it has ended with a score on test. Torch is not loaded.
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
    return {
        "study": of,
        "name": begun[-1],
        "study_id": snapshot.arms[0].study_id,
        "finished": sum(arm.finished for arm in arms),
        "trials": plan_of(begun[-1], snapshot.record).trials,
        "failed": sum(arm.failures for arm in arms),
        "ended": progress.ended,
        "result": _result(confirmed(opened, of, sized=False), read(opened, of)) if known else None,
        "report": f"python -m search report {of}",
    }


def _result(confirmed: Confirmed, search: SearchSnapshot) -> dict[str, Any] | None:
    if not any(each.part == TEST and each.seed is not None for each in confirmed.findings):
        return None
    part = answer(confirmed)
    best = chosen_or_best(part)
    asked = search.taught(search.arms[0].name)
    return {
        "metric": metric_of(confirmed),
        "network": None if best is None else best.name,
        "what": None if best is None else best.words,
        "ship": part.chosen is not None,
        "distillation": distillation(part).replace("_", " ") if asked else "not asked",
        "networks": _networks(part),
        "missing": list(part.missing),
    }


def _networks(part: ConfirmedPart) -> dict[str, dict[str, Any]]:
    """By configuration: its mean score on test over seeds, each at its own threshold, with its interval if any."""
    return {
        each.name: {"score": each.test, "low": each.low, "high": each.high, "seeds": len(each.by_seed)}
        | {"thresholds": [threshold for _, threshold in each.thresholds]}
        for each in part.networks
        if each.test is not None
    }


def score_text(result: dict[str, Any], network: str) -> str:
    """`test dice 0.8712 [0.8601, 0.8823], mean over 5 seeds at thresholds 0.5 to 0.65`."""
    network_score = result["networks"][network]
    interval = "" if network_score["low"] is None else f" [{network_score['low']:.4f}, {network_score['high']:.4f}]"
    seeds = "one seed" if network_score["seeds"] == 1 else f"mean over {network_score['seeds']} seeds"
    at = f" at {describe_thresholds(network_score['thresholds'])}" if network_score["thresholds"] else ""
    return f"test {result['metric']} {network_score['score']:.4f}{interval}, {seeds}{at}"


def rule_text(result: dict[str, Any]) -> str:
    """What stands before the network that is named."""
    if result["ship"]:
        return "to ship is"
    why = "nothing is near enough to the teacher" if "teacher" in result["networks"] else "no teacher to compare with"
    return f"{why}, the search's best is"


def progress_text(counts: dict[str, Any]) -> str:
    """`12 of 30 trials finished, 1 failed`."""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{counts['finished']} of {counts['trials']} trials finished{failed}"
