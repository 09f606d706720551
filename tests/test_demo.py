"""The demo shows what its steps say, keeps all of it, and ends at the first step that fails."""

import sys

import pytest

from search import demo
from trainer.errors import UserError


def step(code: str) -> demo.Step:
    return demo.Step("try", (sys.executable, "-c", code), 2)


def test_a_step_leaves_all_it_said_in_its_log(tmp_path):
    log = tmp_path / "1-try.log"
    seconds = demo._run(step("import sys; print('out'); print('err', file=sys.stderr)"), log)
    assert sorted(log.read_text().split()) == ["err", "out"]
    assert 0 < seconds < 60


def test_a_failed_step_repeats_its_last_lines_and_names_its_log(tmp_path, capsys):
    log = tmp_path / "1-try.log"
    with pytest.raises(UserError, match=r"step try ended with code 3; all it said is in .*1-try\.log"):
        demo._run(step("print('no teacher'); raise SystemExit(3)"), log)
    assert "no teacher" in capsys.readouterr().out


def test_steps_run_on_one_thread_each(tmp_path):
    log = tmp_path / "1-try.log"
    demo._run(step("import os; print(os.environ['OMP_NUM_THREADS'])"), log)
    assert log.read_text() == "1\n"


def test_torchruns_own_notes_are_kept_but_not_shown(tmp_path):
    log = tmp_path / "log"
    log.write_text("W1120 21:30:11.000 77 torch/distributed/run.py:792] note\n21:30:12 trial 3 complete\n\n")
    assert demo._said(log) == ["21:30:12 trial 3 complete"]


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (61.9, "1:01"), (3605.0, "60:05")])
def test_times_are_minutes_and_seconds(seconds, shown):
    assert demo._clock(seconds) == shown


def test_everything_is_written_into_one_folder():
    """Places are given to each step that has them, so that nothing falls back to a default outside the folder."""
    for one in demo.STEPS:
        for flag, place in zip(one.words, one.words[1:], strict=False):
            if flag in {"--cache", "--runs", "--storage", "-o"}:
                assert place.removeprefix("sqlite:///").startswith(f"{demo.FOLDER}/")
    places = {flag for one in demo.STEPS for flag in one.words if flag.startswith("-")}
    assert {"--cache", "--runs", "--storage", "-o"} <= places
