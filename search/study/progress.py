"""Where a search stands, how fast it goes and when it will be done: all figures of `status` and of the dashboard."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.planning.slots import compared
from search.storage.database import Database
from search.storage.leases import LeaseDetails
from search.storage.schema import FINISHED, HELD
from search.storage.searches import ArmRow, Closed
from search.study.code_version import versions
from search.study.outcomes import completed_or_pruned, has_final_score
from search.study.snapshot import SearchSnapshot, read
from search.study.trial_attributes import failure

FEWEST = 5
"""Finished trials that a rate needs."""
LATEST = 20
"""Finished trials, the newest, that a rate is taken over."""


@dataclass(frozen=True)
class Pace:
    """A search's speed."""

    trials_an_hour: float | None
    """Over the newest finished trials (all, where none is left), in the time in which somebody worked; None while there
    are too few."""
    eta_seconds: float | None
    """Until all is done at this rate; None where that cannot be said."""
    unknown: str | None
    """Why it cannot be said."""


def pace_of(
    ended: Sequence[float], attempts: Sequence[tuple[float, float | None]], now: float, *, held: int, left: int
) -> Pace:
    """The speed from when trials ended and when attempts at them were under way, in seconds of one clock.

    ended: of the trials that completed or were pruned. attempts: (began, ended or None). held: trials that somebody
    trains now. left: trials that are still to be finished.
    """
    if len(ended) < FEWEST:
        why = f"{len(ended)} of {FEWEST} finished trials that a rate needs" if left else None
        return Pace(None, None if left else 0.0, why)
    in_order = sorted(ended)
    recent = in_order[-LATEST:] if left else in_order  # what is over is told as a whole
    start = in_order[-LATEST - 1] if len(in_order) > len(recent) else min(began for began, _ in attempts)
    busy = _covered([(max(began, start), now if end is None else end) for began, end in attempts])
    rate = 3600 * len(recent) / max(busy, 1e-3)
    if left == 0:
        return Pace(rate, 0.0, None)
    if held == 0:
        return Pace(rate, None, "no worker holds a trial")
    return Pace(rate, 3600 * left / rate, None)


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of some spans; a night in which no worker ran does not count."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        if end > max(begin, reached):
            total += end - max(begin, reached)
            reached = end
    return total


