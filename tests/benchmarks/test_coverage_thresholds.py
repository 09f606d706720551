"""The rule for the threshold is as safe as its table says."""

import numpy as np

from benchmarks.coverage_thresholds import KINDS, Networks, dice_of_images, rows
from trainer.evaluation.threshold import GRID, HALF


def test_dice_falls_on_both_sides_of_the_best_threshold() -> None:
    means = dice_of_images(np.random.default_rng(0), Networks(0.1), 0.1, 4000).mean(axis=0)
    best = int(means.argmax())
    assert GRID[best] > GRID[HALF]
    assert (np.diff(means[: best + 1]) > 0).all()
    assert (np.diff(means[best:]) < 0).all()


def test_the_rule_loses_less_than_the_best_on_validation_where_a_half_is_right_and_gains_where_it_is_far_off() -> None:
    kinds = {name: KINDS[name] for name in ("0.5 is nearly the best", "0.5 is far off")}
    lines = [[cell.strip() for cell in row.strip("|").split("|")] for row in list(rows(kinds, 100, seed=1))[2:]]
    table = {(kind, int(images)): (float(rule), float(best)) for kind, images, _, rule, best, *_ in lines}
    rule, best = table["0.5 is nearly the best", 8]
    assert best < rule <= 0.0005
    rule, best = table["0.5 is far off", 50]
    assert rule > 0.9 * best > 0.05
