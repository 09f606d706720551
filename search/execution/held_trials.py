"""The trials that one worker holds, from the claim to the end of each.

A trial that changes hands goes on from the checkpoint that its lease names, as far as this host can read it; files that
no row names any more are deleted. At its end a trial brings its attributes and its picture for the dashboard.
"""

import json
import math
import queue
import time
import traceback
from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from loguru import logger

from search.execution.checkpoint_writer import remove, remove_all, resume_of
from search.execution.messages import (
    CheckpointWritten,
    DropTrial,
    EpochDone,
    HeldTrial,
    Item,
    StartTrial,
    TrialFailed,
    WorkerSettings,
)
from search.planning import slots
from search.storage import errors
from search.storage.evidence import rows_of
from search.storage.leases import LeaseHandle, LeaseRow
from search.storage.schema import FINISHED, PAUSED, leases
from search.storage.statements import LeaseLost
from search.study import code_version, trial_attributes
from search.study.adapter import Claim, StudyAdapter
from search.study.trial_attributes import (
    WAITS,
    Attempt,
    attempts,
    gradient_attributes,
    pace,
    result,
    teacher_attributes,
)
from trainer.config import RunConfig
from trainer.reports import Failure, FailureKind, Resume

MOST_LOST = 3
"""How often a trial's worker may vanish before the trial fails."""
LOST = "lost to another worker"


class Outcome(Enum):
    """How a held trial leaves this worker's hands."""

    COMPLETE = auto()
    PRUNED = auto()
    PAUSED = auto()
    """Nobody holds it; its last checkpoint is still being written."""
    FAILED = auto()
    UNSTORABLE = auto()
    """The database will never take its report: it failed, and the leader still trains it."""
    ENDED_BEFORE = auto()
    """An earlier try ended it; only the answer to that was lost on the way."""
    GIVEN_BACK = auto()
    LOST = auto()
    """Another worker holds it, or its study was deleted."""


class Cleanup(Enum):
    """What is to be done where a trial leaves this worker's hands."""

    REMOVE_FILES = auto()
    """No row names a checkpoint of the trial any more, whoever wrote it."""
    DROP = auto()
    """The leader still trains the trial: send it a message."""
    PARK = auto()
    """The same, but its newest checkpoint is to be written."""


CLEANUP: dict[Outcome, tuple[Cleanup, ...]] = {
    Outcome.COMPLETE: (Cleanup.REMOVE_FILES,),
    Outcome.PRUNED: (Cleanup.REMOVE_FILES, Cleanup.DROP),
    Outcome.PAUSED: (Cleanup.PARK,),
    Outcome.FAILED: (Cleanup.REMOVE_FILES,),
    Outcome.UNSTORABLE: (Cleanup.REMOVE_FILES, Cleanup.DROP),
    Outcome.ENDED_BEFORE: (Cleanup.REMOVE_FILES, Cleanup.DROP),
    Outcome.GIVEN_BACK: (),
    Outcome.LOST: (Cleanup.DROP,),
}
"""Outcome -> what follows, in this order, once the database has it. The leader itself ends a trial that completes or
fails."""


