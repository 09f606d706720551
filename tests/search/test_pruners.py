"""When pruners end a trial, and against which trials they hold it."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from search.pruners import PRUNERS, PrunerSettings, pruner, should_prune
from search.samplers import FrontChoice, SamplerSettings, choice_for, sampler
from search.samplers.storage_view import paused, storage_through

WIDTH = "student.width"
WIDTHS = (8, 12, 16, 24)
FRONT = FrontChoice.along(WIDTH, WIDTHS, seed=3)
EPOCHS = 27


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
    storage: BaseStorage | None = None, direction: Literal["minimize", "maximize"] = "maximize"
) -> optuna.Study:
    return optuna.create_study(
        study_name="s",
        storage=storage,
        sampler=sampler(SamplerSettings("random", 1)),
        pruner=optuna.pruners.NopPruner(),
        direction=direction,
    )


def begin(study: optuna.Study, width: int | None = None) -> Trial:
    trial = study.ask()
    if width is not None:
        index = float(WIDTHS.index(width))
        study._storage.set_trial_param(trial._trial_id, WIDTH, index, CategoricalDistribution(WIDTHS))
    return trial


def stored(study: optuna.Study, trial: Trial) -> FrozenTrial:
    return study._storage.get_trial(trial._trial_id)


def train(study: optuna.Study, settings: PrunerSettings, level: float, *, width: int | None = 8) -> int:
    """Report `level` each epoch until the verdict or the last epoch; the epoch at which the trial ended."""
    judge = pruner(settings)
    trial = begin(study, width)
    for epoch in range(1, EPOCHS):
        trial.report(level, epoch)
        if should_prune(judge, study, stored(study, trial), front=FRONT):
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    trial.report(level, EPOCHS)
    study.tell(trial, level)
    return EPOCHS


# Each pruner by itself


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_median_first_judges_the_epoch_after_the_warmup(warmup: int, storage: BaseStorage) -> None:
    settings = PrunerSettings("median", EPOCHS, startup=2, warmup_epochs=warmup)
    study = study_of(storage)
    assert [train(study, settings, level) for level in (0.8, 0.9)] == [EPOCHS, EPOCHS]
    assert train(study, settings, 0.5) == warmup + 1
    assert train(study, settings, 0.86) == EPOCHS


def test_median_waits_for_completed_trials_of_the_same_choice() -> None:
    settings = PrunerSettings("median", EPOCHS, startup=2)
    study = study_of()
    for level in (0.9, 0.9, 0.9):
        train(study, settings, level, width=24)
    assert train(study, settings, 0.5, width=8) == EPOCHS
    failed = begin(study, 8)
    study.tell(failed, state=TrialState.FAIL)
    assert train(study, settings, 0.5, width=8) == EPOCHS
    assert train(study, settings, 0.4, width=8) == 1
    assert train(study, settings, 0.8, width=24) == 1


def test_median_prunes_what_is_larger_when_the_study_minimises() -> None:
    settings = PrunerSettings("median", EPOCHS, startup=2)
    study = study_of(direction="minimize")
    for level in (0.1, 0.2):
        train(study, settings, level, width=8)
    assert train(study, settings, 0.5, width=8) == 1
    assert train(study, settings, 0.05, width=8) == EPOCHS


@pytest.mark.parametrize(("least", "warmup", "rung"), [(1, 0, 1), (3, 0, 3), (1, 4, 5), (6, 4, 6)])
def test_halving_judges_at_rungs_only_and_never_within_the_warmup(
    least: int, warmup: int, rung: int, storage: BaseStorage
) -> None:
    settings = PrunerSettings("halving", EPOCHS, min_epochs=least, warmup_epochs=warmup)
    study = study_of(storage)
    for _ in range(3):
        assert train(study, settings, 0.9) == EPOCHS
    assert train(study, settings, 0.5) == rung
    reached = {key for key in study.trials[0].system_attrs if key.startswith("completed_rung_")}
    within = [rung * 3**k for k in range(5) if rung * 3**k < EPOCHS]
    assert len(reached) == len(within)


def test_hyperband_ends_trials_at_the_rungs_of_its_brackets_and_lets_the_best_finish(storage: BaseStorage) -> None:
    settings = PrunerSettings("hyperband", EPOCHS, min_epochs=3)
    study = study_of(storage)
    rng = np.random.default_rng(1)
    ends = Counter(train(study, settings, level) for level in rng.uniform(0.5, 0.9, 40))
    assert set(ends) == {3, 9, EPOCHS}
    finished = [t.value for t in study.trials if t.state == TrialState.COMPLETE]
    assert 4 <= len(finished) <= 25
    assert study.best_value == max(t.intermediate_values[1] for t in study.trials)


@pytest.mark.parametrize(
    ("epochs", "first", "reduction", "brackets"),
    [(243, 1, 3, 6), (486, 2, 3, 6), (1000, 1, 10, 4), (1, 1, 2, 1), (2, 1, 2, 2), (3, 1, 2, 2), (242, 1, 3, 5)],
)
def test_hyperband_has_a_bracket_for_each_rung(epochs: int, first: int, reduction: int, brackets: int) -> None:
    """Optuna's logarithm of 243 to the base 3 is 4.999...: the most patient bracket would be lost."""
    settings = PrunerSettings("hyperband", epochs, min_epochs=first, reduction=reduction)
    judge = pruner(settings)
    trial = begin(study := study_of())
    trial.report(0.5, 1)
    should_prune(judge, study, stored(study, trial))
    assert isinstance(judge, optuna.pruners.HyperbandPruner)
    assert (settings.brackets(), len(judge._pruners)) == (brackets, brackets)


