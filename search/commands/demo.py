"""`make demo`: a whole search on drawn pictures, by the commands that a user types. All that it writes lies in .demo/.

Run again, it goes on where it stopped, or finishes at once.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from trainer.cli.durations import format_clock
from trainer.cli.entry import guard
from trainer.errors import UserError
from trainer.repository import REPOSITORY

FOLDER = Path(".demo")
STUDY = "demo"
STORAGE = f"sqlite:///{FOLDER}/study.db"
DASHBOARD = f"python -m search dashboard --storage {STORAGE} --artifacts {FOLDER}/runs/artifacts"
"""What shows the finished search."""
REPORT = f"{FOLDER}/report"
WIDTH = 118
"""Columns of a line of the demo."""
TAIL = 25
"""Lines of a failed step's log that are repeated."""
PROGRESS_SECONDS = 30.0
"""Seconds after which a step's newest line is printed where the output is no terminal."""
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 60.0
"""Seconds that an interrupted step has to save its work."""


class Step(NamedTuple):
    """One command of the demo."""

    name: str
    arguments: tuple[str, ...]
    lines: int
    """How many of the last lines that it prints are shown."""


_STORED = ("--storage", STORAGE)
_CACHE = ("--cache", f"{FOLDER}/cache")
STEPS = (
    # The masks that students train on are outlined loosely, those of the teacher are exact.
    Step(
        "teacher",
        ("python", "-m", "trainer", "teach", f"studies/{STUDY}.toml", "--set", "run.data.loose=0", *_CACHE),
        2,
    ),
    Step("study", ("python", "-m", "search", "validate", STUDY, *_CACHE), 20),
    Step(
        "search",
        (
            *("python", "-m", "search", "work", STUDY, "--ranks", "2"),
            *(*_STORED, "--runs", f"{FOLDER}/runs", *_CACHE),
        ),
        3,
    ),
    Step("export", ("python", "-m", "search", "export", STUDY, *_STORED, "-o", f"{FOLDER}/best.json"), 4),
    Step(
        "picture",
        (
            "python",
            "-m",
            "trainer",
            "predict",
            f"{FOLDER}/best.json",
            "--grid",
            *_CACHE,
            "-o",
            f"{FOLDER}/predictions.png",
        ),
        2,
    ),
    Step(
        "confirm",
        (
            *("python", "-m", "search", "confirm", STUDY, "--ranks", "2"),
            *(*_STORED, "--runs", f"{FOLDER}/runs", *_CACHE),
        ),
        16,
    ),
    Step("report", ("python", "-m", "search", "report", STUDY, *_STORED, *_CACHE, "--pictures", "-o", REPORT), 6),
)


def main() -> int:
    """Run every step. Raises UserError at the first that fails."""
    os.chdir(REPOSITORY)
    FOLDER.mkdir(exist_ok=True)
    started = time.monotonic()
    total = len(STEPS) + 1
    _say(1, total, "environment", f".venv, torch {version('torch')}, one pip call", _installed())
    for number, step in enumerate(STEPS, start=2):
        log = FOLDER / f"{number}-{step.name}.log"
        print(f"\n[{number}/{total}] {step.name:<11}  $ {shlex.join(step.arguments)}", flush=True)
        seconds = _run(step, log)
        for line in _lines(log)[-step.lines :]:
            print(f"      {line}")
        _say(number, total, step.name, f"done; all of it: {log}", seconds)
    took = format_clock(time.monotonic() - started)
    print(f"\nWhole search in {took}. Everything lies in {FOLDER}/ (make clean removes it).")
    print("\n".join(answer_lines(Path(REPORT) / "report.json")))
    print(f"The answer, in a browser: {REPORT}/report.html")
    print(f"Picture: {FOLDER}/predictions.png")
    print("Trials, curves, notes (each new shell first needs: source .venv/bin/activate):")
    print(f"  {DASHBOARD}")
    print('Next: your own images; README.md, "Your own data"')
    return 0


def answer_lines(report: Path) -> list[str]:
    """What the search showed and what it did not, from the report's numbers."""
    from search.answer.build import verdict_lines
    from search.answer.document import Comparison

    (study,) = json.loads(report.read_text())["studies"]
    lines = verdict_lines(Comparison.model_validate(each) for each in study["confirmed"]["claims"])
    return [f"{line[:1].upper()}{line[1:]}" for line in lines]


def _run(step: Step, log: Path) -> float:
    """Run one step to its end, with all it prints in the log; wall time in seconds. Raises UserError where it fails."""
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    # One thread a process: two ranks share the cores, and small networks gain nothing from more.
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    begun = time.monotonic()
    with log.open("wb") as file:
        child = subprocess.Popen(step.arguments, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            _watch(child, log)
        except KeyboardInterrupt:
            # The terminal told the step too: it saves its work and ends; a second Ctrl-C does not wait for that.
            print(
                f"\n      {step.name} is asked to stop and saves its work; the same command goes on there", flush=True
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_SECONDS)
            raise
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    if child.returncode:
        tail = "\n".join(f"      {line}" for line in _lines(log)[-TAIL:])
        print(f"{tail}\n", flush=True)
        raise UserError(f"step {step.name} ended with code {child.returncode}; all it said is in {log}")
    return time.monotonic() - begun


def _watch(child: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait for the end; meanwhile the newest line is shown, at once on a terminal, elsewhere now and then."""
    shown, begun = "", time.monotonic()
    terminal, due = sys.stdout.isatty(), begun + PROGRESS_SECONDS
    while True:
        try:
            child.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            newest, now = next(iter(_lines(log)[-1:]), ""), time.monotonic()
            if terminal and newest != shown:
                shown = newest
                print(f"\r      {newest[: WIDTH - 6]:<{WIDTH - 6}}", end="", flush=True)
            elif not terminal and now >= due:
                due += PROGRESS_SECONDS
                print(f"      {format_clock(now - begun)}  {newest}"[:WIDTH], flush=True)
        else:
            if shown:
                print(f"\r{'':<{WIDTH}}\r", end="", flush=True)
            return


def _lines(log: Path) -> list[str]:
    return [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()]


def _say(number: int, total: int, name: str, what: str, seconds: float | None) -> None:
    line = f"[{number}/{total}] {name:<11}  {what}"
    print(line if seconds is None else f"{line:<{WIDTH - 7}} {format_clock(seconds):>6}", flush=True)


def _installed() -> float | None:
    """Seconds that `make venv` took when it last installed; None where another environment runs the demo."""
    stamp = Path(".venv/installed")
    return float(stamp.read_text()) if stamp.is_file() else None


if __name__ == "__main__":
    sys.exit(guard(main))
