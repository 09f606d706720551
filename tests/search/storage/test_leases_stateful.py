"""Random walks of several workers, zombies and a person over one search, against a small model of who holds what."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.trial import TrialState

from search.commands.simulate import simulated_identity
from search.spec.load import StudySpec, load
from search.storage.database import Database, open_storage
from search.storage.leases import LeaseHandle, LeaseRow
from search.storage.schema import leases
from search.storage.statements import LeaseLost, Owner, Refused
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from trainer.errors import UserError

BUDGET, IN_FLIGHT = 5, 3
LATE = st.sampled_from([False, False, True])
VALUES = st.lists(st.sampled_from([0.1, 0.5, 0.9, None]), min_size=1, max_size=3)
OWNERS = st.sampled_from([Owner("a", "h1"), Owner("b", "h1"), Owner("c", "h2")])


@dataclass
class Trial:
    """What the model knows of a trial that was begun."""

    token: int
    state: str = "held"
    owner: str = ""
    epoch: int = 0
    lost: int = 0
    scored: set[int] = field(default_factory=set)
    """The epochs whose scores stand."""
    frozen: str = ""
    """The database's rows of a finished trial."""


class Workers(RuleBasedStateMachine):
    """Rules are what processes do; `held` has every lease that anybody ever held, most of them zombies' by then."""

    opened: Database
    spec: StudySpec
    url: str

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        # A study of its own for each walk: tables are made once.
        spec = self.spec.model_copy(update={"name": f"walk-{uuid.uuid4().hex}"})
        arm = spec.main
        fresh = type(arm)(**{**vars(arm), "study_name": spec.name})
        spec = spec.model_copy(update={"arms": (fresh,)})
        self.search: StudyAdapter = open_search(self.opened, self.url, spec, simulated_identity(spec))
        self.study_id = next(iter(self.search.arms))
        self.trials: dict[int, Trial] = {}
        self.numbers: dict[int, int] = {}
        self.waiting = 0
        self.failed = 0
        self.tokens: dict[int, int] = {}

    # ---- the model

    def flying(self) -> int:
        return sum(t.state in ("held", "free") for t in self.trials.values())

    def counted(self) -> int:
        return len(self.trials) + self.waiting - self.failed

    def holds(self, held: LeaseHandle) -> bool:
        trial = self.trials[held.trial_id]
        return trial.state == "held" and trial.token == held.token

    def expect(self, held: LeaseHandle, write: Callable[[], None]) -> bool:
        """Do a write that must land if and only if `held` still holds; returns whether it did."""
        holds_it = self.holds(held)
        try:
            write()
        except LeaseLost:
            assert not holds_it
            return False
        assert holds_it, "a zombie's write landed"
        return True

    def seen(self, state: str) -> list[LeaseRow]:
        return [row for row in self.search.leases.of_studies([self.study_id]) if row.state == state]

    # ---- beginning

    @initialize(target=held, owners=st.lists(OWNERS, min_size=2, max_size=2), values=VALUES)
    def two_at_work(self, owners: list[Owner], values: list[float | None]) -> object:
        """Walks that begin with nothing spend most of their steps on nothing."""
        both = [self.ask(owner) for owner in owners]
        for one in both:
            assert isinstance(one, LeaseHandle)
            self.report(one, values)
        return multiple(*both)

    @rule(target=held, owner=OWNERS)
    def ask(self, owner: Owner) -> object:
        free = [key for key, trial in self.trials.items() if trial.state == "free"]
        room = self.flying() < IN_FLIGHT and (self.waiting > 0 or self.counted() < BUDGET)
        try:
            claim = self.search.claim(owner, lambda row: row.epoch, ())
        except Refused:
            assert not free
            assert not room
            return multiple()
        key = claim.held.trial_id
        if free:
            assert key == min(free)
            self.taken(claim.held, owner)
        else:
            assert room
            assert key not in self.trials
            self.trials[key] = Trial(token=1, owner=owner.name)
            self.numbers[key] = claim.held.number
            self.waiting -= self.waiting > 0
        self.search.suggest(claim)
        self.search.commit(claim, "{}", "{}")
        return claim.held

    def taken(self, held: LeaseHandle, owner: Owner, *, lost: bool = False) -> None:
        trial = self.trials[held.trial_id]
        assert held.token == trial.token + 1
        trial.token, trial.state, trial.owner = held.token, "held", owner.name
        trial.lost += lost

    @precondition(lambda self: self.waiting < 2)
    @rule()
    def enqueue(self) -> None:
        full = self.counted() >= BUDGET
        try:
            self.search.enqueue(self.search.spec.main, {"optim.lr": 1e-2})
        except UserError:
            assert full
        else:
            assert not full
            self.waiting += 1

    @rule(target=held, owner=OWNERS, pick=st.integers(0, 9), forgets=st.booleans(), beats=LATE)
    def take_stale(self, owner: Owner, pick: int, forgets: bool, beats: bool) -> object:
        """Somebody watched a beat stand still; where it beat once more in between, the take comes too late."""
        rows = self.seen("held")
        if not rows:
            return multiple()
        row = rows[pick % len(rows)]
        trial = self.trials[row.trial_id]
        if beats:
            assert (
                self.search.leases.heartbeat([LeaseHandle(row.trial_id, row.number, row.study_id, row.token)]) == set()
            )
        epoch = 0 if forgets else row.epoch
        held = self.search.leases.acquire(row, owner, resume_epoch=epoch, lost=True)
        if beats:
            assert held is None
            return multiple()
        assert held is not None
        trial.epoch = epoch
        trial.scored = {step for step in trial.scored if step <= epoch}
        self.taken(held, owner, lost=True)
        return held

    @rule(target=held, owner=OWNERS)
    def restart(self, owner: Owner) -> object:
        owned = {key for key, t in self.trials.items() if t.state == "held" and t.owner == owner.name}
        claims = list(self.search.reacquire(owner, lambda row: row.epoch))
        assert {claim.held.trial_id for claim in claims} == owned
        for claim in claims:
            self.taken(claim.held, owner)
        return multiple(*(claim.held for claim in claims))

    # ---- training and ending, by holders and zombies alike

    @rule(held=held, values=VALUES)
    def report(self, held: LeaseHandle, values: list[float | None]) -> None:
        trial = self.trials[held.trial_id]
        for value in values:
            epoch = trial.epoch + 1
            if self.expect(held, partial(self.search.report, held, epoch, value, {"epoch": epoch})):
                trial.epoch = epoch
                trial.scored |= {epoch} if value is not None else set()

    @rule(held=held)
    def annotate(self, held: LeaseHandle) -> None:
        self.expect(held, lambda: self.search.attribute(held, "by", held.token))

    @rule(held=held)
    def beat(self, held: LeaseHandle) -> None:
        lost = self.search.leases.heartbeat([held])
        assert lost == (set() if self.holds(held) else {held.trial_id})

    @rule(held=consumes(held))
    def give_back(self, held: LeaseHandle) -> None:
        if self.expect(held, lambda: self.search.leases.give_back(held)):
            self.trials[held.trial_id].state = "free"

    @precondition(lambda self: self.flying() > 0)
    @rule(held=held, end=st.sampled_from(["complete", "prune", "fail"]))
    def finish(self, held: LeaseHandle, end: str) -> None:
        ends = {
            "complete": lambda: self.search.complete(held, 0.5, {}),
            "prune": lambda: self.search.prune(held, {}),
            "fail": lambda: self.search.fail(held, "bug", "broken"),
        }
        if self.expect(held, ends[end]):
            trial = self.trials[held.trial_id]
            trial.state = "finished"
            trial.frozen = self.rows(held.trial_id)
            self.failed += end == "fail"

    # ---- what always holds

    def rows(self, trial_id: int) -> str:
        return repr(self.search.opened.storage.get_trial(trial_id)) + repr(self.search.leases.row(trial_id))

    @invariant()
    def the_budget_holds(self) -> None:
        counts = self.search.counts()["kd"]
        assert counts.admitted == self.counted() <= BUDGET
        assert (counts.waiting, counts.failed) == (self.waiting, self.failed)
        assert self.flying() <= IN_FLIGHT
        with self.opened.engine.begin() as connection:
            of_study = leases.c.study_id == self.study_id
            flying = sa.select(sa.func.count()).where(of_study, leases.c.state.in_(["held", "free"]))
            assert connection.execute(flying).scalar_one() == self.flying()

    @invariant()
    def numbers_are_contiguous_and_every_running_trial_has_one_lease(self) -> None:
        trials = self.search.trials(self.search.spec.main)
        assert [t.number for t in trials] == list(range(len(trials)))
        rows = {row.trial_id: row for row in self.search.leases.details([self.study_id])}
        assert {t._trial_id for t in trials if t.state != TrialState.WAITING} == rows.keys() == self.trials.keys()
        for trial in trials:
            if trial.state == TrialState.WAITING:
                continue
            row, model = rows[trial._trial_id], self.trials[trial._trial_id]
            assert (row.number, row.state, row.token) == (trial.number, model.state, model.token)
            assert (row.state == "finished") == trial.state.is_finished()
            assert (row.epoch, row.lost) == (model.epoch, model.lost)
            assert trial.intermediate_values.keys() == model.scored

    @invariant()
    def tokens_only_grow_and_finished_trials_never_change(self) -> None:
        for key, trial in self.trials.items():
            assert trial.token >= self.tokens.get(key, 1)
            self.tokens[key] = trial.token
            if trial.frozen:
                assert self.rows(key) == trial.frozen
        for attempts in self.attempts().values():
            assert [a.token for a in attempts] == list(range(1, len(attempts) + 1))
            assert all(a.why is not None for a in attempts[:-1])

    def attempts(self) -> dict[int, list[Any]]:
        by_trial: dict[int, list[Any]] = {key: [] for key in self.trials}
        for attempt in self.search.leases.attempts_of([self.study_id]):
            by_trial[attempt.trial_id].append(attempt)
        return by_trial


@pytest.fixture
def opened(database_url: str) -> Iterator[Database]:
    storage = open_storage(database_url)
    yield storage
    storage.engine.dispose()


@pytest.mark.slow
def test_whatever_workers_do_the_database_agrees_with_the_model(
    opened: Database, database_url: str, tmp_path: Path, small_study: Callable[..., str]
) -> None:
    path = tmp_path / "walk.toml"
    path.write_text(small_study(epochs=9, trials=BUDGET, in_flight=IN_FLIGHT, more="max_failed = 1000\n"))
    machine = type(
        "Workers", (Workers,), {"opened": opened, "url": database_url, "spec": load(path), "__doc__": Workers.__doc__}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            # The walks are the same on both; SQLite is the easier one, as its writers take turns.
            max_examples=8 if database_url.startswith("sqlite") else 20,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            # A failing walk is short enough to be read as it is; each step costs many statements.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
