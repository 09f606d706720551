"""The Optuna adapter: how a trial begins, is judged and ends, in the database of one search.

Ask and tell, by leases: `claim` hands out a trial (a free one before a waiting one before a new one), `commit` stores
its resolved run, which makes it exist for training, `report` stores an epoch, `complete`, `prune` and `fail` end it.
Every write carries the fencing token; `attributes` are attributes of the trial that are written with it.
"""

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import optuna
from loguru import logger
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, TrialState

from search import pruners, samplers
from search.promotion import Turn
from search.proposing.ahead import Ahead, parameters_of
from search.proposing.builders import front_of, pruner_of, sampler_of
from search.proposing.dealing import deal, is_open
from search.proposing.draft import Draft, begun
from search.proposing.pausing_arms import PausingArms
from search.spec.arms import Arm
from search.spec.load import StudySpec
from search.spec.space import Scalar
from search.spec.strategies import PausingConfig
from search.storage import errors
from search.storage.database import Database
from search.storage.leases import LeaseHandle, LeaseRow, Leases, Standing, paused_of, shortened
from search.storage.ownership import BRACKETS
from search.storage.schema import FINISHED, FREE, HELD, PAUSED
from search.storage.searches import DELETED, Closed, ClosedKind, SearchClosed, Searches
from search.storage.statements import (
    NOTHING,
    NOTHING_SUGGESTED,
    AlreadyQueuedError,
    LeaseLost,
    LeftEmpty,
    Owner,
    Refused,
    Suggested,
    Values,
    named,
)
from search.study.settings import with_budgets
from search.study.trial_attributes import failure
from trainer.errors import UserError


@dataclass(frozen=True)
class Counts:
    """The trials of one arm by state."""

    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int

    @property
    def admitted(self) -> int:
        """What counts against the budget: every trial that did not fail."""
        return self.complete + self.pruned + self.running + self.waiting

    @property
    def begun(self) -> int:
        """Those of them that do not wait."""
        return self.admitted - self.waiting


_QUEUED = "enqueued"
"""The attribute of a study whose file's own trials are in its queue."""


@dataclass(frozen=True)
class Claim:
    """A trial that this process holds, before or after its run was stored."""

    held: LeaseHandle
    arm: Arm
    seen: LeaseRow | None
    """The lease as it was found, where the trial was taken over."""
    lost: bool = False
    """Whether it was taken from a holder that vanished."""
    resume_epoch: int = 0
    """The epoch after which it goes on: as judged, once, when it was taken."""
    present: Sequence[FrozenTrial] | None = None
    """The trials of its study as they were read when this one was created, itself as it began included."""


