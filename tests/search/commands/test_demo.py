"""The demo shows what its steps say, keeps all of it, and ends at the first step that fails."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from search.commands import demo
from trainer.errors import UserError

CLAIM = dict.fromkeys(("estimate", "low", "high", "p", "p_holm", "reason")) | {
    "minuend": "kd-1",
    "subtrahend": "no-kd-1",
    "confidence": 0.95,
    "unit": "dice",
    "images": 32,
    "groups": 32,
    "seeds": 5,
    "words": "",
}
"""A comparison of report.json, without what a test says of it."""


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


def test_where_the_output_is_no_terminal_a_long_step_says_now_and_then_how_far_it_is(tmp_path, monkeypatch):
    """The step goes on until its words were repeated."""
    lines, repeated = [], tmp_path / "repeated"

    def hear(line, **_):
        lines.append(line)
        if "epoch 3 of 9" in line:
            repeated.touch()

    monkeypatch.setattr(demo, "PROGRESS_SECONDS", 0.6)
    monkeypatch.setattr(demo, "print", hear, raising=False)
    waits = (
        f"import os, time\nprint('epoch 3 of 9', flush=True)\nend = time.monotonic() + 60\n"
        f"while not os.path.exists({str(repeated)!r}) and time.monotonic() < end: time.sleep(0.02)"
    )
    seconds = demo._run(step(waits), tmp_path / "1-try.log")
    assert 1 <= len(lines) <= seconds / 0.6
    assert re.fullmatch(r"\s*\d+:\d\d\s+epoch 3 of 9", lines[-1])


def test_the_end_says_what_was_shown_and_what_was_not(tmp_path):
    """Of the claims on test; those that choose the network to ship are left out."""
    claims = [
        {**CLAIM, "name": name, "part": part, "verdict": verdict, "margin": margin}
        for name, part, verdict, margin in (
            ("gain", "test", "shown", None),
            ("tuning_gain", "test", "not_shown", None),
            ("kd_term_effect", "test", "shown", None),
            ("kd_term_effect", "elsewhere", "worse", None),
            ("not_below_teacher", "test", "not_shown", 0.02),
        )
    ]
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"studies": [{"confirmed": {"claims": claims}}]}))
    assert demo.answer_lines(report) == [
        "Shown: gain over the search without distillation, effect of the distillation term",
        "Not shown: gain of tuning",
    ]


def test_the_last_words_are_the_readme_s():
    assert f"$ {demo.DASHBOARD}\n" in (demo.REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("fails", [False, True])
def test_an_installation_says_so_first_and_leaves_no_stamp_where_it_fails(tmp_path, fails):
    """A stand-in for the interpreter makes a `.venv` in which pip does nothing, or fails."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(demo.REPOSITORY / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p .venv/bin\ncp {tmp_path}/pip .venv/bin/python\n')
    (tmp_path / "pip").write_text(f"#!/bin/sh\necho pip works\nexit {3 if fails else 0}\n")
    for program in ("python", "pip"):
        (tmp_path / program).chmod(0o755)
    words = ["make", "venv", f"PYTHON={python}"]
    # `make test` runs this test: what it hands down to a make below it is left out.
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    done = subprocess.run(words, cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("installing torch and the rest into .venv (")
    assert second == "pip works"
    assert (tmp_path / ".venv/installed").is_file() != fails


def test_everything_is_written_into_one_folder():
    """Places are given to each step that has them, so that nothing falls back to a default outside the folder."""
    for one in demo.STEPS:
        for flag, place in zip(one.arguments, one.arguments[1:], strict=False):
            if flag in {"--cache", "--runs", "--storage", "-o"}:
                assert place.removeprefix("sqlite:///").startswith(f"{demo.FOLDER}/")
    places = {flag for one in demo.STEPS for flag in one.arguments if flag.startswith("-")}
    assert {"--cache", "--runs", "--storage", "-o"} <= places
