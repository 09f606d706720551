"""What samplers draw, and what they see of a study."""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from search.samplers import SAMPLERS, FrontChoice, SamplerSettings, choice_for, choice_of, sampler
from search.samplers.per_trial import PerTrial
from search.samplers.storage_view import (
    everything,
    paused,
    quantiles_within,
    same_choice,
    storage_through,
    study_through,
)

WIDTH = "student.width"
WIDTHS = (8, 12, 16, 24)
FRONT = FrontChoice.along(WIDTH, WIDTHS, seed=3)
TPE = SamplerSettings("tpe", seed=7)
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest) -> Iterator[BaseStorage]:
    """An empty storage of each kind."""
    if request.param == "memory":
        yield InMemoryStorage()
        return
    database = RDBStorage(request.getfixturevalue("sqlite_url"))
    yield database
    database.engine.dispose()


def study_of(
    storage: BaseStorage | None = None,
    *,
    inner: BaseSampler | None = None,
    direction: Literal["minimize", "maximize"] = "maximize",
) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=storage, sampler=inner, direction=direction, load_if_exists=True)


def draw(trial: Trial) -> dict[str, Any]:
    """The front's parameter first, then one parameter for all methods and one that only kl has."""
    params: dict[str, Any] = {WIDTH: trial.suggest_categorical(WIDTH, WIDTHS)}
    params["optim.lr"] = trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True)
    params["method"] = trial.suggest_categorical("method", ["kl", "cwd"])
    name = f"losses.{params['method']}.weight"
    params[name] = trial.suggest_float(name, 0.1, 20.0, log=True)
    return params


def score(params: dict[str, Any]) -> float:
    """Wider is better by itself; the best rate is 1e-3."""
    return float(0.8 + 0.005 * params[WIDTH] - 0.1 * (math.log10(params["optim.lr"]) + 3) ** 2)


def grow(study: optuna.Study, trials: int) -> None:
    """Every fifth trial fails, every fifth is pruned with a curve, every tenth is pruned before it starts."""
    for _ in range(trials):
        trial = study.ask()
        value = score(draw(trial))
        if trial.number % 5 == 1:
            study.tell(trial, state=FAIL)
        elif trial.number % 5 == 2:
            trial.report(value - 0.1, 4)
            study.tell(trial, state=PRUNED)
        elif trial.number % 10 == 3:
            study.tell(trial, state=PRUNED)
        else:
            study.tell(trial, value)


class Onlooker(RandomSampler):
    """A random sampler that notes what it is shown."""

    shown: dict[int, list[FrozenTrial]]
    told: list[tuple[str, int]]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        self.shown[trial.number] = study.get_trials(deepcopy=False)
        return super().infer_relative_search_space(study, trial)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.told.append(("before", trial.number))

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.told.append((state.name, trial.number))


def onlooker() -> tuple[Callable[[int], BaseSampler], dict[int, list[FrozenTrial]], list[tuple[str, int]]]:
    shown: dict[int, list[FrozenTrial]] = {}
    told: list[tuple[str, int]] = []

    def build(seed: int) -> Onlooker:
        made = Onlooker(seed)
        made.shown, made.told = shown, told
        return made

    return build, shown, told


# The front


def test_every_block_has_every_choice_once_in_orders_that_differ() -> None:
    blocks = [tuple(choice_for(FRONT, 4 * b + i)[WIDTH] for i in range(4)) for b in range(50)]
    assert all(sorted(block) == sorted(WIDTHS) for block in blocks)
    assert len(set(blocks)) > 15
    first = Counter(block[0] for block in blocks)
    assert all(5 <= first[width] <= 25 for width in WIDTHS)


def test_another_seed_deals_otherwise() -> None:
    other = FrontChoice.along(WIDTH, WIDTHS, seed=4)
    assert [choice_for(FRONT, n)[WIDTH] for n in range(40)] != [choice_for(other, n)[WIDTH] for n in range(40)]


def test_a_front_without_choices_is_refused() -> None:
    with pytest.raises(ValueError, match=r"front\.along: has no choices"):
        FrontChoice.along(WIDTH, (), seed=1)


@pytest.mark.parametrize("name", sorted({*SAMPLERS} - {"gp"}))
def test_failures_and_prunes_do_not_disturb_the_even_deal(name: str, storage: BaseStorage) -> None:
    study = study_of(storage, inner=sampler(SamplerSettings(name, seed=1), front=FRONT))
    grow(study, 40)
    assert Counter(t.params[WIDTH] for t in study.trials) == dict.fromkeys(WIDTHS, 10)
    assert [t.params[WIDTH] for t in study.trials] == [choice_for(FRONT, n)[WIDTH] for n in range(40)]


