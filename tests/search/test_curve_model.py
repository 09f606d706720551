"""The model of learning curves against slow statements of the same: its chain, its probabilities, its calibration."""

import math
from itertools import pairwise

import numpy as np
import pytest

from search.curve_model import Array, Line, RungModel, chances, rungs_of
from search.promotion import scores_at

DRAWS = 60_000
RUNGS = rungs_of(30, 5, 1.5)


@pytest.mark.parametrize(
    ("epochs", "first", "factor", "rungs"),
    [
        (20, 2, 1.5, (2, 3, 4, 7, 10, 15, 20)),
        (20, 7, 1.5, (7, 10, 16, 20)),
        (20, 1, 1.1, (*range(1, 11), 11, 12, 13, 15, 16, 18, 19, 20)),
        (20, 19, 3.0, (19, 20)),
        (3, 1, 100.0, (1, 3)),
    ],
)
def test_rungs_lie_apart_by_the_factor_up_to_the_last_epoch(epochs, first, factor, rungs):
    assert rungs_of(epochs, first, factor) == rungs


def test_a_row_has_the_scores_at_rungs_and_what_a_run_that_is_over_is_worth():
    model, draw = RungModel((2, 6, 10, 20)), np.random.default_rng(1)
    for steps in (range(1, 13), (1, 2, 5, 6, 11), (5, 10, 15), (20,), ()):
        values = {step: float(draw.random()) for step in steps}
        assert model.row(values) == scores_at(values, model.rungs[:-1], minimize=False)
        lowest = scores_at(values, model.rungs[:-1], minimize=True)
        assert model.row(values, minimize=True) == [-score for score in lowest]
    values = dict.fromkeys(range(1, 7), 0.5)  # of a run of 6 epochs, where others have 20
    assert model.row(values, 0.7) == [0.5, 0.5, pytest.approx(math.nan, nan_ok=True), 0.7]
    assert model.row(values, 0.7, minimize=True) == [-0.5, -0.5, pytest.approx(math.nan, nan_ok=True), -0.7]


def drawn_through(lines: list[Line], score: float, draw: np.random.Generator) -> Array:
    """Ends of a trial that has this score at the first of the lines: each draw has its own gain, slope and noise."""
    scores = np.full(DRAWS, score)
    for line in lines:
        gain, both, slope = line.covariance
        steps = draw.multivariate_normal((line.gain, line.slope), ((gain, both), (both, slope)), DRAWS)
        noise = draw.normal(0.0, math.sqrt(line.noise), DRAWS)
        scores = scores + steps[:, 0] + steps[:, 1] * (scores - line.centre) + noise
    return scores


def test_ends_are_those_of_draws_through_the_chain():
    draw, model = np.random.default_rng(2), RungModel(RUNGS)
    rows = curves(draw, 40, model, done=12)
    table = model.table(rows)
    size = np.nanmedian(np.abs(table))
    lines = model.lines(table / size)
    assert None not in lines
    mean, deviation = model.ends(rows)
    for index in (15, 25, 35):
        ends = size * drawn_through(lines[len(rows[index]) - 1 :], rows[index][-1] / size, draw)
        assert mean[index] == pytest.approx(ends.mean(), abs=4 * ends.std() / math.sqrt(DRAWS))
        assert deviation[index] == pytest.approx(ends.std(), rel=0.01)
    assert mean[:12] == pytest.approx([row[-1] for row in rows[:12]])
    assert (deviation[:12] == 0.0).all()


def test_a_line_is_learned_and_a_few_wild_trials_do_not_bend_it():
    draw = np.random.default_rng(3)
    here = draw.normal(0.8, 0.05, 200)
    there = here + 0.04 - 0.3 * (here - 0.8) + draw.normal(0.0, 0.004, 200)
    there[:20] -= 0.4  # collapsed
    model = RungModel((5, 10))
    (line,) = model.lines(np.stack([here, there], axis=1))
    assert line is not None
    assert line.slope == pytest.approx(-0.3, abs=0.03)
    assert line.gain + line.slope * (0.8 - line.centre) == pytest.approx(0.04, abs=0.005)  # least squares alone say 0
    mean, deviation = model.ends([*np.stack([here, there], axis=1).tolist(), [0.9]])
    assert mean[-1] == pytest.approx(0.9 + 0.04 - 0.03, abs=0.005)
    assert 0.004 < deviation[-1] < 0.2


def test_a_jump_above_a_line_counts_in_full_so_that_a_later_one_is_not_ruled_out():
    draw = np.random.default_rng(5)
    here = draw.normal(0.5, 0.05, 100)
    there = here + draw.normal(0.0, 0.002, 100)
    there[::10] += 0.2  # one in ten jumps late
    (line,) = RungModel((5, 10)).lines(np.stack([here, there], axis=1))
    assert line is not None
    assert math.sqrt(line.noise) == pytest.approx((there - here).std(), rel=0.15)


def test_before_anybody_went_further_a_score_is_expected_to_stay_and_surely_not_certain():
    mean, deviation = RungModel(RUNGS).ends([[0.7], [0.75], [0.8]])
    assert mean == pytest.approx([0.7, 0.75, 0.8])
    assert (deviation > 0.02).all()


