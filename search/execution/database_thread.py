"""The lead's database thread: it claims trials, stores reports, beats, and watches others, while the lead trains.

The lead itself does no I/O between collectives: it puts what happened into the outbox and reads assignments and
verdicts from the inbox. While the database is away training goes on, reports wait in the outbox, and no trial begins.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from loguru import logger

from search.execution.group import GroupEnd
from search.execution.held_trials import HeldTrials, on_hand
from search.execution.messages import CheckpointWritten, EpochDone, TrialFailed, WorkerSettings
from search.execution.note_process import NoteProcess
from search.exit_codes import EndReason
from search.storage import errors
from search.storage.leases import LeaseRow, StaleLeases
from search.storage.schema import HELD
from search.storage.searches import Closed, ClosedKind, SearchClosed
from search.storage.statements import Refused
from search.study.adapter import StudyAdapter
from trainer.errors import UserError

CLOSING = 8.0
"""Seconds that giving everything back may take: siblings that were asked to stop wait no longer than 10."""

CALLS = 120.0
"""Seconds that the thread may need from one sign to the next where the database hangs: a call ends by itself far
sooner, and its error sends the thread back to its beginning."""


def end_of(closed: Closed) -> GroupEnd:
    """Why a worker ends whose search admits no new trials."""
    failed = closed.kind is ClosedKind.MAX_FAILED
    return GroupEnd(EndReason.MAX_FAILED if failed else EndReason.NOTHING_LEFT, closed.text)


class DatabaseThread:
    """Runs a thread; `inbox`, `tell`, `settle` and `close` are the lead's side."""

    def __init__(self, search: StudyAdapter, settings: WorkerSettings) -> None:
        self.search = search
        self.settings = settings
        self.ended: GroupEnd | None = None
        """Why this worker has nothing left to do; None while it has."""
        self.preempt = threading.Event()
        """Somebody asked all workers to stop now."""
        self.error: BaseException | None = None
        self._members = HeldTrials(search, settings)
        self.inbox = self._members.inbox
        self._outbox: deque[EpochDone | TrialFailed | CheckpointWritten] = deque()
        self._lock = threading.Condition()
        self._got_on = time.monotonic()
        self._asked = 0
        self._served = 0
        self._away_since: float | None = None
        self._closing: str | None = None
        self._gave_back = False
        self._scribe = self._scribe_of(settings)
        self._watch = StaleLeases(settings.ttl)
        self._stale: list[LeaseRow] = []
        self._drains = False
        self._beat_due = self._look_due = self._line_due = 0.0
        self._line = ""
        self._thread = threading.Thread(target=self._run, name="desk", daemon=True)

    def _scribe_of(self, settings: WorkerSettings) -> NoteProcess | None:
        if settings.note_every is None:
            return None
        folder = None if settings.artifacts is None else settings.artifacts.folder
        return NoteProcess(self.search, settings.note_every, folder)

    # ---- the lead's side

    def start(self) -> None:
        """Begin to serve; what this owner held before a restart is taken back first."""
        self._got_on = time.monotonic()
        self._thread.start()

    def hangs(self, limit: float) -> bool:
        """Whether the thread has not got on for `limit` seconds, or as long as a database that hangs may hold it up.

        A disk that answers no more holds it up for ever, such as at a checkpoint that it reads; so would a bug.
        """
        return time.monotonic() - self._got_on > max(limit, CALLS)

    def tell(self, item: EpochDone | TrialFailed | CheckpointWritten) -> None:
        """Put something into the outbox; never waits."""
        with self._lock:
            self._outbox.append(item)
            if isinstance(item, CheckpointWritten):  # nobody settles after it
                self._lock.notify_all()

    def settle(self, patience: float, hurried: Callable[[], bool]) -> None:
        """Wait until everything told so far is stored and free slots were offered, for at most `patience` seconds.

        Not at all while the database is away, no longer once `hurried`. Raises what ended the thread.
        """
        end = time.monotonic() + patience
        with self._lock:
            self._asked += 1
            self._lock.notify_all()
            asked = self._asked
            # In slices: a signal handler cannot notify.
            while time.monotonic() < end and not hurried():
                if self._lock.wait_for(
                    lambda: self._served >= asked or self._away_since is not None or self.error, 0.1
                ):
                    break
        if self.error is not None:
            if errors.refused(self.error):
                raise UserError(
                    f"the database refuses this worker ({errors.words(self.error)}); see that URL and rights are "
                    "right, then start it again: its trials go on from their checkpoints"
                ) from self.error
            raise RuntimeError("the database thread ended") from self.error

    def close(self, why: str, patience: float = CLOSING) -> None:
        """Store what is left and give back what is held for the reason `why`, for at most `patience` seconds."""
        with self._lock:
            self._closing = why
            self._lock.notify_all()
        self._thread.join(patience)
        if self._thread.is_alive() and self._gave_back:
            logger.warning("all trials were given back; the last note for the dashboard is still being written")
        elif self._thread.is_alive():
            logger.warning("the database did not answer in time: leases run out by themselves, others adopt the trials")
        elif self.error is not None:
            logger.error("the database thread ended, leases run out by themselves: {!r}", self.error)

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
        self._got_on = time.monotonic()
        with self._lock:
            serving = self._asked
        last = self._closing is not None
        try:
            self._flush()
            if last:
                self._members.give_back(self._closing or "")
                self._gave_back = True
                if self._scribe is not None:
                    self._scribe.last()
                return True
            self._beat()
            self._look()
            self._claim()
            if self._scribe is not None:
                self._scribe.look()
            self._back()
        except Exception as error:
            if not errors.passes(error):
                raise
            self._away(error)
        with self._lock:
            self._served = max(self._served, serving) if self._away_since is None else self._served
            self._lock.notify_all()
            pause = min(self.settings.ttl / 12, 2.0) if self._away_since is None else 0.5
            told = bool(self._outbox) and self._away_since is None
            if self._asked == serving and not told and not (self._closing and not last):
                self._lock.wait(pause)
        return False

    def _away(self, error: Exception) -> None:
        self._watch.interrupt()
        self._stale = []
        self._beat_due = 0.0  # the first sign after it comes back
        # What is connected may stay what it is, such as read-only after a failover: the next try connects anew.
        self.search.opened.engine.dispose()
        if self._away_since is None:
            self._away_since = time.monotonic()
            logger.warning("database away ({}): training goes on, reports wait", errors.words(error))

    def _back(self) -> None:
        if self._away_since is not None:
            logger.info("database back after {:.0f} s", time.monotonic() - self._away_since)
            self._away_since = None

    def _beat(self, *, forget: bool = True) -> None:
        """A sign of life for all that is held. forget: drop what turns out to be lost; else who stores finds out."""
        now = self._got_on = time.monotonic()
        if now < self._beat_due:
            return
        lost = self.search.leases.beat([trial.lease for trial in self._members.held.values()])
        for key in lost if forget else ():
            self._members.forget(key, "lost to another worker")
        self._beat_due = now + self.settings.ttl / 6

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._look_due:
            return
        self._closed()  # a wish to stop at once has to be seen while every slot is taken, too
        rows = self.search.leases.of_studies(list(self.search.arms))
        self._stale = [row for row in self._watch.stale(rows, now) if row.trial_id not in self._members.held]
        if len(self._members.held) >= self.settings.slots:
            self._release(rows)
        self._look_due = now + self.settings.ttl / 6
        if now >= self._line_due:
            self._line_due = now + 10.0
            line = self.search.progress()
            if line != self._line:
                self._line = line
                logger.info(line)

    def _claim(self) -> None:
        """Fill the free slots; where nothing may begin, find out whether that is the end."""
        while len(self._members.held) < self.settings.slots and self.ended is None:
            self._beat()  # claiming reads checkpoints and asks the sampler, which takes its time
            closed = self._closed()
            self._retake()
            if len(self._members.held) >= self.settings.slots:
                return
            if time.monotonic() < self._members.resting_until:
                return
            if self._drains:
                self.ended = end_of(closed) if closed is not None and not self._members.held else None
                return
            try:
                claim = self.search.claim(self.settings.owner, on_hand, self._stale)
            except Refused as refused:
                # Trials in other hands may still fall free: this worker stays until all are finished.
                nobody = not self.search.leases.of_studies(list(self.search.arms))
                # The last one in flight may have ended since the refusal: then there is room now.
                if nobody and (closed is not None or self._exhausted()):
                    closed = closed or (refused.closed if isinstance(refused, SearchClosed) else None)
                    self.ended = GroupEnd(EndReason.NOTHING_LEFT, refused.reason) if closed is None else end_of(closed)
                return
            self._members.begin(claim)

    def _retake(self) -> None:
        """Begin what the database says we hold and we do not know of: an answer to a claim was lost on the way.

        Asked before every claim: Optuna repeats the creation of a trial whose answer was lost, and says nothing of it.
        """
        for claim in self.search.retake(self.settings.owner, on_hand, self._members.held):
            self._members.begin(claim)
            self._beat()
            if len(self._members.held) >= self.settings.slots:
                return

    def _exhausted(self) -> bool:
        """Whether every arm has admitted its whole budget, by the database's figures, and nothing waits."""
        budgets = {row.name: row.trials for row in self.search.searches.arms_of(self.search.search_id)}
        counts = self.search.counts()
        planned = {arm.name for arm in self.search.arms.values() if arm.planned}
        return all(
            (name in planned or c.admitted >= budgets.get(name, 0)) and not c.waiting for name, c in counts.items()
        )

    def _release(self, rows: Sequence[LeaseRow]) -> None:
        """Free what we hold beyond our slots, a claim that was repeated: nobody beats for it."""
        owner, known = self.settings.owner, self._members.held
        if any(r.state == HELD and r.owner == owner.name and r.trial_id not in known for r in rows):
            for claim in self.search.retake(owner, on_hand, known):
                self.search.leases.give_back(claim.held, "restarted")

    def _closed(self) -> Closed | None:
        """Why nothing new begins; also obeys a wish to stop."""
        closed, stop = self.search.searches.closed(self.search.search_id)
        self._drains = stop is not None
        if stop == "now" and not self.preempt.is_set():
            logger.info("asked to stop: {}", None if closed is None else closed.text)
            self.preempt.set()
        return closed

    def _flush(self) -> None:
        if self.search.opened.engine.dialect.name == "sqlite" and self._members.held:
            # It gives out the ids of deleted trials again: what is written under them would be another study's.
            gone, _ = self.search.searches.closed(self.search.search_id)
            if gone is not None and gone.kind is ClosedKind.DELETED:
                self._outbox.clear()
                for key in list(self._members.held):
                    self._members.forget(key, gone.text)
        while self._outbox:
            # After an outage much may wait, longer than others may wait for a beat. What is lost stays a member until
            # its reports were kept as orphans.
            self._beat(forget=False)
            try:
                self._members.store(self._outbox[0])
            except errors.DATABASE as error:
                if errors.passes(error):
                    raise
                self._members.fail_unstorable(self._outbox[0], error)
            self._outbox.popleft()
