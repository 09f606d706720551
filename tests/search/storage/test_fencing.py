"""Our checks inside Optuna's transactions: what a zombie writes does not land, budgets count exactly, no half stays.

A second holder is always a second storage with an engine of its own, as in another process.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.trial import Trial, TrialState

from search.storage.leases import LeaseHandle, LeaseRow
from search.storage.schema import attempts, leases, metadata
from search.storage.statements import LeaseLost, Owner, Refused
from search.study.adapter import Claim, StudyAdapter
from trainer.errors import UserError

ME, OTHER = Owner("me", "here"), Owner("other", "there")
LR = {"optim.lr": 1e-2}

Join = Callable[..., StudyAdapter]


@pytest.fixture
def join(database_url: str, open_again: Join, small_study: Callable[..., str]) -> Join:
    """Open the one search of the test once more, as another process would."""
    return partial(open_again, database_url, "fenced", small_study(trials=5, in_flight=5))


def no_checkpoint(_row: LeaseRow) -> int:
    return 0


def claim(search: StudyAdapter, owner: Owner = ME, stale: tuple[LeaseRow, ...] = ()) -> Claim:
    return search.claim(owner, no_checkpoint, stale)


def enqueue(search: StudyAdapter, *, lr: float = 1e-2) -> None:
    search.enqueue(search.spec.main, {"optim.lr": lr})


def count(search: StudyAdapter) -> int:
    return search.counts()["kd"].admitted


def stored(search: StudyAdapter) -> dict[str, list[str]]:
    """Every row of every table, ours and Optuna's."""
    tables = {**metadata.tables, **search.leases._tables}
    with search.opened.engine.begin() as connection:
        return {name: sorted(repr(row) for row in connection.execute(sa.select(t))) for name, t in tables.items()}


def ids(search: StudyAdapter) -> tuple[set[int], set[int], set[int]]:
    """The trials that exist and do not wait, those with a lease, those with an attempt."""
    trials = {t._trial_id for t in search.trials(search.spec.main) if t.state != TrialState.WAITING}
    with search.opened.engine.begin() as connection:
        leased = set(connection.execute(sa.select(leases.c.trial_id)).scalars())
        tried = set(connection.execute(sa.select(attempts.c.trial_id)).scalars())
    return trials, leased, tried


# ---- the token


def write_param(search: StudyAdapter, held: LeaseHandle) -> None:
    with search.opened.fence.write(held.trial_id, held.token):
        search.opened.storage.set_trial_param(held.trial_id, "another", 0.5, FloatDistribution(0.0, 1.0))


def write_system_attr(search: StudyAdapter, held: LeaseHandle) -> None:
    with search.opened.fence.write(held.trial_id, held.token):
        search.opened.storage.set_trial_system_attr(held.trial_id, "key", 1)


def write_constraint(search: StudyAdapter, held: LeaseHandle) -> None:
    study = optuna.load_study(study_name=search.spec.main.study_name, storage=search.opened.storage)
    with search.opened.fence.write(held.trial_id, held.token):
        Trial(study, held.trial_id).set_constraint("size", 1.0)


def beat(search: StudyAdapter, held: LeaseHandle) -> None:
    if search.leases.heartbeat([held]):
        raise LeaseLost("the beat says so")


WRITES: dict[str, Callable[[StudyAdapter, LeaseHandle], None]] = {
    "intermediate value": lambda s, h: s.report(h, 2, 0.5, {}),
    "intermediate value with lease change": lambda s, h: s.report(h, 2, 0.5, {"epoch": 2}),
    "known step again": lambda s, h: s.report(h, 1, 0.9, {}),
    "epoch without a score": lambda s, h: s.report(h, 2, None, {"epoch": 2}),
    "user attribute": lambda s, h: s.attribute(h, "key", "value"),
    "system attribute": write_system_attr,
    "parameter": write_param,
    "constraint": write_constraint,
    "run": lambda s, h: s.leases.change(h, {"run": '{"epochs": 3}'}),
    "beat": beat,
    "give back": lambda s, h: s.leases.give_back(h),
    "complete": lambda s, h: s.complete(h, 0.5, {}),
    "prune": lambda s, h: s.prune(h, {}),
    "fail": lambda s, h: s.fail(h, "bug", "broken"),
}


def begun(search: StudyAdapter) -> Claim:
    """A claimed trial with parameters, a run and one report."""
    claimed = claim(search)
    search.suggest(claimed)
    search.commit(claimed, "{}", "{}")
    search.report(claimed.held, 1, 0.1, {"epoch": 1})
    return claimed


