"""Samplers by name beside TPE, in a search of this program: leases, front, conditions, several workers, trials that
change hands. `test_table.py` has what each of them can do; here is how."""

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from search.samplers import FrontChoice, SamplerSettings, choice_for, cmaes, sampler
from search.samplers.qmc import at
from search.spec.load import load
from search.spec.proposals import cells
from search.storage.statements import Owner
from search.study.adapter import Claim, StudyAdapter
from trainer.errors import UserError

Join = Callable[..., StudyAdapter]
ME, OTHER = Owner("me", "here"), Owner("other", "there")
SPACE = """
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
"optim.weight_decay" = { low = 0.0, high = 0.1 }
"""
GRID = """
"student.width" = { choices = [4, 6] }
"optim.weight_decay" = { low = 0.0, high = 0.2, step = 0.1 }
"""


def text(small: str, space: str, name: str, *, more: str = "") -> str:
    """The small study with another space and sampler."""
    start, _, rest = small.partition("[space]\n")
    _, _, rest = rest.partition("[sampler]")
    return f"{start}[space]\n{space}[sampler]{rest}".replace('name = "random"', f"name = {name}") + more


def ask(search: StudyAdapter, owner: Owner = ME) -> tuple[Claim, dict[str, Any]]:
    claim = search.claim(owner, lambda _: 0, ())
    params = search.suggest(claim)
    search.commit(claim, "{}", "{}")
    return claim, params


def score(params: dict[str, Any]) -> float:
    return 0.9 - (params.get("optim.weight_decay", 0.0) - 0.03) ** 2 - abs(params.get("optim.lr", 0.01) - 0.01)


