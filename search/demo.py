"""`make demo`: a whole search on drawn pictures, by the commands that a user types. All that it writes lies in .demo/.

Run again, it goes on where it stopped, or finishes at once.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from trainer.errors import UserError, guard

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(".demo")
STUDY = "demo"
STORAGE = f"sqlite:///{FOLDER}/study.db"
WIDTH = 118
"""Columns of a line of the demo."""
TAIL = 25
"""Lines of a failed step's log that are repeated."""
_POLL = 0.5
_GRACE = 60.0
"""Seconds that an interrupted step has to save its work."""


class Step(NamedTuple):
    """One command of the demo."""

    name: str
    words: tuple[str, ...]
    lines: int
    """How many of the last lines that it prints are shown."""


_STORED = ("--storage", STORAGE)
_CACHE = ("--cache", f"{FOLDER}/cache")
STEPS = (
    Step("teacher", ("python", "-m", "trainer", "teach", f"studies/{STUDY}.toml", *_CACHE), 2),
    Step("study", ("python", "-m", "search", "validate", STUDY, *_CACHE), 20),
    Step(
        "search",
        (
            *("torchrun", "--standalone", "--nproc-per-node=2", "search/worker.py", "--study", STUDY),
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
)


def main() -> int:
    """Run every step. Raises UserError at the first that fails."""
    os.chdir(ROOT)
    FOLDER.mkdir(exist_ok=True)
    started = time.monotonic()
    total = len(STEPS) + 1
    _say(1, total, "environment", f".venv, torch {version('torch')}, one pip call", _installed())
    for number, step in enumerate(STEPS, start=2):
        log = FOLDER / f"{number}-{step.name}.log"
        print(f"\n[{number}/{total}] {step.name:<11}  $ {shlex.join(step.words)}", flush=True)
        seconds = _run(step, log)
        for line in _said(log)[-step.lines :]:
            print(f"      {line}")
        _say(number, total, step.name, f"done; all of it: {log}", seconds)
    print(
        f"\nWhole search in {_clock(time.monotonic() - started)}. Everything lies in {FOLDER}/ (make clean removes it)."
    )
    print(f"Picture: {FOLDER}/predictions.png   trials, curves, importances: .venv/bin/optuna-dashboard {STORAGE}")
    print('Next: your own images; README.md, "Your own data"')
    return 0


def _run(step: Step, log: Path) -> float:
    """Run one step to its end, with all it prints in the log; wall time in seconds. Raises UserError where it fails."""
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    # One thread a process: two ranks share the cores, and small networks gain nothing from more.
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    begun = time.monotonic()
    with log.open("wb") as file:
        child = subprocess.Popen(step.words, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            _watch(child, log)
        except KeyboardInterrupt:
            # The terminal told the step too: it saves its work and ends; a second Ctrl-C does not wait for that.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE)
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
    """Wait for the end; on a terminal, the newest line is shown meanwhile."""
    shown = ""
    while True:
        try:
            child.wait(_POLL)
        except subprocess.TimeoutExpired:
            newest = next(iter(_said(log)[-1:]), "")[: WIDTH - 6]
            if sys.stdout.isatty() and newest != shown:
                shown = newest
                print(f"\r      {shown:<{WIDTH - 6}}", end="", flush=True)
        else:
            if shown:
                print(f"\r{'':<{WIDTH}}\r", end="", flush=True)
            return


def _lines(log: Path) -> list[str]:
    return [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()]


def _said(log: Path) -> list[str]:
    """What the program said, without torchrun's own notes, which begin as in "W1120 21:30:11.000 ... run.py:792]"."""
    return [line for line in _lines(log) if not (line[:1] in "WIE" and line[1:5].isdigit())]


def _say(number: int, total: int, name: str, what: str, seconds: float | None) -> None:
    line = f"[{number}/{total}] {name:<11}  {what}"
    print(line if seconds is None else f"{line:<{WIDTH - 7}} {_clock(seconds):>6}", flush=True)


def _installed() -> float | None:
    """Seconds that `make venv` took when it last installed; None where another environment runs the demo."""
    stamp = Path(".venv/installed")
    return float(stamp.read_text()) if stamp.is_file() else None


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    sys.exit(guard(main))
