"""The comparison of methods: goes on after what is done, mixes neither settings nor teachers, judges as `confirm`."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.cells import Cells
from benchmarks.method_comparison import units as comparison
from benchmarks.method_comparison.table import beside_dice, table
from benchmarks.method_comparison.training import digest, refuse_other_teacher
from benchmarks.method_comparison.units import SCORE, TEACHER, TRIALS, Unit
from trainer.errors import UserError


@pytest.fixture(scope="module")
def spec():
    return comparison.study()


def line(unit: Unit, spec, **more):
    """A line of the raw file."""
    return {**unit.cell, "settings": comparison.settings(spec), "cpu_seconds": 1.0, "failed": None, **more}


def trained(spec, cells: Cells, method: str, gain: float):
    """All trials, the third the best, and all seeds, of which each picture gains."""
    for n in range(TRIALS):
        params, score = comparison.point(spec.main, method, n), 0.5 + 0.01 * (n == 3)
        cells.add(**line(Unit("trial", method, n), spec, validation=score, params=params))
    for seed in spec.confirm.seeds:
        draw = random.Random(seed)
        test = [0.5 + gain + 0.02 * draw.random() for _ in range(24)]
        cells.add(**line(Unit("seed", method, seed), spec, validation=0.5, test=test))


def test_trials_begin_with_published_values_and_share_their_learning_rates(spec):
    names = comparison.methods(spec)
    assert names[0] == "none"
    assert len(names) == 15
    for n in range(TRIALS):
        points = [comparison.point(spec.main, method, n) for method in names]
        assert len({point["optim.lr"] for point in points}) == 1
        assert all(spec.main.resolve(point).student.width == 4 for point in points)
    published = {entry["method"]: entry for entry in spec.main.enqueue}
    for method in names:
        assert published[method].items() <= comparison.point(spec.main, method, 0).items()


def test_what_is_done_is_not_trained_again_and_seeds_wait_for_their_trials(spec, tmp_path: Path):
    cells = Cells(tmp_path / "raw.jsonl", Unit._fields)
    assert next(comparison.waiting(spec, cells)) == [TEACHER]
    cells.add(**line(TEACHER, spec))
    first = next(comparison.waiting(spec, cells))
    assert [(unit.kind, unit.method) for unit in first] == [("trial", "none")] * TRIALS
    trained(spec, cells, "none", 0.0)
    again = comparison.opened(cells.path, spec)
    units = [unit for chunk in comparison.waiting(spec, again) for unit in chunk]
    assert all(unit.method != "none" for unit in units)
    assert len(units) == 14 * (TRIALS + 5)
    some = ["none", "at", "ifvd", "dist"]
    kinds = [
        [(unit.kind, unit.method, unit.number) for unit in chunk] for chunk in comparison.waiting(spec, again, some)
    ]
    assert [number for chunk in kinds[:3] for _, _, number in chunk] == [*range(TRIALS)] * 3
    assert kinds[3][:3] == [("seed", method, spec.confirm.seeds[0]) for method in some[1:]]
    assert sum(map(len, kinds)) == 3 * (TRIALS + 5)
    of_kl = [unit.kind for unit in units if unit.method == "kl"]
    assert of_kl == ["trial"] * TRIALS + ["seed"] * 5


def test_the_table_has_what_is_finished_and_says_what_is_missing(spec, tmp_path: Path):
    cells = Cells(tmp_path / "raw.jsonl", Unit._fields)
    assert "Nothing is done." in list(table(spec, cells))
    cells.add(**line(TEACHER, spec, validation=0.8, test=[0.8] * 24, groups=[n // 2 for n in range(24)]))
    trained(spec, cells, "none", 0.0)
    trained(spec, cells, "kl", 0.1)
    trained(spec, cells, "mse", -0.1)
    rows = {row.split(" | ")[0].strip("| "): row for row in table(spec, cells)}
    assert "+0.1000 [+0.1000, +0.1000]" in rows["kl"]
    assert rows["kl"].split(" | ")[5] == "shown"
    assert rows["mse"].split(" | ")[5] == "worse"
    assert rows["none"].endswith("|  |  |  |  |")
    assert any(row.startswith("2 methods are compared and 12 are missing") for row in rows.values())
    assert any("24 test pictures in 12 groups, 5 seeds, 14 methods" in row for row in rows.values())
    assert comparison.best_trial(cells, "kl")["number"] == 3


def test_by_another_score_the_seeds_of_another_trial_alone_are_trained_and_compared(spec, tmp_path: Path):
    known, cells = (Cells(tmp_path / f"{name}.jsonl", Unit._fields) for name in ("dice", "best"))
    known.add(**line(TEACHER, spec, validation=0.8, test=[0.8] * 24, groups=[n // 2 for n in range(24)]))
    for method in ("none", "kl"):
        trained(spec, known, method, 0.0)
        for n in range(TRIALS):
            score = 0.5 + 0.01 * (n == (3 if method == "none" else 5))  # Dice has 3 for both
            params = comparison.point(spec.main, method, n)
            cells.add(**line(Unit("trial", method, n), spec, validation=score, params=params))
    comparison.taken_over(spec, cells, known)
    assert TEACHER.cell in cells
    assert {each["method"] for each in cells.lines(kind="seed")} == {"none"}
    (chunk,) = comparison.waiting(spec, cells, ["none", "kl"])
    assert [(unit.method, unit.kind) for unit in chunk] == [("kl", "seed")] * 5
    for unit in chunk:
        test = [value + 0.1 for value in known.lines(**unit.cell)[0]["test"]]
        cells.add(**line(unit, spec, validation=0.5, test=test))
    rows = list(beside_dice(spec, cells, known, "dice_at_best_threshold"))
    assert rows[2].endswith("| the same trial |")
    assert rows[3].startswith("| kl | 3 | 5 |")
    assert rows[3].endswith("| +0.1000 [+0.1000, +0.1000] |")
    assert rows[4].startswith("| mean of 2 | | | | | +0.0500 [")


def test_other_settings_and_another_teacher_are_refused(spec, tmp_path: Path):
    cells = Cells(tmp_path / "raw.jsonl", Unit._fields)
    weights = tmp_path / "teacher.safetensors"
    save_file({"a": torch.zeros(3)}, weights)
    cells.add(**line(TEACHER, spec, weights=digest(weights)))
    refuse_other_teacher(weights, cells)
    save_file({"a": torch.ones(3)}, weights)
    with pytest.raises(UserError, match=r"another teacher than that of .*raw.jsonl"):
        refuse_other_teacher(weights, cells)
    cells.add(**{**line(Unit("trial", "kl", 0), spec), "settings": "other"})
    with pytest.raises(UserError, match=r"raw.jsonl: trial kl: trained with other settings; move the file away"):
        comparison.opened(cells.path, spec)


@pytest.mark.parametrize("score", [SCORE, "dice_at_best_threshold"])
def test_what_was_trained_has_these_settings(spec, score):
    assert comparison.opened(comparison.raw_file(score), spec).lines(kind="seed")