def test_an_enqueued_trial_keeps_its_choice_and_is_guided_by_trials_of_that_choice() -> None:
    build, shown, _ = onlooker()
    study = study_of(inner=PerTrial(build, seed=1, front=FRONT, own_after=1))
    grow(study, 12)
    named = next(width for width in WIDTHS if width != choice_for(FRONT, 12)[WIDTH])
    study.enqueue_trial({WIDTH: named})
    trial = study.ask()
    assert draw(trial)[WIDTH] == named
    assert choice_of(FRONT, study.trials[12])[WIDTH] == named
    assert {t.params[WIDTH] for t in shown[12]} == {named}


def test_an_enqueued_choice_counts_before_it_is_a_parameter() -> None:
    build, shown, _ = onlooker()
    study = study_of(inner=PerTrial(build, seed=1, front=FRONT, own_after=1))
    grow(study, 12)
    named = next(width for width in WIDTHS if width != choice_for(FRONT, 12)[WIDTH])
    study.enqueue_trial({WIDTH: named})
    trial = study.ask()
    trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True)
    assert WIDTH not in study.trials[12].params
    assert {t.params[WIDTH] for t in shown[12]} == {named}


def test_second_blocks_show_the_own_choice_once_enough_are_finished_and_others_show_quantiles() -> None:
    build, shown, _ = onlooker()
    study = study_of(inner=PerTrial(build, seed=1, front=FRONT, own_after=3))
    grow(study, 40)
    for number, trials in shown.items():
        own = choice_for(FRONT, number)[WIDTH]
        finished = [t for t in study.trials[:number] if t.params[WIDTH] == own and t.state != FAIL]
        if number // 4 % 2 == 1 and len(finished) >= 3:
            assert {t.params[WIDTH] for t in trials} == {own}
            assert all(t.value == study.trials[t.number].value for t in trials)
        else:
            assert [t.number for t in trials] == list(range(number + 1))
            assert all(0 < t.values[0] < 1 for t in trials if t.state == COMPLETE)
    assert sum(len({t.params.get(WIDTH) for t in trials}) == 1 for trials in shown.values()) > 8


# What a view leaves alone


@pytest.mark.parametrize("change", [quantiles_within(WIDTH), same_choice({WIDTH: 8})], ids=["quantiles", "same choice"])
def test_a_view_leaves_nothing_behind_in_the_study(change: Any, storage: BaseStorage) -> None:
    study = study_of(storage, inner=sampler(TPE, front=FRONT))
    grow(study, 20)
    before = study.get_trials()
    cached = study._get_trials(deepcopy=False, use_cache=True)
    seen = study_through(study, change)
    assert seen._get_trials(use_cache=True) != before
    assert study._get_trials(deepcopy=False, use_cache=True) is cached
    assert study.get_trials() == before
    trial = study.ask()
    draw(trial)
    assert study._get_trials(use_cache=True)[:20] == before


def test_states_select_after_the_change_and_copies_are_copies() -> None:
    study = study_of(inner=sampler(TPE, front=FRONT))
    grow(study, 20)
    seen = study_through(study, quantiles_within(WIDTH))
    pruned = seen.get_trials(states=(PRUNED,))
    assert [t.number for t in pruned] == [t.number for t in study.trials if t.state == PRUNED]
    pruned[0].params[WIDTH] = 99
    assert all(t.params[WIDTH] != 99 for t in study.trials)


