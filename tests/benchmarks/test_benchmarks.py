"""The benchmarks' own arithmetic, and that they run; what they measure is in benchmarks/RESULTS.md."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

from benchmarks import volumes, volumes_work
from benchmarks.against import OTHER, THIS, Version, differing, paired, ratio, table, timed_lines, turns, versions
from benchmarks.clock import Account, Seconds, interval
from benchmarks.record_curves import WIDTH, drawn, widths_of
from benchmarks.table import tables, within_blocks
from benchmarks.time_to_answer import Cost, Simulation, Way
from benchmarks.worlds import Formula
from trainer.data.volumes.windows import count_windows
from trainer.errors import UserError

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


def test_a_ratio_of_versions_has_students_interval_of_the_logarithms():
    """Of -0.1, 0, 0.1 and 0.2: the mean is 0.05, the deviation 0.1291, and Student's quantile 3.1824 at 3 degrees."""
    middle, low, high = ratio([math.exp(each) for each in (0.2, -0.1, 0.1, 0.0)])
    assert middle == pytest.approx((1 + math.exp(0.1)) / 2)
    reach = 3.182446 * math.sqrt(0.05 / 3) / 2
    assert (low, high) == pytest.approx((math.exp(0.05 - reach), math.exp(0.05 + reach)))


def test_versions_that_change_places_have_the_inverse_interval():
    there, back = ratio([0.5, 0.9, 1.3]), ratio([1 / 0.5, 1 / 0.9, 1 / 1.3])
    assert there == pytest.approx((1 / back.median, 1 / back.high, 1 / back.low))
    assert there.low < 1 < there.high
    narrow = ratio([0.5, 0.9, 1.3], share=0.5)
    assert there.low < narrow.low < narrow.high < there.high


def test_one_pair_has_a_ratio_and_no_interval():
    assert ratio([0.8]) == (0.8, -math.inf, math.inf)
    rows = [row(1, "ours-fp32-1", 4) | {"version": THIS}, row(1, "ours-fp32-1", 5) | {"version": OTHER}]
    assert "| ours-fp32-1 | 0.800 | 0.800 |" in table(rows, {"epoch": "epoch of a trial"})


def test_versions_are_paired_within_blocks_and_on_a_quiet_machine():
    rows = [row(b, "ours-fp32-1", s * b) | {"version": v} for b in (1, 10) for v, s in ((THIS, 3), (OTHER, 2))]
    rows += [row(2, "ours-fp32-1", 100) | {"version": THIS}, row(1, "ours-fp32-2", 100) | {"version": OTHER}]
    assert paired(rows, "ours-fp32-1", "epoch", "cpu") == [1.5, 1.5]
    assert paired(rows, "ours-fp32-2", "epoch", "cpu") == []
    rows[0]["load"] = 3.0
    assert len(paired(rows, "ours-fp32-1", "epoch", "wall")) == 1
    assert len(paired(rows, "ours-fp32-1", "epoch", "cpu")) == 2


def test_each_version_goes_first_in_turn():
    assert [turns([THIS, OTHER], count)[0] for count in range(4)] == [THIS, OTHER, THIS, OTHER]


def test_figures_that_differ_between_versions_are_named_and_those_that_never_agree_are_told_apart():
    def figures(arm: str, block: int, version: str, words: str) -> dict:
        return {"workload": "recorded", "arm": arm, "block": block, "version": version, "figures": [words, "1.0"]}

    same = [figures("same", b, v, "5") for b in (1, 2) for v in (THIS, OTHER)]
    assert differing(same) == ["All 1 arms came to the same figures."]
    other = [figures("other", 1, THIS, "5"), figures("other", 1, OTHER, "6"), figures("new", 1, THIS, "7")]
    drawn = [figures("drawn", b, THIS, str(b)) for b in (1, 2)]
    lines = differing([*same, *other, *drawn])
    assert lines == [
        "recorded, other: 5 | 1.0; the other: 6 | 1.0",
        "recorded, new: 7 | 1.0; the other: no such arm",
        "recorded, drawn: other figures from run to run of one version",
    ]


