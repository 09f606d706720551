"""The progress of a search, its speed and when it will be done: all figures of `status` and of the dashboard."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from search.planning.slots import ForecastCheck, compared
from search.storage.database import Database
from search.storage.leases import LeaseDetails
from search.storage.schema import FINISHED, HELD, PAUSED
from search.storage.searches import ArmRow, Closed
from search.study.class_scores import foreground_of, has_regions, hexadecimal, scores_by_class
from search.study.code_version import versions
from search.study.outcomes import Tie, completed_or_pruned, has_final_score, largest_tie
from search.study.snapshot import SearchSnapshot, read
from search.study.trial_attributes import REJECTED, WAITS, failure
from trainer.errors import counted
from trainer.evaluation.score_names import unit_of

FEWEST = 5
"""Finished trials that a rate needs."""
LATEST = 20
"""Finished trials, the newest, that a rate is taken over."""


@dataclass(frozen=True)
class Pace:
    """A search's speed."""

    trials_an_hour: float | None
    """The rate over the newest finished trials (all, where none is left), counting only the time in which a worker
    trained; None while there are too few."""
    eta_seconds: float | None
    """The time until all is done at this rate; None where it is unknown."""
    unknown: str | None
    """Why the time is unknown."""


def pace_of(
    ended: Sequence[float], attempts: Sequence[tuple[float, float | None]], now: float, *, held: int, left: int
) -> Pace:
    """The speed from when trials ended and when attempts at them were under way, in seconds of one clock.

    ended: the ends of the trials that completed or were pruned. attempts: (began, ended or None). held: trials that a
    worker trains now. left: trials that are still to be finished.
    """
    if len(ended) < FEWEST:
        why = f"{len(ended)} of {FEWEST} finished trials that a rate needs" if left else None
        return Pace(None, None if left else 0.0, why)
    in_order = sorted(ended)
    recent = in_order[-LATEST:] if left else in_order  # a search that is over is described as a whole
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
"""Failed trials whose message is shown at most, the newest."""


@dataclass(frozen=True)
class BestTrial:
    """The best trial of an arm among those that were trained to their end."""

    score: float
    trial: int
    by_class: Mapping[str, float] = field(default_factory=dict)
    """Its scores of single classes by name, as `dice.liver`; nothing with one foreground class."""

    def as_json(self) -> dict[str, Any]:
        """The form that `status --json` prints."""
        return {"score": self.score, "trial": self.trial, **({"by_class": self.by_class} if self.by_class else {})}


@dataclass(frozen=True)
class ArmProgress:
    """The trials of one arm by state, and its best."""

    complete: int
    pruned: int
    running: int
    waiting: int
    failed: Mapping[str, int]
    """How many trials failed, by class."""
    of: int
    """The budget of the arm."""
    best: BestTrial | None
    paused: int = 0
    """Trials that stand at a rung and may go on; they are not among the running ones."""

    def as_json(self) -> dict[str, Any]:
        """The form that `status --json` prints."""
        document = {**asdict(self), "best": None if self.best is None else self.best.as_json()}
        # Studies without pauses have the keys that they always had.
        return {name: value for name, value in document.items() if name != "paused" or value}

    @property
    def finished(self) -> int:
        """How many trials count against the budget and are over."""
        return self.complete + self.pruned

    @property
    def failures(self) -> int:
        """How many trials failed, over all classes."""
        return sum(self.failed.values())


@dataclass(frozen=True)
class FrontLine:
    """The trials with one choice of the front's parameter that were trained to their end."""

    choice: Any
    params_m: float | None
    """Millions of parameters of the student, where known."""
    complete: int
    best: Mapping[str, float]
    """The best score of each arm that has one."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial that is begun and not finished."""

    arm: str
    trial: int
    state: str
    host: str | None
    """Where it is trained; None while nobody holds it."""
    attempt: int
    epoch: int
    epochs: int | None
    """How many epochs its run has; None before its run is known."""
    score: float | None
    seconds: float | None
    """How long this attempt has lasted; None while nobody holds it."""
    waits: str | None = None
    """What its worker's disk does not take, and since when; None where it takes all."""


