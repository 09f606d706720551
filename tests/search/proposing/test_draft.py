"""What is suggested for a trial is stored at once, as Optuna itself stores it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from search.execution.held_trials import HeldTrials
from search.execution.messages import WorkerSettings
from search.proposing.draft import Draft
from search.storage.statements import LeaseLost, Owner
from search.study.adapter import Claim, StudyAdapter

ME = Owner("me", "here")
NINE = """
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
"optim.weight_decay" = { low = 1e-6, high = 1e-2, log = true }
"losses.ce.weight" = { low = 0.1, high = 10.0, log = true }
"losses.dice.weight" = { low = 0.1, high = 10.0, log = true }
"losses.selfreg.weight" = { low = 0.001, high = 0.1, log = true }
"student.width" = { choices = [8, 16] }
"optim.name" = { choices = ["adam", "adamw"] }
"batch_size" = { choices = [2, 4] }
"seed" = { low = 1, high = 100 }
"""

Join = Callable[..., StudyAdapter]


@pytest.fixture
def nine(small_study: Callable[..., str]) -> str:
    """A study of nine parameters whose sampler has begun to learn by its fourth trial."""
    losses = {"ce": {}, "dice": {}, "selfreg": {}}
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-4}
    text = small_study(trials=40, in_flight=40, name="tpe", losses=losses, optim=optim)
    space = '"optim.lr" = { low = 1e-4, high = 1e-1, log = true }\n'
    assert space in text
    text = text.replace(space, NINE).replace('name = "tpe"', 'name = "tpe"\nstartup = 3')
    return text + '[front]\nalong = "student.width"\n'


@pytest.fixture
def join(database_url: str, open_again: Join, nine: str) -> Join:
    """Open the one search of the test once more, as another process would."""
    return partial(open_again, database_url, "drafted", nine)


def claim(search: StudyAdapter, owner: Owner = ME) -> Claim:
    return search.claim(owner, lambda _: 0, ())


def finish(search: StudyAdapter, claimed: Claim, score: float) -> None:
    search.report(claimed.held, 1, score, {})
    search.complete(claimed.held, score, {})


def begin(search: StudyAdapter) -> Claim:
    claimed = claim(search)
    search.suggest(claimed)
    search.commit(claimed, "{}", "{}")
    return claimed


def test_a_start_takes_two_transactions_that_write_and_thirty_statements(join: Join, tmp_path: Any) -> None:
    search = join()
    held = HeldTrials(search, WorkerSettings(ME, 8, tmp_path, 1, {}, breach=lambda _: None))
    for score in range(5):
        finish(search, begin(search), float(score))
    held.begin(claim(search))
    statements: list[str] = []
    sa.event.listen(search.opened.engine, "begin", lambda _: statements.append("BEGIN"))
    sa.event.listen(
        search.opened.engine, "before_cursor_execute", lambda _c, _k, text, *_: statements.append(text.lstrip())
    )
    held.begin(claim(search))
    statements = [text for text in statements if not text.startswith(("PRAGMA", "BEGIN IMMEDIATE"))]
    transactions = " ".join(text.split()[0] for text in statements).split("BEGIN")[1:]
    assert len(statements) - len(transactions) <= 30, statements
    writes = [each for each in transactions if {"INSERT", "UPDATE", "DELETE"} & set(each.split())]
    assert len(writes) == 2
    assert len(transactions) == 4


def test_rows_are_those_that_optuna_writes(join: Join) -> None:
    """Optuna's own storage writes the same suggestion parameter by parameter in another study."""
    search = join()
    for score in range(4):
        finish(search, begin(search), float(score))
    claimed = begin(search)
    drafted = search.trials(search.spec.main)[claimed.held.number]
    study = optuna.create_study(study_name="by-optuna", storage=search.opened.storage, direction="maximize")
    trial_id = search.opened.storage.create_new_trial(study._study_id)
    for name, value in drafted.params.items():
        distribution = drafted.distributions[name]
        search.opened.storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)
    for key, value in drafted.system_attrs.items():
        search.opened.storage.set_trial_system_attr(trial_id, key, value)
    assert len(drafted.params) == 9
    assert drafted.system_attrs, "the sampler notes its joint draw"
    assert rows(search, claimed.held.trial_id) == rows(search, trial_id)
    assert study.get_trials()[0].params == drafted.params


def rows(search: StudyAdapter, trial_id: int) -> dict[str, list[tuple[Any, ...]]]:
    """What Optuna's tables hold of a trial, without keys and times."""
    leave_out = {"trial_id", "param_id", "trial_system_attribute_id", "study_id", "number", "datetime_start"}
    found: dict[str, list[tuple[Any, ...]]] = {}
    with search.opened.engine.begin() as connection:
        for name in ("trials", "trial_params", "trial_system_attributes"):
            table = search.leases._tables[name]
            columns = [column for column in table.c if column.name not in leave_out]
            of_trial = sa.select(*columns).where(table.c.trial_id == trial_id)
            found[name] = sorted(tuple(row) for row in connection.execute(of_trial))
    return found


def test_the_draw_is_that_of_optuna_writing_as_it_goes(join: Join) -> None:
    """The same number with the same history: drawn through a draft, and straight through the storage."""
    search = join()
    for score in range(5):
        finish(search, begin(search), float(score))
    claimed = claim(search)
    drafted = search.suggest(claimed)
    straight = join()
    study = straight._study_of[claimed.arm.name]
    study.get_trials(deepcopy=False)
    with straight.opened.fence.write(claimed.held.trial_id, claimed.held.token):
        trial = optuna.trial.Trial(study, claimed.held.trial_id)
        own = {name: trial._suggest(name, d) for name, d in search.trials(claimed.arm)[0].distributions.items()}
    assert own == drafted


def test_whoever_dies_before_the_commit_leaves_a_trial_that_the_next_holder_suggests_anew(join: Join) -> None:
    search = join()
    claimed = claim(search)
    first = search.suggest(claimed)
    assert search.trials(search.spec.main)[0].params == {}
    search.leases.give_back(claimed.held)
    others = join()
    again = claim(others, Owner("other", "there"))
    assert again.held.trial_id == claimed.held.trial_id
    assert others.suggest(again) == first
    others.commit(again, "{}", "{}")
    with pytest.raises(LeaseLost):
        search.commit(claimed, "{}", "{}")
    stored = others.trials(others.spec.main)[0]
    assert stored.params == first
    assert stored.state == TrialState.RUNNING


def test_a_trial_that_breaks_a_limit_ends_with_its_parameters(join: Join, tmp_path: Any) -> None:
    search = join()
    held = HeldTrials(search, WorkerSettings(ME, 8, tmp_path, 1, {}, breach=lambda _: "too large"))
    held.begin(claim(search))
    (trial,) = search.trials(search.spec.main)
    assert trial.state == TrialState.PRUNED
    assert len(trial.params) == 9
    assert trial.user_attrs["limit"] == "too large"


def test_a_deleted_trial_is_lost(join: Join) -> None:
    search = join()
    claimed = claim(search)
    search.suggest(claimed)
    optuna.delete_study(study_name=search.spec.main.study_name, storage=search.opened.storage)
    with pytest.raises(LeaseLost):
        search.commit(claimed, "{}", "{}")


def test_another_kind_of_range_is_refused_as_optuna_refuses_it(join: Join) -> None:
    search = join()
    begin(search)
    claimed = claim(search)
    draft: Draft = search._draft(claimed)
    with pytest.raises(ValueError, match="different distribution kind"):
        draft.set_trial_param(claimed.held.trial_id, "student.width", 0.0, IntDistribution(1, 3))
