"""The benchmarks' own arithmetic, and that they run; what they measure is in benchmarks/RESULTS.md."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.clock import Account, Seconds, interval
from benchmarks.table import tables, within_blocks
from benchmarks.time_to_answer import Cost, Simulation, Way
from benchmarks.worlds import WIDTH, Formula, widths_of

ROOT = Path(__file__).resolve().parents[2]


def row(block: int, arm: str, cpu: float, *, load: float = 0.5, workload: str = "r101-8") -> dict:
    seconds = {"wall": 2 * cpu, "cpu": cpu}
    ours = {"teacher_forwards": 1, "seconds": {"student": cpu}, "between_epochs": 0.01}
    facts = {"peak_mb": 1} | (ours if arm.startswith("ours") else {})
    calm = {"wall": 1.0, "cpu": 1.0}
    return {
        "block": block, "workload": workload, "arm": arm, "load": load, "calibration": [calm, calm],
        "epoch": seconds, "trial": seconds, "counts": {"steps": 8, "trials": 1}, "facts": facts,
    }  # fmt: skip


def test_ratios_are_taken_within_blocks():
    """A machine that was slow for a whole block changes no ratio."""
    rows = [
        row(b, arm, s * slow) for b, slow in ((1, 1), (2, 10)) for arm, s in (("tuned-fp32", 6), ("ours-fp32-8", 2))
    ]
    assert within_blocks(rows, "tuned-fp32", "ours-fp32-8", "epoch", "cpu") == [3.0, 3.0]


def test_a_busy_machine_gives_no_wall_ratio_and_a_missed_target_is_said():
    rows = [row(1, "tuned-fp32", 4, load=3.0), row(1, "ours-fp32-8", 2)]
    assert within_blocks(rows, "tuned-fp32", "ours-fp32-8", "epoch", "wall") == []
    text = tables(rows)
    assert "steady 2.7: missed (2.00)" in text
    assert "0.125" in text  # one teacher pass for eight steps


def test_a_steady_epoch_is_the_slope_between_epochs_of_the_same_trials(tmp_path):
    """Neither the first epoch of a trial, with its start, nor the way from one trial to the next counts."""
    account = Account()
    account.epochs = [(1, 2, Seconds(10, 9)), (2, 2, Seconds(14, 12)), (1, 2, Seconds(30, 20)), (2, 2, Seconds(36, 25))]
    account.counts["trials"] = 4
    account.write(tmp_path / "account.json")
    assert json.loads((tmp_path / "account.json").read_text())["epoch"] == {"wall": 2.5, "cpu": 2.0}


def test_the_interval_holds_the_median():
    low, high = interval([1.0, 2.0, 2.1, 2.2, 9.0])
    assert low <= 2.1 <= high
    assert (low, high) != (2.1, 2.1)


@pytest.fixture(scope="module")
def formula() -> Formula:
    return Formula(trials=4)


def test_simulated_time_is_what_the_epochs_cost(formula):
    """Without pruning: one trial at a time pays the shared part for each, side by side they pay it once."""
    cost, epochs = Cost(shared=0.6, widest=0.4), formula.arm.epochs
    own = sum(cost.own(float(width), 32) for width in widths_of(formula.arm))
    alone = Simulation(formula, Way("", slots=1), cost, trials=4, seed=0).run()
    beside = Simulation(formula, Way("", slots=4), cost, trials=4, seed=0).run()
    assert alone.epochs == beside.epochs == 4 * epochs
    assert alone.ended == pytest.approx(epochs * (4 * 0.6 + own))
    assert beside.ended == pytest.approx(epochs * (0.6 + own))


def test_an_answer_is_a_finished_trial_near_the_best(formula):
    found = Simulation(formula, Way("", slots=8), Cost(), trials=24, seed=0).run()
    times = [time for time in found.answers.values() if math.isfinite(time)]
    assert all(0 < time <= found.ended for time in times)
    assert (None in found.answers) == (found.regret <= 0.005)


def test_a_point_of_the_recorded_search_has_its_own_curve():
    from benchmarks.worlds import Recorded

    world = Recorded()
    trials = json.loads((ROOT / "benchmarks" / "recorded_curves.json").read_text())
    assert {trial["params"][WIDTH] for trial in trials} == set(widths_of(world.arm))
    assert all(world.curve(trial["params"]) == trial["scores"] for trial in trials)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gate_passes_and_a_table_comes_out(tmp_path):
    """The arms do the same work: the gate compares Dice, loss and members, and every arm's counts are checked."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--quick", "--json", str(tmp_path / "raw.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal: ") == 6
    rows = {r["arm"]: r for r in json.loads((tmp_path / "raw.json").read_text())}
    assert rows["ours-fp32-2"]["facts"]["teacher_forwards"] * 2 == rows["ours-fp32-2"]["counts"]["steps"]
    assert rows["plain-fp32"]["counts"] == rows["ours-fp32-2"]["counts"]
    assert "| ours-fp32-2 |" in done.stdout