def taken_by_other(other: StudyAdapter, held: LeaseHandle) -> LeaseHandle:
    row = next(r for r in other.leases.of_studies([held.study_id]) if r.trial_id == held.trial_id)
    taken = other.leases.acquire(row, OTHER, resume_epoch=1, lost=True)
    assert taken is not None
    return taken


def refusals(search: StudyAdapter, held: LeaseHandle) -> list[str]:
    """Every kind of write, each of which must be refused and leave no trace; returns those that were not."""
    landed = []
    before = stored(search)
    for name, write in WRITES.items():
        try:
            write(search, held)
        except LeaseLost:
            pass
        else:
            landed.append(f"{name}: no refusal")
        now = stored(search)
        landed += [f"{name}: {table}" for table in now if now[table] != before[table]]
    return landed


def test_the_holder_writes_and_each_write_leaves_a_trace(join: Join) -> None:
    """The control of the tests below: the same writes with the right token land."""
    search = join("budget.trials=20", "budget.in_flight=20")
    for name, write in WRITES.items():
        held = begun(search).held
        before = stored(search)
        write(search, held)
        assert stored(search) != before, name


def test_nothing_of_a_zombie_lands_while_another_holds_its_trial(join: Join) -> None:
    own, others = join(), join()
    held = begun(own).held
    new = taken_by_other(others, held)
    assert new.token == held.token + 1
    assert refusals(own, held) == []
    others.report(new, 2, 0.7, {"epoch": 2})
    others.complete(new, 0.7, {})


@pytest.mark.parametrize("end", ["complete", "prune", "fail"])
def test_nothing_of_a_zombie_lands_after_another_finished_its_trial(join: Join, end: str) -> None:
    """Optuna has a check of its own for finished trials: the caller hears of a lost lease all the same."""
    own, others = join(), join()
    held = begun(own).held
    new = taken_by_other(others, held)
    WRITES[end](others, new)
    assert refusals(own, held) == []


def test_nothing_of_a_holder_lands_after_it_gave_its_trial_back(join: Join) -> None:
    search = join()
    held = begun(search).held
    search.leases.give_back(held)
    assert refusals(search, held) == []


def test_nothing_of_a_holder_lands_after_it_finished_its_trial_itself(join: Join) -> None:
    search = join()
    held = begun(search).held
    search.complete(held, 0.5, {})
    assert refusals(search, held) == []


def test_suggestions_of_a_zombie_are_refused(join: Join) -> None:
    own, others = join(), join()
    claimed = claim(own)
    taken_by_other(others, claimed.held)
    own.suggest(claimed)
    with pytest.raises(LeaseLost):
        own.store_suggested(claimed)
    with pytest.raises(LeaseLost):
        own.commit(claimed, "{}", "{}")
    assert others.trials(others.spec.main)[0].params == {}


def test_the_lease_changes_with_the_report_or_not_at_all(join: Join) -> None:
    """One transaction: an error after our statements takes both back."""
    search = join()
    held = begun(search).held
    before = stored(search)

    def breaks(_session: object) -> None:
        raise RuntimeError("in the middle of the commit")

    factory = search.opened.storage._backend.scoped_session.session_factory  # type: ignore[attr-defined]
    sa.event.listen(factory, "before_commit", breaks)
    with pytest.raises(RuntimeError, match="in the middle"):
        search.report(held, 2, 0.5, {"epoch": 2})
    sa.event.remove(factory, "before_commit", breaks)
    assert stored(search) == before
    search.report(held, 2, 0.5, {"epoch": 2})
    row = search.leases.row(held.trial_id)
    assert row is not None
    assert row.epoch == 2


def test_a_collision_in_a_write_is_said_and_not_swallowed(join: Join) -> None:
    """Optuna drops an IntegrityError of parameters and reports silently: who wrote must learn that nothing landed."""
    search = join()
    held = begun(search).held
    write_param(search, held)
    with pytest.raises(LeaseLost, match="wrote"):
        write_param(search, held)
    before = stored(search)
    values = search.leases._tables["trial_intermediate_values"]

    def somebody_was_quicker(session: sa.orm.Session, *_: object) -> None:
        row = dict(trial_id=held.trial_id, step=2, intermediate_value=0.4, intermediate_value_type="FINITE")
        session.connection().execute(values.insert().values(**row))

    factory = search.opened.storage._backend.scoped_session.session_factory  # type: ignore[attr-defined]
    sa.event.listen(factory, "before_flush", somebody_was_quicker)
    with pytest.raises(LeaseLost, match="wrote"):
        search.report(held, 2, 0.5, {"epoch": 2})
    sa.event.remove(factory, "before_flush", somebody_was_quicker)
    assert stored(search) == before
    search.report(held, 2, 0.5, {"epoch": 2})
    search.attribute(held, "key", 1)
    search.attribute(held, "key", 2)  # an upsert: no collision
    trial = search.trials(search.spec.main)[0]
    assert trial.intermediate_values[2] == 0.5
    assert trial.user_attrs["key"] == 2