def grow(search: StudyAdapter, trials: int, *, fails: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Ask and complete so many trials, one after the other; those at `fails` fail."""
    asked = []
    for number in range(trials):
        claim, params = ask(search)
        search.fail(claim.held, "bug", "") if number in fails else search.complete(claim.held, score(params), {})
        asked.append(params)
    return asked


def key(params: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(params.items()))


# Grid


@pytest.fixture
def grid(sqlite_url: str, open_again: Join, small_study: Callable[..., str]) -> Callable[..., StudyAdapter]:
    def joined(*changes: str, more: str = "", url: str = "") -> StudyAdapter:
        study = text(small_study(trials=6, in_flight=6), GRID, '"grid"', more=more)
        return open_again(url or sqlite_url, "grid", study, *changes)

    return joined


def test_two_workers_try_every_cell_of_a_grid_once_though_some_fail(
    grid: Callable[..., StudyAdapter], database_url: str
) -> None:
    own, theirs = grid(url=database_url), grid(url=database_url)
    flying = [ask(search, owner) for _ in range(2) for search, owner in ((own, ME), (theirs, OTHER))]
    assert len({key(params) for _, params in flying}) == 4
    own.fail(flying[0][0].held, "bug", "")
    theirs.fail(flying[3][0].held, "bug", "")
    own.complete(flying[1][0].held, 0.5, {})
    tried = [flying[1][1], flying[2][1], *(ask(own if number % 2 else theirs)[1] for number in range(4))]
    assert sorted(map(key, tried)) == sorted(map(key, cells(own.spec.main)))


def test_a_grid_along_a_front_gives_each_turn_its_choice(grid: Callable[..., StudyAdapter]) -> None:
    search = grid(more='[front]\nalong = "student.width"\n')
    asked = grow(search, 6)
    assert all(len({params["student.width"] for params in asked[at : at + 2]}) == 2 for at in range(0, 6, 2))
    assert len({key(params) for params in asked}) == 6


def test_a_wanted_cell_is_not_tried_again_and_what_it_leaves_open_is_from_the_grid(
    grid: Callable[..., StudyAdapter],
) -> None:
    whole = '"student.width" = 6\n"optim.weight_decay" = 0.1\n'
    search = grid(more=f'[[enqueue]]\n{whole}[[enqueue]]\n"student.width" = 6\n')
    asked = grow(search, 6)
    assert asked[0] == {"student.width": 6, "optim.weight_decay": 0.1}
    assert asked[1]["student.width"] == 6
    assert len({key(params) for params in asked}) == 6


def test_the_same_seed_tries_the_cells_in_the_same_order_and_another_in_another() -> None:
    space = {"a": CategoricalDistribution((1, 2)), "b": IntDistribution(1, 4)}
    every = [{"a": a, "b": b} for a in (1, 2) for b in range(1, 5)]

    def order(seed: int) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=sampler(SamplerSettings("grid", seed=seed), space=space, cells=every))
        for _ in every:
            trial = study.ask()
            trial.suggest_categorical("a", (1, 2))
            trial.suggest_int("b", 1, 4)
        return [trial.params for trial in study.trials]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(map(key, order(1))) == sorted(map(key, every))


# The sequence


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(0.0, 2.0),
        FloatDistribution(1e-4, 1e-1, log=True),
        FloatDistribution(0.1, 0.7, step=0.2),
        IntDistribution(3, 11, step=4),
        IntDistribution(1, 64, log=True),
        CategoricalDistribution(("a", "b", "c")),
    ],
    ids=str,
)
def test_a_coordinate_reaches_all_of_a_range_and_nothing_else(distribution: Any) -> None:
    values = [at(distribution, u / 1000) for u in range(1000)]
    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in values)
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        assert values[0] == pytest.approx(distribution.low)
        assert values[-1] == pytest.approx(distribution.high, rel=0.01)
    elif not (isinstance(distribution, IntDistribution) and distribution.log):
        counts = Counter(values)
        assert max(counts.values()) - min(counts.values()) <= 1, "equal shares"
        assert len(counts) == (4 if isinstance(distribution, FloatDistribution) else 3)


def test_a_sequence_is_even_where_random_draws_are_not_and_each_number_has_its_point() -> None:
    space = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}

    def points(order: Sequence[int]) -> dict[int, dict[str, Any]]:
        study = optuna.create_study(sampler=sampler(SamplerSettings("qmc", seed=3), space=space))
        asked = [study.ask() for _ in order]
        return {n: {name: asked[n].suggest_float(name, 0.0, 1.0) for name in space} for n in order}

    there = points(range(16))
    assert points(list(reversed(range(16)))) == there
    for name in space:
        assert sorted(int(point[name] * 16) for point in there.values()) == list(range(16)), "one in each sixteenth"


def test_along_a_front_each_choice_has_a_sequence_of_its_own_and_enqueued_trials_repeat_none() -> None:
    front = FrontChoice.along("w", (4, 8, 16), seed=1)
    space = {"w": CategoricalDistribution((4, 8, 16)), "x": FloatDistribution(0.0, 1.0)}
    study = optuna.create_study(sampler=sampler(SamplerSettings("qmc", seed=3), space=space, front=front))
    study.enqueue_trial({"w": 16})
    for number in range(24):
        trial = study.ask()
        trial.suggest_categorical("w", (4, 8, 16))
        trial.suggest_float("x", 0.0, 1.0)
        assert number == 0 or trial.params["w"] == choice_for(front, number)["w"]
        study.tell(trial, 0.5)
    assert len({trial.params["x"] for trial in study.trials}) == 24
    for width in (4, 8, 16):
        own = [t.params["x"] for t in study.trials[3:] if t.params["w"] == width]
        assert len({int(x * 8) for x in own}) >= 7


# Generations


def test_cmaes_comes_to_the_same_distribution_in_every_worker_and_finds_the_minimum() -> None:
    def study() -> optuna.Study:
        made = optuna.create_study(direction="minimize", sampler=sampler(SamplerSettings("cmaes", seed=2)))
        for _ in range(60):
            if made.trials:
                made.sampler = sampler(SamplerSettings("cmaes", seed=2))  # another worker
            trial = made.ask()
            x, y = trial.suggest_float("x", -4.0, 4.0), trial.suggest_float("y", 1e-4, 1.0, log=True)
            trial.suggest_categorical("c", ["a", "b"])
            if trial.number % 10 == 3:
                made.tell(trial, state=TrialState.FAIL)
            else:
                made.tell(trial, (x - 1.0) ** 2 + (y - 0.01) ** 2)
        return made

    one = study()
    assert [t.params for t in one.trials] == [t.params for t in study().trials]
    assert one.best_value < 0.05
    assert min(t.value for t in one.trials[:6] if t.value is not None) >= one.best_value
    states = [t.system_attrs[cmaes.STATE] for t in one.trials if cmaes.STATE in t.system_attrs]
    assert {state["generation"] for state in states} == set(range(1, max(s["generation"] for s in states) + 1))
    size = cmaes.population(2)
    assert all(sorted(state) == ["generation", "parents"] and len(state["parents"]) == size for state in states)
    assert all(type(number) is int for state in states for number in state["parents"])


def test_what_a_database_holds_is_never_unpickled_by_cmaes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    study = optuna.create_study(sampler=sampler(SamplerSettings("cmaes", seed=2)))
    study._storage.set_study_system_attr(study._study_id, "cma:optimizer:0", "80")
    monkeypatch.setattr(pickle, "loads", refuse)
    for _ in range(14):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0.0, 1.0) + trial.suggest_float("y", 0.0, 1.0))


def test_late_results_do_not_change_a_generation_that_is_over() -> None:
    study = optuna.create_study(sampler=sampler(SamplerSettings("cmaes", seed=2)))

    def ask() -> optuna.Trial:
        trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        trial.suggest_float("y", 0.0, 1.0)
        return trial

    flying = [ask() for _ in range(8)]
    for trial in flying[2:]:
        study.tell(trial, trial.params["x"])
    first = ask().number
    study.tell(flying[0], -1.0)  # the best of all, too late
    second = ask().number
    states = [study.trials[number].system_attrs[cmaes.STATE] for number in (first, second)]
    assert states[0] == states[1]
    assert sorted(states[0]["parents"]) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("front", [False, True], ids=["without a front", "along a front"])
def test_nsga2_crosses_the_best_of_what_it_sees_and_keeps_nothing_in_the_study(front: bool) -> None:
    widths = FrontChoice.along("w", (4, 8), seed=1) if front else None
    settings = SamplerSettings("nsga2", seed=2, startup=0, options={"population_size": 6})
    study = optuna.create_study(direction="maximize", sampler=sampler(settings, front=widths))
    for _ in range(60):
        trial = study.ask()
        value = float(trial.suggest_categorical("w", (4, 8)))
        value -= sum((trial.suggest_float(name, 0.0, 1.0) - 0.3) ** 2 for name in "abc")
        study.tell(trial, value)
    loss = [sum((t.params[name] - 0.3) ** 2 for name in "abc") for t in study.trials]
    assert sum(loss[-20:]) < 0.5 * sum(loss[:10]) * 2
    assert not [key for key in study._storage.get_study_system_attrs(study._study_id) if "parent" in key]


def test_gp_proposes_the_same_after_the_same_history_and_keeps_away_from_what_runs() -> None:
    def asked() -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=sampler(SamplerSettings("gp", seed=4, startup=4)))
        for number in range(7):
            trial = study.ask()
            x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_int("y", 1, 9)
            if number < 5:
                study.tell(trial, (x - 0.3) ** 2 + y / 100)
        return [trial.params for trial in study.trials]

    once = asked()
    assert asked() == once
    assert once[5] != once[6], "two that run side by side"


def test_gp_counts_complete_trials_of_a_choice_before_it_looks_at_them_alone() -> None:
    settings = {name: SamplerSettings(name, seed=1, startup=4) for name in ("gp", "tpe", "cmaes")}
    assert [settings[name].own_after for name in ("gp", "tpe", "cmaes")] == [10, 10, None]
    assert SamplerSettings("nsga2", seed=1, options={"population_size": 30}).own_after == 30


# Refusals


@pytest.mark.parametrize(
    ("name", "space", "changes", "message"),
    [
        ('"grid"', SPACE, [], r"space\.optim\.lr has every value from 0\.0001 to 0\.1; give it choices or a step"),
        ('"grid"', GRID, ["budget.trials=7"], r"grid has 6 cells for a budget of 7 trials; set budget\.trials = 6"),
        ('"grid"', '"seed" = { low = 1, high = 200000 }\n', [], "more than 100000 cells"),
        ('"cmaes"', '"optim.lr" = { low = 1e-4, high = 1e-1 }\n', [], "1 number in the space, and it needs"),
        ('"cmaes"\noptions = { population_size = 3 }', SPACE, [], "population_size = 3.*greater than or equal to 4"),
        ('"nsga2"\nstartup = 4', SPACE, [], "sampler.startup = 4.*unknown key"),
    ],
)  # fmt: skip
def test_what_a_sampler_cannot_do_is_refused_in_one_line(
    tmp_path: Any, small_study: Callable[..., str], name: str, space: str, changes: list[str], message: str
) -> None:
    path = tmp_path / "refused.toml"
    path.write_text(text(small_study(), space, name))
    with pytest.raises(UserError, match=message) as mistake:
        load(path, changes)
    assert len(str(mistake.value).splitlines()) == 1


def test_a_sampler_that_needs_the_space_says_so() -> None:
    with pytest.raises(ValueError, match="'qmc' needs to know the space"):
        sampler(SamplerSettings("qmc", seed=1))