class HeldTrials:
    """Called by the database thread alone."""

    def __init__(self, search: StudyAdapter, settings: WorkerSettings) -> None:
        self.search = search
        self.settings = settings
        self.metric = search.spec.objective.metric
        self.held: dict[int, HeldTrial] = {}
        self._paused: dict[int, HeldTrial] = {}
        """Trials that this worker paused, and whose last checkpoint was not stored yet."""
        self.inbox: queue.SimpleQueue[StartTrial | DropTrial] = queue.SimpleQueue()
        self.resting_until = 0.0
        """When trials may begin again, on the monotonic clock: none begins for a while after a file could not be
        read."""

    @property
    def unwritten(self) -> Collection[int]:
        """Trials that this worker paused and whose last checkpoint it still writes; none where it holds nothing, and so
        begins no epoch during which it would be written."""
        return self._paused.keys() if self.held else ()

    # ---- beginning

    def begin(self, claim: Claim) -> None:
        """Turn a claim into a held trial: complete its parameters, check its limits, store its run."""
        lease, row = claim.held, claim.seen
        try:
            if row is not None and row.lost + claim.lost >= MOST_LOST:
                attributes = {"attempts": attempts(self._holders(claim), "lost")}
                self.search.fail(lease, "lost", f"its worker vanished {MOST_LOST} times", attributes)
                self.remove_files(lease, None if row.checkpoint is None else Path(row.checkpoint))
                logger.warning(
                    "#{} of {} failed: its worker vanished {} times", lease.number, claim.arm.name, MOST_LOST
                )
                return
            run = self._run_of(claim)
            if run is None:
                return
            trial = HeldTrial(lease, f"{claim.arm.name} #{lease.number}", run, holders=self._holders(claim))
            resume = None
            if row is not None and row.run is not None:
                resume = resume_of(row, claim.resume_epoch)
                trial = self._as_stored(trial, resume, trial_attributes.rejected(row, claim.resume_epoch))
                if resume is not None and (score := self.search.pruned_before(lease)) is not None:
                    self.search.prune(lease, end_columns(trial), ending(trial, "pruned"), value=score)
                    logger.info("{} pruned, as it was judged before its worker ended", trial.label)
                    self.remove_files(lease, trial.checkpoint)
                    return
                if resume is not None and self.search.pauses(lease, beside=self.held, slots=self.settings.slots):
                    self.search.leases.pause(lease, ending(trial, PAUSED))
                    logger.info("{} paused where its worker ended", trial.label)
                    return
        except LeaseLost:
            return
        self.held[lease.trial_id] = trial
        folder = self._folder(lease) / str(lease.token)
        self.inbox.put(StartTrial(lease.trial_id, run, resume, trial.label, lease.token, folder))

    def _run_of(self, claim: Claim) -> RunConfig | None:
        """The run of a claimed trial, stored with it; None where the trial ended before training."""
        lease, row = claim.held, claim.seen
        try:
            if row is not None and row.run is not None:
                return RunConfig.model_validate_json(row.run)
            run = claim.arm.resolve(self.search.suggest(claim))
            breach = self.settings.breach(run)
            attributes = {**self.settings.known(run), "host": self.settings.owner.host}
        except LeaseLost:
            raise
        except Exception as error:  # a bug before training ends this trial, with its traceback, not the worker
            if errors.is_transient(error):
                raise
            self.search.store_suggested(claim)
            self.search.fail(lease, "bug", traceback.format_exc())
            logger.error("{} #{} failed before training:\n{}", claim.arm.name, lease.number, traceback.format_exc())
            return None
        if breach is not None:
            self.search.store_suggested(claim)
            self.search.attribute(lease, "limit", breach)
            self.search.prune(lease, {"message": breach}, attributes)
            return None
        text = run.model_dump_json(exclude_none=True)
        attributes["attempts"] = attempts(self._holders(claim))
        self.search.commit(claim, text, json.dumps(dict(self.settings.environment), sort_keys=True), attributes)
        return run

    def _as_stored(self, trial: HeldTrial, resume: Resume | None, rejected: Mapping[str, str]) -> HeldTrial:
        """A trial that somebody trained before: what it cost stays; what it reached, only where it goes on from it.
        rejected: the attribute that says why it does not, though it has a checkpoint."""
        row = self.search.leases.row(trial.lease.trial_id)
        if row is None:
            return trial
        own, before = dict(self.settings.environment), json.loads(row.environment or "{}")
        # Where part of the epochs ran elsewhere, no replay on one machine can promise the same bits.
        same = slots.without(own) == slots.without(before)
        now = own if resume is None or same else {**before, "device": "mixed", **code_version.both(before, own)}
        attributes = {"host": self.settings.owner.host, "attempts": attempts(trial.holders), **rejected}
        for why in rejected.values():
            logger.warning("{} begins again at epoch 1: {}", trial.label, why)
        self.search.leases.change(trial.lease, {"environment": json.dumps(now, sort_keys=True)}, attributes=attributes)
        trial = replace(trial, seconds=json.loads(row.seconds or "{}"), gpu_seconds=row.gpu_seconds)
        if resume is None:
            return trial
        return replace(
            trial,
            best_epoch=row.best_epoch,
            best_score=row.best_score,
            scores=json.loads(row.scores or "{}"),
            checkpoint=resume.checkpoint,
        )

    def _holders(self, claim: Claim) -> tuple[Attempt, ...]:
        if claim.seen is None:
            return (Attempt(self.settings.owner.host, 1, None),)
        rows = self.search.leases.attempts_of([claim.held.study_id])
        return tuple(Attempt(r.host, r.first_epoch, r.why) for r in rows if r.trial_id == claim.held.trial_id)

    # ---- training

    def store(self, item: Item) -> None:
        """Write what happened to a trial; one that was lost leaves an orphan record."""
        trial = self.held.get(item.key)
        if isinstance(item, CheckpointWritten) and self._is_last_of_paused(item):
            return
        if trial is None or trial.lease.token != item.token:
            # Pruned or lost while its last epoch was trained, or while its checkpoint was written.
            self._discard(item)
            return
        try:
            if isinstance(item, CheckpointWritten):
                self._store_checkpoint(trial, item)
            elif isinstance(item, TrialFailed):
                self._fail(trial, item.failure)
            else:
                self._store_epoch(trial, item)
        except LeaseLost:
            self._keep_orphan(trial, item)

    def _store_checkpoint(self, trial: HeldTrial, item: CheckpointWritten) -> None:
        if item.epoch != trial.epoch:
            # A stop did not wait for it, and the next epoch was stored first: the row would get that one's figures.
            self._discard(item)
            return
        self.search.leases.change(trial.lease, checkpoint_columns(trial, item))
        if trial.checkpoint != item.saved.path:
            remove(trial.checkpoint)  # the row names the new one now
        self.held[item.key] = replace(trial, checkpoint=item.saved.path)

    def _is_last_of_paused(self, item: CheckpointWritten) -> bool:
        """Store the checkpoint of a trial that was paused while it was being written; whether it was such a one."""
        trial = self._paused.get(item.key)
        if trial is None or trial.lease.token != item.token:
            return False
        if item.epoch == trial.epoch and self.search.leases.change_paused(trial.lease, checkpoint_columns(trial, item)):
            remove(trial.checkpoint)
        else:
            self._discard(item)  # of an epoch before or after the pause, or somebody goes on with the trial
        if item.epoch >= trial.epoch:
            del self._paused[item.key]
        return True

    def _store_epoch(self, trial: HeldTrial, item: EpochDone) -> None:
        report = item.report
        value = None if report.scores is None else report.scores[self.metric]
        # Where the finish below fails and all is tried again, the epoch is in the sums already.
        trial = trial if trial.epoch == report.epoch else self._with_epoch(trial, item)
        changes = cost_columns(trial)
        self.search.report(trial.lease, report.epoch, value, changes, cost(trial) if trial.epochs == 1 else {})
        self.held[item.key] = trial
        if report.final:
            self._complete(trial, item)
        elif value is not None and self.search.pruned(trial.lease):
            self.search.prune(trial.lease, end_columns(trial), ending(trial, "pruned"), value=value)
            logger.info("{} pruned at epoch {} ({} {:.4f})", trial.label, report.epoch, self.metric, value)
            self._end(trial, Outcome.PRUNED)
        elif value is not None and self.search.pauses(trial.lease, beside=self.held, slots=self.settings.slots):
            self.search.leases.pause(trial.lease, ending(trial, PAUSED))
            logger.info("{} paused at epoch {} ({} {:.4f})", trial.label, report.epoch, self.metric, value)
            self._end(trial, Outcome.PAUSED)

    def _with_epoch(self, trial: HeldTrial, item: EpochDone) -> HeldTrial:
        """The trial once this epoch is stored; a try that fails leaves the trial as it was."""
        report = item.report
        parts = {**report.seconds, **item.overhead}
        after = replace(
            trial,
            epoch=report.epoch,
            seconds=_added(trial.seconds, parts),
            gpu_seconds=trial.gpu_seconds + sum(report.seconds.values()) * self.settings.ranks,
            own_seconds=_added(trial.own_seconds, parts),
            epochs=trial.epochs + 1,
            passes=None if report.passes is None else (trial.passes or 0.0) + report.passes,
            shares=report.shares,
        )
        score = None if report.scores is None else report.scores[self.metric]
        if score is not None and self._better(score, trial.best_score):
            return replace(after, best_epoch=report.epoch, best_score=score, scores=dict(report.scores or {}))
        return after

    def _better(self, score: float, best: float | None) -> bool:
        if best is None:
            return True
        return score < best if self.search.spec.objective.direction == "minimize" else score > best

    # ---- ending

    def _complete(self, trial: HeldTrial, item: EpochDone) -> None:
        key = trial.lease.trial_id
        self.held[key] = trial = upload(self.search, self.settings, trial, item.picture)
        best = trial.best_score if trial.best_score is not None else math.nan
        changes = end_columns(trial)
        if item.weights is not None:
            changes |= {"weights": str(item.weights.path), "weights_sha256": item.weights.sha256}
        results: list[dict[str, Any]] = []
        if self.search.arms[trial.lease.study_id].planned and item.report.measured is not None:
            results = rows_of(self.search.folder, key, [each.to_json() for each in item.report.measured])
        self.search.complete(trial.lease, best, changes, ending(trial, "finished"), results)
        logger.info("{} complete: {} {:.4f} at epoch {}", trial.label, self.metric, best, trial.best_epoch)
        self._end(trial, Outcome.COMPLETE)

    def _fail(self, trial: HeldTrial, failure: Failure) -> None:
        """A failed trial stays failed, but for a file that could not be read: that may be the disk's fault."""
        text = f"epoch {failure.epoch}: {failure.message}"
        kind = failure.kind.value
        if failure.kind is FailureKind.STORAGE and self._storage_failures(trial.lease.trial_id) + 1 < MOST_LOST:
            self.search.leases.give_back(trial.lease, kind, ending(trial, kind))
            logger.warning("{} given back, this worker begins nothing for a while: {}", trial.label, text)
            self.resting_until = time.monotonic() + self.settings.ttl
            self._end(trial, Outcome.GIVEN_BACK)
            return
        self.search.fail(trial.lease, kind, f"{text}\n{failure.detail}".strip(), ending(trial, kind))
        logger.warning("{} failed ({}) in {}", trial.label, kind, text)
        self._end(trial, Outcome.FAILED)

    def _storage_failures(self, trial_id: int) -> int:
        rows = (
            [] if (row := self.search.leases.row(trial_id)) is None else self.search.leases.attempts_of([row.study_id])
        )
        return sum(a.trial_id == trial_id and a.why == FailureKind.STORAGE.value for a in rows)

    def fail_unstorable(self, item: Item, error: Exception) -> None:
        """Fail a trial whose report the database cannot store, now or later; the others go on."""
        trial = self.held.get(item.key)
        if trial is None:
            return
        text = "".join(traceback.format_exception(error))
        logger.error("{} failed, the database does not take its report: {}", trial.label, errors.driver_message(error))
        try:
            self.search.fail(trial.lease, "bug", text, ending(trial, "bug"))
            self._end(trial, Outcome.UNSTORABLE)
        except LeaseLost:
            logger.warning("{}: {}", trial.label, LOST)
            self._end(trial, Outcome.LOST)
        self._discard(item)

    def _keep_orphan(self, trial: HeldTrial, item: Item) -> None:
        """Keep what was reported of a trial that another worker holds by now."""
        if isinstance(item, CheckpointWritten):
            self._discard(item)  # its next report, or the next heartbeat, finds the trial lost
            return
        row = self.search.leases.row(item.key)
        self._discard(item)
        if row is not None and row.state == FINISHED and row.token == trial.lease.token:
            # The answer to an earlier try was lost on the way, not the write; a finished row names no checkpoint.
            self._end(trial, Outcome.ENDED_BEFORE)
            return
        if row is not None and row.state == PAUSED and row.token == trial.lease.token:
            self._end(trial, Outcome.PAUSED)
            return
        epoch = item.report.epoch if isinstance(item, EpochDone) else item.failure.epoch
        record = dict(item.report.scores or {}) if isinstance(item, EpochDone) else {"failure": item.failure.kind.value}
        self.search.leases.orphan(trial.lease, epoch, record)
        self.forget(item.key, LOST)

    def forget(self, key: int, reason: str) -> None:
        """Let go of a trial that the database says is not this worker's any more."""
        trial = self.held.get(key)
        if trial is not None:
            logger.warning("{}: {}", trial.label, reason)
            self._end(trial, Outcome.LOST)

    def give_back(self, reason: str) -> None:
        """Free all trials for anybody, uncharged."""
        for trial in list(self.held.values()):
            try:
                self.search.leases.give_back(trial.lease, reason, ending(trial, reason))
            except LeaseLost:
                logger.warning("{}: {}", trial.label, LOST)
            self._end(trial, Outcome.GIVEN_BACK)

    def _end(self, trial: HeldTrial, outcome: Outcome) -> None:
        """The one place where a trial leaves this worker's hands; the database has its end already."""
        cleanup = CLEANUP[outcome]
        if Cleanup.REMOVE_FILES in cleanup:
            self.remove_files(trial.lease, trial.checkpoint)
        del self.held[trial.lease.trial_id]
        if Cleanup.PARK in cleanup:
            self._paused[trial.lease.trial_id] = trial
        if Cleanup.DROP in cleanup or Cleanup.PARK in cleanup:
            self.inbox.put(DropTrial(trial.lease.trial_id, keep_checkpoint=Cleanup.PARK in cleanup))

    def _discard(self, item: Item) -> None:
        """Remove a file that no row names: one whose answer was lost may have been named after all."""
        file = (
            item.saved if isinstance(item, CheckpointWritten) else item.weights if isinstance(item, EpochDone) else None
        )
        if file is not None:
            row = self.search.leases.row(item.key)
            if row is None or str(file.path) not in (row.checkpoint, row.weights):
                remove(file.path)

    def remove_files(self, lease: LeaseHandle | LeaseRow, checkpoint: Path | None) -> None:
        """Remove the checkpoint of a trial that is over, and what its holders left on this host unnamed."""
        folder = self._folder(lease)
        remove(checkpoint)
        remove_all(folder, lease.token)

    def _folder(self, lease: LeaseHandle | LeaseRow) -> Path:
        """The folder of a trial, which has one for each holder."""
        return self.settings.runs / self.search.folder / self.search.arms[lease.study_id].name / str(lease.number)


