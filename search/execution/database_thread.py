"""The leader's database thread: it claims trials, stores reports, sends heartbeats and finds abandoned trials.

The leader itself does no I/O between collectives: it puts what happened into the outbox and reads assignments and
verdicts from the inbox. While the database is unavailable, training goes on, reports wait in the outbox, and no trial
begins.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from loguru import logger

from search.execution.checkpoint_writer import on_hand
from search.execution.disk_waits import REPEAT_SECONDS, Reserve, mark
from search.execution.group import GroupEnd
from search.execution.held_trials import LOST, HeldTrials
from search.execution.messages import CheckpointWritten, Item, WorkerSettings
from search.execution.note_process import NoteProcess
from search.execution.progress_lines import ArmBudget, SearchRate
from search.exit_codes import EndReason
from search.storage import errors
from search.storage.leases import LeaseRow, StaleLeases
from search.storage.schema import HELD, PAUSED
from search.storage.searches import Closed, ClosedKind, SearchClosed
from search.storage.statements import LeftEmpty, Refused
from search.study.adapter import StudyAdapter
from search.study.outcomes import end_all_paused
from trainer.errors import UserError

CLOSING_SECONDS = 8.0
"""How long giving everything back may take: siblings that were asked to stop wait no longer than 10."""
CALL_SECONDS = 120.0
"""What the thread may need from one sign of progress to the next where the database hangs: a call ends by itself far
sooner, and its error sends the thread back to its beginning."""
PROGRESS_SECONDS = 10.0
"""The least time between two lines of progress in the log."""
SAME_PROGRESS_SECONDS = 60.0
"""The same where no trial began or ended in between."""
ENDS_PAUSED = (ClosedKind.WALL, ClosedKind.GPU_HOURS, ClosedKind.CLOSED)
"""Why a search admits nothing, where its paused trials will not go on; what a person stopped may go on later."""
HURRY_SECONDS = 0.1
"""The time between looks whether somebody is in a hurry: a signal handler cannot notify."""


class Periodic:
    """A task that runs when its period is over; a task that raises is due again at once."""

    def __init__(self, period: float, task: Callable[..., None]) -> None:
        self._period, self._task = period, task
        self._due = 0.0

    def run_if_due(self, **options: bool) -> None:
        """Run the task with these options, unless it ran less than a period ago."""
        now = time.monotonic()
        if now >= self._due:
            self._task(**options)
            self._due = now + self._period

    def make_due(self) -> None:
        """Run the task at the next opportunity."""
        self._due = 0.0


class SyncBarrier:
    """Lets a thread wait until another one has completed a whole cycle that began after the wait did."""

    def __init__(self, condition: threading.Condition) -> None:
        """condition: guards what both threads share; notified at each request and by the other thread's cycles."""
        self._condition = condition
        self._requested = self._completed = 0

    def newest(self) -> int:
        """The newest request, to be completed by a cycle that begins now."""
        with self._condition:
            return self._requested

    def awaits(self, request: int) -> bool:
        """Whether somebody may wait for the cycle of this request."""
        with self._condition:
            return request > self._completed

    def complete(self, request: int) -> None:
        """A cycle is over that began at this request."""
        with self._condition:
            self._completed = max(self._completed, request)
            self._condition.notify_all()

    def wait(self, seconds: float, given_up: Callable[[], bool], hurried: Callable[[], bool]) -> None:
        """Request a cycle and wait for its end, for at most `seconds`.

        given_up: whether the wait is pointless, asked when the condition is notified. hurried: whether the caller has
        to go on at once, asked every HURRY_SECONDS.
        """
        end = time.monotonic() + seconds
        with self._condition:
            self._requested += 1
            self._condition.notify_all()
            request = self._requested
            while time.monotonic() < end and not hurried():
                if self._condition.wait_for(lambda: self._completed >= request or given_up(), HURRY_SECONDS):
                    return