def test_one_suggestion_looks_at_the_database_once() -> None:
    looks: list[int] = []

    def look(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        looks.append(len(trials))
        return trials

    study = study_of(storage_through(InMemoryStorage(), look), inner=sampler(TPE, front=FRONT))
    grow(study, 40)
    trial = study.ask()
    looks.clear()
    draw(trial)
    assert looks == [41]


def test_paused_trials_look_pruned_to_samplers_and_stay_running(storage: BaseStorage) -> None:
    """The next parameters are those of a study in which the paused trials were told PRUNED."""
    drawn, held = [], set[int]()
    for kind in ("told", "paused"):
        place = storage if kind == "paused" else InMemoryStorage()
        place = optuna.storages.get_storage(place)
        study = study_of(storage_through(place, paused(held)), inner=sampler(TPE, front=FRONT))
        for _ in range(40):
            trial = study.ask()
            value = score(draw(trial))
            trial.report(value, 1)
            if trial.number % 2:
                study.tell(trial, value)
            elif kind == "told":
                study.tell(trial, state=PRUNED)
            else:
                held.add(trial._trial_id)
        drawn.append([t.params for t in study.trials])
    assert drawn[0] == drawn[1]
    assert Counter(t.state for t in study.trials) == {COMPLETE: 20, PRUNED: 20}
    assert sum(t.state == TrialState.RUNNING for t in place.get_all_trials(study._study_id)) == 20
    promoted = min(held)
    held.discard(promoted)
    study.tell(Trial(study, promoted), 0.99)
    assert study.best_value == 0.99


# What samplers draw


def test_sixteen_workers_with_one_seed_never_draw_the_same(storage: BaseStorage) -> None:
    def duplicates(place: BaseStorage, make: Callable[[], BaseSampler]) -> int:
        workers = [study_of(place, inner=make()) for _ in range(16)]
        drawn: list[tuple[float, ...]] = []
        flying: list[tuple[optuna.Study, Trial, float]] = []
        for n in range(200):
            worker = workers[n % 16]
            trial = worker.ask()
            point = tuple(trial.suggest_float(name, 0.0, 1.0) for name in "ab")
            drawn.append(point)
            flying.append((worker, trial, sum(point)))
            if len(flying) == 16:
                owner, oldest, value = flying.pop(0)
                owner.tell(oldest, value)
        return len(drawn) - len(set(drawn))

    assert duplicates(storage, lambda: sampler(TPE)) == 0
    assert duplicates(InMemoryStorage(), lambda: TPESampler(seed=7)) > 0


@pytest.mark.parametrize("name", sorted({*SAMPLERS} - {"gp"}))
@pytest.mark.parametrize("front", [None, FRONT], ids=["no front", "front"])
def test_the_same_number_and_history_draw_the_same(name: str, front: FrontChoice | None, storage: BaseStorage) -> None:
    settings = SamplerSettings(name, seed=5)
    drawn = []
    for place in (storage, InMemoryStorage()):
        study = study_of(place, inner=sampler(settings, study_purpose=("no-kd",), front=front))
        grow(study, 30)
        study.sampler = sampler(settings, study_purpose=("no-kd",), front=front)  # a restarted worker
        study.sampler.reseed_rng()
        grow(study, 10)
        drawn.append([t.params for t in study.trials])
    assert drawn[0] == drawn[1]


def test_draws_do_not_depend_on_the_process(command: Any) -> None:
    """Python orders sets of words differently in each process."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); sys.dont_write_bytecode = True; import optuna\n"
        "from search.samplers import *\n"
        "optuna.logging.set_verbosity(optuna.logging.ERROR)\n"
        "study = optuna.create_study(sampler=sampler(SamplerSettings('tpe', 1, startup=5)))\n"
        "for n in range(15):\n"
        "    trial = study.ask(); kind = trial.suggest_categorical('kind', ['one', 'two'])\n"
        "    value = sum(trial.suggest_float(f'{kind}-{i}', 0, 1) for i in range(4)); study.tell(trial, value)\n"
        "print(json.dumps([t.params for t in study.trials]))\n"
    )
    answers = []
    for hash_seed in ("1", "2"):
        done = command("env", f"PYTHONHASHSEED={hash_seed}", sys.executable, "-c", code, ".")
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("change", [{"seed": 6}, {"words": ("kl",)}], ids=["seed", "arm"])
def test_another_seed_or_arm_draws_otherwise(change: dict[str, Any]) -> None:
    drawn = []
    for seed, words in ((5, ("no-kd",)), (change.get("seed", 5), change.get("words", ("no-kd",)))):
        study = study_of(inner=sampler(SamplerSettings("random", seed), study_purpose=words))
        grow(study, 20)
        drawn.append({t.params["optim.lr"] for t in study.trials})
    assert not drawn[0] & drawn[1]


def test_trials_asked_for_together_may_be_drawn_in_any_order() -> None:
    drawn = []
    for order in (range(8), reversed(range(8))):
        wrapper = sampler(SamplerSettings("random", 5), front=FRONT)
        study = study_of(inner=wrapper)
        trials = [study.ask() for _ in range(8)]
        for number in order:
            draw(trials[number])
        drawn.append([t.params for t in study.trials])
    assert drawn[0] == drawn[1]


def test_nothing_of_a_trial_is_kept_once_it_is_drawn() -> None:
    wrapper = sampler(TPE, front=FRONT)
    study = study_of(inner=wrapper)
    grow(study, 30)
    assert isinstance(wrapper, PerTrial)
    assert wrapper._begun == {}


def test_uniform_draws_are_uniform_over_trials_and_names() -> None:
    study = study_of(inner=sampler(SamplerSettings("random", 2)))
    points = []
    for _ in range(400):
        trial = study.ask()
        points.append([trial.suggest_float(name, 0.0, 1.0) for name in "ab"])
        study.tell(trial, 0.0)
    table = np.array(points)
    assert np.abs(np.histogram(table[:, 0], bins=4, range=(0, 1))[0] - 100).max() < 35
    assert abs(np.corrcoef(table.T)[0, 1]) < 0.15


def test_after_startup_conditional_parameters_are_drawn_jointly_and_the_draw_is_shared(storage: BaseStorage) -> None:
    """What runs is avoided by other workers only when its draw is stored with it, without the dealt parameter."""
    study = study_of(storage, inner=sampler(TPE, front=FRONT))
    grow(study, 40)
    trial = study.ask()
    params = draw(trial)
    stored = study.trials[-1].system_attrs
    shared = json.loads("".join(stored[key] for key in sorted(stored) if key.startswith("tpe:relative_params")))
    assert set(shared) == {"optim.lr", "method", "losses.kl.weight", "losses.cwd.weight"}
    assert {name: value for name, value in params.items() if name != WIDTH}.items() <= shared.items()


def test_minimising_the_negative_score_draws_what_maximising_the_score_does() -> None:
    """Quantiles rise with the value in both, and TPE goes where they are good."""
    drawn = []
    directions: tuple[tuple[Literal["minimize", "maximize"], int], ...] = (("maximize", 1), ("minimize", -1))
    for direction, sign in directions:
        study = study_of(inner=sampler(TPE, front=FRONT), direction=direction)
        for _ in range(80):
            trial = study.ask()
            study.tell(trial, sign * score(draw(trial)))
        drawn.append([t.params for t in study.trials])
    assert drawn[0] == drawn[1]
    away = [abs(math.log10(params["optim.lr"]) + 3) for params in drawn[0]]
    by_quantiles = [away[n] for n in range(40, 80) if n // 4 % 2 == 0]
    assert np.mean(by_quantiles) < 0.25  # uniform draws: 0.5


def test_two_objectives_with_trials_pruned_before_they_start() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler(TPE, front=FRONT))
    for _ in range(40):
        trial = study.ask()
        params = draw(trial)
        if trial.number % 3:
            study.tell(trial, [score(params), params[WIDTH]])
        else:
            study.tell(trial, state=PRUNED)
    assert Counter(t.params[WIDTH] for t in study.trials) == dict.fromkeys(WIDTHS, 10)


def test_trials_without_the_fronts_parameter_do_no_harm() -> None:
    study = study_of(inner=sampler(TPE, front=FRONT))
    for value in (0.1, 0.2):
        study.add_trial(create_trial(value=value))
    study.add_trial(create_trial(state=PRUNED, intermediate_values={3: 0.1}))
    grow(study, 40)
    assert len(study.trials) == 43


def test_the_inner_sampler_hears_of_every_trial() -> None:
    build, _, told = onlooker()
    study = study_of(inner=PerTrial(build, seed=1))
    grow(study, 3)
    assert told == [("before", 0), ("COMPLETE", 0), ("before", 1), ("FAIL", 1), ("before", 2), ("PRUNED", 2)]


def test_without_a_front_the_inner_sampler_sees_the_study_as_it_is() -> None:
    build, shown, _ = onlooker()
    study = study_of(inner=PerTrial(build, seed=1))
    grow(study, 10)
    assert shown[9][:9] == study.trials[:9]
    assert [t.number for t in study_through(study, everything).trials] == list(range(10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "tpee"}, "sampler.name: unknown 'tpee'; known: .*, random, tpe; nearest: tpe"),
        ({"name": "tpe", "startup": -1}, "sampler.startup: -1 is not at least 0"),
        ({"name": "tpe", "options": {"n_ei": 3}}, "unknown 'n_ei'; known: n_ei_candidates"),
        ({"name": "tpe", "options": {"n_ei_candidates": 0}}, "sampler.n_ei_candidates: 0 is not at least 1"),
        ({"name": "random", "options": {"group": True}}, "unknown 'group'; known: no options"),
    ],
)
def test_a_wrong_setting_is_named_before_any_trial(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerSettings(**{"seed": 1, **settings})