@dataclass(frozen=True)
class FailedTrial:
    """A trial that failed, with one line of its message."""

    arm: str
    trial: int
    failure: str
    """The failure's class."""
    message: str

    def as_json(self) -> dict[str, Any]:
        """The form that `status --json` prints."""
        return {"arm": self.arm, "trial": self.trial, "class": self.failure, "message": self.message}


@dataclass(frozen=True)
class RejectedCheckpoint:
    """A trial that began again, since its checkpoint could not be used."""

    arm: str
    trial: int
    why: str


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands; names and order of the fields are those of `status --json`."""

    study: str
    identity: str
    metric: str
    closed: str | None
    """Why nothing new is admitted; None where something is."""
    ended: bool
    """Whether nothing more will come."""
    arms: Mapping[str, ArmProgress]
    along: str | None
    """The path of the front's parameter; None where there is no front."""
    front: Sequence[FrontLine]
    teacher: float | None
    """The teacher's score, where it is known in the search's own metric."""
    teacher_passes: float | None
    """The teacher's passes a student step, where trials recorded them."""
    forecast: ForecastCheck | None
    """The forecast of `--slots auto` beside what happened; None where no trial has one."""
    versions: Mapping[str, int]
    """How many trials each version of the sources trained."""
    seconds: Mapping[str, float]
    """Wall time by part, over all trials."""
    gpu_hours: float
    gpu_hours_of: float | None
    """The budget of device hours; None without one."""
    trials_an_hour: float | None
    eta_seconds: float | None
    eta_unknown: str | None
    """Why `eta_seconds` is unknown."""
    workers: Mapping[str, Mapping[str, int]]
    """How the attempts of each worker ended: host and a number -> reason -> count."""
    holding: Mapping[str | None, int]
    """How many trials each host trains now."""
    running: Sequence[RunningTrial]
    failures: Sequence[FailedTrial]
    confirms: str | None
    """The study that this one confirms; None for a search."""
    rejected: Sequence[RejectedCheckpoint] = ()
    """Checkpoints that were not there or damaged when their trial was taken over."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """The foreground classes (or regions) with their colours, where there are several."""
    regions: bool = False
    """Whether those are regions, which overlap."""
    tie: Tie | None = None
    """Trials that the search cannot tell apart."""

    @property
    def kind(self) -> str:
        """What `classes` are in words: class or region."""
        return "region" if self.regions else "class"

    @property
    def tied(self) -> str | None:
        """A sentence on trials that cannot be told apart, and by what they could be; None where there are none."""
        if self.tie is None:
            return None
        complete = sum(arm.complete for arm in self.arms.values())
        return (
            f"{self.tie.trials} of {counted(complete, 'complete trial')} have one score, {self.tie.score:.4f}: at "
            "threshold 0.5 their masks are alike, empty as a rule; a new study with "
            f'maximize = "{self.tie.instead}" tells them apart'
        )

    @property
    def unit(self) -> str:
        """Of the search's scores: `px` for a length, which validation measures in pixels; empty for a share."""
        return unit_of(self.metric.partition(".")[0], spacing=False)

    def as_json(self) -> dict[str, Any]:
        """The form that `status --json` prints."""
        forecast = None if self.forecast is None else self.forecast.as_json()
        arms = {name: arm.as_json() for name, arm in self.arms.items()}
        failures = [each.as_json() for each in self.failures]
        document = {**asdict(self), "arms": arms, "forecast": forecast, "failures": failures}
        # Studies of two classes, none of them with trials alike, have the keys that they always had.
        left_out = {name for name in ("classes", "regions", "tie") if not document[name]}
        return {name: value for name, value in document.items() if name not in left_out}