# ---- admission


def test_admission_counts_every_trial_that_did_not_fail(join: Join) -> None:
    search = join()
    enqueue(search)  # waits, and counts
    held = [claim(search).held for _ in range(5)]  # the first of them pops the waiting one
    assert count(search) == 5
    search.complete(held[0], 0.5, {})
    search.prune(held[1], {})
    search.leases.give_back(held[2])
    assert claim(search, OTHER).held.trial_id == held[2].trial_id
    with pytest.raises(Refused):
        claim(search)
    search.fail(held[3], "bug", "broken")  # makes room for one
    assert claim(search).held.number == 5
    with pytest.raises(Refused):
        claim(search)
    assert count(search) == 5
    assert [t.number for t in search.trials(search.spec.main)] == list(range(6))


def test_a_full_arm_is_refused_by_the_commit_itself(join: Join) -> None:
    """Also where the counts that the claim looked at are out of date."""
    search = join()
    for _ in range(5):
        search.complete(claim(search).held, 0.5, {})
    study_id = next(iter(search.arms))
    before = stored(search)
    with pytest.raises(Refused, match="all 5 trials are taken") as refused:
        search._ask(study_id, ME)
    assert not refused.value.final
    with pytest.raises(UserError, match=r"all 5 trials are taken; raise budget\.trials"):
        enqueue(search)
    assert stored(search) == before
    raised = join("budget.trials=6")
    enqueue(raised)
    with pytest.raises(UserError, match="all 6 trials"):
        enqueue(raised)


def test_no_more_trials_are_in_flight_than_allowed(join: Join) -> None:
    search = join("budget.in_flight=2")
    study_id = next(iter(search.arms))
    enqueue(search)
    first, second = claim(search).held, claim(search).held
    enqueue(search)
    before = stored(search)
    with pytest.raises(Refused, match="2 trials are in flight"):
        search._ask(study_id, ME)  # the waiting trial stays waiting
    search.leases.give_back(first)  # a free trial is in flight too
    with pytest.raises(Refused, match="in flight"):
        search._ask(study_id, ME)
    assert stored(search)["trials"] == before["trials"]
    assert claim(search, OTHER).held.trial_id == first.trial_id  # and may always be taken
    search.complete(second, 0.5, {})
    assert claim(search).held.number == 2


def test_a_pop_changes_no_count(join: Join) -> None:
    search = join("budget.trials=2")
    enqueue(search, lr=1e-2)
    enqueue(search, lr=1e-3)
    assert (count(search), search.counts()["kd"].waiting) == (2, 2)
    with pytest.raises(UserError, match="all 2 trials"):
        enqueue(search)
    popped = [claim(search), claim(search)]  # on a full arm
    assert (count(search), search.counts()["kd"].running) == (2, 2)
    assert [search.suggest(c)["optim.lr"] for c in popped] == [1e-2, 1e-3]