def an_hour(rate: float) -> str:
    """A rate in digits that can be read: `0.42`, `17.3`, `5,180`."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


MESSAGES = 20
"""Messages of failed trials that are told at most, the newest."""


def standing(opened: Database, name: str) -> dict[str, Any]:
    """All figures of a search as a script reads them. Raises UserError where the study is unknown."""
    return {"storage": opened.label, **figures(read(opened, name), opened.searches.closed)}


def figures(rows: SearchSnapshot, closed_of: Callable[[int], tuple[Closed | None, str | None]]) -> dict[str, Any]:
    """`closed_of`: why nothing new is admitted to a search, as `Searches.closed` says it."""
    pick = max if rows.maximize else min
    why_closed, _ = closed_of(rows.search.search_id)
    closed = None if why_closed is None else why_closed.text
    arms = {arm.name: _arm(rows, arm, pick) for arm in rows.arms}
    pace = _pace(rows, arms, closed)
    return {
        "study": rows.search.name,
        "identity": rows.search.identity,
        "metric": rows.metric,
        "closed": closed,
        "ended": _ended(arms, closed, idle=all(lease.state != HELD for lease in rows.every)),
        "arms": arms,
        "along": rows.along,
        "front": _front(rows, pick),
        "teacher": rows.teacher,
        "teacher_passes": rows.passes,
        "forecast": compared(rows.every),
        "versions": versions(rows.every),
        "seconds": _sum(rows.every),
        "gpu_hours": sum(lease.gpu_seconds for lease in rows.every) / 3600,
        "gpu_hours_of": rows.search.gpu_hours,
        "trials_an_hour": pace.trials_an_hour,
        "eta_seconds": pace.eta_seconds,
        "eta_unknown": pace.unknown,
        "workers": _workers(rows),
        "holding": dict(Counter(lease.host for lease in rows.every if lease.state == HELD)),
        "running": _running(rows),
        "failures": _failures(rows),
    }


def _arm(rows: SearchSnapshot, arm: ArmRow, pick: Any) -> dict[str, Any]:
    leases = rows.leases[arm.name]
    states = Counter(trial.state.name for trial in rows.trials[arm.name])
    scored = [lease for lease in leases if has_final_score(lease)]
    best = pick(scored, key=lambda lease: lease.best_score) if scored else None
    return {
        "complete": states["COMPLETE"],
        "pruned": states["PRUNED"],
        "running": states["RUNNING"],
        "waiting": states["WAITING"],
        "failed": dict(Counter(r.failure for r in leases if r.failure is not None)),
        # A planned trial that failed is not made up for by another one, unless somebody queues it again.
        "of": sum(states.values()) - states["FAIL"] if rows.record.get("confirm") else arm.trials,
        "best": None if best is None else {"score": best.best_score, "trial": best.number},
    }


def _ended(arms: Mapping[str, Mapping[str, Any]], closed: str | None, *, idle: bool) -> bool:
    """Whether nothing more will come: every arm has its trials, or nothing is admitted and nobody trains."""
    done = all(arm["complete"] + arm["pruned"] >= arm["of"] and not arm["running"] for arm in arms.values())
    return idle and (done or closed is not None)


def _pace(rows: SearchSnapshot, arms: Mapping[str, Mapping[str, Any]], closed: str | None) -> Pace:
    ended, good = rows.ended(), [lease for lease in rows.every if completed_or_pruned(lease)]
    if closed is None:
        left = sum(max(a["of"] - a["complete"] - a["pruned"], a["running"] + a["waiting"]) for a in arms.values())
    else:
        left = sum(arm["running"] for arm in arms.values())
    held = sum(lease.state == HELD for lease in rows.every)
    under_way = [(attempt.began, attempt.ended) for attempt in rows.attempts]
    return pace_of([ended[r.trial_id] for r in good if r.trial_id in ended], under_way, rows.now, held=held, left=left)


def _front(rows: SearchSnapshot, pick: Any) -> list[dict[str, Any]]:
    """One row a choice of the front: its parameters, how many were trained to their end, and the best of each arm."""
    if rows.along is None:
        return []
    sizes = rows.params_m()
    table: dict[Any, dict[str, Any]] = {}
    for arm, leases in rows.leases.items():
        for lease in leases:
            if not has_final_score(lease):
                continue
            choice = rows.choice(lease)
            line = table.setdefault(choice, {"choice": choice, "params_m": None, "complete": 0, "best": {}})
            line["complete"] += 1
            line["best"][arm] = pick(line["best"].get(arm, lease.best_score), lease.best_score)
            line["params_m"] = sizes.get(lease.trial_id, line["params_m"])
    return sorted(table.values(), key=lambda line: (line["choice"] is None, str(type(line["choice"])), line["choice"]))


def _sum(leases: Sequence[LeaseDetails]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for lease in leases:
        total.update(json.loads(lease.seconds or "{}"))
    return dict(total)


def _workers(rows: SearchSnapshot) -> dict[str, dict[str, int]]:
    """By worker (host and a number), how its attempts ended."""
    names: dict[str, str] = {}
    table: dict[str, dict[str, int]] = {}
    for attempt in rows.attempts:
        name = names.setdefault(attempt.owner, f"{attempt.host}/{len(names) + 1}")
        ends = table.setdefault(name, {})
        why = attempt.why or "running"
        ends[why] = ends.get(why, 0) + 1
    return table


def _running(rows: SearchSnapshot) -> list[dict[str, Any]]:
    """The trials that are begun and not finished: who holds each since when, and how far it is."""
    last = {attempt.trial_id: attempt for attempt in rows.attempts}
    found = []
    for arm, leases in rows.leases.items():
        for lease in leases:
            if lease.state == FINISHED:
                continue
            attempt = last.get(lease.trial_id)
            run = json.loads(lease.run or "{}")
            found.append(
                {
                    "arm": arm,
                    "trial": lease.number,
                    "state": lease.state,
                    "host": lease.host if lease.state == HELD else None,
                    "attempt": lease.token,
                    "epoch": lease.epoch,
                    "epochs": run.get("epochs"),
                    "score": lease.best_score,
                    "seconds": None if attempt is None or attempt.ended is not None else rows.now - attempt.began,
                }
            )
    return found


def _failures(rows: SearchSnapshot) -> list[dict[str, Any]]:
    """The newest failed trials with one line of their message."""
    failed = [(arm, lease) for arm, leases in rows.leases.items() for lease in leases if lease.failure is not None]
    ended = rows.ended()
    failed.sort(key=lambda pair: ended.get(pair[1].trial_id, 0.0), reverse=True)
    return [
        {
            "arm": arm,
            "trial": lease.number,
            "class": lease.failure,
            "message": failure(str(lease.failure), lease.message or "")["failure.message"],
        }
        for arm, lease in failed[:MESSAGES]
    ]
