"""One group of ranks through a search: the leader plans an epoch, all ranks carry it out, the leader reports it.

The time between two epochs is kept by part: copies and weights, the wait for the database, the rest.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from loguru import logger

from search.execution.checkpoint_writer import CheckpointWriter, saved
from search.execution.database_thread import CLOSING, DatabaseThread
from search.execution.group import ASKED_TO_STOP, Group, GroupEnd, Plan
from search.execution.messages import PICTURE, WEIGHTS, CheckpointWritten, EpochDone, StartTrial, TrialFailed
from search.exit_codes import EndReason
from trainer.errors import one_line
from trainer.reports import EpochReport, Failure, FailureKind, Saved, Stopped, Students, Write

COPIES = 4
"""Members that are copied at the same time."""
LEAST = 2.0
"""Seconds that are left to the database at the end, however slow the disk was."""
PATIENCE = 20.0
"""Seconds that an epoch boundary waits for the database, while it answers at all."""
IDLE = 0.5
"""Seconds between looks for work while there is none."""


Tell = Callable[[str, EpochReport], None]


def _nobody(_trial: str, _report: EpochReport) -> None:
    """Nobody listens."""


class Leader:
    """Plans epochs and reports them; the lead rank of a group has one."""

    def __init__(self, desk: DatabaseThread, students: Students, group: Group, tell: Tell = _nobody) -> None:
        self.desk, self._tell = desk, tell
        self._students = students
        self._group = group
        self._training: dict[int, StartTrial] = {}
        self._over: list[int] = []
        """Members that trained their last epoch."""
        self._owed: dict[int, tuple[EpochReport, Future[Saved]]] = {}
        """Last epochs whose weights are not on disk; it is asked again before each epoch, where it refused them."""
        self._writers = CheckpointWriter()
        self._end: float | None = None
        """When the disk holds nobody up any more, on the monotonic clock; None while nobody is in a hurry."""
        self._beside = BetweenEpochs()
        self.bad_data: GroupEnd | None = None
        """The file that no trial can be trained with; None while there is none."""

    def plan(self) -> Plan:
        """The next epoch, after everything reported so far was stored and judged (or the database is away)."""
        self._pay()
        began = time.monotonic()
        with self._group.watchdog.suspended():
            self._settle()
        self._beside.waited(time.monotonic() - began)
        dismiss, begins = list(self._over), []
        self._over = []
        while not self.desk.inbox.empty():
            event = self.desk.inbox.get()
            if isinstance(event, StartTrial):
                begins.append(event)
            elif self._training.pop(event.key, None) is not None:
                self._owed.pop(event.key, None)
                self._writers.forget(event.key)
                dismiss.append(event.key)
            else:
                begins = [begin for begin in begins if begin.key != event.key]
        self._training |= {begin.key: begin for begin in begins}
        if self.bad_data or self.desk.preempt.is_set():
            # Nobody is in a hurry yet: what was trained gets to a slow disk. One that hangs holds no trial back.
            slow = time.monotonic() + self._group.watchdog.limit / 2
            self._writers.finish(self._group.watchdog.beat, lambda: self._until() or slow)
        if self.desk.preempt.is_set():
            self._group.ask_to_stop()
        end = self.bad_data or (ASKED_TO_STOP if self._group.stop_asked else None)
        members = len(self._training) - len(self._owed)
        if end is None and members == 0:
            end = None if self._owed else self.desk.ended
            if end is None:
                with self._group.watchdog.suspended():
                    time.sleep(IDLE)
            self._beside.anew()
        # Who ends builds nothing first: what was just claimed is given back.
        return Plan(tuple(dismiss), tuple(begins) if end is None else (), members, end)

    def _settle(self) -> None:
        limit = self._group.watchdog.limit
        for _ in range(2):  # a process that was stopped as a whole and goes on finds that nothing got on: look again
            self.desk.settle(PATIENCE, lambda: self._group.stop_asked)
            if self._group.stop_asked or not self.desk.hangs(limit):
                return
        self._group.watchdog.end(
            "the database thread hangs, and not in a call to the database: its traceback follows; this process ends, "
            "torchrun may restart it (--max-restarts)"
        )

    def admitted(self, failures: dict[int, Failure]) -> None:
        """The epoch begins; some members could not: build or resume failed on a rank."""
        self._beside.training()
        # Not before: what reports and verdicts are waited for should share no core and no disk with the writing.
        self._writers.go()
        for key, failure in failures.items():
            self._fell(key, failure)

    def take(self, reports: dict[int, EpochReport | Failure]) -> None:
        """Hand an epoch to the database thread; its checkpoints are copied here and written while the next one runs.

        Those of the epoch before are on disk by then, or refused, so that while the disk takes what it is given no
        report stands more than one epoch above its checkpoint. A last epoch has weights in place of a checkpoint, and
        is told when they are on disk.
        """
        began = time.monotonic()
        whole = {key: report for key, report in reports.items() if isinstance(report, EpochReport)}
        goes_on = [key for key, report in whole.items() if not report.final]
        if self._writers.finish(self._group.watchdog.beat, self._until):
            goes_on = []  # this group ends, and a writer still reads the memory that the copies would go to
        with ThreadPoolExecutor(COPIES, thread_name_prefix="copy") as pool:
            writes = dict(zip(goes_on, pool.map(self._students.snapshot, goes_on), strict=True))
        ends = {key: self._export(key) for key, report in whole.items() if report.final}
        self._writers.wait(ends.values(), self._group.watchdog.beat, self._until)
        beside = self._beside.shares(time.monotonic() - began, len(whole))
        self._beside.anew()
        for key, report in reports.items():
            if isinstance(report, Failure):
                self._fell(key, report)
                continue
            self._tell(self._training[key].label.replace(" #", "-"), report)
            if report.final:
                self._ended(key, report, ends[key], beside)
            else:
                self._trained(key, report, writes.get(key), beside)
            self._group.watchdog.beat()

    def _export(self, key: int) -> "Future[Saved]":
        return self._writers.start(partial(self._students.export, key), self._training[key].folder / WEIGHTS)

    def _trained(self, key: int, report: EpochReport, write: Write | None, beside: Mapping[str, float]) -> None:
        begin, replay = self._training[key], self._students.replay(key)
        self.desk.tell(EpochDone(key, begin.token, report, overhead=beside))

        def named(found: Saved) -> None:
            self.desk.tell(CheckpointWritten(key, begin.token, report.epoch, found, replay))

        if write is not None:
            self._writers.later(key, write, begin.folder / f"epoch-{report.epoch}.pt", named)

    def _ended(self, key: int, report: EpochReport, end: "Future[Saved]", beside: Mapping[str, float]) -> None:
        """The last epoch: its weights are on disk before it is told."""
        weights = saved(end)
        if weights is None:
            self._owed[key] = report, end
            return
        picture = self._picture(key) if self.desk.settings.draws else None
        self.desk.tell(EpochDone(key, self._training[key].token, report, weights, picture, beside))
        self._training.pop(key)
        self._over.append(key)

    def _picture(self, key: int) -> Path | None:
        """The picture of a member that trained its last epoch; the other ranks wait for it at the next plan."""
        begin = self._training[key]
        try:
            return self._students.picture(key, begin.folder / PICTURE)
        except Exception as error:  # noqa: BLE001 - a trial is not worth less because nothing can be drawn of it
            logger.warning("{}: no picture: {}", begin.label, one_line(f"{type(error).__name__}: {error}"))
            return None

    def _pay(self) -> None:
        """Write what the disk refused before."""
        owed, self._owed = self._owed, {}
        ends = {key: self._export(key) if end.done() else end for key, (_, end) in owed.items()}
        self._writers.wait(ends.values(), self._group.watchdog.beat, self._until)
        for key, (report, _) in owed.items():
            self._ended(key, report, ends[key], {})

    def close(self, why: str) -> None:
        """Give everything back for the reason `why`; what is being written may get to the disk first."""
        end = self._until() or time.monotonic() + CLOSING - LEAST
        try:
            for path in self._writers.finish(self._group.watchdog.beat, lambda: end):
                logger.warning("disk: {} is still being written; its trial goes on from the one before", path)
        finally:
            self.desk.close(why, LEAST + max(end - time.monotonic(), 0.0))

    def _until(self) -> float | None:
        """Siblings that were asked to stop wait no longer than the database and the disk may take together."""
        if self._end is None and self._group.stop_asked:
            self._end = time.monotonic() + CLOSING - LEAST
        return self._end

    def _fell(self, key: int, failure: Failure) -> None:
        begin = self._training.pop(key)
        if failure.kind is FailureKind.BAD_DATA:
            # All trials read the same files, so all would fail: they are given back, and this worker ends.
            self.bad_data = self.bad_data or GroupEnd(EndReason.BAD_DATA, f"bad data: {failure.message}")
            return
        self.desk.tell(TrialFailed(key, begin.token, failure))


def run_group(group: Group, students: Students, desk: DatabaseThread | None, tell: Tell = _nobody) -> GroupEnd:
    """Train until nothing is left or somebody asks to stop; returns why. `desk`: on the lead rank alone. tell: hears of
    every epoch of every trial, with the trial's name.

    Failures that all ranks agree on end their member. Anything else is raised: the process ends, torchrun restarts it.
    """
    if desk is None:
        with group.watchdog.watching():
            return _follow(group, students)
    lead = Leader(desk, students, group, tell)
    desk.start()
    # Where anything is raised from here on, the leases stay: the restarted lead takes them back, or others adopt them.
    try:
        with group.watchdog.watching():
            why = _lead(group, students, lead)
    except Exception:
        if group.stop_asked:  # nobody restarts these ranks: a sibling that hangs must not keep the trials waiting
            lead.close("preempted")
        raise
    lead.close("bad_data" if lead.bad_data else "preempted")
    return why


def _lead(group: Group, students: Students, lead: Leader) -> GroupEnd:
    while True:
        plan = group.broadcast(lead.plan())
        failures = _carry_out(group, students, plan)
        if plan.end is not None:
            return plan.end
        lead.admitted(failures)
        if plan.members == len(failures):
            continue
        try:
            reports = students.epoch()
        except Stopped:
            return ASKED_TO_STOP
        lead.take(reports)


def _follow(group: Group, students: Students) -> GroupEnd:
    nothing = Plan((), (), 0, None)
    while True:
        plan = group.broadcast(nothing)
        failures = _carry_out(group, students, plan)
        if plan.end is not None:
            return plan.end
        if plan.members == len(failures):
            continue
        try:
            students.epoch()
        except Stopped:
            return ASKED_TO_STOP


def _carry_out(group: Group, students: Students, plan: Plan) -> dict[int, Failure]:
    for key in plan.dismiss:
        students.dismiss(key)
    return _admit(group, students, plan.begin)


def _admit(group: Group, students: Students, begins: tuple[StartTrial, ...]) -> dict[int, Failure]:
    """Take new members on every rank, or on none."""
    failures: dict[int, Failure] = {}
    for begin in begins:
        group.watchdog.beat()
        mine: Failure | None = None
        try:
            students.admit(begin.key, begin.run, begin.resume)
        except Exception as error:  # noqa: BLE001 - one run that cannot begin must not end the others
            from trainer.failures import local_failure  # loads torch, which the simulation does without

            local = local_failure(error, begin.run)
            mine = Failure(local.kind, local.message, 1, local.detail)
        found = [failure for failure in group.all_gather(mine) if failure is not None]
        if not found:
            continue
        if mine is None:
            students.dismiss(begin.key)
        failures[begin.key] = found[0]
        logger.error("{} could not begin: {}", begin.label, found[0].message)
    return failures


class BetweenEpochs:
    """Counts from the end of one epoch's checkpoints to the beginning of the next epoch, where somebody trains then."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._database = self._idle = 0.0

    def anew(self) -> None:
        """What went before belongs to no trial, or was told: count from here."""
        self._since = time.monotonic()
        self._database = self._idle = 0.0

    def waited(self, seconds: float) -> None:
        """So much of it was spent on the database."""
        self._database += seconds

    def training(self) -> None:
        """An epoch begins: plans were shared and new members built, which was idle time for those who train."""
        self._idle = max(time.monotonic() - self._since - self._database, 0.0)

    def shares(self, checkpoint: float, members: int) -> dict[str, float]:
        """Each member's seconds by part; checkpoint: for copies, for writers that were not done, and for weights."""
        spent = {"checkpoint": checkpoint, "database": self._database, "idle": self._idle}
        return {part: seconds / max(members, 1) for part, seconds in spent.items()}
