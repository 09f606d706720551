"""The lead's database thread: it claims trials, stores reports, beats, and watches others, while the lead trains.

The lead itself does no I/O between collectives: it puts what happened into the outbox and reads assignments and verdicts
from the inbox. While the database is away training goes on, reports wait in the outbox, and no new trial begins.
"""

import hashlib
import json
import math
import queue
import shutil
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loguru import logger

from search.leases import Seen, Watch
from search.study import AWAY, Claim, Held, LeaseLost, Owner, Refused, Search
from trainer.config import RunConfig
from trainer.reports import EpochReport, Failure, Resume, Saved

MOST_LOST = 3
"""How often a trial's worker may vanish before the trial fails."""


@dataclass(frozen=True)
class Begin:
    """Train this from the next epoch boundary on."""

    key: int
    run: RunConfig
    resume: Resume | None
    label: str


@dataclass(frozen=True)
class Drop:
    """Forget this member: pruned, or lost to another worker."""

    key: int


@dataclass(frozen=True)
class Told:
    """One epoch of one member, on its way to the database."""

    key: int
    report: EpochReport
    saved: Saved
    replay: tuple[tuple[int, int], ...]
    weights: Path | None
    """The best epoch's weights, with the last report."""


@dataclass(frozen=True)
class Fell:
    """A member that failed, on its way to the database."""

    key: int
    failure: Failure


@dataclass(frozen=True)
class Member:
    """A trial in this worker's hands."""

    held: Held
    label: str
    run: RunConfig
    seconds: dict[str, float] = field(default_factory=dict)
    gpu_seconds: float = 0.0
    best_epoch: int | None = None
    best_score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    """All scores of the best epoch."""
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Settings:
    """What a desk has to know about its worker."""

    owner: Owner
    slots: int
    runs: Path
    ranks: int
    environment: Mapping[str, Any]
    breach: Callable[[RunConfig], str | None]
    """The limit that a run breaks, in words; None where it keeps them."""
    ttl: float = 60.0
    """Seconds that a lease's beat may stand still before others may take the trial."""
    ends_alone: bool = False
    """End when nothing may begin, without waiting for trials that other workers hold."""


