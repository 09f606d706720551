"""A study's trials are read by plain rows, and are those that Optuna reads."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.storage.database import Database, open_storage
from search.storage.fencing import AT_ONCE, Curve, QuickStorage

KINDS = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "width": CategoricalDistribution([8, 16, None, "wide"]),
    "layers": IntDistribution(1, 9, step=2),
}


@pytest.fixture
def opened(database_url: str) -> Any:
    database = open_storage(database_url)
    yield database
    database.engine.dispose()


def fill(opened: Database, *, directions: tuple[str, ...] = ("maximize",)) -> optuna.Study:
    """A study with a trial of every kind."""
    study = optuna.create_study(storage=opened.storage, directions=list(directions))
    count = len(directions)
    params = {"lr": 0.01, "width": None, "layers": 3}
    scores = {1: 0.25, 2: math.inf, 3: -math.inf, 7: 0.5}
    attributes = {"user_attrs": {"host": "gpu1", "list": [1, 2.5, None]}, "system_attrs": {"note": {"deep": True}}}
    study.add_trial(
        create_trial(values=[0.5] * count, params=params, distributions=KINDS, intermediate_values=scores, **attributes)
    )
    study.add_trial(create_trial(values=[math.inf] * count, params={"lr": 0.1}, distributions={"lr": KINDS["lr"]}))
    study.add_trial(
        create_trial(state=TrialState.PRUNED, intermediate_values={2: math.nan}, params=params, distributions=KINDS)
    )
    study.add_trial(create_trial(state=TrialState.FAIL))
    running = study.ask(KINDS)
    if count == 1:
        running.report(0.1, 1)
    running.set_user_attr("host", "gpu2")
    study.add_trial(create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"lr": 0.02}}))
    return study


def as_optuna_reads(opened: Database, study: optuna.Study, *args: Any) -> list[FrozenTrial]:
    storage: Any = opened.storage
    found: list[FrozenTrial] = RDBStorage._get_trials(storage._backend, study._study_id, *args)
    return found


def as_read(opened: Database, study: optuna.Study, *args: Any) -> list[FrozenTrial]:
    storage: Any = opened.storage
    assert type(storage._backend) is QuickStorage
    found: list[FrozenTrial] = storage._backend._get_trials(study._study_id, *args)
    return found


def plain(trial: FrozenTrial) -> dict[str, Any]:
    """All that a trial is, with NaN as a word, which equals itself."""
    scores = {step: repr(score) for step, score in trial.intermediate_values.items()}
    order = list(trial.params), list(trial.distributions)
    return {**trial.__dict__, "intermediate_values": scores, "order": order}


@pytest.mark.parametrize("directions", [("maximize",), ("maximize", "minimize")])
def test_trials_are_those_that_optuna_reads(opened: Database, directions: tuple[str, ...]) -> None:
    study = fill(opened, directions=directions)
    fill(opened)  # trials of another study are none of this one's
    own = [plain(trial) for trial in as_read(opened, study, None, set(), -1)]
    assert own == [plain(trial) for trial in as_optuna_reads(opened, study, None, set(), -1)]
    assert len(own) == 6
    ids = [trial["_trial_id"] for trial in own]
    for args in (
        (None, {ids[1], ids[4]}, ids[2]),
        (None, set(), ids[-1]),
        ((TrialState.WAITING,), set(), -1),
        ((TrialState.COMPLETE, TrialState.RUNNING), {ids[0]}, ids[3]),
    ):
        assert [plain(t) for t in as_read(opened, study, *args)] == [
            plain(t) for t in as_optuna_reads(opened, study, *args)
        ]


def test_more_trials_than_one_statement_names_are_all_read(opened: Database) -> None:
    study = optuna.create_study(storage=opened.storage)
    with opened.engine.begin() as connection:
        trials = opened.leases._tables["trials"]
        rows = [dict(number=n, study_id=study._study_id, state=TrialState.COMPLETE) for n in range(AT_ONCE + 3)]
        connection.execute(sa.insert(trials), rows)
        values = opened.leases._tables["trial_values"]
        ids = list(connection.execute(sa.select(trials.c.trial_id)).scalars())
        scores = [dict(trial_id=key, objective=0, value=float(key), value_type="FINITE") for key in ids]
        connection.execute(sa.insert(values), scores)
    read = study.get_trials()
    assert [trial.number for trial in read] == list(range(AT_ONCE + 3))
    assert [trial.value for trial in read] == [float(trial._trial_id) for trial in read]


def test_a_look_that_finds_nothing_new_asks_twice(opened: Database) -> None:
    study = fill(opened)
    statements: list[str] = []
    ids = [trial._trial_id for trial in study.get_trials()]
    sa.event.listen(opened.engine, "before_cursor_execute", lambda _c, _k, text, *_: statements.append(text))
    assert as_read(opened, study, None, set(), ids[-1]) == []
    assert len([text for text in statements if text.startswith("SELECT")]) == 2


def test_a_study_that_is_not_there_is_said_as_optuna_says_it(opened: Database) -> None:
    fill(opened)
    storage: Any = opened.storage
    with pytest.raises(KeyError) as own:
        storage._backend._get_trials(4711, None, set(), -1)
    with pytest.raises(KeyError) as other:
        RDBStorage._get_trials(storage._backend, 4711, None, set(), -1)
    assert own.value.args == other.value.args


def test_a_curve_is_a_mapping_of_its_scores() -> None:
    curve = Curve({3: 0.5, 1: math.inf, 10: -0.25})
    assert dict(curve) == {1: math.inf, 3: 0.5, 10: -0.25}
    assert curve == {3: 0.5, 1: math.inf, 10: -0.25}
    assert list(curve) == [1, 3, 10]
    assert curve[10] == -0.25
    assert 2 not in curve
    assert curve.get(11) is None
    with pytest.raises(KeyError):
        curve[0]
    assert list(curve.items()) == list({1: math.inf, 3: 0.5, 10: -0.25}.items())
    assert (3, 0.5) in curve.items()
    assert curve.items() == {1: math.inf, 3: 0.5, 10: -0.25}.items()
    assert len(Curve({})) == 0


def test_optuna_still_reads_trials_as_this_program_takes_over() -> None:
    """A canary: an Optuna that reads in another way is met here before a database is."""
    names = ["self", "study_id", "states", "included_trial_ids", "trial_id_greater_than"]
    assert list(inspect.signature(RDBStorage._get_trials).parameters) == names
    source: Callable[..., Any] = optuna.storages._cached_storage._CachedStorage._read_trials_from_remote_storage
    assert "self._backend._get_trials(" in inspect.getsource(source)
