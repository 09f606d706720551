"""The benchmark of `[front] along`: its world has a known best, and its searches keep what they promise."""

import pytest

from benchmarks.front import WIDTHS, Case, place, searched, table, true_loss


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_nothing_is_lost_at_the_best_place_of_a_width_and_something_elsewhere(drift):
    for width in WIDTHS:
        best = place(width, drift)
        assert true_loss(width, best, drift) == 0
        assert true_loss(width, best | {"lr": best["lr"] + 0.1}, drift) > 0


def test_along_a_front_every_width_gets_the_same_trials():
    cases = [Case(0.5, way, trials=32, in_flight=8, seed=1) for way in ("along", "separate", "width as a parameter")]
    found = {case: searched(case) for case in cases}
    assert found[cases[0]].ended == found[cases[1]].ended == dict.fromkeys(WIDTHS, 8)
    assert sum(found[cases[2]].ended.values()) == 32
    lines = list(table(found, [0.5]))
    assert len(lines) == 5
    assert lines[2].startswith("| 0.5 | along | 8 8 8 8 (8) |")
