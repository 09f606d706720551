"""The rule `curves`: who goes on from a rung, what a free slot gets, and when it stays empty."""

import math
import random
import time
from collections.abc import Sequence

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.curve_rule import GFLOPS, CurveRule
from search.promotion import ArmTrials, Turn

RULE = CurveRule(epochs=20, first=5, factor=2.0, startup=3, idle_below=0.7)
FULL = CurveRule(epochs=20, first=5, factor=2.0, startup=3, idle_below=0.0)
RUNNING, COMPLETE, PRUNED, FAIL = TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def trial(
    number: int, score: float, epochs: int = 5, state: TrialState = RUNNING, width: int = 8, gflops: float | None = None
) -> FrozenTrial:
    """A trial whose score rises for so many epochs, to `score` at the end of a whole run."""
    values = {epoch: score - 0.02 * (20 - epoch) / 20 for epoch in range(1, epochs + 1)}
    made = create_trial(
        state=state,
        value=score if state == COMPLETE else None,
        params={"width": width},
        distributions={"width": CategoricalDistribution((8, 16))},
        intermediate_values=values,
        user_attrs={} if gflops is None else {GFLOPS: gflops},
    )
    made.number = made._trial_id = number
    return made


def arm(trials: Sequence[FrozenTrial], *, minimize: bool = False, coming: Sequence[int] = (), front: bool = True):
    """An arm with these trials and choices of new ones; those that RUN and are named by no test are paused."""
    choice_of = (lambda each: each.params["width"]) if front else (lambda _: ())
    return ArmTrials(trials, minimize, choice_of, coming)


def promising(*trials: FrozenTrial, rule: CurveRule = RULE, **given) -> list[int]:
    return [each.number for each in rule.promising(arm(trials, **given))]


OVER = [trial(n, 0.80 + n / 200, 20, COMPLETE) for n in range(6)]
"""Six that are over, the best with 0.825."""


def test_those_go_on_that_may_become_the_best_of_their_choice_and_no_others():
    rest = [trial(6, 0.83), trial(7, 0.70), trial(8, 0.825), trial(9, 0.65, width=16), trial(10, 0.50, width=16)]
    assert promising(*OVER, *rest) == [9, 6, 8]
    assert promising(*OVER, trial(6, 0.70), trial(7, 0.68)) == []  # one that is over is the best, surely


def test_all_but_the_least_likely_go_on_and_these_hold_the_best_with_one_chance_in_fifty_together():
    """Of a hundred that are alike none is likely, all are together: all but two or three are worth more epochs."""
    alike = [trial(number, 0.8 + number / 1e6) for number in range(100)]
    assert len(promising(*alike)) in (97, 98)
    assert promising(*alike)[0] == 99


def test_the_best_of_a_choice_goes_on_however_little_it_promises():
    assert promising(*OVER, trial(6, 0.70), trial(7, 0.3, width=16)) == [7]


def test_what_the_rest_costs_decides_between_equal_chances():
    """Of two choices: fewer epochs that are left, or a network that costs less."""
    near, far = trial(0, 0.80, 10), trial(1, 0.80, 5, width=16)
    assert promising(near, far, trial(2, 0.80, 10, width=8)) == [1, 0, 2]  # two share the chance of theirs
    assert promising(near, far) == [0, 1]
    small, large = trial(0, 0.8, gflops=1.0), trial(1, 0.8, width=16, gflops=4.0)
    assert promising(large, small) == [0, 1]


def test_no_number_is_the_worst_and_lower_is_better_where_a_study_minimizes():
    lost = trial(6, 0.9)
    lost.intermediate_values[5] = math.nan
    infinite = trial(7, 0.9)
    infinite.intermediate_values[5] = math.inf
    assert promising(*OVER, lost, infinite, trial(8, 0.83)) == [8]
    assert promising(lost) == []
    turned = [trial(n, each.values[0], 20, COMPLETE) for n, each in enumerate(OVER)]
    low, high = trial(6, 0.79), trial(7, 0.84)
    assert promising(*turned, low, high) == [7]
    for each in (*turned, low, high):  # the same scores, turned round
        each.intermediate_values = {epoch: -score for epoch, score in each.intermediate_values.items()}
        each.values = None if each.values is None else [-each.values[0]]
    assert promising(*turned, low, high, minimize=True) == [7]


def test_a_score_without_a_number_before_the_newest_rung_is_left_out():
    odd = trial(6, 0.83, 10)
    odd.intermediate_values[4] = math.nan
    assert promising(*OVER, odd) == [6]
    over = trial(6, 0.85, 20, COMPLETE)
    over.values = [math.nan]
    assert promising(*OVER, over, trial(7, 0.83)) == [7]  # it is no rival


def test_failed_and_pruned_ones_are_no_rivals_and_between_rungs_nobody_stands():
    better = [trial(6, 0.95, 10, FAIL), trial(7, 0.95, 10, PRUNED)]
    assert promising(*OVER, *better, trial(8, 0.83)) == [8]
    assert promising(trial(0, 0.8, 7)) == []
    assert promising() == []


def test_without_a_front_all_are_rivals():
    assert promising(trial(0, 0.80, 20, COMPLETE), trial(1, 0.6, width=16)) == [1]
    assert promising(trial(0, 0.80, 20, COMPLETE), trial(1, 0.6, width=16), front=False) == []


def test_runs_of_fewer_epochs_are_over_with_what_they_are_worth():
    short = [trial(n, 0.8 + n / 200, 8, COMPLETE) for n in range(4)]
    assert promising(*short, trial(4, 0.85), trial(5, 0.70)) == [4]