def test_threads_with_storages_of_their_own_share_a_budget_exactly(join: Join) -> None:
    searches = [join("budget.trials=12", "budget.in_flight=50") for _ in range(4)]
    study_id = next(iter(searches[0].arms))
    errors: list[BaseException] = []

    def ask(search: StudyAdapter, owner: Owner) -> None:
        try:
            while True:
                search._ask(study_id, owner)
        except Refused:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(s, Owner(f"w{i}", "h"))) for i, s in enumerate(searches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [t.number for t in searches[0].trials(searches[0].spec.main)] == list(range(12))
    trials, leased, tried = ids(searches[0])
    assert trials == leased == tried


# ---- halves


def collide(search: StudyAdapter, table: sa.Table, trial_id: int) -> None:
    """A row of the trial that is yet to come, as a program with a bug would leave it."""
    row: dict[str, Any] = dict(trial_id=trial_id, token=1, owner="x", host="x")
    if table is leases:
        row |= dict(study_id=1, number=0, state="finished", beat=0, lost=0, epoch=0, gpu_seconds=0.0)
    else:
        row |= dict(first_epoch=1, began=0.0)
    with search.opened.engine.begin() as connection:
        connection.execute(table.insert().values(**row))


def clear(search: StudyAdapter, table: sa.Table) -> None:
    with search.opened.engine.begin() as connection:
        connection.execute(table.delete())


@pytest.mark.parametrize("table", [leases, attempts], ids=["lease", "attempt"])
@pytest.mark.parametrize("kind", ["new", "waiting"])
def test_a_collision_refuses_a_trial_and_leaves_no_half_of_it(join: Join, table: sa.Table, kind: str) -> None:
    search = join()
    study_id = next(iter(search.arms))
    if kind == "waiting":
        enqueue(search)
    # PostgreSQL's sequence skips numbers that were rolled back: rows lie in the way of several.
    for trial_id in range(1, 9):
        collide(search, table, trial_id)
    before = stored(search)
    for _ in range(2):
        with pytest.raises(Refused, match="already"):
            search._ask(study_id, ME)
    assert stored(search) == before
    clear(search, table)
    search._ask(study_id, ME)
    trials, leased, tried = ids(search)
    assert trials == leased == tried
    assert len(trials) == 1


@pytest.mark.parametrize("kind", ["new", "waiting"])
def test_a_commit_that_breaks_half_way_leaves_neither_trial_nor_lease(join: Join, kind: str) -> None:
    search = join()
    study_id = next(iter(search.arms))
    if kind == "waiting":
        enqueue(search)
    before = stored(search)
    factory = search.opened.storage._backend.scoped_session.session_factory  # type: ignore[attr-defined]

    def breaks(session: sa.orm.Session) -> None:
        if session.execute(sa.select(sa.func.count()).select_from(leases)).scalar_one() > 0:
            raise RuntimeError("in the middle of the commit")  # after our statements, before Optuna's commit

    sa.event.listen(factory, "before_commit", breaks)
    with pytest.raises(RuntimeError, match="in the middle"):
        search._ask(study_id, ME)
    sa.event.remove(factory, "before_commit", breaks)
    assert stored(search) == before


def test_a_creation_that_optuna_repeats_leases_the_trial_that_came_of_it(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna tries five times: a row of a try that was rolled back must get no lease."""
    monkeypatch.setattr("optuna.storages._rdb.storage.time.sleep", lambda _: None)
    search = join()
    study_id = next(iter(search.arms))
    tries: list[str] = []

    def breaks_once(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if "count(" in statement.lower() and not tries:
            tries.append(statement)
            raise sa.exc.OperationalError(statement, None, Exception("deadlock detected"))

    sa.event.listen(search.opened.engine, "before_cursor_execute", breaks_once)
    search._ask(study_id, ME)
    assert tries
    trials, leased, tried = ids(search)
    assert trials == leased == tried
    assert len(trials) == 1


# ---- Optuna's side of it


def test_optuna_commits_each_write_once_through_the_session_factory(join: Join) -> None:
    """What the whole fence stands on. If this fails after an update of Optuna, do not use that version."""
    search = join()
    storage = search.opened.storage
    study_id = next(iter(search.arms))
    factory = storage._backend.scoped_session.session_factory  # type: ignore[attr-defined]
    commits: list[str] = []
    doing = ""
    changed: list[Any] = []

    def committing(_session: sa.orm.Session) -> None:
        if changed:
            commits.append(doing)
            changed.clear()

    def writing(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE")):
            changed.append(statement)

    sa.event.listen(search.opened.engine, "before_cursor_execute", writing)
    # Inserted first: our own listener flushes, so that by then every write has happened, and none is left after it.
    sa.event.listen(factory, "before_commit", lambda session: session.flush(), insert=True)
    sa.event.listen(factory, "before_commit", committing)

    doing = "enqueue"
    enqueue(search)
    doing = "pop"
    trial_id = search._ask(study_id, ME).held.trial_id
    doing = "create"
    search._ask(study_id, ME)
    doing = "report"
    storage.set_trial_intermediate_value(trial_id, 1, 0.5)
    doing = "report again"
    storage.set_trial_intermediate_value(trial_id, 1, 0.6)
    doing = "parameter"
    storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0.0, 1.0))
    doing = "user attribute"
    storage.set_trial_user_attr(trial_id, "key", 1)
    doing = "system attribute"
    storage.set_trial_system_attr(trial_id, "key", 1)
    doing = "state"
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    kinds = ["enqueue", "pop", "create", "report", "report again", "parameter"]
    assert commits == [*kinds, "user attribute", "system attribute", "state"]
    assert changed == []
