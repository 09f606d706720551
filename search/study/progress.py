"""Where a search stands: all figures of `status` and of the dashboard's note, from the database alone."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.planning.foreseen import compared
from search.storage.database import Opened
from search.storage.schema import FINISHED, HELD
from search.storage.searches import clock
from search.study.code_version import versions
from search.study.pace import Pace, pace_of
from search.study.trial_attributes import failure
from trainer.config_paths import flatten
from trainer.errors import UserError, nearest

PARAMS, TEACHER, PASSES = "model.params_m", "teacher.dice", "teacher.passes_per_step"
"""Attributes of trials that hold the student's parameters in millions, the teacher's validation Dice, and its passes a
student step."""
MESSAGES = 20
"""Messages of failed trials that are told at most, the newest."""


@dataclass(frozen=True)
class Rows:
    """What the database holds of a search, read once."""

    search: Any
    arms: Sequence[Any]
    leases: Mapping[str, Sequence[Any]]
    """By arm, in the order of trial numbers."""
    attempts: Sequence[Any]
    trials: Mapping[str, Sequence[Any]]
    """Optuna's trials by arm."""
    now: float
    """By the database's clock."""

    @property
    def record(self) -> dict[str, Any]:
        """What the search was opened with: objective, front, limits, run, space."""
        return dict(json.loads(self.search.spec))

    @property
    def metric(self) -> str:
        """The score that trials are judged by."""
        return str(next(iter(self.record["objective"].values())))

    @property
    def maximize(self) -> bool:
        """Whether higher scores are better."""
        return "minimize" not in self.record["objective"]

    @property
    def along(self) -> str | None:
        """The path of the front's parameter; None where there is no front."""
        front = self.record.get("front")
        return None if front is None else str(front)

    @property
    def confirms(self) -> str | None:
        """The study that this one confirms; None for a search."""
        kept = self.record.get("confirm")
        return None if kept is None else str(kept["study"])

    @property
    def teacher(self) -> float | None:
        """The teacher's score where trials name one and it is told in the search's own metric."""
        found = (t.user_attrs.get(TEACHER) for trials in self.trials.values() for t in trials)
        return next((float(score) for score in found if score is not None and self.metric == "dice"), None)

    @property
    def passes(self) -> float | None:
        """The teacher's passes a student step, mean over the trials that tell it; None where none does."""
        told = [t.user_attrs[PASSES] for trials in self.trials.values() for t in trials if PASSES in t.user_attrs]
        return sum(map(float, told)) / len(told) if told else None

    @property
    def every(self) -> list[Any]:
        """The leases of all arms."""
        return [lease for leases in self.leases.values() for lease in leases]

    def taught(self, arm: str) -> bool:
        """Whether a run of an arm has a KD term. Before it has one: as [run] for the main search, else not."""
        methods = [json.loads(lease.run)["method"] for lease in self.leases[arm] if lease.run is not None]
        first = self.record["run"].get("method", "none") if arm == self.arms[0].name else "none"
        return any(method != "none" for method in methods or [first])

    def params_m(self) -> dict[int, float]:
        """Millions of parameters by trial id, where known."""
        named = [(t._trial_id, t.user_attrs.get(PARAMS)) for trials in self.trials.values() for t in trials]
        return {trial_id: float(size) for trial_id, size in named if size is not None}

    def choice(self, lease: Any) -> Any:
        """A trial's value of the front's parameter; None before its run is known, or without a front."""
        if self.along is None or lease.run is None:
            return None
        return flatten(json.loads(lease.run)).get(self.along)

    def ended(self) -> dict[int, float]:
        """When each finished trial ended, by trial id."""
        return {a.trial_id: a.ended for a in self.attempts if a.ended is not None}


def read(opened: Opened, name: str) -> Rows:
    """Everything of a search. Raises UserError where the study is unknown."""
    row = opened.leases.search(name)
    if row is None:
        raise UserError(f"study {name!r} is not in {opened.label}{nearest(name, opened.leases.names())}")
    arms = opened.leases.arms_of(row.search_id)
    ids = [arm.study_id for arm in arms]
    return Rows(
        search=row,
        arms=arms,
        leases={arm.name: opened.leases.details([arm.study_id]) for arm in arms},
        attempts=opened.leases.attempts_of(ids),
        trials={arm.name: opened.storage.get_all_trials(arm.study_id, deepcopy=False) for arm in arms},
        now=clock(opened.engine),
    )