def read_progress(opened: Database, name: str) -> SearchProgress:
    """The progress of a search by name. Raises UserError where the study is unknown."""
    return progress_of(read(opened, name), opened.searches.closed)


def progress_of(rows: SearchSnapshot, closed_of: Callable[[int], tuple[Closed | None, str | None]]) -> SearchProgress:
    """The progress of a search from its rows; `closed_of` says why it admits nothing new, as `Searches.closed`."""
    why_closed, _ = closed_of(rows.search.search_id)
    closed = None if why_closed is None else why_closed.text
    arms = {arm.name: _arm(rows, arm) for arm in rows.arms}
    pace = _pace(rows, arms, closed)
    return SearchProgress(
        study=rows.search.name,
        identity=rows.search.identity,
        metric=rows.metric,
        closed=closed,
        ended=_ended(arms, closed, idle=all(lease.state != HELD for lease in rows.every)),
        arms=arms,
        along=rows.along,
        front=_front(rows),
        teacher=rows.teacher,
        teacher_passes=rows.teacher_passes,
        forecast=compared(rows.every),
        versions=versions(rows.every),
        seconds=_sum(rows.every),
        gpu_hours=sum(lease.gpu_seconds for lease in rows.every) / 3600,
        gpu_hours_of=rows.search.gpu_hours,
        trials_an_hour=pace.trials_an_hour,
        eta_seconds=pace.eta_seconds,
        eta_unknown=pace.unknown,
        workers=_workers(rows),
        holding=dict(Counter(lease.host for lease in rows.every if lease.state == HELD)),
        running=_running(rows),
        failures=_failures(rows),
        confirms=rows.confirms,
        rejected=_rejected(rows),
        classes={known.name: hexadecimal(known) for known in foreground_of(rows)},
        regions=has_regions(rows),
        tie=largest_tie(rows),
    )


def _arm(rows: SearchSnapshot, arm: ArmRow) -> ArmProgress:
    leases = rows.leases[arm.name]
    states = Counter(trial.state.name for trial in rows.trials[arm.name])
    paused = sum(lease.state == PAUSED for lease in leases)
    pick = max if rows.maximize else min
    best = pick(filter(has_final_score, leases), key=lambda lease: lease.known_score, default=None)
    return ArmProgress(
        complete=states["COMPLETE"],
        pruned=states["PRUNED"],
        running=states["RUNNING"] - paused,
        waiting=states["WAITING"],
        failed=dict(Counter(lease.failure for lease in leases if lease.failure is not None)),
        # A planned trial that failed is not made up for by another one, unless somebody queues it again.
        of=sum(states.values()) - states["FAIL"] if rows.record.get("confirm") else arm.trials,
        best=None if best is None else BestTrial(best.known_score, best.number, scores_by_class(best)),
        paused=paused,
    )


def _ended(arms: Mapping[str, ArmProgress], closed: str | None, *, idle: bool) -> bool:
    """Whether nothing more will come: every arm has its trials, or nothing is admitted and nobody trains."""
    done = all(arm.finished >= arm.of and not arm.running and not arm.paused for arm in arms.values())
    return idle and (done or closed is not None)


def _pace(rows: SearchSnapshot, arms: Mapping[str, ArmProgress], closed: str | None) -> Pace:
    ended, good = rows.ended(), [lease for lease in rows.every if completed_or_pruned(lease)]
    if closed is None:
        left = sum(max(arm.of - arm.finished, arm.running + arm.paused + arm.waiting) for arm in arms.values())
    else:
        left = sum(arm.running + arm.paused for arm in arms.values())
    held = sum(lease.state == HELD for lease in rows.every)
    under_way = [(attempt.began, attempt.ended) for attempt in rows.attempts]
    return pace_of([ended[r.trial_id] for r in good if r.trial_id in ended], under_way, rows.now, held=held, left=left)