def _added(sums: Mapping[str, float], parts: Mapping[str, float]) -> dict[str, float]:
    return {**sums, **{part: sums.get(part, 0.0) + seconds for part, seconds in parts.items()}}


def ending(trial: HeldTrial, outcome: str) -> dict[str, Any]:
    """The attributes of a trial whose holder lets go of it: finished, pruned, a failure's class, or given back."""
    spent = cost(trial)
    reached = {**result(trial.best_epoch, trial.scores), **gradient_attributes(trial.shares)}
    waits = {} if trial.waits is None else {WAITS: None}  # whoever takes it over waits for nothing yet
    return {"attempts": attempts(trial.holders, outcome), **reached, **spent, **waits}


def cost(trial: HeldTrial) -> dict[str, Any]:
    """The attributes that say what its holder's epochs cost so far."""
    return {**pace(trial.own_seconds, trial.epochs), **teacher_attributes(trial.run, trial.passes, trial.epochs)}


def upload(search: StudyAdapter, settings: WorkerSettings, trial: HeldTrial, picture: Path | None) -> HeldTrial:
    """Give a trial that still runs its picture, once; where the folder refuses it, the trial goes on without.

    Raises LeaseLost.
    """
    artifacts = settings.artifacts
    if picture is None or artifacts is None or not settings.images or trial.picture_handled:
        return trial
    lease = trial.lease
    try:
        with search.opened.fence.write(lease.trial_id, lease.token):
            artifacts.to_trial(lease.trial_id, picture, "image/png")
        picture.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        logger.warning("{}: its picture cannot be kept in {} ({})", trial.label, artifacts.folder, reason)
    return replace(trial, picture_handled=True)