class StudyAdapter:
    """One search in an opened database: its arms as Optuna studies, and the leases of their trials."""

    def __init__(
        self, opened: Database, spec: StudySpec, search_id: int, folder: str, studies: Mapping[str, int]
    ) -> None:
        self.opened = opened
        self.spec = spec
        self.search_id = search_id
        self.folder = folder
        """The uuid that names this search's folder of checkpoints."""
        self.leases: Leases = opened.leases
        self.searches: Searches = opened.searches
        self.arms: dict[int, Arm] = {studies[arm.name]: arm for arm in spec.arms}
        self._front_of = {arm.name: front_of(arm) for arm in spec.arms}
        self._study_of = {arm.name: self._load(arm) for arm in spec.arms}
        self._pruner_of = {arm.name: self._pruner(arm) for arm in spec.arms}
        minimize = spec.objective.direction == "minimize"
        self._pausing = PausingArms(self.arms, self._pruner_of, self._front_of, self._study_of, minimize)
        self._suggested: dict[int, Suggested] = {}
        """What was suggested and not stored yet, by trial id."""
        self._ahead: dict[int, Ahead] = {}
        """Proposals for trials to come, by study id, once this process created a trial there."""
        self._ranges_of: dict[int, dict[str, BaseDistribution]] = {}
        """The distributions of each study's parameters, as far as they were met."""

    # ---- beginning

    def warm_start(self, older: Mapping[str, samplers.Older]) -> None:
        """Trials of another study, by arm, inform the samplers from now on."""
        for arm in self.arms.values():
            if arm.name in older:
                self._study_of[arm.name].sampler = sampler_of(arm, older[arm.name])

    def enqueue_all(self, arm: Arm) -> None:
        """Put the study file's own trials into an arm's queue, once; call it under `creation_lock`."""
        study = self._study_of[arm.name]
        if study.user_attrs.get(_QUEUED):
            return
        present = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(deepcopy=False)]
        for params in arm.enqueue:
            if dict(params) not in present:  # a process may have died between these lines
                self.enqueue(arm, params)
        study.set_user_attr(_QUEUED, True)

    def enqueue(self, arm: Arm, params: Mapping[str, Scalar]) -> None:
        """Put one trial into an arm's queue. Raises UserError where the arm's budget is taken."""
        study, (name, queued) = self._study_of[arm.name], named(params)
        try:
            with self.opened.fence.admit(study._study_id, None, self.search_id, once=name):
                study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, system_attrs=queued))
        except AlreadyQueuedError:
            return  # Optuna repeats what broke, and only the answer had been lost
        except Refused as refused:
            remedy = "start a study of another name (--name)" if refused.final else "raise budget.trials to make room"
            raise UserError(f"enqueue: {refused.reason}; {remedy}") from None

    def claim(
        self, owner: Owner, on_hand: Callable[[LeaseRow], int], stale: Sequence[LeaseRow], later: Collection[int] = ()
    ) -> Claim:
        """The next trial for this owner: free or stale, else paused and promising, else waiting or new, of the neediest
        arm.

        on_hand: the epoch that this host can resume a lease from (0 where its checkpoint cannot be read).
        stale: leases that the caller's watch found abandoned. later: ids of trials that it paused and whose last
        checkpoint it still writes. Raises Refused with the last arm's reason where nothing may begin.
        """
        standing = self.leases.standing(self.search_id, list(self.arms))
        rows = standing.rows
        for row in [r for r in rows if r.state == FREE] + [r for r in rows if r in stale]:
            lost = row.state == HELD
            epoch = on_hand(row)
            held = self.leases.acquire(row, owner, resume_epoch=epoch, lost=lost)
            if held is not None:
                return Claim(held, self.arms[row.study_id], row, lost, epoch)
        refused: Refused | None = None
        turns, stands = self._pausing.turns(standing, owner, later), paused_of(rows)
        try:
            for trial in (trial for turn in turns.values() for trial in turn.paused):
                if (claim := self._promote(owner, on_hand, stands[trial._trial_id], trial)) is not None:
                    return claim
        except Refused as reason:
            refused = reason
        for study_id in self._by_need(standing):
            turn = turns.get(study_id, Turn(new=True))
            if not turn.new:
                refused = LeftEmpty(self.arms[study_id].name) if turn.empty else refused
                continue
            try:
                return self._ask(study_id, owner)
            except Refused as reason:
                refused = reason
        raise refused or Refused("every arm has its trials", final=True)

    def _promote(
        self, owner: Owner, on_hand: Callable[[LeaseRow], int], row: LeaseRow, trial: FrozenTrial
    ) -> Claim | None:
        """Go on with a paused trial; None where another process was quicker. Raises Refused."""
        epoch = on_hand(row)
        notes = {pruners.VERDICT: {"step": row.epoch, "prune": False}}
        kept = {pruners.PROMOTED: trial.last_step}
        held = self.leases.promote(row, owner, resume_epoch=epoch, search_id=self.search_id, notes=notes, kept=kept)
        return None if held is None else Claim(held, self.arms[row.study_id], row, resume_epoch=epoch)

    def promising(self, rows: Sequence[LeaseRow]) -> list[LeaseRow]:
        """The paused ones of these leases that are worth more epochs, of each arm the best first."""
        arms = self.searches.arms_of(self.search_id) if paused_of(rows) else []
        return self._pausing.promising(rows, arms)

    def reacquire(
        self, owner: Owner, on_hand: Callable[[LeaseRow], int], known: Container[int] = ()
    ) -> Iterator[Claim]:
        """Take back at once what this owner holds without knowing of it.

        From before its ranks were restarted, or from a claim whose answer was lost. known: trial ids that it knows of.
        """
        for row in self.leases.of_studies(list(self.arms)):
            if row.state == HELD and row.owner == owner.name and row.trial_id not in known:
                epoch = on_hand(row)
                held = self.leases.acquire(row, owner, resume_epoch=epoch, lost=False)
                if held is not None:
                    yield Claim(held, self.arms[row.study_id], row, resume_epoch=epoch)

    def suggest(self, claim: Claim) -> dict[str, Scalar]:
        """All parameters of a claimed trial whose run is not stored yet; those suggested before are kept.

        They are stored by `commit`, or by `store_suggested`; the choice of an open front at once. Raises LeaseLost.
        """
        held, arm = claim.held, claim.arm
        if is_open(self.spec, arm):
            deal(self.opened, self.spec, arm, held)
        elif claim.present is not None and (ahead := self._ahead.get(held.study_id)) is not None:
            proposal = ahead.take(held.number, len(claim.present))
            if proposal is not None:
                self._suggested[held.trial_id] = proposal.suggested
                return proposal.chosen
        # The cell of a grid is chosen from what the others have: one worker at a time, until it is stored.
        with self.opened.alone() if arm.sampler.name == "grid" else nullcontext():
            draft = self._draft(claim)
            chosen = parameters_of(self._study_of[arm.name], arm, draft, self._paused(held.study_id))
            self._suggested[held.trial_id] = draft.suggested
            if arm.sampler.name == "grid":
                self.store_suggested(claim)
        return chosen

    def propose(self) -> bool:
        """Draw the parameters of one trial to come, where a study is so large that a slot would wait for them; whether
        more are to be drawn."""
        wanting = [study_id for study_id in self._ahead if self._ahead[study_id].wants]
        for study_id in wanting[:1]:
            study, ranges = self._study_of[self.arms[study_id].name], self._ranges(study_id)
            self._ahead[study_id].make(study, self._paused(study_id), ranges)
        return any(self._ahead[study_id].wants for study_id in wanting)

    def store_suggested(self, claim: Claim) -> None:
        """Store what was suggested for a trial that ends before its run is stored. Raises LeaseLost."""
        self._store(claim, {}, NOTHING)

    def commit(self, claim: Claim, run: str, environment: str, attributes: Values = NOTHING) -> None:
        """Store what was suggested and the resolved run: from then on the trial exists for training.

        Raises LeaseLost.
        """
        self._store(claim, {"run": run, "environment": environment}, attributes)

    def _draft(self, claim: Claim) -> Draft:
        study_id, trial_id = claim.held.study_id, claim.held.trial_id
        present = claim.present
        if claim.arm.sampler.name == "grid" or is_open(self.spec, claim.arm) or present is None:
            present = self.opened.storage.get_all_trials(study_id, deepcopy=False)
        trial = next((each for each in present if each._trial_id == trial_id), None)
        if trial is None:
            raise LeaseLost(f"trial {trial_id}: somebody deleted it")
        return Draft(self.opened.storage, trial, present, self._ranges(study_id))

    def _ranges(self, study_id: int) -> dict[str, BaseDistribution]:
        return self._ranges_of.setdefault(study_id, {})

    def _paused(self, study_id: int) -> Collection[int]:
        """The ids of an arm's paused trials."""
        if not isinstance(self.arms[study_id].pruner, PausingConfig):
            return ()
        return paused_of(self.leases.of_studies([study_id])).keys()

    def _store(self, claim: Claim, changes: Values, attributes: Values) -> None:
        suggested = self._suggested.pop(claim.held.trial_id, NOTHING_SUGGESTED)
        self.opened.fence.store(claim.held.trial_id, claim.held.token, suggested, changes, attributes)

    # ---- training

    def report(
        self, held: LeaseHandle, epoch: int, value: float | None, changes: Values, attributes: Values = NOTHING
    ) -> None:
        """Store an epoch: its score where it has one, and the lease's changes, in one transaction. Raises LeaseLost."""
        if value is None:
            self.leases.change(held, changes, attributes=attributes)
            return
        with self.opened.fence.write(held.trial_id, held.token, changes, attributes=attributes):
            self.opened.storage.set_trial_intermediate_value(held.trial_id, epoch, float(value))

    def pruned(self, held: LeaseHandle) -> bool:
        """Whether the trial, as reported so far, is pruned; a rung's verdict is stored before it is returned, so that
        it is the same whoever asks again. A pruner's bug prunes nothing. Raises LeaseLost."""
        arm = self.arms[held.study_id]
        if arm.pruner.name == "none" or isinstance(arm.pruner, PausingConfig):
            return False
        verdict = pruners.Verdict(False)
        with self._a_bug_ends_nothing(arm, held):
            with self.opened.fence.write(held.trial_id, held.token):
                trial = self.opened.storage.get_trial(held.trial_id)
                front = self._front_of[arm.name]
                judged = pruners.judge(self._pruner_of[arm.name], self._study_of[arm.name], trial, front=front)
            verdict = judged
        if verdict.notes:
            self.leases.note(held, verdict.notes)
        return verdict.prune

    def pauses(self, held: LeaseHandle, *, beside: Collection[int] = (), slots: int = 1) -> bool:
        """Whether the trial, as reported so far, is to be paused; that it goes on from a rung is stored before it is
        returned. A bug pauses nothing. Raises LeaseLost.

        beside: the ids of the trials that its worker holds in its `slots`.
        """
        arm = self.arms[held.study_id]
        rule = self._pausing.rule(held.study_id)
        if rule is None:
            return False
        step = None
        with self._a_bug_ends_nothing(arm, held):
            with self.opened.fence.write(held.trial_id, held.token):
                trial = self.opened.storage.get_trial(held.trial_id)
            if rule.rung_of(trial) is None or pruners.passes(trial):
                return False
            rows = self.searches.arms_of(self.search_id)
            if not self._pausing.goes_on(held.study_id, trial, beside, slots, rows):
                return True
            step = trial.last_step
        if step is not None:
            self.leases.note(held, {pruners.VERDICT: {"step": step, "prune": False}})
        return False

    @contextlib.contextmanager
    def _a_bug_ends_nothing(self, arm: Arm, held: LeaseHandle) -> Iterator[None]:
        """What a rule raises is logged, and the trial goes on. Raises LeaseLost, and what may succeed later."""
        try:
            yield
        except LeaseLost:
            raise
        except Exception as error:
            if errors.is_transient(error):
                raise
            text = traceback.format_exc()
            logger.error("{} #{}: the pruner raised, the trial goes on:\n{}", arm.name, held.number, text)

    def pruned_before(self, held: LeaseHandle) -> float | None:
        """The newest score of a trial that a stored verdict has ended, though its end was not stored; else None."""
        try:
            trial = self.opened.storage.get_trial(held.trial_id)
        except KeyError:
            return None  # deleted: its next report says so
        last = trial.last_step
        return trial.intermediate_values[last] if last is not None and pruners.stored_verdict(trial) else None

    def attribute(self, held: LeaseHandle, key: str, value: Any) -> None:
        """A readable attribute of a running trial, for the dashboard. Raises LeaseLost."""
        with self.opened.fence.write(held.trial_id, held.token):
            self.opened.storage.set_trial_user_attr(held.trial_id, key, value)

    # ---- ending

    def complete(
        self,
        held: LeaseHandle,
        value: float,
        changes: Values,
        attributes: Values = NOTHING,
        findings: Sequence[Values] = (),
    ) -> None:
        """The run reached its last epoch; `findings`: rows of the table of findings. Raises LeaseLost."""
        self._finish(held, TrialState.COMPLETE, [float(value)], changes, "finished", attributes, findings)

    def prune(
        self, held: LeaseHandle, changes: Values, attributes: Values = NOTHING, *, value: float | None = None
    ) -> None:
        """The pruner ended the run after it reported `value`, or it broke a limit before training. Raises LeaseLost."""
        values = None if value is None else [float(value)]
        self._finish(held, TrialState.PRUNED, values, changes, "pruned", attributes)

    def fail(self, held: LeaseHandle, kind: str, message: str, attributes: Values = NOTHING) -> None:
        """The trial failed for good. Raises LeaseLost."""
        changes = {"failure": kind, "message": shortened(message), "checkpoint": None}
        self._finish(held, TrialState.FAIL, None, changes, kind, {**attributes, **failure(kind, message)})

    def _finish(
        self,
        held: LeaseHandle,
        state: TrialState,
        values: list[float] | None,
        changes: Values,
        why: str,
        attributes: Values,
        findings: Sequence[Values] = (),
    ) -> None:
        # The storage's own call rather than Study.tell: one transaction, in which the lease ends too.
        ended = {**changes, "state": FINISHED}
        with self.opened.fence.write(
            held.trial_id, held.token, ended, ends=why, attributes=attributes, findings=findings
        ):
            self.opened.storage.set_trial_state_values(held.trial_id, state, values)

    # ---- looking

    def counts(self) -> dict[str, Counts]:
        """Trials by arm and state."""
        return self._counts(self.searches.states(list(self.arms)))

    def _counts(self, states: Mapping[tuple[int, str], int]) -> dict[str, Counts]:
        names = dict(complete="COMPLETE", pruned="PRUNED", failed="FAIL", running="RUNNING", waiting="WAITING")
        return {
            arm.name: Counts(**{field: states.get((study_id, state), 0) for field, state in names.items()})
            for study_id, arm in self.arms.items()
        }

    def progress(self) -> str:
        """One line for a log: trials by state over all arms, and the best so far; of a confirmation, whose arms are one
        a configuration, all of them together."""
        counts = self.counts()
        if self.spec.confirms is not None:
            return self._confirmed_so_far(counts)
        parts = []
        for arm in self.arms.values():
            c = counts[arm.name]
            done = c.complete + c.pruned
            states = f"complete {c.complete}, pruned {c.pruned}, failed {c.failed}, running {c.running}"
            parts.append(f"{arm.name} {done}/{arm.trials} ({states})")
        best = self.leases.best(list(self.arms), minimize=self.spec.objective.direction == "minimize")
        if best is not None:
            parts.append(f"best so far {best.best_score:.4f} ({self.arms[best.study_id].name} #{best.number})")
        return "  ".join(parts)

    def _confirmed_so_far(self, counts: Mapping[str, Counts]) -> str:
        done = {arm.name: counts[arm.name].complete + counts[arm.name].pruned for arm in self.arms.values()}
        whole = sum(done[arm.name] >= arm.trials for arm in self.arms.values())
        running, failed = (sum(getattr(c, state) for c in counts.values()) for state in ("running", "failed"))
        return (
            f"{sum(done.values())} of {sum(arm.trials for arm in self.arms.values())} trainings done, "
            f"{running} running, {failed} failed; {whole} of {len(done)} configurations on all seeds"
        )

    def trials(self, arm: Arm) -> list[FrozenTrial]:
        """All trials of an arm, in the order of their numbers."""
        return self._study_of[arm.name].get_trials(deepcopy=False)

    # ---- inside

    def _load(self, arm: Arm) -> optuna.Study:
        return optuna.load_study(
            study_name=arm.study_name, storage=self.opened.storage, sampler=sampler_of(arm), pruner=NopPruner()
        )

    def _pruner(self, arm: Arm) -> BasePruner:
        exact = True
        if arm.pruner.name == "hyperband":
            exact = BRACKETS in self.opened.storage.get_study_system_attrs(self._study_of[arm.name]._study_id)
        return pruner_of(arm, exact=exact)

    def _ask(self, study_id: int, owner: Owner) -> Claim:
        arm = self.arms[study_id]
        study = self._study_of[arm.name]
        try:
            present = study.get_trials(deepcopy=False)
            waits = any(trial.state == TrialState.WAITING for trial in present)
            with self.opened.fence.admit(study_id, owner, self.search_id) as admission:
                trial_id = study._pop_waiting_trial_id() if waits else None
                if trial_id is None:
                    if arm.planned:
                        raise Refused(f"arm {arm.name}: every planned trial was begun")
                    trial_id = self.opened.storage.create_new_trial(study_id)
        except KeyError:
            raise SearchClosed(Closed(ClosedKind.DELETED, DELETED)) from None
        if not waits and not is_open(self.spec, arm):
            self._ahead.setdefault(study_id, Ahead(arm, self.opened.storage, owner.name))
        held = LeaseHandle(trial_id, admission.number_of(trial_id), study_id, 1)
        return Claim(held, arm, None, present=None if waits else [*present, begun(held)])

    def _by_need(self, standing: Standing) -> Iterator[int]:
        """Arms with room, the one that is furthest behind its share first."""
        flying = Counter(row.study_id for row in standing.rows if row.state != PAUSED)
        counts, arms = self._counts(standing.states), with_budgets(self.arms, standing.arms)
        ratio = {study_id: _budget_used(arm, counts[arm.name]) for study_id, arm in arms.items()}
        wanted = {study_id for study_id, arm in arms.items() if ratio[study_id] < 1 or counts[arm.name].waiting}
        room = [study_id for study_id in wanted if flying[study_id] < arms[study_id].in_flight]
        yield from sorted(room, key=lambda s: (ratio[s], s))


def _budget_used(arm: Arm, counts: Counts) -> float:
    """How much of its budget an arm has had, 1 for all of it: the one that is furthest behind is served first.

    Planned trials count once they have begun, so that planned arms go through their queues side by side.
    """
    return ((counts.begun + counts.failed) if arm.planned else counts.admitted) / arm.trials