def standing(opened: Opened, name: str) -> dict[str, Any]:
    """All figures of a search as a script reads them. Raises UserError where the study is unknown."""
    return {"storage": opened.label, **figures(read(opened, name), opened.leases.closed)}


def figures(rows: Rows, closed_of: Callable[[int], tuple[str | None, str | None]]) -> dict[str, Any]:
    """`closed_of`: why nothing new is admitted to a search, as `Leases.closed` says it."""
    pick = max if rows.maximize else min
    closed, _ = closed_of(rows.search.search_id)
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


def _arm(rows: Rows, arm: Any, pick: Any) -> dict[str, Any]:
    leases = rows.leases[arm.name]
    states = Counter(trial.state.name for trial in rows.trials[arm.name])
    whole = [r for r in leases if r.weights is not None and r.failure is None and r.best_score is not None]
    best = pick(whole, key=lambda r: r.best_score) if whole else None
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


def _pace(rows: Rows, arms: Mapping[str, Mapping[str, Any]], closed: str | None) -> Pace:
    ended, good = rows.ended(), [r for r in rows.every if r.state == FINISHED and r.failure is None]
    if closed is None:
        left = sum(max(a["of"] - a["complete"] - a["pruned"], a["running"] + a["waiting"]) for a in arms.values())
    else:
        left = sum(arm["running"] for arm in arms.values())
    held = sum(lease.state == HELD for lease in rows.every)
    under_way = [(attempt.began, attempt.ended) for attempt in rows.attempts]
    return pace_of([ended[r.trial_id] for r in good if r.trial_id in ended], under_way, rows.now, held=held, left=left)


def _front(rows: Rows, pick: Any) -> list[dict[str, Any]]:
    """One row a choice of the front: its parameters, how many were trained to their end, and the best of each arm."""
    if rows.along is None:
        return []
    sizes = rows.params_m()
    table: dict[Any, dict[str, Any]] = {}
    for arm, leases in rows.leases.items():
        for lease in leases:
            if lease.run is None or lease.failure is not None or lease.weights is None:
                continue
            choice = rows.choice(lease)
            line = table.setdefault(choice, {"choice": choice, "params_m": None, "complete": 0, "best": {}})
            line["complete"] += 1
            line["best"][arm] = pick(line["best"].get(arm, lease.best_score), lease.best_score)
            line["params_m"] = sizes.get(lease.trial_id, line["params_m"])
    return sorted(table.values(), key=lambda line: (line["choice"] is None, str(type(line["choice"])), line["choice"]))


def _sum(leases: Sequence[Any]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for lease in leases:
        total.update(json.loads(lease.seconds or "{}"))
    return dict(total)


def _workers(rows: Rows) -> dict[str, dict[str, int]]:
    """By worker (host and a number), how its attempts ended."""
    names: dict[str, str] = {}
    table: dict[str, dict[str, int]] = {}
    for attempt in rows.attempts:
        name = names.setdefault(attempt.owner, f"{attempt.host}/{len(names) + 1}")
        ends = table.setdefault(name, {})
        why = attempt.why or "running"
        ends[why] = ends.get(why, 0) + 1
    return table


def _running(rows: Rows) -> list[dict[str, Any]]:
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


def _failures(rows: Rows) -> list[dict[str, Any]]:
    """The newest failed trials with one line of their message."""
    failed = [(arm, lease) for arm, leases in rows.leases.items() for lease in leases if lease.failure is not None]
    ended = rows.ended()
    failed.sort(key=lambda pair: ended.get(pair[1].trial_id, 0.0), reverse=True)
    return [
        {
            "arm": arm,
            "trial": lease.number,
            "class": lease.failure,
            "message": failure(lease.failure, lease.message or "")["failure.message"],
        }
        for arm, lease in failed[:MESSAGES]
    ]
