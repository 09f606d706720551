"""The trials in one worker's hands, from a claim to the end of each, with what the database says of them meanwhile.

A trial that changes hands goes on from the checkpoint that its lease names, as far as this host can read it; files that
no row names any more are deleted. At its end a trial brings its attributes and its picture for the dashboard.
"""

import hashlib
import json
import math
import queue
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from loguru import logger

from search.execution.messages import (
    WEIGHTS,
    CheckpointWritten,
    DropTrial,
    EpochDone,
    HeldTrial,
    StartTrial,
    TrialFailed,
    WorkerSettings,
)
from search.planning import slots
from search.storage import errors
from search.storage.evidence import rows_of
from search.storage.leases import LeaseRow
from search.storage.schema import leases
from search.storage.statements import LeaseLost
from search.study import code_version
from search.study.adapter import Claim, StudyAdapter
from search.study.trial_attributes import Attempt, attempts, listening, moved, pace, result
from trainer.config import RunConfig
from trainer.reports import Failure, FailureKind, Resume

MOST_LOST = 3
"""How often a trial's worker may vanish before the trial fails."""


class HeldTrials:
    """Called by the database thread alone."""

    def __init__(self, search: StudyAdapter, settings: WorkerSettings) -> None:
        self.search = search
        self.settings = settings
        self.held: dict[int, HeldTrial] = {}
        self.inbox: queue.SimpleQueue[StartTrial | DropTrial] = queue.SimpleQueue()
        self.resting_until = 0.0
        """On the monotonic clock: nothing begins before, as a file could not be read."""

    def store(self, item: EpochDone | TrialFailed | CheckpointWritten) -> None:
        """Write what happened to a member; a member that was lost leaves an orphan record."""
        member = self.held.get(item.key)
        if member is None or member.held.token != item.token:
            # Pruned or lost while its last epoch was trained, or while its checkpoint was written.
            self._discard(item)
            return
        try:
            if isinstance(item, CheckpointWritten) and item.epoch != member.epoch:
                # A stop did not wait for it, and the epoch after it was told: the row would get that one's figures.
                self._discard(item)
            elif isinstance(item, CheckpointWritten):
                self.search.leases.change(member.held, after_writing(member, item))
                if member.checkpoint != item.saved.path:
                    remove(member.checkpoint)  # the row names the new one now
                self.held[item.key] = replace(member, checkpoint=item.saved.path)
            else:
                self._store(member, item)
        except LeaseLost:
            self._keep_orphan(member, item)

    def _discard(self, item: EpochDone | TrialFailed | CheckpointWritten) -> None:
        """Remove a file that no row names: one whose answer was lost may have been named after all."""
        file = (
            item.saved if isinstance(item, CheckpointWritten) else item.weights if isinstance(item, EpochDone) else None
        )
        if file is not None:
            row = self.search.leases.row(item.key)
            if row is None or str(file.path) not in (row.checkpoint, row.weights):
                remove(file.path)

    def spoil(self, item: EpochDone | TrialFailed | CheckpointWritten, error: Exception) -> None:
        """What was told of a member cannot be stored, now or later: the trial fails, the others go on."""
        member = self.held.get(item.key)
        if member is None:
            return
        text = "".join(traceback.format_exception(error))
        logger.error("{} failed, the database does not take its report: {}", member.label, errors.words(error))
        try:
            self.search.fail(member.held, "bug", text, ending(member, "bug"))
            self._sweep(member)
        except LeaseLost:
            logger.warning("{}: lost to another worker", member.label)
        self.forget(item.key, None)
        self._discard(item)

    def begin(self, claim: Claim) -> None:
        """From a claim to a member: complete its parameters, check its limits, store its run."""
        held, seen = claim.held, claim.seen
        try:
            if seen is not None and seen.lost + claim.lost >= MOST_LOST:
                said = {"attempts": attempts(self._holders(claim), "lost")}
                self.search.fail(held, "lost", f"its worker vanished {MOST_LOST} times", said)
                remove(None if seen.checkpoint is None else Path(seen.checkpoint))
                sweep(self._place(claim.arm.name, held.number), held.token)
                logger.warning("#{} of {} failed: its worker vanished {} times", held.number, claim.arm.name, MOST_LOST)
                return
            run = self._run_of(claim)
            if run is None:
                return
            member = HeldTrial(held, f"{claim.arm.name} #{held.number}", run, holders=self._holders(claim))
            resume = None
            if seen is not None and seen.run is not None:
                resume = resume_of(seen, claim.resume_epoch)
                member = self._as_stored(member, resume)
        except LeaseLost:
            return
        self.held[held.trial_id] = member
        folder = self._place(claim.arm.name, held.number) / str(held.token)
        self.inbox.put(StartTrial(held.trial_id, run, resume, member.label, held.token, folder))

    def _as_stored(self, member: HeldTrial, resume: Resume | None) -> HeldTrial:
        """A member that somebody trained before: what it cost stays; what it reached, only where it goes on from it."""
        row = self.search.leases.row(member.held.trial_id)
        if row is None:
            return member
        mine, before = dict(self.settings.environment), json.loads(row.environment or "{}")
        # Where part of the epochs ran elsewhere, no replay on one machine can promise the same bits.
        same = slots.without(mine) == slots.without(before)
        now = mine if resume is None or same else {**before, "device": "mixed", **code_version.both(before, mine)}
        said = {"host": self.settings.owner.host, "attempts": attempts(member.holders)}
        self.search.leases.change(member.held, {"environment": json.dumps(now, sort_keys=True)}, attributes=said)
        member = replace(member, seconds=json.loads(row.seconds or "{}"), gpu_seconds=row.gpu_seconds)
        if resume is None:
            return member
        return replace(
            member,
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

    def _run_of(self, claim: Claim) -> RunConfig | None:
        """The run of a claimed trial, stored with it; None where the trial ended before training."""
        held, seen = claim.held, claim.seen
        try:
            if seen is not None and seen.run is not None:
                return RunConfig.model_validate_json(seen.run)
            run = claim.arm.resolve(self.search.suggest(claim))
            breach = self.settings.breach(run)
            said = {**self.settings.known(run), "host": self.settings.owner.host}
        except LeaseLost:
            raise
        except Exception as error:  # a bug before training ends this trial, with its traceback, not the worker
            if errors.passes(error):
                raise
            self.search.fail(held, "bug", traceback.format_exc())
            logger.error("{} #{} failed before training:\n{}", claim.arm.name, held.number, traceback.format_exc())
            return None
        if breach is not None:
            self.search.attribute(held, "limit", breach)
            self.search.prune(held, {"message": breach}, said)
            return None
        text = run.model_dump_json(exclude_none=True)
        said["attempts"] = attempts(self._holders(claim))
        self.search.commit(claim, text, json.dumps(dict(self.settings.environment), sort_keys=True), said)
        return run

    def _store(self, member: HeldTrial, item: EpochDone | TrialFailed) -> None:
        if isinstance(item, TrialFailed):
            self._fall(member, item.failure)
            return
        report = item.report
        metric = self.search.spec.objective.metric
        value = None if report.scores is None else report.scores[metric]
        # Where the finish below fails and all is tried again, the epoch is in the sums already.
        after = member if member.epoch == report.epoch else self._after(member, item)
        said = cost(after) if after.epochs == 1 else {}
        self.search.report(member.held, report.epoch, value, spent(after), said)
        self.held[item.key] = member = after
        if report.final:
            self._complete(member, item)
        elif value is not None and self._judge(member):
            self.search.prune(member.held, at_end(member), ending(member, "pruned"))
            self._sweep(member)
            logger.info("{} pruned at epoch {} ({} {:.4f})", member.label, report.epoch, metric, value)
            self.forget(item.key, None)

    def _complete(self, member: HeldTrial, item: EpochDone) -> None:
        key = member.held.trial_id
        self.held[key] = member = upload(self.search, self.settings, member, item.picture)
        best = member.best_score if member.best_score is not None else math.nan
        changes = at_end(member)
        if item.weights is not None:
            changes |= {"weights": str(item.weights.path), "weights_sha256": item.weights.sha256}
        found: list[dict[str, Any]] = []
        if self.search.arms[member.held.study_id].planned and item.report.measured is not None:
            found = rows_of(self.search.folder, key, [each.to_json() for each in item.report.measured])
        self.search.complete(member.held, best, changes, ending(member, "finished"), found)
        self._sweep(member)
        metric = self.search.spec.objective.metric
        logger.info("{} complete: {} {:.4f} at epoch {}", member.label, metric, best, member.best_epoch)
        self.held.pop(key, None)

    def _fall(self, member: HeldTrial, failure: Failure) -> None:
        """A failed trial stays failed, but for a file that could not be read: that may be the disk's fault."""
        text = f"epoch {failure.epoch}: {failure.message}"
        key = member.held.trial_id
        if failure.kind is FailureKind.STORAGE and self._storage_failures(key) + 1 < MOST_LOST:
            self.search.leases.give_back(member.held, failure.kind.value, ending(member, failure.kind.value))
            logger.warning("{} given back, this worker begins nothing for a while: {}", member.label, text)
            self.resting_until = time.monotonic() + self.settings.ttl
        else:
            said = ending(member, failure.kind.value)
            self.search.fail(member.held, failure.kind.value, f"{text}\n{failure.detail}".strip(), said)
            logger.warning("{} failed ({}) in {}", member.label, failure.kind.value, text)
            self._sweep(member)
        self.held.pop(key)

    def _storage_failures(self, trial_id: int) -> int:
        row = self.search.leases.row(trial_id)
        tries = [] if row is None else self.search.leases.attempts_of([row.study_id])
        return sum(a.trial_id == trial_id and a.why == FailureKind.STORAGE.value for a in tries)

    def _sweep(self, member: HeldTrial) -> None:
        """No row names a checkpoint of this trial any more, whoever wrote it."""
        remove(member.checkpoint)
        arm = self.search.arms[member.held.study_id].name
        sweep(self._place(arm, member.held.number), member.held.token)

    def _place(self, arm: str, number: int) -> Path:
        return self.settings.runs / self.search.folder / arm / str(number)

    def _judge(self, member: HeldTrial) -> bool:
        try:
            return self.search.pruned(member.held)
        except LeaseLost:
            raise
        except Exception as error:  # a pruner's bug must not end trials: it is said aloud, the trial goes on
            if errors.passes(error):
                raise
            logger.error("{}: the pruner raised, the trial goes on:\n{}", member.label, traceback.format_exc())
            return False

    def _after(self, member: HeldTrial, item: EpochDone) -> HeldTrial:
        """The member once this epoch is stored; a try that fails leaves the member as it was."""
        report = item.report
        parts = {**report.seconds, **item.beside}
        seconds = {**member.seconds, **{part: member.seconds.get(part, 0.0) + spent for part, spent in parts.items()}}
        gpu_seconds = member.gpu_seconds + sum(report.seconds.values()) * self.settings.ranks
        after = replace(member, epoch=report.epoch, seconds=seconds, gpu_seconds=gpu_seconds)
        here = {**member.here, **{part: member.here.get(part, 0.0) + spent for part, spent in parts.items()}}
        passes = None if report.passes is None else (member.passes or 0.0) + report.passes
        after = replace(after, here=here, epochs=member.epochs + 1, passes=passes, shares=report.shares)
        score = None if report.scores is None else report.scores[self.search.spec.objective.metric]
        if score is not None and self._better(score, member.best_score):
            return replace(after, best_epoch=report.epoch, best_score=score, scores=dict(report.scores or {}))
        return after

    def _better(self, score: float, best: float | None) -> bool:
        if best is None:
            return True
        return score < best if self.search.spec.objective.direction == "minimize" else score > best

    def _keep_orphan(self, member: HeldTrial, item: EpochDone | TrialFailed | CheckpointWritten) -> None:
        if isinstance(item, CheckpointWritten):
            self._discard(item)  # who tells its next epoch, or beats for it, finds the member lost
            return
        row = self.search.leases.row(item.key)
        if row is not None and row.state == "finished" and row.token == member.held.token:
            # The answer to an earlier try was lost on the way, not the write; a finished row names no checkpoint.
            self._sweep(member)
            self._discard(item)
            self.forget(item.key, None)
            return
        self._discard(item)
        epoch = item.report.epoch if isinstance(item, EpochDone) else item.failure.epoch
        record = dict(item.report.scores or {}) if isinstance(item, EpochDone) else {"failure": item.failure.kind.value}
        self.search.leases.orphan(member.held, epoch, record)
        self.forget(item.key, "lost to another worker")

    def forget(self, key: int, why: str | None) -> None:
        member = self.held.pop(key, None)
        if member is not None:
            if why is not None:
                logger.warning("{}: {}", member.label, why)
            self.inbox.put(DropTrial(key))

    def give_back(self, why: str) -> None:
        for key, member in list(self.held.items()):
            try:
                self.search.leases.give_back(member.held, why, ending(member, why))
            except LeaseLost:
                logger.warning("{}: lost to another worker", member.label)
            self.held.pop(key)


def ending(member: HeldTrial, outcome: str) -> dict[str, Any]:
    """The attributes of a trial whose holder lets go of it: finished, pruned, a failure's class, or given back."""
    reached = result(member.best_epoch, member.scores)
    return {"attempts": attempts(member.holders, outcome), **reached, **moved(member.shares), **cost(member)}


def cost(member: HeldTrial) -> dict[str, Any]:
    """The attributes that say what its holder's epochs cost so far."""
    return {**pace(member.here, member.epochs), **listening(member.run, member.passes, member.epochs)}


def upload(search: StudyAdapter, settings: WorkerSettings, member: HeldTrial, picture: Path | None) -> HeldTrial:
    """Give a trial that still runs its picture, once; where the folder refuses it, the trial goes on without.

    Raises LeaseLost.
    """
    artifacts = settings.artifacts
    if picture is None or artifacts is None or not settings.images or member.pictured:
        return member
    held = member.held
    try:
        with search.opened.fence.write(held.trial_id, held.token):
            artifacts.to_trial(held.trial_id, picture, "image/png")
        picture.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        logger.warning("{}: its picture cannot be kept in {} ({})", member.label, artifacts.folder, reason)
    return replace(member, pictured=True)


def remove(path: Path | None) -> None:
    """Remove a file that nobody needs; a disk that refuses keeps it."""
    try:
        if path is not None:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("{} stays on disk: {}", path, error.strerror)


def sweep(place: Path, token: int) -> None:
    """Remove all checkpoints of a trial that is over, whoever wrote them, and weights of other holders than `token`'s.

    place: the trial's folder, which has one for each holder.
    """
    for path in place.glob("*/*epoch-*"):
        # What this worker is still writing comes as `Written`, of a trial that is over.
        if path.parent.name != str(token) or not path.name.startswith("."):
            remove(path)
    for path in place.glob(f"*/*{WEIGHTS}*"):
        if path.parent.name != str(token):
            remove(path)


def on_hand(row: LeaseRow) -> int:
    """The epoch that this host can resume a lease from: its checkpoint's, where the file is here and whole, else 0.

    A checkpoint of the last epoch, which no worker writes, has nothing to go on to: 0 as well.

    A file that is here and cannot be read counts as whole: a disk with an error is no reason to begin anew. Who then
    builds the trial fails for the disk's sake, gives it back, and rests; another host may read it.
    """
    if row.checkpoint is None or row.checkpoint_sha256 is None:
        return 0
    if row.run is not None and row.epoch >= json.loads(row.run)["epochs"]:
        return 0
    try:
        with Path(row.checkpoint).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return 0  # another host's disk, or the file is gone: the trial starts again, visibly
    except OSError as error:
        logger.warning("disk: #{}: {} cannot be read ({})", row.number, row.checkpoint, error.strerror or error)
        return row.epoch
    return row.epoch if digest == row.checkpoint_sha256 else 0


def resume_of(row: LeaseRow, epoch: int) -> Resume | None:
    """Where a taken trial goes on, its checkpoint having been judged good for `epoch`; None: from the beginning."""
    if epoch == 0 or row.checkpoint is None:
        return None
    replay = tuple((own, stream) for own, stream in json.loads(row.replay or "[]"))
    return Resume(Path(row.checkpoint), replay)


def spent(member: HeldTrial) -> dict[str, Any]:
    """What the trial cost so far; that grows whether or not a checkpoint is written. Telling it is a sign of life."""
    cost = json.dumps(member.seconds, sort_keys=True)
    return dict(seconds=cost, gpu_seconds=member.gpu_seconds, beat=leases.c.beat + 1)


def after_writing(member: HeldTrial, item: CheckpointWritten) -> dict[str, Any]:
    """What it says once the checkpoint of the member's newest epoch is on disk."""
    return dict(
        epoch=item.epoch,
        checkpoint=str(item.saved.path),
        checkpoint_sha256=item.saved.sha256,
        replay=json.dumps(item.replay),
        **figures(member),
    )


def at_end(member: HeldTrial) -> dict[str, Any]:
    """What it says when nothing is left to train: no checkpoint."""
    return dict(epoch=member.epoch, checkpoint=None, **figures(member))


def figures(member: HeldTrial) -> dict[str, Any]:
    """What the trial cost and reached so far."""
    return dict(
        **spent(member),
        best_epoch=member.best_epoch,
        best_score=member.best_score,
        scores=json.dumps(dict(member.scores), allow_nan=False, sort_keys=True),
    )