PRINTS = """
import sys, time
while time.process_time() < 0.1: pass
print("| arm | figure |")
print("| --- | ---: |")
began = time.process_time()
while time.process_time() < began + 0.3: pass
print("| busy | 1 |", flush=True)
time.sleep(0.3)
print("| idle | 2 |", flush=True)
print("x" * 100_000, file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


def test_the_arms_of_a_table_are_timed_by_its_lines(tmp_path):
    """In a real process: what comes before the table counts for no arm, and a wait costs no CPU."""
    (tmp_path / "prints.py").write_text(PRINTS)
    found = timed_lines(Version(OTHER, tmp_path), "prints", ["0"])
    assert {arm: cells for arm, (_, cells) in found.items()} == {"busy": ["1"], "idle": ["2"]}
    busy, idle = found["busy"][0], found["idle"][0]
    assert 0.25 < busy.cpu < 0.39
    assert idle.wall > 0.25
    assert idle.cpu < 0.1
    with pytest.raises(RuntimeError, match=r"prints in .*xxx"):
        timed_lines(Version(OTHER, tmp_path), "prints", ["3"])


def test_a_folder_that_is_no_other_version_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not there; give a checkout"):
        versions(tmp_path, "benchmarks.ours")
    with pytest.raises(UserError, match="is this version"):
        versions(ROOT, "benchmarks.ours")
    (tmp_path / "benchmarks").mkdir()
    # The rest of the program is not there; it may be found where it is installed.
    (tmp_path / "benchmarks" / "ours.py").touch()
    with pytest.raises(UserError, match=r"its process imports|cannot be imported: ModuleNotFoundError"):
        versions(tmp_path, "benchmarks.ours")


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


@pytest.mark.parametrize("name", ["blobs", "kvasir", "clinicdb"])
def test_a_point_of_a_recorded_search_has_its_own_curve(name):
    from benchmarks.record_curves import RECORDINGS
    from benchmarks.worlds import Recorded

    if not RECORDINGS[name].curves.exists():
        pytest.skip(f"{RECORDINGS[name].curves.name}: not recorded yet")
    world = Recorded(name)
    widths = widths_of(world.arm)
    assert len(world.trials) == RECORDINGS[name].trials
    assert Counter(trial["params"][WIDTH] for trial in world.trials) == dict.fromkeys(
        widths, RECORDINGS[name].trials // len(widths)
    )
    assert all(len(trial["scores"]) == world.arm.epochs for trial in world.trials)
    assert all(world.curve(trial["params"]) == trial["scores"] for trial in world.trials)


def test_the_curves_of_the_second_formula_cross():
    """Low rates rise longer: who leads at a third of the run is not who leads at its end."""
    from benchmarks.worlds import WORLDS

    world, draw = WORLDS["formula-2"](), random.Random(1)
    points = [drawn(world.arm, draw, 16) for _ in range(20)]
    curves = [list(world.curve(point)) for point in points]
    assert [list(world.curve(point)) for point in points] == curves
    assert all(0 <= score <= 1 for curve in curves for score in curve)
    early, end = ([mean(curve[at - 5 : at]) for curve in curves] for at in (17, 50))
    turned = sum((early[a] - early[b]) * (end[a] - end[b]) < 0 for a in range(20) for b in range(a))
    assert turned > 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gate_passes_and_a_table_comes_out(tmp_path):
    """The arms do the same work: the gate compares Dice, loss and members, and every arm's counts are checked."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--quick", "--json", str(tmp_path / "raw.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KD_BENCHMARK_SIZE": "32"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal: ") == 6
    rows = {r["arm"]: r for r in json.loads((tmp_path / "raw.json").read_text())}
    assert rows["ours-fp32-2"]["facts"]["teacher_forwards"] * 2 == rows["ours-fp32-2"]["counts"]["steps"]
    assert rows["plain-fp32"]["counts"] == rows["ours-fp32-2"]["counts"]
    assert "| ours-fp32-2 |" in done.stdout


@pytest.mark.slow
def test_a_version_is_measured_against_a_checkout_of_another(tmp_path, module):
    """The other one's own sources run: here a copy that calls one of its arms by another name."""
    for room in ("benchmarks", "search", "trainer", "losses", "models", "studies"):
        shutil.copytree(ROOT / room, tmp_path / room)
    there = tmp_path / "benchmarks" / "time_to_answer.py"
    there.write_text(there.read_text().replace('"ours, 8, no pruner"', '"ours, 8, never pruned"'))
    words = ["--against", str(tmp_path), "--blocks", "1", "--trials", "12", "--seeds", "1", "--worlds", "recorded"]
    done = module("benchmarks.time_to_answer", *words, timeout=250)
    assert "### recorded: this over the other" in done.stdout
    lines = {line.split(" | ")[0]: line for line in done.stdout.splitlines() if line.startswith("| ")}
    assert float(lines["| plain TPE + median, one at a time"].split(" | ")[1]) > 0
    assert lines["| ours, 8, never pruned"] == "| ours, 8, never pruned | - | - |"
    assert "recorded, ours, 8, never pruned: no such arm; the other: " in done.stdout


def test_the_ceiling_of_volumes_is_what_passes_alone_allow():
    """A teacher's pass of 3 s, a student's of 1 s, and 4 s of windows in an epoch of four steps: 5 s a step alone."""
    passes = {"teacher": 3.0, "student": 1.0, "validation": 4.0}
    tops = [volumes.ceiling(passes, volumes.Arm(name)) for name in ("ours-1", "ours-6", "ours-6-views")]
    assert tops == [1.0, 2.0, 2.5]
    seconds = {"plain": 10.0, "ours-8": 5.0, "ours-8-views": 2.0}
    rows = [
        {"block": 1, "patch": 32, "arm": name, "facts": {"peak_mb": 1}}
        | {key: {"cpu": cpu} for key in ("trial", "epoch")}
        for name, cpu in seconds.items()
    ]
    text = volumes.table([*rows, {"block": 1, "patch": 32, "arm": "passes", "passes": passes}])
    assert "at least 2.6: missed (2.00)" in text
    assert "at least 3.7: met (5.00)" in text


def test_the_windows_of_volumes_are_those_of_the_product():
    for patch in (16, 32, 48, 96):
        product = count_windows(volumes_work.SHAPE, (patch,) * 3, volumes_work.OVERLAP, "clamped")
        assert volumes_work.windows_of(patch) == product * volumes_work.VALIDATION