class DatabaseThread:
    """Runs a thread; `inbox`, `put`, `sync` and `close` are the leader's side."""

    def __init__(self, search: StudyAdapter, settings: WorkerSettings) -> None:
        self.search = search
        self.settings = settings
        self.ended: GroupEnd | None = None
        """Why this worker has nothing left to do; None while it has."""
        self.preempt = threading.Event()
        """Somebody asked all workers to stop now."""
        self.error: BaseException | None = None
        self._held = HeldTrials(search, settings)
        self.inbox = self._held.inbox
        self._outbox: deque[Item] = deque()
        self._condition = threading.Condition()
        self._barrier = SyncBarrier(self._condition)
        self._last_progress = time.monotonic()
        self._unavailable_since: float | None = None
        self._closing: str | None = None
        self._gave_back = False
        self._note_process = self._note_process_of(settings)
        self.disk_refusal: Callable[[], str | None] = lambda: None
        """What the leader's disk refuses and since when; None while it takes all."""
        self._reserve = Reserve(_folder_of_database(search))
        self._waits_at: float | None = None
        """When a wait for disk or database was last logged."""
        self._stale_leases = StaleLeases(settings.ttl)
        self._stale: list[LeaseRow] = []
        self._drains = False
        self._left_empty = False
        self._proposes = False
        """Whether parameters of trials to come may be drawn."""
        self._rate = SearchRate()
        self._progress, self._progress_at = "", 0.0
        self._heartbeats = Periodic(settings.ttl / 6, self._send_heartbeats)
        self._periodic = (
            self._heartbeats,
            Periodic(settings.ttl / 6, self._find_stale),
            Periodic(max(settings.ttl / 6, PROGRESS_SECONDS), self._log_progress),
        )
        """What each cycle does in this order, as far as it is due."""
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)

    def _note_process_of(self, settings: WorkerSettings) -> NoteProcess | None:
        if settings.note_every is None:
            return None
        folder = None if settings.artifacts is None else settings.artifacts.folder
        return NoteProcess(self.search, settings.note_every, folder)

    # ---- the leader's side

    def start(self) -> None:
        """Begin to serve; what this owner held before a restart is taken back first."""
        self._last_progress = time.monotonic()
        self._thread.start()

    def is_stalled(self, limit: float) -> bool:
        """Whether the thread made no progress for `limit` seconds, or as long as a hanging database may hold it up.

        A disk that does not answer holds it up for ever, such as at a checkpoint that it reads; so would a bug.
        """
        return time.monotonic() - self._last_progress > max(limit, CALL_SECONDS)

    def put(self, item: Item) -> None:
        """Put something into the outbox; never waits."""
        with self._condition:
            self._outbox.append(item)
            if isinstance(item, CheckpointWritten):  # no sync follows it
                self._condition.notify_all()

    def sync(self, seconds: float, hurried: Callable[[], bool]) -> None:
        """Wait until everything in the outbox is stored and free slots were offered, for at most `seconds`.

        Not at all while the database is unavailable, no longer once `hurried`. Raises what ended the thread.
        """
        self._barrier.wait(seconds, lambda: self._unavailable_since is not None or self.error is not None, hurried)
        if self.error is not None:
            if errors.is_denied(self.error):
                raise UserError(
                    f"the database refuses this worker ({errors.driver_message(self.error)}); check the URL and "
                    "the rights of its user, then start it again: its trials go on from their checkpoints"
                ) from self.error
            raise RuntimeError("the database thread ended") from self.error

    def close(self, reason: str, seconds: float = CLOSING_SECONDS) -> None:
        """Store what is left and give back what is held for this reason, for at most `seconds`."""
        self._reserve.release()  # what is stored from here on is little, and all that is left to be stored
        with self._condition:
            self._closing = reason
            self._condition.notify_all()
        self._thread.join(seconds)
        if self._thread.is_alive() and self._gave_back:
            logger.warning("all trials were given back; the last note for the dashboard is still being written")
        elif self._thread.is_alive():
            logger.warning("the database did not answer in time: leases run out by themselves, others adopt the trials")
        elif self.error is not None:
            logger.error("the database thread ended, leases run out by themselves: {!r}", self.error)

    # ---- the thread

    def _run(self) -> None:
        try:
            while not self._cycle():
                pass
        except BaseException as error:  # noqa: BLE001 - handed to the leader, which raises it
            self.error = error
            with self._condition:
                self._condition.notify_all()

    def _cycle(self) -> bool:
        """Store, send heartbeats, look for work; returns whether this was the last cycle."""
        self._last_progress = time.monotonic()
        request = self._barrier.newest()
        closing = self._closing
        refusal = self.disk_refusal()
        self._repeat_waits(refusal)
        try:
            self._flush()
            if closing is not None:
                self._give_back(closing)
                return True
            self._last_progress = time.monotonic()
            mark(self.search.leases, self._held.held, refusal)
            for task in self._periodic:
                task.run_if_due()
            self._claim()
            if self._note_process is not None:
                self._note_process.start_if_due()
            self._note_recovery()
            if self._proposes and not self._barrier.awaits(request):
                self._propose()
        except Exception as error:
            if not errors.is_transient(error):
                raise
            self._on_unavailable(error)
        self._pause(request, last_try=closing is not None)
        return False

    def _pause(self, request: int, *, last_try: bool) -> None:
        """Wait for something to do; not at all where something came up since this cycle began."""
        available = self._unavailable_since is None
        with self._condition:
            if available:
                self._barrier.complete(request)
            self._condition.notify_all()
            waiting = available and bool(self._outbox)
            if self._proposes and available:
                return
            if self._barrier.newest() == request and not waiting and not (self._closing and not last_try):
                self._condition.wait(min(self.settings.ttl / 12, 2.0) if available else 0.5)

    def _give_back(self, reason: str) -> None:
        self._held.give_back(reason)
        self._gave_back = True
        if self._note_process is not None:
            self._note_process.write_last()

    def _on_unavailable(self, error: Exception) -> None:
        self._stale_leases.interrupt()
        self._stale = []
        self._heartbeats.make_due()  # the first sign of life once it is available again
        # What is connected may stay what it is, such as read-only after a failover: the next try connects anew.
        self.search.opened.engine.dispose()
        if self._unavailable_since is None:
            self._unavailable_since = time.monotonic()
            logger.warning("database away ({}): training goes on, reports wait", errors.driver_message(error))

    def _note_recovery(self) -> None:
        if self._unavailable_since is not None:
            logger.info("database back after {:.0f} s", time.monotonic() - self._unavailable_since)
            self._unavailable_since = None

    def _repeat_waits(self, refusal: str | None) -> None:
        """Say each minute what is waited for; the first line of each wait comes where it begins."""
        now, since = time.monotonic(), self._unavailable_since
        if refusal is None and since is None:
            self._waits_at = None
        elif self._waits_at is None:
            self._waits_at = now
        elif now - self._waits_at >= REPEAT_SECONDS:
            self._waits_at = now
            if refusal is not None:
                logger.warning("disk: still {}: {} trials wait for room or train on", refusal, len(self._held.held))
            if since is not None:
                waits = f"{len(self._outbox)} reports wait"
                logger.warning("database still away after {:.0f} s: training goes on, {}", now - since, waits)

    # ---- periodic tasks

    def _beat(self, *, drop_lost: bool = True) -> None:
        """Send heartbeats where they are due; this may be called in the middle of other work."""
        self._last_progress = time.monotonic()
        self._heartbeats.run_if_due(drop_lost=drop_lost)

    def _send_heartbeats(self, *, drop_lost: bool = True) -> None:
        """One heartbeat for all that is held. drop_lost: drop what turns out to be lost; else the next write does."""
        lost = self.search.leases.heartbeat([trial.lease for trial in self._held.held.values()])
        for key in lost if drop_lost else ():
            self._held.forget(key, LOST)

    def _find_stale(self) -> None:
        """Find the leases that nobody keeps alive; also see a wish to stop while every slot is taken."""
        now = time.monotonic()
        self._obey_stop()
        rows = self.search.leases.of_studies(list(self.search.arms))
        self._stale = [row for row in self._stale_leases.stale(rows, now) if row.trial_id not in self._held.held]
        if len(self._held.held) >= self.settings.slots:
            self._release_surplus(rows)

    def _release_surplus(self, rows: Sequence[LeaseRow]) -> None:
        """Free what we hold beyond our slots, from a claim that was repeated: nobody sends heartbeats for it."""
        owner, known = self.settings.owner, self._held.held
        if any(r.state == HELD and r.owner == owner.name and r.trial_id not in known for r in rows):
            for claim in self.search.reacquire(owner, on_hand, known):
                self.search.leases.give_back(claim.held, "restarted")

    def _log_progress(self) -> None:
        arms = self.search.arms
        states, counts = self.search.progress(), self.search.leases.epoch_counts(list(arms))
        self._rate.add(counts)
        now = time.monotonic()
        if states != self._progress or now - self._progress_at >= SAME_PROGRESS_SECONDS:
            self._progress, self._progress_at = states, now
            speed = self._rate.text(counts, {key: ArmBudget(arm.trials, arm.epochs) for key, arm in arms.items()})
            logger.info("{}", "  ".join(filter(None, (states, speed))))

    # ---- claiming

    def _claim(self) -> None:
        """Fill the free slots; where nothing may begin, find out whether that is the end."""
        while len(self._held.held) < self.settings.slots and self.ended is None:
            self._beat()  # claiming reads checkpoints and asks the sampler, which takes its time
            closed = self._obey_stop()
            self._retake()
            if len(self._held.held) >= self.settings.slots:
                return
            if time.monotonic() < self._held.resting_until:
                return
            if self._drains:
                self.ended = end_of(closed) if closed is not None and not self._held.held else None
                return
            try:
                claim = self.search.claim(self.settings.owner, on_hand, self._stale, self._held.unwritten)
            except Refused as refused:
                self._say_left_empty(refused)
                self._end_if_over(closed, refused)
                return
            self._held.begin(claim)
            self._proposes = True

    def _propose(self) -> None:
        """Draw for one trial to come while students train, so that reports never wait for more than one draw."""
        self._proposes = False
        if self._drains or self.ended is not None or not self._held.held:
            return
        try:
            self._proposes = self.search.propose()
        except Exception as error:
            if errors.is_transient(error):
                raise
            # A sampler's bug: the next trial's own draw meets it, and that trial ends with it.
            logger.opt(exception=error).debug("no parameters are drawn ahead")

    def _say_left_empty(self, refused: Refused) -> None:
        """Say once that a slot stays empty on purpose: a worker that has no work would look the same."""
        if isinstance(refused, LeftEmpty) and not self._left_empty:
            self._left_empty = True
            logger.info("{}", refused.reason)

    def _retake(self) -> None:
        """Begin what the database says we hold and we do not know of: an answer to a claim was lost on the way.

        Asked before every claim: Optuna repeats the creation of a trial whose answer was lost, and says nothing of it.
        """
        for claim in self.search.reacquire(self.settings.owner, on_hand, self._held.held):
            self._held.begin(claim)
            self._beat()
            if len(self._held.held) >= self.settings.slots:
                return

    def _end_if_over(self, closed: Closed | None, refused: Refused) -> None:
        """Nothing may begin now; this worker ends where that stays so."""
        # Trials in other hands may still fall free: this worker stays until all are finished.
        rows = self.search.leases.of_studies(list(self.search.arms))
        if any(row.state != PAUSED for row in rows):
            return
        # The last one in flight may have ended since the refusal: then there is room now.
        if closed is None and (not self._exhausted() or self.search.promising(rows)):
            return
        closed = closed or (refused.closed if isinstance(refused, SearchClosed) else None)
        if closed is None or closed.kind in ENDS_PAUSED:
            for row in end_all_paused(self.search.opened, self.search.arms, rows):
                self._held.remove_files(row, None if row.checkpoint is None else Path(row.checkpoint))
        self.ended = GroupEnd(EndReason.NOTHING_LEFT, refused.reason) if closed is None else end_of(closed)

    def _exhausted(self) -> bool:
        """Whether every arm has admitted its whole budget, by the database's figures, and nothing waits."""
        budgets = {row.name: row.trials for row in self.search.searches.arms_of(self.search.search_id)}
        counts = self.search.counts()
        planned = {arm.name for arm in self.search.arms.values() if arm.planned}
        return all(
            (name in planned or c.admitted >= budgets.get(name, 0)) and not c.waiting for name, c in counts.items()
        )

    def _obey_stop(self) -> Closed | None:
        """Obey a wish to stop; returns why nothing new begins."""
        closed, stop = self.search.searches.closed(self.search.search_id)
        self._drains = stop is not None
        if stop == "now" and not self.preempt.is_set():
            logger.info("asked to stop: {}", None if closed is None else closed.text)
            self.preempt.set()
        return closed

    # ---- storing

    def _flush(self) -> None:
        """Store what is in the outbox."""
        if self.search.opened.engine.dialect.name == "sqlite" and self._held.held:
            # It gives out the ids of deleted trials again: what is written under them would be another study's.
            closed, _ = self.search.searches.closed(self.search.search_id)
            if closed is not None and closed.kind is ClosedKind.DELETED:
                self._outbox.clear()
                for key in list(self._held.held):
                    self._held.forget(key, closed.text)
        while self._outbox:
            # After an outage much may wait, longer than others may wait for a heartbeat. What is lost stays held until
            # its reports were kept as orphans.
            self._beat(drop_lost=False)
            try:
                self._held.store(self._outbox[0])
            except errors.DATABASE as error:
                if errors.is_transient(error):
                    raise
                self._held.fail_unstorable(self._outbox[0], error)
            self._outbox.popleft()


def _folder_of_database(search: StudyAdapter) -> Path | None:
    """Where a database of this machine lies; None where a server has it, and in memory."""
    url = search.opened.engine.url
    local = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return Path(str(url.database)).absolute().parent if local else None


def end_of(closed: Closed) -> GroupEnd:
    """Why a worker ends whose search admits no new trials."""
    failed = closed.kind is ClosedKind.MAX_FAILED
    return GroupEnd(EndReason.MAX_FAILED if failed else EndReason.NOTHING_LEFT, closed.text)