class Desk:
    """Runs a thread; `inbox`, `tell`, `settle` and `close` are the lead's side."""

    def __init__(self, search: Search, settings: Settings) -> None:
        self.search = search
        self.settings = settings
        self.inbox: queue.SimpleQueue[Begin | Drop] = queue.SimpleQueue()
        self.ended: str | None = None
        """Why this worker has nothing left to do; None while it has."""
        self.preempt = threading.Event()
        """Somebody asked all workers to stop now."""
        self.error: BaseException | None = None
        self._members: dict[int, Member] = {}
        self._outbox: deque[Told | Fell] = deque()
        self._lock = threading.Condition()
        self._asked = 0
        self._served = 0
        self._away_since: float | None = None
        self._closing: str | None = None
        self._watch = Watch(settings.ttl)
        self._stale: list[Seen] = []
        self._beat_due = self._look_due = self._line_due = 0.0
        self._line = ""
        self._thread = threading.Thread(target=self._run, name="desk", daemon=True)

    # ---- the lead's side

    def start(self) -> None:
        """Take back what this owner held before a restart, then begin to serve."""
        for claim in self.search.retake(self.settings.owner, on_hand):
            self._begin(claim)
        self._thread.start()

    def folder(self, key: int) -> Path:
        """Where the holder of a trial keeps its files: one folder a token, so that no two holders share one."""
        held = self._members[key].held
        arm = self.search.arms[held.study_id].name
        return self.settings.runs / self.search.folder / arm / str(held.number) / str(held.token)

    def tell(self, item: Told | Fell) -> None:
        """Put something into the outbox; never waits."""
        with self._lock:
            self._outbox.append(item)

    def settle(self, patience: float) -> None:
        """Wait until everything told so far is stored and free slots were offered; at most `patience` seconds, and not at
        all while the database is away. Raises what ended the thread."""
        with self._lock:
            self._asked += 1
            self._lock.notify_all()
            asked = self._asked
            self._lock.wait_for(lambda: self._served >= asked or self._away_since is not None or self.error, patience)
        if self.error is not None:
            raise RuntimeError("the database thread ended") from self.error

    def close(self, why: str, patience: float = 15.0) -> None:
        """Store what is left and give back what is held for the reason `why`, for at most `patience` seconds."""
        with self._lock:
            self._closing = why
            self._lock.notify_all()
        self._thread.join(patience)
        if self._thread.is_alive():
            logger.warning("the database did not answer in time: leases run out by themselves, others adopt the trials")

    # ---- the thread

    def _run(self) -> None:
        try:
            while not self._pass():
                pass
        except BaseException as error:  # noqa: BLE001 - handed to the lead, which raises it
            self.error = error
            with self._lock:
                self._lock.notify_all()

    def _pass(self) -> bool:
        """One round; whether it was the last."""
        with self._lock:
            serving = self._asked
        last = self._closing is not None
        try:
            self._flush()
            if last:
                self._give_back()
                return True
            self._beat()
            self._look()
            self._claim()
            self._back()
        except AWAY as error:
            self._away(error)
        with self._lock:
            self._served = max(self._served, serving) if self._away_since is None else self._served
            self._lock.notify_all()
            pause = min(self.settings.ttl / 12, 2.0) if self._away_since is None else 0.5
            if self._asked == serving and not (self._closing and not last):
                self._lock.wait(pause)
        return False

    def _away(self, error: Exception) -> None:
        self._watch.interrupt()
        self._stale = []
        if self._away_since is None:
            self._away_since = time.monotonic()
            cause = error.__cause__ or error
            first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            logger.warning("database away ({}): training goes on, reports wait", first)

    def _back(self) -> None:
        if self._away_since is not None:
            logger.info("database back after {:.0f} s", time.monotonic() - self._away_since)
            self._away_since = None

    def _beat(self) -> None:
        now = time.monotonic()
        if now < self._beat_due:
            return
        for key in self.search.leases.beat([m.held for m in self._members.values()]):
            self._forget(key, "lost to another worker")
        self._beat_due = now + self.settings.ttl / 6

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._look_due:
            return
        rows = self.search.leases.of_studies(list(self.search.arms))
        self._stale = [row for row in self._watch.stale(rows, now) if row.trial_id not in self._members]
        self._look_due = now + self.settings.ttl / 6
        if now >= self._line_due:
            self._line_due = now + 10.0
            line = self.search.progress()
            if line != self._line:
                self._line = line
                logger.info(line)

    def _claim(self) -> None:
        """Fill the free slots; where nothing may begin, find out whether that is the end."""
        while len(self._members) < self.settings.slots and self.ended is None:
            closed, stop = self.search.leases.closed(self.search.search_id)
            if stop == "now":
                self.preempt.set()
            if stop is not None:
                self.ended = closed if not self._members else None
                return
            try:
                claim = self.search.claim(self.settings.owner, on_hand, self._stale)
            except Refused as refused:
                self._see_the_end(closed or refused.reason, alone=closed is not None)
                return
            self._begin(claim)

    def _see_the_end(self, reason: str, *, alone: bool) -> None:
        if self._members:
            return
        unfinished = self.search.leases.of_studies(list(self.search.arms))
        if not unfinished or alone or self.settings.ends_alone:
            self.ended = reason

    def _begin(self, claim: Claim) -> None:
        """From a claim to a member: complete its parameters, check its limits, store its run."""
        held, seen = claim.held, claim.seen
        try:
            if seen is not None and seen.lost + (seen.state == "held") >= MOST_LOST:
                self.search.fail(held, "lost", f"its worker vanished {MOST_LOST} times")
                logger.warning("#{} of {} failed: its worker vanished {} times", held.number, claim.arm.name, MOST_LOST)
                return
            if seen is not None and seen.run is not None:
                run = RunConfig.model_validate_json(seen.run)
            else:
                found = self._resolve(claim)
                if found is None:
                    return
                run = found
            resume = resume_of(seen) if seen is not None else None
        except LeaseLost:
            return
        member = Member(held, f"{claim.arm.name} #{held.number}", run)
        if resume is not None:
            member = self._as_stored(member, resume)
        self._members[held.trial_id] = member
        self.inbox.put(Begin(held.trial_id, run, resume, member.label))

    def _as_stored(self, member: Member, resume: Resume) -> Member:
        row = self.search.leases.row(member.held.trial_id)
        if row is None:
            return member
        return replace(
            member,
            seconds=json.loads(row.seconds or "{}"),
            gpu_seconds=row.gpu_seconds,
            best_epoch=row.best_epoch,
            best_score=row.best_score,
            scores=json.loads(row.scores or "{}"),
            checkpoint=resume.checkpoint,
        )

    def _resolve(self, claim: Claim) -> RunConfig | None:
        held = claim.held
        try:
            params = self.search.suggest(claim)
            run = claim.arm.resolve(params)
        except (*AWAY, LeaseLost):
            raise
        except Exception:  # noqa: BLE001 - a sampler's bug ends this trial, with its traceback, and not the worker
            self.search.fail(held, "bug", traceback.format_exc())
            logger.error("{} #{} failed before training:\n{}", claim.arm.name, held.number, traceback.format_exc())
            return None
        breach = self.settings.breach(run)
        if breach is not None:
            self.search.attribute(held, "limit", breach)
            self.search.prune(held, {"message": breach})
            return None
        text = run.model_dump_json(exclude_none=True)
        self.search.commit(claim, text, json.dumps(dict(self.settings.environment), sort_keys=True))
        return run

    def _flush(self) -> None:
        while self._outbox:
            item = self._outbox[0]
            member = self._members.get(item.key)
            if member is not None:
                try:
                    self._store(member, item)
                except LeaseLost:
                    self._keep_orphan(member, item)
            self._outbox.popleft()

    def _store(self, member: Member, item: Told | Fell) -> None:
        if isinstance(item, Fell):
            failure = item.failure
            text = f"epoch {failure.epoch}: {failure.message}"
            self.search.fail(member.held, failure.kind.value, f"{text}\n{failure.detail}".strip())
            logger.warning("{} failed ({}) in {}", member.label, failure.kind.value, text)
            self._members.pop(item.key)
            return
        report = item.report
        metric = self.search.spec.objective.metric
        value = None if report.scores is None else report.scores[metric]
        after = self._after(member, item)
        self.search.report(member.held, report.epoch, value, _row(after, item))
        if member.checkpoint is not None and member.checkpoint != item.saved.path:
            member.checkpoint.unlink(missing_ok=True)  # the row names the new one now
        self._members[item.key] = member = after
        if report.final:
            best = member.best_score if member.best_score is not None else math.nan
            self.search.complete(member.held, best, {"weights": str(item.weights), "checkpoint": None})
            item.saved.path.unlink(missing_ok=True)
            logger.info("{} complete: {} {:.4f} at epoch {}", member.label, metric, best, member.best_epoch)
            self._members.pop(item.key)
        elif value is not None and self._judge(member):
            self.search.prune(member.held, {"checkpoint": None})
            shutil.rmtree(item.saved.path.parent, ignore_errors=True)
            logger.info("{} pruned at epoch {} ({} {:.4f})", member.label, report.epoch, metric, value)
            self._forget(item.key, None)

    def _judge(self, member: Member) -> bool:
        try:
            return self.search.pruned(member.held)
        except (*AWAY, LeaseLost):
            raise
        except Exception:  # noqa: BLE001 - a pruner's bug must not end trials: it is said aloud, the trial goes on
            logger.error("{}: the pruner raised, the trial goes on:\n{}", member.label, traceback.format_exc())
            return False

    def _after(self, member: Member, item: Told) -> Member:
        """The member once this epoch is stored; a try that fails leaves the member as it was."""
        report = item.report
        seconds = {part: member.seconds.get(part, 0.0) for part in {*member.seconds, *report.seconds}}
        for part, spent in report.seconds.items():
            seconds[part] += spent
        gpu_seconds = member.gpu_seconds + sum(report.seconds.values()) * self.settings.ranks
        after = replace(member, seconds=seconds, gpu_seconds=gpu_seconds, checkpoint=item.saved.path)
        score = None if report.scores is None else report.scores[self.search.spec.objective.metric]
        if score is not None and self._better(score, member.best_score):
            return replace(after, best_epoch=report.epoch, best_score=score, scores=dict(report.scores or {}))
        return after

    def _better(self, score: float, best: float | None) -> bool:
        if best is None:
            return True
        return score < best if self.search.spec.objective.direction == "minimize" else score > best

    def _keep_orphan(self, member: Member, item: Told | Fell) -> None:
        row = self.search.leases.row(item.key)
        if row is not None and row.state == "finished" and row.token == member.held.token:
            self._forget(item.key, None)  # the answer to an earlier try was lost on the way, not the write
            return
        epoch = item.report.epoch if isinstance(item, Told) else item.failure.epoch
        record = dict(item.report.scores or {}) if isinstance(item, Told) else {"failure": item.failure.kind.value}
        self.search.leases.orphan(member.held, epoch, record)
        self._forget(item.key, "lost to another worker")

    def _forget(self, key: int, why: str | None) -> None:
        member = self._members.pop(key, None)
        if member is not None:
            if why is not None:
                logger.warning("{}: {}", member.label, why)
            self.inbox.put(Drop(key))

    def _give_back(self) -> None:
        for key, member in list(self._members.items()):
            try:
                self.search.leases.give_back(member.held, self._closing or "")
            except LeaseLost:
                logger.warning("{}: lost to another worker", member.label)
            self._members.pop(key)


