"""The rule of pausing and promoting: rungs, scores at them, and who is worth more epochs."""

import math

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.promotion import ArmTrials, Promotion, scores_at
from search.spec.load import load
from search.spec.strategies import PromoteConfig
from trainer.errors import UserError

RULE = Promotion(epochs=20, first=2, reduction=3)


@pytest.mark.parametrize(("epochs", "first"), [(2, 1), (20, 7), (100, 33)])
def test_the_first_rung_is_a_third_of_a_run_unless_it_is_named(epochs, first):
    assert PromoteConfig(name="promote").first_rung(epochs) == first
    assert PromoteConfig(name="promote", min_epochs=2).first_rung(epochs) == 2


def test_a_first_rung_that_no_run_goes_beyond_is_refused(tmp_path, small_study):
    path = tmp_path / "study.toml"
    path.write_text(small_study(epochs=4, more='[pruner]\nname = "promote"\nmin_epochs = 4\n'))
    with pytest.raises(UserError, match=r"pruner.min_epochs = 4: no trial can be paused within 4 epochs"):
        load(path)


def trial(number: int, *scores: float, state: TrialState = TrialState.RUNNING, width: int = 8) -> FrozenTrial:
    values = dict(enumerate(scores, 1))
    value = 1.0 if state == TrialState.COMPLETE else None
    made = create_trial(
        state=state,
        value=value,
        params={"width": width},
        distributions={"width": CategoricalDistribution((8, 16))},
        intermediate_values=values,
    )
    made.number = made._trial_id = number
    return made


def promising(*trials: FrozenTrial, last: bool = False, minimize: bool = False) -> list[int]:
    coming = () if last else (8,)
    worth = RULE.promising(ArmTrials(trials, minimize, lambda each: each.params["width"], coming))
    return [each.number for each in worth]


@pytest.mark.parametrize(
    ("epochs", "first", "reduction", "rungs"),
    [
        (20, 2, 3, (2, 6)),
        (27, 1, 3, (1, 3, 9)),
        (50, 5, 3, (5, 15)),
        (50, 30, 3, (30,)),
        (3, 1, 2, (1,)),
        (1, 1, 2, ()),
    ],
)
def test_rungs_lie_apart_by_the_reduction_and_none_shortly_before_the_end(epochs, first, reduction, rungs):
    assert Promotion(epochs, first, reduction).rungs == rungs


def test_a_score_at_a_rung_is_the_best_up_to_it():
    curve = {1: 0.5, 2: 0.2, 3: 0.7, 4: 0.6, 5: 0.9}
    assert scores_at(curve, (1, 2, 4, 9), minimize=False) == [0.5, 0.5, 0.7]
    assert scores_at(curve, (1, 2, 4), minimize=True) == [0.5, 0.2, 0.2]
    assert scores_at({}, (1,), minimize=False) == []
    assert scores_at({5: 0.3, 10: 0.4}, (2, 6, 10, 11), minimize=False) == [0.3, 0.3, 0.4]  # validated at every fifth


def test_a_trial_without_a_number_at_a_rung_has_no_score_there_and_earlier_ones_are_passed_over():
    gone = scores_at({1: 0.5, 2: math.nan, 3: 0.4}, (1, 2, 3), minimize=False)
    assert gone == [0.5, pytest.approx(math.nan, nan_ok=True), 0.5]
    assert scores_at({1: math.nan, 2: 0.3}, (2,), minimize=True) == [0.3]


def test_only_the_first_report_at_a_rung_stands_there():
    assert RULE.rung_of(trial(0)) is None
    assert [RULE.rung_of(trial(0, *[0.5] * epochs)) for epochs in range(1, 8)] == [None, 2, None, None, None, 6, None]
    assert RULE.rung_of(trial(0, *[0.5] * 20)) is None


def test_one_in_the_reduction_of_a_choice_passes_and_higher_rungs_go_first():
    low = [trial(n, 0.1, 0.1 + n / 100) for n in range(5)]
    assert promising(*low) == [4]
    assert promising(*low, trial(5, 0.1, 0.3, width=16)) == [4]  # one of another choice takes nobody's place
    high = [trial(n, *[0.2 + n / 100] * 6) for n in range(5, 8)]
    assert promising(*low, *high) == [7]  # those below are not among the best two of eight
    better = trial(4, 0.1, 0.9)
    assert promising(*low[:4], better, *high) == [7, 4]


def test_nan_is_the_worst_and_lower_is_better_where_a_study_minimizes():
    trials = [trial(0, 2.5, math.nan), trial(1, 2.5, 3.0), trial(2, 2.5, 2.0)]
    assert promising(*trials) == [1]
    assert promising(*trials, minimize=True) == [2]


def test_failed_and_waiting_trials_are_no_rivals_and_finished_ones_are():
    rest = [trial(1, 0.1, 0.2), trial(2, 0.1, 0.3, state=TrialState.FAIL)]
    assert promising(trial(0, 0.1, 0.5), *rest) == []
    pruned = trial(3, 0.1, 0.4, state=TrialState.PRUNED)
    assert promising(trial(0, 0.1, 0.5), *rest, pruned) == [0]
    assert promising(trial(0, 0.1, 0.3), *rest, pruned) == []


def test_the_best_of_a_choice_go_on_where_nothing_new_is_admitted():
    assert promising(trial(0, 0.1, 0.2), last=True) == [0]
    assert promising(trial(0, 0.1, 0.2), trial(1, 0.1, 0.3), trial(2, 0.1, 0.1), last=True) == [1, 0]
