"""The open spread: what is expected of one more trial of a choice, and which choice a trial goes to."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.samplers import FrontChoice, choice_for, open_choice
from search.samplers.open_front import TOP, WINDOW, Tail, shares_of, tail

WIDTH = "student.width"
WIDTHS = (8, 12, 16, 24)
FRONT = FrontChoice.along(WIDTH, WIDTHS, seed=3)
COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
EXPONENTIAL = np.random.default_rng(1).exponential(size=(200_000, WINDOW + 1))
NORMAL = np.random.default_rng(2).normal(size=(200_000, WINDOW + 1))
UNIFORM = np.random.default_rng(3).uniform(size=(200_000, WINDOW + 1))


def trial(number: int, width: int | None, value: float | None, state: TrialState = COMPLETE) -> FrozenTrial:
    params: dict[str, Any] = {} if width is None else {WIDTH: width}
    made = create_trial(
        state=state,
        value=value if state == COMPLETE else None,
        params=params,
        distributions={name: CategoricalDistribution(WIDTHS) for name in params},
    )
    made.number = made._trial_id = number
    return made


def estimated(scores: Sequence[float | None]) -> float:
    seen = tail(scores)
    assert seen is not None
    return seen.gain()


# What one more trial is expected to give


@pytest.mark.parametrize(
    ("draws", "low", "high"),
    [
        pytest.param(EXPONENTIAL, 0.95, 1.05, id="exponential: without bias"),
        pytest.param(NORMAL, 1.0, 1.5, id="normal"),
        pytest.param(UNIFORM, 2.7, 3.5, id="uniform, the shortest of tails"),
    ],
)
def test_the_estimate_against_what_a_further_draw_gave(draws: Any, low: float, high: float) -> None:
    """Of exchangeable draws the next is the largest with 1 / (n + 1), by the mean excess of the tail."""
    before, following = draws[:, :-1], draws[:, -1]
    gave = np.maximum(following - before.max(1), 0.0).mean()
    assert (following > before.max(1)).mean() == pytest.approx(1 / (WINDOW + 1), abs=0.006)
    guessed = np.mean([estimated(row) for row in before[:4000].tolist()])
    assert low < guessed / gave < high


def test_after_more_draws_than_the_window_the_estimate_falls_as_the_truth_does() -> None:
    """The expected largest of 73 exponential draws less that of 72 is 1 / 73 (Rényi 1953)."""
    draws = np.random.default_rng(4).exponential(size=(4000, 72))
    guessed = np.mean([estimated(row) for row in draws.tolist()])
    assert guessed == pytest.approx(1 / 73, rel=0.05)


def test_pruned_trials_are_draws_that_were_not_better() -> None:
    scores = [0.5, 0.9, 0.1, 0.8, 0.2, 0.85, 0.3, 0.7, 0.6, 0.55]
    censored = [score if score >= 0.5 else None for score in scores]
    assert estimated(censored) == estimated(scores)
    assert estimated([*censored, None]) < estimated(censored)


def test_those_that_run_are_taken_for_draws_that_have_ended() -> None:
    seen = tail([0.5, 0.6, 0.7, 0.8])
    assert seen is not None
    assert seen.gain(5) == pytest.approx(seen.scale / 10)


def test_a_sampler_that_has_converged_is_expected_to_gain_little() -> None:
    wide = [0.5 + 0.03 * (number * 7 % WINDOW) for number in range(WINDOW)]
    close = [0.83 + score / 1000 for score in wide]
    assert estimated([*wide, *close]) < 0.01 * estimated(wide)
    assert estimated([0.7] * WINDOW) == 0.0


def test_the_newest_go_back_until_there_are_scores_enough() -> None:
    scored = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    seen = tail([*scored, *[None] * 30])
    assert seen is not None
    assert (seen.draws, len(scored)) == (36, TOP + 1)
    assert seen.scale == pytest.approx(0.3)
    assert tail([0.4, *[None] * 30]) is None
    two = tail([0.4, 0.5])
    assert two is not None
    assert two.scale == pytest.approx(0.1)


def test_a_scale_is_drawn_towards_that_of_all_choices_the_more_the_fewer_scores_give_it() -> None:
    assert Tail(4.0, TOP, 20).towards(2.0).scale == pytest.approx(3.0)
    assert Tail(4.0, 1, 20).towards(2.0).scale == pytest.approx((4 + 2 * TOP) / (1 + TOP))
    assert Tail(4.0, 0, 20).towards(2.0).scale == 2.0


# Which choice


def grown(
    score: Callable[[int, int], float | None],
    trials: int,
    *,
    flying: int = 1,
    minimize: bool = False,
    seconds: dict[int, float] | None = None,
    front: FrontChoice = FRONT,
) -> list[int]:
    """The widths of a search of so many trials, of which some run at a time; None as a score: pruned.

    Asserts that after n trials over k widths each has begun n / 2k.
    """
    present: list[FrozenTrial] = []
    spent: dict[int, float] | None = None if seconds is None else {}
    for number in range(trials):
        point = open_choice(front, number, present, start=5, minimize=minimize, seconds=spent)
        present.append(trial(number, int(point[WIDTH]), None, RUNNING))
        if len(present) >= flying:
            ends = number - flying + 1
            width = int(present[ends].params[WIDTH])
            value = score(ends, width)
            value = -value if minimize and value is not None else value
            present[ends] = trial(ends, width, value, PRUNED if value is None else COMPLETE)
            if spent is not None and seconds is not None:
                spent[ends] = seconds[width]
        begun = Counter(each.params[WIDTH] for each in present)
        least = len(present) // (2 * len(front.points))
        assert min(begun[point[WIDTH]] for point in front.points) >= least
    return [int(each.params[WIDTH]) for each in present]


def noise(number: int) -> float:
    return float(np.random.default_rng(number).normal())


def hard(number: int, width: int) -> float:
    """Scores of width 24 vary ten times as much as those of the others."""
    return 0.5 + (0.05 if width == 24 else 0.005) * noise(number)


def test_the_fair_start_is_that_of_the_equal_spread() -> None:
    assert grown(hard, 20) == [choice_for(FRONT, number)[WIDTH] for number in range(20)]


@pytest.mark.parametrize("flying", [1, 8])
def test_after_it_trials_go_where_the_answer_is_open(flying: int) -> None:
    counts = Counter(grown(hard, 120, flying=flying))
    assert counts[24] >= 50
    assert min(counts.values()) >= 15


def test_scores_that_are_to_be_small_are_dealt_the_same() -> None:
    assert grown(hard, 60, minimize=True) == grown(hard, 60)


def test_choices_that_are_alike_get_about_the_same() -> None:
    counts = Counter(grown(lambda number, _: 0.5 + 0.05 * noise(number), 200))
    assert min(counts.values()) > 35
    assert max(counts.values()) < 75


def test_without_any_difference_they_get_the_same_in_the_turns_of_the_equal_spread() -> None:
    assert grown(lambda *_: 0.5, 80) == [choice_for(FRONT, number)[WIDTH] for number in range(80)]


def test_a_choice_that_is_always_pruned_draws_no_more_than_its_share() -> None:
    counts = Counter(grown(lambda number, width: None if width == 8 else 0.5 + 0.05 * noise(number), 160))
    assert 20 <= counts[8] <= 45


def test_workers_side_by_side_do_not_pile_onto_one_choice() -> None:
    """Two choices of the same openness, and 8 that begin before anything ends."""
    present = [trial(number, WIDTHS[number % 4], 0.5 + number % 9 / 100) for number in range(24)]
    present += [trial(24 + at, width, 0.5 + at / 100) for at, width in enumerate((8, 12) * 4)]
    dealt = Counter[int]()
    for number in range(32, 40):
        width = int(open_choice(FRONT, number, present, start=5, minimize=False)[WIDTH])
        present.append(trial(number, width, None, RUNNING))
        dealt[width] += 1
    assert max(dealt.values()) <= 4


def test_per_hour_the_cheap_get_more() -> None:
    alike = {8: 1.0, 12: 1.0, 16: 1.0, 24: 8.0}

    def score(number: int, _: int) -> float:
        return 0.5 + 0.05 * noise(number)

    by_trial, by_hour = (Counter(grown(score, 160, seconds=seconds)) for seconds in (None, alike))
    assert by_hour[24] < 0.75 * by_trial[24]
    assert by_hour[24] >= 20


def test_failed_ones_count_nowhere_and_enqueued_ones_as_if_they_ran() -> None:
    queued = trial(3, None, None, TrialState.WAITING)
    queued.system_attrs = {"fixed_params": {WIDTH: 8}}
    undealt = trial(4, None, None, RUNNING)
    others = [trial(0, 8, 0.5), trial(1, 8, None, FAIL), trial(2, 12, None, PRUNED), queued, undealt]
    eight, twelve, *_ = shares_of(FRONT, others, minimize=False)
    assert (eight.ended, eight.running, twelve.ended, twelve.running) == ((0.5,), 1, (None,), 0)


def test_seconds_of_trials_that_were_never_trained_tell_no_cost() -> None:
    others = [trial(0, 8, None, PRUNED), trial(1, 8, 0.5)]
    eight, *_ = shares_of(FRONT, others, minimize=False, seconds={0: 0.0, 1: 3.0})
    assert eight.seconds == (3.0,)


def test_a_part_that_is_given_is_kept() -> None:
    points = ({"name": "unet", "a": 4}, {"name": "unet", "a": 8}, {"name": "resunet", "b": 4}, {"name": "plain"})
    front = FrontChoice(points, seed=1)
    for number in range(20):
        dealt = open_choice(front, number, [], start=5, minimize=False, given={"name": "unet"})
        assert dealt["name"] == "unet"
    assert {str(open_choice(front, n, [], start=5, minimize=False)) for n in range(4)} == set(map(str, points))
    with pytest.raises(ValueError, match="no choice of the front"):
        open_choice(front, 0, [], start=5, minimize=False, given={"name": "vgg"})