def test_the_same_trials_have_the_same_answer_in_any_order():
    draw = random.Random(1)
    trials = []
    for number in range(60):
        epochs = draw.choice((5, 10, 20))
        state = COMPLETE if epochs == 20 else RUNNING
        made = trial(number, 0.8 + draw.gauss(0.0, 0.02), epochs, state, draw.choice((8, 16)))
        noisy = {epoch: score + draw.gauss(0.0, 0.02) for epoch, score in made.intermediate_values.items()}
        made.intermediate_values = noisy
        trials.append(made)
    expected = promising(*trials)
    assert len(expected) > 2
    for _ in range(3):
        draw.shuffle(trials)
        assert promising(*trials, rule=CurveRule(20, 5, 2.0, 3, 0.7)) == expected


# A free slot


def turn(
    trials: Sequence[FrozenTrial],
    coming: Sequence[int] = (),
    beside: Sequence[int] = (),
    rule: CurveRule = RULE,
) -> Turn:
    """What a worker's free slot gets that holds `beside`; all others that run and stand at rungs are paused."""
    standing = {each._trial_id for each in trials if each.state == RUNNING and rule.rung_of(each) is not None}
    return rule.turn(arm(trials, coming=coming), standing - {*beside}, beside)


def named(slot: Turn) -> int | str:
    """A paused trial's number, or what else a slot gets."""
    return slot.paused[0].number if slot.paused else "new" if slot.new else "empty" if slot.empty else "nothing"


def test_so_many_of_each_choice_are_begun_first():
    two = [trial(0, 0.82), trial(1, 0.80)]
    assert named(turn(two, [8])) == "new"
    assert named(turn([*two, trial(2, 0.79)], [8])) == 0
    assert named(turn([*two, trial(2, 0.79)], [16])) == "new"  # none of its choice was begun
    assert named(turn([*two, trial(2, 0.79, 5, FAIL)], [8])) == "new"


def test_a_new_one_begins_where_nothing_paused_promises_more():
    assert named(turn([*OVER, trial(6, 0.70)], [8])) == "new"
    assert named(turn([*OVER, trial(6, 0.83)], [8])) == 6
    assert named(turn([*OVER, trial(6, 0.70)])) == "nothing"


def test_a_slot_stays_empty_beside_the_promising_and_never_where_a_worker_holds_nothing():
    trials = [*OVER, trial(6, 0.85, 15), trial(7, 0.80)]
    assert named(turn(trials, [8], beside=[6])) == "empty"
    assert named(turn(trials, [8], beside=[6], rule=FULL)) == "new"
    assert named(turn(trials, [8])) != "empty"
    assert named(turn(trials, beside=[6])) == "nothing"  # there is nothing that could be begun


def test_two_that_promise_alike_train_side_by_side():
    trials = [*OVER, trial(6, 0.83, 10), trial(7, 0.83, 10)]
    assert named(turn(trials, [8], beside=[6])) == 7


# At a rung


def goes_on(
    number: int,
    trials: Sequence[FrozenTrial],
    beside: Sequence[int] = (),
    slots: int = 1,
    rule: CurveRule = RULE,
    coming: Sequence[int] = (),
) -> bool:
    seen = arm(trials, coming=coming)
    own = next(each for each in trials if each.number == number)
    return rule.goes_on(seen, own, [*beside, number], slots)


def test_it_keeps_its_slot_unless_a_paused_or_a_new_one_is_worth_more():
    assert goes_on(6, [*OVER, trial(6, 0.83)])
    assert not goes_on(6, [*OVER, trial(6, 0.70)])
    assert not goes_on(6, [*OVER, trial(6, 0.826), trial(7, 0.84)])
    assert goes_on(7, [*OVER, trial(6, 0.826), trial(7, 0.84)])
    assert not goes_on(0, [trial(0, 0.82)], coming=[8])  # its choice has not begun enough


def test_of_those_that_come_to_a_rung_together_only_as_many_are_paused_as_better_ones_wait():
    """However many a worker holds: else all would be paused for the sake of one, and go on at once."""
    level = [0.826, 0.827, 0.828, 0.829]
    held = [trial(6 + at, score) for at, score in enumerate(level)]
    waiting = trial(10, 0.8275)
    keep = [each.number for each in held if goes_on(each.number, [*OVER, *held, waiting], [6, 7, 8, 9], 4, FULL)]
    assert keep == [7, 8, 9]
    assert all(goes_on(n, [*OVER, *held, waiting], [6, 7, 8, 9], 5, FULL) for n in (6, 7, 8, 9))


def test_it_leaves_its_slot_empty_where_it_would_slow_down_one_that_promises_far_more():
    trials = [*OVER, trial(6, 0.86, 15, width=16), trial(7, 0.822)]
    assert not goes_on(7, trials, beside=[6], slots=2)
    assert goes_on(7, [*OVER, trial(6, 0.86, 15, width=16), trial(7, 0.822)], [6], 2, FULL)
    assert goes_on(7, [*OVER, trial(7, 0.822)])  # alone


def test_a_decision_at_five_hundred_trials_takes_milliseconds():
    draw = random.Random(2)
    rule = CurveRule(50, 5, 1.5, 5, 0.7)
    trials = []
    for number in range(500):
        epochs = draw.choice((5, 8, 11, 50))
        state = COMPLETE if epochs == 50 else RUNNING
        trials.append(trial(number, 0.8 + draw.gauss(0.0, 0.02), epochs, state, draw.choice((8, 16))))
    seen = arm(trials, coming=[8])
    spent = []
    for _ in range(4):
        began = time.process_time()
        rule.turn(seen, set(range(500)), ())
        spent.append(time.process_time() - began)
    assert min(spent) < 0.1
