"""What views make of stored trials, by hand."""

import math

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.samplers.storage_view import quantiles_within, same_choice

WIDTH = "student.width"
WIDTHS = (8, 12, 16, 24)
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def made(
    state: TrialState, choice: int | None, value: float | None = None, curve: dict[int, float] | None = None
) -> FrozenTrial:
    """A stored trial as a view gets it."""
    has = {} if choice is None else {WIDTH: choice}
    domains: dict[str, BaseDistribution] = {name: CategoricalDistribution(WIDTHS) for name in has}
    return create_trial(state=state, params=has, distributions=domains, value=value, intermediate_values=curve)


def test_quantiles_by_hand() -> None:
    trials = [
        made(COMPLETE, 8, 0.5),
        made(COMPLETE, 8, 0.7),
        made(COMPLETE, 8, 0.7),
        made(COMPLETE, 8, 0.9, {1: 0.2, 2: 0.9}),
        made(COMPLETE, 24, 0.95, {2: 0.1}),
        made(PRUNED, 8, curve={1: 0.1, 2: 0.4}),  # at epoch 2 of width 8: 0.4 and 0.9
        made(PRUNED, 8, curve={1: 0.3}),  # at epoch 1 of width 8: 0.1, 0.2 and 0.3
        made(PRUNED, None, curve={2: 0.4}),
        made(FAIL, 8, curve={1: 0.0, 2: 0.0}),
    ]
    seen = quantiles_within(WIDTH)(trials)
    assert [t.value for t in seen[:5]] == [1 / 8, 1 / 2, 1 / 2, 7 / 8, 1 / 2]
    assert [t.intermediate_values for t in seen[5:8]] == [{2: 1 / 4}, {1: 5 / 6}, {2: 1 / 2}]
    assert seen[8] is trials[8]
    assert [t.value for t in trials[:5]] == [0.5, 0.7, 0.7, 0.9, 0.95]
    assert trials[5].intermediate_values == {1: 0.1, 2: 0.4}


def test_what_has_no_value_to_rank_stays_as_it_is() -> None:
    running = made(TrialState.RUNNING, 8, curve={1: 0.5})
    limit = made(PRUNED, 8)
    broken = made(PRUNED, 8, curve={1: math.nan})
    sound = made(PRUNED, 8, curve={1: 0.4})
    seen = quantiles_within(WIDTH)([running, limit, broken, sound])
    assert seen[0] is running
    assert seen[1] is limit
    assert math.isnan(seen[2].intermediate_values[1])
    assert seen[3].intermediate_values == {1: 1 / 4}


def test_several_objectives_are_ranked_one_by_one() -> None:
    trials = [create_trial(values=[a, b]) for a, b in ((0.1, 30.0), (0.2, 10.0))]
    assert [t.values for t in quantiles_within(WIDTH)(trials)] == [[1 / 4, 3 / 4], [3 / 4, 1 / 4]]


def test_the_same_choice_is_what_was_drawn_not_what_might_be() -> None:
    trials = [made(COMPLETE, 8, 0.5), made(COMPLETE, 12, 0.5), made(TrialState.RUNNING, 8), made(FAIL, 8)]
    trials.append(made(COMPLETE, None, 0.5))
    assert same_choice({WIDTH: 8})(trials) == [trials[0], trials[2], trials[3]]