def test_the_unit_of_a_score_changes_no_probability():
    rows = curves(np.random.default_rng(4), 20, RungModel(RUNGS), done=5)
    mean, deviation = RungModel(RUNGS).ends(rows)
    often = RungModel(RUNGS).ends([[250.0 * score for score in row] for row in rows])
    assert often[0] == pytest.approx(250.0 * mean)
    assert often[1] == pytest.approx(250.0 * deviation)
    assert chances(*often).best == pytest.approx(chances(mean, deviation).best, abs=1e-9)


def frequencies(mean: Array, deviation: Array, draw: np.random.Generator) -> tuple[Array, float]:
    """How often each one is the best of many draws; and how often a further one is better than all."""
    ends = mean + deviation * draw.standard_normal((DRAWS, len(mean)))
    spread = 1.4826 * np.median(np.abs(mean - np.median(mean)))
    further = np.median(mean) + spread * draw.standard_normal(DRAWS)
    return np.bincount(ends.argmax(1), minlength=len(mean)) / DRAWS, float((further > ends.max(1)).mean())


@pytest.mark.parametrize("rivals", [2, 12, 150])
@pytest.mark.parametrize("over", [0, 1, 6])
def test_probabilities_are_the_frequencies_of_draws(rivals, over):
    """Of rivals that are nearly certain beside others that are not, and of runs that are over."""
    draw = np.random.default_rng(rivals + over)
    mean, deviation = draw.normal(0.8, 0.02, rivals), 0.02 * 10.0 ** draw.uniform(-2.0, 0.3, rivals)
    deviation[: min(over, rivals - 1)] = 0.0
    best, further = frequencies(mean, deviation, draw)
    of = chances(mean, deviation)
    assert of.best == pytest.approx(best, abs=0.01)
    assert of.further == pytest.approx(further, abs=0.01)
    assert of.best.sum() == pytest.approx(1.0)


def test_certain_rivals_leave_no_chance_and_of_equal_ones_the_first_has_it():
    one = chances(np.array([0.7]), np.array([0.0]))
    assert (one.best.tolist(), one.further) == ([1.0], pytest.approx(0.5))
    same = chances(np.array([0.6, 0.7, 0.7]), np.zeros(3))
    assert same.best.tolist() == [0.0, 1.0, 0.0]
    assert chances(np.array([0.6, 0.9]), np.array([0.01, 0.0])).best == pytest.approx([0.0, 1.0])
    assert chances(np.full(3, 0.6), np.full(3, 0.01)).best == pytest.approx(np.full(3, 1 / 3), abs=0.01)


def curves(draw: np.random.Generator, trials: int, model: RungModel, *, done: int) -> list[list[float]]:
    """Rows of trials whose error falls by a power of the epoch to a level of their own, with noise from epoch to epoch
    that lasts: no curve of the worlds on which the model's constants were set. `done` of them are over, the others
    stand at a rung."""
    rows = []
    for number, whole in enumerate(whole_curves(draw, trials, model.rungs[-1])):
        rung = model.rungs[draw.integers(len(model.rungs) - 1)]
        seen = whole if number < done else whole[:rung]
        rows.append(model.row(dict(enumerate(map(float, seen), 1)), float(whole.max()) if number < done else None))
    return rows


def whole_curves(draw: np.random.Generator, trials: int, epochs: int) -> Array:
    """Scores by trial and epoch."""
    at = np.arange(1, epochs + 1)
    level, fall = 0.75 + 0.1 * draw.beta(4.0, 2.0, (trials, 1)), draw.uniform(0.3, 0.9, (trials, 1))
    noise = draw.normal(0.0, 0.006, (trials, epochs))
    for before, after in pairwise(range(epochs)):
        noise[:, after] += 0.5 * noise[:, before]
    return level - 0.4 * at**-fall + noise


def test_probabilities_come_true_on_curves_that_it_was_not_fitted_to():
    """Of pairs of which it said p, about p came true: 30 draws of 40 trials, of which 10 are over."""
    model, pairs = RungModel(RUNGS), list[tuple[float, bool]]()
    for seed in range(30):
        whole = whole_curves(np.random.default_rng(100 + seed), 40, RUNGS[-1])
        for rung in RUNGS[:-1]:
            rows = [model.row(dict(enumerate(each.tolist(), 1)), float(each.max())) for each in whole[:10]]
            rows += [model.row(dict(enumerate(each[:rung].tolist(), 1))) for each in whole[10:]]
            mean, deviation = model.ends(rows)
            for one, other in pairwise(range(10, 40)):
                apart = (mean[one] - mean[other]) / math.hypot(deviation[one], deviation[other])
                pairs.append((0.5 * math.erfc(-apart / math.sqrt(2)), whole[one].max() > whole[other].max()))
    predicted, came = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    for low in np.arange(0.0, 1.0, 0.2):
        inside = (predicted >= low) & (predicted < low + 0.2)
        assert inside.sum() > 100
        assert came[inside].mean() == pytest.approx(predicted[inside].mean(), abs=0.12)
    assert came[predicted > 0.9].mean() > 0.9
    assert ((predicted - came) ** 2).mean() < 0.07  # and it says much: half and half for all would be 0.25
