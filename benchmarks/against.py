"""This version of the program beside another one: the same arms by turns, and the ratio of what each took.

Module names differ between versions, so nothing of the other is imported: a checkout of it lies in a folder, and that
folder's own benchmark runs there in a process, by flags that it has had since 9f9c9df (`Version.run`). A ratio is this
version's seconds over the other's, within a block: 0.9 is a tenth less. What other programs do to a machine that is
slow for minutes is in both, and which of the two goes first changes from arm to arm and from block to block.
"""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from scipy.stats import t as student

from benchmarks.clock import Seconds, calibrate, now_of
from benchmarks.table import Row, is_quiet
from trainer.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
THIS, OTHER = "this", "other"
_WHERE = "import importlib, json, sys; print(json.dumps([importlib.import_module(n).__file__ for n in sys.argv[1:]]))"


@dataclass(frozen=True)
class Version:
    """A checkout of the program."""

    name: str
    root: Path = ROOT

    def command(self, module: str, words: Sequence[str]) -> dict[str, Any]:
        """What `subprocess` needs to run a module of this checkout, in one thread and without the network."""
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
        # The path comes first: in an environment where the program is installed, another checkout would be imported.
        # Unbuffered, since a heading is written without a flush, and it is where the first arm begins.
        environment = {**os.environ, **quiet, "PYTHONPATH": str(self.root), "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process compiles what others find compiled
        return {"args": [sys.executable, "-m", module, *words], "cwd": self.root, "env": environment, "text": True}

    def run(self, module: str, words: Sequence[str]) -> None:
        """Run it to its end. Raises RuntimeError with the last of what it said."""
        done = subprocess.run(**self.command(module, words), capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{module} {' '.join(words)} in {self.root}: {done.stderr[-3000:]}")

    @property
    def label(self) -> str:
        """The checkout as a reader may find it again: git's words for it, else the folder's name."""
        words = ["git", "-C", str(self.root), "describe", "--always", "--dirty", "--abbrev=9"]
        said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
        return said or self.root.name


def versions(folder: Path | None, module: str) -> list[Version]:
    """This version, and the one in the folder where one is given. Raises UserError where it is no other checkout."""
    if folder is None:
        return [Version(THIS)]
    other = Version(OTHER, folder.resolve())
    path = other.root.joinpath(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        raise UserError(f"--against {folder}: {path} is not there; give a checkout of this program")
    if other.root == ROOT:
        raise UserError(f"--against {folder}: is this version; give a checkout of another one")
    words = other.command(module, [])
    words["args"] = [sys.executable, "-c", _WHERE, module, "trainer", "search", "losses", "models"]
    done = subprocess.run(**words, capture_output=True, check=False)
    if done.returncode != 0:
        raise UserError(f"--against {folder}: cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    foreign = [place for place in json.loads(done.stdout) if not Path(place).resolve().is_relative_to(other.root)]
    if foreign:
        raise UserError(f"--against {folder}: its process imports {foreign[0]}; nothing can be said of the folder")
    return [Version(THIS), other]


def named(compared: Sequence[Version]) -> str:
    """Which versions are compared."""
    return ", ".join(f"{version.name}: {version.label}" for version in compared)


def turns(sides: Sequence[Any], count: int) -> Sequence[Any]:
    """The sides in the order of the turn with this number: whoever goes second meets a warmer machine."""
    return sides if count % 2 == 0 else sides[::-1]


def timed_lines(version: Version, module: str, words: Sequence[str]) -> dict[str, tuple[Seconds, list[str]]]:
    """Run a benchmark that prints the line of each arm when it has it: seconds and other cells by the first cell.

    An arm's time runs from the line before. Raises RuntimeError where it fails or prints no table.
    """
    found: dict[str, tuple[Seconds, list[str]]] = {}
    command = version.command(module, words)
    # What it says beside the table goes to a file: a pipe that nobody reads yet would fill, and it would wait.
    with TemporaryFile("w+") as said, subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=said) as child:
        out: IO[str] = child.stdout  # type: ignore[assignment]
        before: Seconds | None = None
        for line in out:
            if not line.startswith("|"):
                continue
            here = now_of(child.pid)
            name, *cells = (cell.strip() for cell in line.strip().strip("|").split("|"))
            if before is not None:
                found[name] = here.since(before), cells
            if before is not None or set(name) <= {"-", ":"}:
                before = here  # the rule under the heading is where the first arm begins
        if child.wait() != 0 or not found:
            said.seek(0)
            raise RuntimeError(f"{module} in {version.root}: {said.read()[-3000:] or 'no table'}")
    return found


def by_turns(compared: Sequence[Version], module: str, commands: Mapping[str, Sequence[str]], blocks: int) -> list[Row]:
    """A row for each arm, block and version of a benchmark that prints lines: its seconds and figures.

    commands: the flags of each workload. A block has each of them once by each version.
    """
    print(named(compared), flush=True)
    rows = []
    for block in range(1, blocks + 1):
        for turn, (workload, words) in enumerate(commands.items(), start=block):
            for version in turns(compared, turn):
                load, before = os.getloadavg()[0], calibrate()
                found = timed_lines(version, module, words)
                seen = {"load": load, "calibration": [before._asdict(), calibrate()._asdict()]}
                seen |= {"block": block, "workload": workload, "version": version.name}
                for arm, (seconds, figures) in found.items():
                    rows.append({**seen, "arm": arm, "time": seconds._asdict(), "figures": figures})
                spent = sum(seconds.cpu for seconds, _ in found.values())
                print(f"block {block} {workload} {version.name}: {spent:.2f} CPU s", flush=True)
    return rows


def differing(rows: Sequence[Row]) -> list[str]:
    """The arms whose figures are not those of the other version, a line each; one sentence where there are none."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for row in rows:
        told = found.setdefault((row["workload"], row["arm"]), {THIS: set(), OTHER: set()})
        told[row["version"]].add(" | ".join(row["figures"]))
    lines = []
    for (workload, arm), told in found.items():
        if max(map(len, told.values())) > 1:
            lines.append(f"{workload}, {arm}: other figures from run to run of one version")
        elif told[THIS] != told[OTHER]:
            this, other = (next(iter(told[name]), "no such arm") for name in (THIS, OTHER))
            lines.append(f"{workload}, {arm}: {this}; the other: {other}")
    return lines or [f"All {len(found)} arms came to the same figures."]


class Ratio(NamedTuple):
    """This over the other."""

    median: float
    low: float
    high: float
    """Ends of the interval; infinite where there are less than two pairs."""


def ratio(ratios: Sequence[float], share: float = 0.95) -> Ratio:
    """The median of paired ratios, and Student's interval of their geometric mean: that of the mean of logarithms.

    Half and twice as long are then equally far from 1. ratios: at least one, all above 0.
    """
    logs = [math.log(each) for each in ratios]
    middle = statistics.median(ratios)
    if len(logs) < 2:
        return Ratio(middle, -math.inf, math.inf)
    mean = statistics.fmean(logs)
    reach = float(student.ppf((1 + share) / 2, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(middle, math.exp(mean - reach), math.exp(mean + reach))


def times_as_fast(taken: Mapping[str, Sequence[Any]], clock: str) -> str:
    """A line that says so of this version. taken: what each version took, by block. clock: an attribute of that."""
    pairs = zip(taken[OTHER], taken[THIS], strict=True)
    faster = ratio([getattr(other, clock) / getattr(this, clock) for other, this in pairs])
    return f"times as fast, {clock}: {faster.median:.2f} [{faster.low:.2f}, {faster.high:.2f}]"


def paired(rows: Sequence[Row], arm: str, part: str, clock: str) -> list[float]:
    """This over the other for each block in which both ran the arm; on the wall clock only where both were quiet.

    A time of 0, which an arm shorter than a tick of the CPU clock may have, makes no ratio.
    """
    ratios = []
    for block in sorted({row["block"] for row in rows}):
        pair = {row["version"]: row for row in rows if row["block"] == block and row["arm"] == arm}
        if len(pair) < 2 or (clock == "wall" and not all(map(is_quiet, pair.values()))):
            continue
        this, other = (pair[name][part][clock] for name in (THIS, OTHER))
        if this > 0 and other > 0:
            ratios.append(this / other)
    return ratios


def table(rows: Sequence[Row], parts: Mapping[str, str]) -> str:
    """Markdown: for each workload the ratios of its arms, on both clocks. parts: key of a row to its heading."""
    lines = []
    for workload in dict.fromkeys(row["workload"] for row in rows):
        mine = [row for row in rows if row["workload"] == workload]
        blocks, quiet = len({row["block"] for row in mine}), sum(map(is_quiet, mine))
        lines += [f"### {workload}: this over the other", ""]
        lines += [f"{blocks} blocks; {quiet} of {len(mine)} rows are of a quiet machine.", ""]
        headings = [f"{words}, {clock}" for words in parts.values() for clock in ("CPU", "wall")]
        lines += [f"| arm | {' | '.join(headings)} |", f"| --- |{' ---: |' * len(headings)}"]
        for arm in dict.fromkeys(sorted(row["arm"] for row in mine)):
            cells = [_shown(paired(mine, arm, part, clock)) for part in parts for clock in ("cpu", "wall")]
            lines.append(f"| {' | '.join([arm, *cells])} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _shown(ratios: Sequence[float]) -> str:
    if not ratios:
        return "-"
    middle, low, high = ratio(ratios)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]" if math.isfinite(high) else f"{middle:.3f}"