def cost_columns(trial: HeldTrial) -> dict[str, Any]:
    """What the trial cost so far, which grows whether or not a checkpoint is written. Storing it is a heartbeat."""
    seconds = json.dumps(trial.seconds, sort_keys=True)
    return dict(seconds=seconds, gpu_seconds=trial.gpu_seconds, beat=leases.c.beat + 1)


def checkpoint_columns(trial: HeldTrial, item: CheckpointWritten) -> dict[str, Any]:
    """The columns of the lease once the checkpoint of the trial's newest epoch is on disk."""
    return dict(
        epoch=item.epoch,
        checkpoint=str(item.saved.path),
        checkpoint_sha256=item.saved.sha256,
        replay=json.dumps(item.replay),
        **result_columns(trial),
    )


def end_columns(trial: HeldTrial) -> dict[str, Any]:
    """The columns of the lease when nothing is left to train: no checkpoint."""
    return dict(epoch=trial.epoch, checkpoint=None, **result_columns(trial))


def result_columns(trial: HeldTrial) -> dict[str, Any]:
    """What the trial cost and reached so far."""
    return dict(
        **cost_columns(trial),
        best_epoch=trial.best_epoch,
        best_score=trial.best_score,
        scores=json.dumps(dict(trial.scores), allow_nan=False, sort_keys=True),
    )