def _front(rows: SearchSnapshot) -> list[FrontLine]:
    """One line a choice of the front: its parameters, how many were trained to their end, and the best of each arm."""
    if rows.along is None:
        return []
    trained: dict[Any, list[tuple[str, LeaseDetails]]] = defaultdict(list)
    for arm, leases in rows.leases.items():
        for lease in filter(has_final_score, leases):
            trained[rows.choice(lease)].append((arm, lease))
    pick = max if rows.maximize else min
    sizes = rows.params_m()
    lines = []
    for choice, pairs in trained.items():
        scores: dict[str, list[float]] = defaultdict(list)
        for arm, lease in pairs:
            scores[arm].append(lease.known_score)
        known = [sizes[lease.trial_id] for _, lease in pairs if lease.trial_id in sizes]
        best = {arm: pick(each) for arm, each in scores.items()}
        lines.append(FrontLine(choice, known[-1] if len(set(known)) == 1 else None, len(pairs), best))
    if len(rows.front) > 1:  # `unet, 8` before `unet, 16`
        return sorted(lines, key=lambda line: _in_steps(str(line.choice or "")))
    return sorted(lines, key=lambda line: (line.choice is None, str(type(line.choice)), line.choice))


def _in_steps(text: str) -> list[tuple[int, str]]:
    """A key that orders texts with their whole numbers as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _sum(leases: Sequence[LeaseDetails]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for lease in leases:
        total.update(json.loads(lease.seconds or "{}"))
    return dict(total)


def _workers(rows: SearchSnapshot) -> dict[str, dict[str, int]]:
    """How the attempts of each worker (host and a number) ended."""
    names: dict[str, str] = {}
    table: dict[str, dict[str, int]] = {}
    for attempt in rows.attempts:
        name = names.setdefault(attempt.owner, f"{attempt.host}/{len(names) + 1}")
        ends = table.setdefault(name, {})
        why = attempt.why or "running"
        ends[why] = ends.get(why, 0) + 1
    return table


def _running(rows: SearchSnapshot) -> list[RunningTrial]:
    """The trials that are begun and not finished: who holds each since when, and how far it is."""
    last = {attempt.trial_id: attempt for attempt in rows.attempts}
    unfinished = [(arm, lease) for arm, leases in rows.leases.items() for lease in leases if lease.state != FINISHED]
    known = {trial._trial_id: trial for trials in rows.trials.values() for trial in trials}
    running = []
    for arm, lease in unfinished:
        trial, held = known.get(lease.trial_id), lease.state == HELD
        # What a holder reported counts; what nobody holds goes on from its checkpoint.
        reported = (trial.last_step or 0) if trial is not None and held else 0
        attempt = last.get(lease.trial_id)
        running.append(
            RunningTrial(
                arm=arm,
                trial=lease.number,
                state=lease.state,
                host=lease.host if held else None,
                attempt=lease.token,
                epoch=max(lease.epoch, reported),
                epochs=json.loads(lease.run or "{}").get("epochs"),
                score=lease.best_score,
                seconds=None if attempt is None or attempt.ended is not None else rows.now - attempt.began,
                waits=trial.user_attrs.get(WAITS) if trial is not None and held else None,
            )
        )
    return running


def _rejected(rows: SearchSnapshot) -> list[RejectedCheckpoint]:
    named = [(arm, trial) for arm, trials in rows.trials.items() for trial in trials if REJECTED in trial.user_attrs]
    return [RejectedCheckpoint(arm, trial.number, str(trial.user_attrs[REJECTED])) for arm, trial in named]


def _failures(rows: SearchSnapshot) -> list[FailedTrial]:
    """The newest failed trials with one line of their message."""
    failed = [
        (arm, lease, lease.failure)
        for arm, leases in rows.leases.items()
        for lease in leases
        if lease.failure is not None
    ]
    ended = rows.ended()
    failed.sort(key=lambda each: ended.get(each[1].trial_id, 0.0), reverse=True)
    return [
        FailedTrial(arm, lease.number, kind, str(failure(kind, lease.message or "")["failure.message"]))
        for arm, lease, kind in failed[:MESSAGES]
    ]
