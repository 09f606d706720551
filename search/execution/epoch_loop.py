"""One group of ranks through a search: the leader plans an epoch, all ranks carry it out, the leader reports it.

The time between two epochs is kept by part: copies and weights, the wait for the database, the rest.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from loguru import logger

from search.execution.checkpoint_writer import CheckpointWriter, saved
from search.execution.database_thread import CLOSING_SECONDS, DatabaseThread
from search.execution.disk_waits import usable
from search.execution.group import ASKED_TO_STOP, Group, GroupEnd, Plan
from search.execution.messages import PICTURE, WEIGHTS, CheckpointWritten, EpochDone, StartTrial, TrialFailed
from search.exit_codes import EndReason
from trainer.errors import one_line, refusal_text
from trainer.reports import EpochReport, Failure, FailureKind, Saved, Stopped, Students, Write

COPY_THREADS = 4
"""Checkpoints that are copied at the same time."""
DATABASE_SECONDS = 2.0
"""What is left to the database at the end, however slow the disk was."""
SYNC_SECONDS = 20.0
"""How long an epoch boundary waits for the database, while it answers at all."""
IDLE_SECONDS = 0.5
"""The pause between looks for work while there is none."""
NOTHING_PLANNED = Plan((), (), 0, None)
"""What ranks other than the leader bring to the exchange of plans."""

OnReport = Callable[[str, EpochReport], None]
"""Called with the name of a trial and the report of each of its epochs."""


OnLeave = Callable[[str], None]
"""Called with the name of a trial that this group trains no more."""


def _ignore(*_: object) -> None:
    """Default callback: does nothing."""


class Leader:
    """Plans epochs and reports them; rank 0 of a group has one."""

    def __init__(
        self,
        database_thread: DatabaseThread,
        students: Students,
        group: Group,
        on_report: OnReport = _ignore,
        on_leave: OnLeave = _ignore,
    ) -> None:
        self.database_thread = database_thread
        self._students = students
        self._group = group
        self._on_report = on_report
        self._on_leave = on_leave
        self._training: dict[int, StartTrial] = {}
        self._finished: list[int] = []
        """Trials whose last epoch was reported, to be dismissed with the next plan."""
        self._unsaved_exports: dict[int, tuple[EpochReport, Future[Saved]]] = {}
        """Last epochs whose weights are not on disk; where the disk refused them, they are written again before each
        epoch."""
        self._paused: list[int] = []
        """Trials whose last checkpoint before a pause is being written; what the disk refuses is not tried again."""
        self._writer = CheckpointWriter()
        database_thread.disk_refusal = lambda: self._writer.refusal
        self._deadline: float | None = None
        """When nobody waits for the disk any more, on the monotonic clock; None while nobody is in a hurry."""
        self._overhead = EpochOverhead()
        self.bad_data: GroupEnd | None = None
        """The end of the group because of a file that no trial can be trained with; None while there is none."""

    # ---- before an epoch

    def next_plan(self) -> Plan:
        """The next epoch, once everything reported so far was stored and judged (or the database is away)."""
        self._retry_exports()
        self._sync()
        dismissed, started = self._take_messages()
        self._prepare_stop()
        plan = self._plan(dismissed, started)
        if plan.members == 0 and plan.end is None:
            self._wait_for_work()
        return plan

    def _retry_exports(self) -> None:
        """Write the weights again that the disk refused."""
        unsaved, self._unsaved_exports = self._unsaved_exports, {}
        exports = {key: self._export(key) if export.done() else export for key, (_, export) in unsaved.items()}
        self._writer.wait(exports.values(), self._group.watchdog.beat, self._disk_deadline)
        for key, (report, _) in unsaved.items():
            self._report_last_epoch(key, report, exports[key], {})

    def _sync(self) -> None:
        """Wait until the database thread has stored what was reported. Ends the process where that thread is stuck."""
        began = time.monotonic()
        with self._group.watchdog.suspended():
            limit = self._group.watchdog.limit
            for _ in range(2):  # after SIGSTOP and SIGCONT the thread looks stalled once: check twice
                self.database_thread.sync(SYNC_SECONDS, lambda: self._group.stop_asked)
                if self._group.stop_asked or not self.database_thread.is_stalled(limit):
                    break
            else:
                self._group.watchdog.end(
                    "the database thread hangs, and not in a call to the database: its traceback follows; this "
                    "process ends, torchrun may restart it (--max-restarts)"
                )
        self._overhead.add_database(time.monotonic() - began)

    def _take_messages(self) -> tuple[tuple[int, ...], tuple[StartTrial, ...]]:
        """The trials to dismiss, and those to start, by what the database thread wrote since."""
        dismissed, started = list(self._finished), list[StartTrial]()
        self._finished = []
        while not self.database_thread.inbox.empty():
            message = self.database_thread.inbox.get()
            if isinstance(message, StartTrial):
                started.append(message)
            elif message.key in self._training:
                self._take_out(message.key)
                self._unsaved_exports.pop(message.key, None)
                if message.keep_checkpoint:
                    self._paused.append(message.key)
                else:
                    self._writer.forget(message.key)
                dismissed.append(message.key)
            else:
                started = [start for start in started if start.key != message.key]
        self._training |= {start.key: start for start in started}
        return tuple(dismissed), tuple(started)

    def _prepare_stop(self) -> None:
        """Where the group is about to end without a signal, let checkpoints get to disk, and tell the other ranks."""
        preempt = self.database_thread.preempt
        if self.bad_data or preempt.is_set():
            # Nobody is in a hurry yet: what was trained gets to a slow disk. One that hangs holds no trial back.
            deadline = time.monotonic() + self._group.watchdog.limit / 2
            self._writer.finish(self._group.watchdog.beat, lambda: self._disk_deadline() or deadline)
        if preempt.is_set():
            self._group.ask_to_stop()

    def _plan(self, dismissed: tuple[int, ...], started: tuple[StartTrial, ...]) -> Plan:
        members = len(self._training) - len(self._unsaved_exports)
        end = self.bad_data or (ASKED_TO_STOP if self._group.stop_asked else None)
        if end is None and members == 0 and not self._unsaved_exports:
            end = self.database_thread.ended
        # An ending group starts nothing: what was just claimed is given back.
        return Plan(dismissed, started if end is None else (), members, end)

    def _wait_for_work(self) -> None:
        with self._group.watchdog.suspended():
            time.sleep(IDLE_SECONDS)
        self._overhead.reset()

    def begin_epoch(self, failures: dict[int, Failure]) -> None:
        """The epoch begins. failures: of the trials that could not be built or resumed on some rank."""
        self._overhead.epoch_begins()
        # Not before: what reports and verdicts are waited for should share no core and no disk with the writing.
        self._writer.go()
        for key, failure in failures.items():
            self._on_failure(key, failure)

    # ---- after an epoch

    def report(self, reports: dict[int, EpochReport | Failure]) -> None:
        """Hand an epoch to the database thread; its checkpoints are copied here and written while the next one runs.

        Those of the epoch before are on disk by then, or refused, so that while the disk takes what it is given no
        report stands more than one epoch above its checkpoint. A last epoch has weights in place of a checkpoint, and
        is reported when they are on disk.
        """
        began = time.monotonic()
        whole = {key: report for key, report in reports.items() if isinstance(report, EpochReport)}
        going_on = [key for key, report in whole.items() if not report.final]
        if self._writer.finish(self._group.watchdog.beat, self._disk_deadline):
            going_on = []  # this group ends, and a thread still reads the memory that the copies would go to
        self._forget_paused()
        with ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="copy") as pool:
            writes = dict(zip(going_on, pool.map(self._students.snapshot, going_on), strict=True))
        exports = {key: self._export(key) for key, report in whole.items() if report.final}
        self._writer.wait(exports.values(), self._group.watchdog.beat, self._disk_deadline)
        overhead = self._overhead.shares(time.monotonic() - began, len(whole))
        self._overhead.reset()
        for key, report in reports.items():
            if isinstance(report, Failure):
                self._on_failure(key, report)
                continue
            seconds = {**report.seconds, **overhead}
            self._on_report(self._name(key), replace(report, seconds=seconds))
            if report.final:
                self._report_last_epoch(key, report, exports[key], overhead)
            else:
                self._report_epoch(key, report, writes.get(key), overhead)
            self._group.watchdog.beat()

    def _forget_paused(self) -> None:
        """Give free what the disk refused of paused trials: they go on from the checkpoint before."""
        for key in self._paused:
            if key not in self._training:
                self._writer.forget(key)
        self._paused = []

    def _export(self, key: int) -> "Future[Saved]":
        return self._writer.start(partial(self._students.export, key), self._training[key].folder / WEIGHTS)

    def _report_epoch(self, key: int, report: EpochReport, write: Write | None, overhead: Mapping[str, float]) -> None:
        start, replay = self._training[key], self._students.replay(key)
        self.database_thread.put(EpochDone(key, start.token, report, overhead=overhead))

        def on_disk(file: Saved) -> None:
            self.database_thread.put(CheckpointWritten(key, start.token, report.epoch, file, replay))

        if write is not None:
            self._writer.later(key, write, start.folder / f"epoch-{report.epoch}.pt", on_disk)

    def _report_last_epoch(
        self, key: int, report: EpochReport, export: "Future[Saved]", overhead: Mapping[str, float]
    ) -> None:
        """Report a last epoch once its weights are on disk."""
        weights = saved(export)
        if weights is None:
            self._unsaved_exports[key] = report, export
            return
        picture = self._picture(key) if self.database_thread.settings.draws else None
        self.database_thread.put(EpochDone(key, self._training[key].token, report, weights, picture, overhead))
        self._take_out(key)
        self._writer.forget(key)
        self._finished.append(key)

    def _picture(self, key: int) -> Path | None:
        """The picture of a trial that trained its last epoch; the other ranks wait for it at the next plan."""
        start = self._training[key]
        try:
            return self._students.picture(key, start.folder / PICTURE)
        except Exception as error:  # noqa: BLE001 - a trial is not worth less because nothing can be drawn of it
            logger.warning("{}: no picture: {}", start.label, one_line(f"{type(error).__name__}: {error}"))
            return None

    def _on_failure(self, key: int, failure: Failure) -> None:
        start = self._take_out(key)
        if failure.kind is FailureKind.BAD_DATA:
            # All trials read the same files, so all would fail: they are given back, and this worker ends.
            self.bad_data = self.bad_data or GroupEnd(EndReason.BAD_DATA, f"bad data: {failure.message}")
            return
        self._writer.forget(key)
        self.database_thread.put(TrialFailed(key, start.token, failure))

    def _take_out(self, key: int) -> StartTrial:
        """The trial is trained here no more."""
        self._on_leave(self._name(key))
        return self._training.pop(key)

    def _name(self, key: int) -> str:
        """What the trial is called in names of files."""
        return self._training[key].label.replace(" #", "-")

    # ---- the end

    def close(self, reason: str) -> None:
        """Give everything back for this reason; what is being written may get to the disk first."""
        deadline = self._disk_deadline() or time.monotonic() + CLOSING_SECONDS - DATABASE_SECONDS
        try:
            for path in self._writer.finish(self._group.watchdog.beat, lambda: deadline):
                logger.warning("disk: {} is still being written; its trial goes on from the one before", path)
            for folder in self.database_thread.settings.spare if self._writer.refusal else ():
                self._keep_in(folder, lambda: deadline)
        finally:
            self.database_thread.close(reason, DATABASE_SECONDS + max(deadline - time.monotonic(), 0.0))

    def _keep_in(self, folder: Path, deadline: Callable[[], float]) -> None:
        """Write what the disk refused to a spare folder: checkpoints, and weights of trials at their end."""
        try:
            if not usable(folder):
                logger.warning("disk: {}: belongs to somebody else, and keeps nothing", folder)
                return
        except OSError as error:
            logger.warning("disk: {}: cannot be used ({})", folder, refusal_text(error))
            return
        runs = self.database_thread.settings.runs
        exports = {
            key: (partial(self._students.export, key), self._training[key].folder / WEIGHTS)
            for key in self._unsaved_exports
        }
        kept, ends = self._writer.elsewhere(lambda path: folder / path.relative_to(runs), exports)
        self._writer.wait([*kept.values(), *ends.values()], self._group.watchdog.beat, deadline)
        for key, future in {**kept, **ends}.items():
            if (file := saved(future)) is None:
                continue
            logger.warning("disk: what --runs did not take is in {}", file.path)
            self._writer.forget(key)
            if key in ends:
                report, _ = self._unsaved_exports.pop(key)
                self._report_last_epoch(key, report, future, {})

    def _disk_deadline(self) -> float | None:
        """Siblings that were asked to stop wait no longer than the database and the disk may take together."""
        if self._deadline is None and self._group.stop_asked:
            self._deadline = time.monotonic() + CLOSING_SECONDS - DATABASE_SECONDS
        return self._deadline


def run_group(
    group: Group,
    students: Students,
    database_thread: DatabaseThread | None,
    on_report: OnReport = _ignore,
    on_leave: OnLeave = _ignore,
) -> GroupEnd:
    """Train until nothing is left or somebody asks to stop; returns why. database_thread: on the leader alone.
    on_report: called with the name of a trial and the report of each of its epochs, whose seconds hold its share of
    those between two epochs. on_leave: called with the name of a trial when this group trains it no more.

    Failures that all ranks agree on end their trial. Anything else is raised: the process ends, torchrun restarts it.
    """
    if database_thread is None:
        with group.watchdog.watching():
            return _train(group, students, None)
    leader = Leader(database_thread, students, group, on_report, on_leave)
    database_thread.start()
    # Where anything is raised from here on, the leases stay: the restarted leader takes them back, or others adopt
    # them.
    try:
        with group.watchdog.watching():
            end = _train(group, students, leader)
    except Exception:
        if group.stop_asked:  # nobody restarts these ranks: a sibling that hangs must not keep the trials waiting
            leader.close("preempted")
        raise
    leader.close("bad_data" if leader.bad_data else "preempted")
    return end


def _train(group: Group, students: Students, leader: Leader | None) -> GroupEnd:
    """Epoch by epoch, on every rank: the leader plans, all carry the plan out and train, the leader reports."""
    while True:
        plan = group.broadcast(NOTHING_PLANNED if leader is None else leader.next_plan())
        failures = _carry_out(group, students, plan)
        if plan.end is not None:
            return plan.end
        if leader is not None:
            leader.begin_epoch(failures)
        if plan.members == len(failures):
            continue
        try:
            reports = students.epoch()
        except Stopped:
            return ASKED_TO_STOP
        if leader is not None:
            leader.report(reports)


def _carry_out(group: Group, students: Students, plan: Plan) -> dict[int, Failure]:
    """Dismiss and admit trials as planned, each on every rank or on none; returns the failures by trial."""
    for key in plan.dismiss:
        students.dismiss(key)
    failures = {}
    for start in plan.begin:
        group.watchdog.beat()
        own = _admit(students, start)
        first = next((failure for failure in group.all_gather(own) if failure is not None), None)
        if first is None:
            continue
        if own is None:
            students.dismiss(start.key)
        failures[start.key] = first
        logger.error("{} could not begin: {}", start.label, first.message)
    return failures


def _admit(students: Students, start: StartTrial) -> Failure | None:
    """Take a run into a free slot of this rank; returns why that failed."""
    try:
        students.admit(start.key, start.run, start.resume)
    except Exception as error:  # noqa: BLE001 - one run that cannot begin must not end the others
        from trainer.failures import local_failure  # loads torch, which the simulation does without

        local = local_failure(error, start.run)
        return Failure(local.kind, local.message, 1, local.detail)
    return None


class EpochOverhead:
    """The time from the end of one epoch's checkpoints to the beginning of the next epoch, by part."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """What went before belongs to no trial, or was reported: count from here."""
        self._since = time.monotonic()
        self._database = self._idle = 0.0

    def add_database(self, seconds: float) -> None:
        """Count these seconds as a wait for the database."""
        self._database += seconds

    def epoch_begins(self) -> None:
        """Plans were shared and new trials built until now: for those who train that was idle time."""
        self._idle = max(time.monotonic() - self._since - self._database, 0.0)

    def shares(self, checkpoint: float, members: int) -> dict[str, float]:
        """Each member's seconds by part. checkpoint: seconds for copies, for earlier writes, and for weights."""
        total = {"checkpoint": checkpoint, "database": self._database, "idle": self._idle}
        return {part: seconds / max(members, 1) for part, seconds in total.items()}
