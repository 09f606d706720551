"""The benchmark of the demo's claims: goes on after what is done, mixes no settings, and judges as `confirm` does."""

import json
from pathlib import Path

import pytest

from benchmarks import shown
from search.spec.load import find, load
from trainer.errors import UserError


def line(seed: int, gain: str, tuning: str) -> str:
    claims = {
        name: {"estimate": 0.01, "low": -0.01, "high": 0.03, "p_holm": 0.5, "verdict": verdict}
        for name, verdict in (("gain", gain), ("tuning_gain", tuning))
    }
    dice = {"kd-1": [0.9, 0.8]}
    done = {"seed": seed, "settings": shown.settings(), "claims": claims, "test_dice": dice, "cpu_seconds": 1.0}
    return f"{json.dumps(done)}\n"


def test_the_table_counts_what_was_shown(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text(line(1, "shown", "shown") + line(0, "shown", "not_shown") + line(2, "worse", "not_shown"))
    table = list(shown.table(shown.lines(raw)))
    assert [row.split(" |")[0] for row in table if row.startswith("| ") and "seed" not in row] == ["| 0", "| 1", "| 2"]
    assert table[-2].startswith("Shown of 3: what is there 2 (of 20: at least 16), what is not there 1 (at most 2)")


def test_a_seed_of_other_settings_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text(line(4, "shown", "shown").replace(shown.settings(), "other"))
    with pytest.raises(UserError, match=r"raw.jsonl: seed 4 was measured with other settings; move the file away"):
        shown.lines(raw)


def test_what_was_measured_has_the_demo_s_settings() -> None:
    assert {each["settings"] for each in shown.lines(shown.RAW)} <= {shown.settings()}


def test_what_is_compared_is_of_the_demo_s_size_and_within_its_control_s_space() -> None:
    spec = load(find(shown.STUDY))
    trained = shown.runs(())
    assert {each.student.width for each in trained.values()} == {spec.arm("no-kd").base.student.width}
    ends = {p.path.removeprefix("optim."): p for p in spec.arm("no-kd").space}
    assert ends.keys() == shown.TUNED.keys()
    assert all(ends[name].contains(value) for name, value in shown.TUNED.items())