def _row(member: Member, item: Told) -> dict[str, Any]:
    """What the lease row says after an epoch."""
    return dict(
        epoch=item.report.epoch,
        checkpoint=str(item.saved.path),
        checkpoint_sha256=item.saved.sha256,
        replay=json.dumps(item.replay),
        seconds=json.dumps(member.seconds, sort_keys=True),
        gpu_seconds=member.gpu_seconds,
        best_epoch=member.best_epoch,
        best_score=member.best_score,
        scores=json.dumps(dict(member.scores), allow_nan=False, sort_keys=True),
    )


def on_hand(row: Seen) -> int:
    """The epoch that this host can resume a lease from: its checkpoint's, where the file is here and whole, else 0."""
    if row.checkpoint is None or row.checkpoint_sha256 is None:
        return 0
    try:
        with Path(row.checkpoint).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return 0  # another host's disk, or the file is gone: the trial starts again, visibly
    return row.epoch if digest == row.checkpoint_sha256 else 0


def resume_of(row: Seen) -> Resume | None:
    """Where a taken trial goes on; None: from the beginning."""
    if on_hand(row) == 0 or row.checkpoint is None:
        return None
    replay = tuple((own, stream) for own, stream in json.loads(row.replay or "[]"))
    return Resume(Path(row.checkpoint), replay)