@given(first=st.integers(1, 50), reduction=st.integers(2, 20), power=st.integers(0, 8), more=st.integers(-1, 1))
def test_hyperband_s_brackets_are_exact_around_every_power(first: int, reduction: int, power: int, more: int) -> None:
    epochs = max(first * reduction**power + more, first)
    settings = PrunerSettings("hyperband", epochs, min_epochs=first, reduction=reduction)
    judge = pruner(settings)
    judge._try_initialization(study_of())
    count = len(judge._pruners)
    assert first * reduction ** (count - 1) <= epochs < first * reduction**count


def test_none_prunes_nothing() -> None:
    study = study_of()
    assert [train(study, PrunerSettings("none", EPOCHS), level) for level in (0.9, 0.1, 0.05)] == [EPOCHS] * 3


# The median of nothing but NaN makes numpy warn within Optuna.
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_a_trial_without_a_report_is_not_judged_and_one_without_numbers_ends(name: str) -> None:
    settings = PrunerSettings(name, EPOCHS, startup=1)
    study = study_of()
    train(study, settings, 0.8, width=8)
    trial = begin(study, 8)
    assert not should_prune(pruner(settings), study, stored(study, trial), front=FRONT)
    trial.report(math.nan, 9)
    assert should_prune(pruner(settings), study, stored(study, trial), front=FRONT) == (
        name not in ("none", "promote", "curves")
    )


def test_a_new_process_goes_on_with_the_rungs_that_are_stored(storage: BaseStorage) -> None:
    settings = PrunerSettings("halving", EPOCHS)
    study = study_of(storage)
    trial = begin(study, 8)
    for epoch in (1, 2, 3, 4):
        trial.report(0.9, epoch)
        assert not should_prune(pruner(settings), study, stored(study, trial), front=FRONT)
    rungs = {key: value for key, value in study.trials[0].system_attrs.items() if key.startswith("completed_rung_")}
    assert rungs == {"completed_rung_0": 0.9, "completed_rung_1": 0.9}


def test_paused_trials_still_compete_at_their_rungs() -> None:
    held = set[int]()
    study = study_of(storage_through(InMemoryStorage(), paused(held)))
    settings = PrunerSettings("halving", EPOCHS, min_epochs=3)
    for level in (0.9, 0.8, 0.7):
        trial = begin(study, 8)
        trial.report(level, 3)
        should_prune(pruner(settings), study, stored(study, trial), front=FRONT)
        held.add(trial._trial_id)
    assert train(study, settings, 0.85, width=8) == 3
    assert train(study, settings, 0.95, width=8) == EPOCHS


# Within the own choice


def survivors(settings: PrunerSettings, front: FrontChoice | None, seed: int) -> tuple[list[int], float]:
    """Trials finished at each width and the share of all epochs spent: 120 trials, 16 side by side.

    A trial's final level is 0.86 at width 8, up to 0.915 at width 24, less up to 0.05 for its other parameters; its
    curve rises towards that level.
    """
    base = dict(zip(WIDTHS, (0.86, 0.88, 0.90, 0.915), strict=True))
    rng = np.random.default_rng(seed)
    study, judge = study_of(), pruner(settings)
    live: list[tuple[Trial, int, float, Iterator[int]]] = []
    finished: Counter[int] = Counter()
    started = spent = 0
    while started < 120 or live:
        while len(live) < 16 and started < 120:
            width = int(choice_for(FRONT, started)[WIDTH])
            level = base[width] - 0.05 * rng.random() ** 2
            live.append((begin(study, width), width, level, iter(range(1, EPOCHS + 1))))
            started += 1
        for entry in list(live):
            trial, width, level, epochs = entry
            epoch, spent = next(epochs), spent + 1
            trial.report(level - 0.25 * math.exp(-4 * epoch / EPOCHS) + rng.normal(0, 0.004), epoch)
            if epoch == EPOCHS:
                study.tell(trial, level)
                finished[width] += 1
                live.remove(entry)
            elif should_prune(judge, study, stored(study, trial), front=front):
                study.tell(trial, state=TrialState.PRUNED)
                live.remove(entry)
    return [finished[width] for width in WIDTHS], spent / (120 * EPOCHS)


@pytest.mark.parametrize("name", ["median", "hyperband", "halving"])
def test_every_width_finishes_trials_when_judged_within_and_the_widest_crowds_out_the_others_when_not(
    name: str,
) -> None:
    settings = PrunerSettings(name, EPOCHS, startup=3, warmup_epochs=2)
    within = [survivors(settings, FRONT, seed) for seed in range(3)]
    across = [survivors(settings, None, seed) for seed in range(3)]
    own = np.sum([counts for counts, _ in within], axis=0)
    every = np.sum([counts for counts, _ in across], axis=0)
    assert all(min(counts) > 0 for counts, _ in within)
    assert own[3] < 1.5 * own[0]
    assert every[3] > 1.5 * every[0]
    assert all(spent < 0.8 for _, spent in within)


def test_a_trial_without_the_fronts_parameter_is_judged_among_those_of_the_choice_dealt_to_it() -> None:
    settings = PrunerSettings("median", EPOCHS, startup=1)
    study = study_of()
    dealt = int(choice_for(FRONT, 1)[WIDTH])
    train(study, settings, 0.9, width=next(width for width in WIDTHS if width != dealt))
    assert train(study, settings, 0.5, width=None) == EPOCHS
    study = study_of()
    train(study, settings, 0.9, width=dealt)
    assert train(study, settings, 0.5, width=None) == 1


def test_a_verdict_changes_nothing_but_the_trials_rungs(storage: BaseStorage) -> None:
    settings = PrunerSettings("hyperband", EPOCHS)
    study = study_of(storage)
    for width in WIDTHS:
        train(study, settings, 0.9, width=width)
    trial = begin(study, 8)
    trial.report(0.1, 1)
    before = study.get_trials()
    should_prune(pruner(settings), study, stored(study, trial), front=FRONT)
    after = study.get_trials()
    assert after[:4] == before[:4]
    assert after[4].state == TrialState.RUNNING
    assert isinstance(study.pruner, optuna.pruners.NopPruner)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "medain"}, "pruner.name: unknown 'medain'; known: .*; nearest: median"),
        ({"name": "median", "startup": -1}, "pruner.startup: -1 is not at least 0"),
        ({"name": "median", "warmup_epochs": -1}, "pruner.warmup_epochs: -1 is not at least 0"),
        ({"name": "halving", "reduction": 1}, "pruner.reduction: 1 is not at least 2"),
        ({"name": "hyperband", "min_epochs": 0}, "pruner.min_epochs: 0 is not at least 1"),
        ({"name": "hyperband", "min_epochs": 28}, "pruner.min_epochs: 28 leaves no rung within 27 epochs"),
        ({"name": "halving", "warmup_epochs": 27}, "pruner.warmup_epochs: 27 leaves no rung within 27 epochs"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrunerSettings(**{"epochs": EPOCHS, **settings})
