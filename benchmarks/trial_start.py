"""What a trial costs beside its training: claim, suggestion, commit, one report and end, of this version and another.

    OMP_NUM_THREADS=1 python -m benchmarks.trial_start --against FOLDER    # a checkout of another version

One simulated worker with one slot takes trials of nine parameters and one epoch of no length from a study of its own,
by TPE, on SQLite and on a PostgreSQL of its own, in a process of each version by turns. A start lasts from the commit
that ended the trial before it to the commit of its run, a whole trial from one such commit to the next; the first
`SKIPPED` trials are left out. Statements and transactions are counted by SQLAlchemy's events; CPU time is of the whole
process, so heartbeats and looks at the search are in it. A ratio is this version's over the other's, within a block.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from benchmarks.against import OTHER, THIS, Version, versions
from benchmarks.campaign.server import OwnServer
from benchmarks.clock import interval
from trainer.cli.entry import guard

SKIPPED, TRIALS = 15, 75
STUDY = f"""
[objective]
maximize = "dice"
[front]
along = "student.width"
[run]
method = "none"
epochs = 1
batch_size = 4
data = {{ name = "blobs", size = 32, train = 8, validation = 4, augment = "none" }}
student = {{ name = "unet", width = 8 }}
losses = {{ ce = {{}}, dice = {{}}, selfreg = {{}} }}
optim = {{ name = "adamw", lr = 1e-3, weight_decay = 1e-4 }}
[space]
"optim.lr" = {{ low = 1e-4, high = 1e-1, log = true }}
"optim.weight_decay" = {{ low = 1e-6, high = 1e-2, log = true }}
"losses.ce.weight" = {{ low = 0.1, high = 10.0, log = true }}
"losses.dice.weight" = {{ low = 0.1, high = 10.0, log = true }}
"losses.selfreg.weight" = {{ low = 0.001, high = 0.1, log = true }}
"student.width" = {{ choices = [8, 16] }}
"optim.name" = {{ choices = ["adam", "adamw"] }}
"batch_size" = {{ choices = [2, 4] }}
"seed" = {{ low = 1, high = 100 }}
[sampler]
name = "tpe"
[budget]
trials = {TRIALS}
in_flight = 2
"""
COUNTING = """
import json, runpy, sys, time
import sqlalchemy as sa

file, skipped = sys.argv[1], int(sys.argv[2])
counted, ends, starts, seen = [0, 0], [], [], []


def statement(_connection, _cursor, text, *_):
    if text.startswith("UPDATE trials SET state"):
        seen.append(ends)
    if text.startswith("UPDATE kd_lease SET run="):
        seen.append(starts)
    if not text.startswith(("PRAGMA", "BEGIN")):
        counted[0] += 1


def begin(_connection):
    counted[1] += 1


def commit(_connection):
    for marks in seen:
        marks.append((1e3 * time.process_time(), *counted))
    seen.clear()


sa.event.listen(sa.Engine, "before_cursor_execute", statement)
sa.event.listen(sa.Engine, "begin", begin)
sa.event.listen(sa.Engine, "commit", commit)
sys.argv = ["search", *sys.argv[3:]]
try:
    runpy.run_module("search", run_name="__main__", alter_sys=True)
except SystemExit as end:
    if end.code not in (None, 0):
        raise
assert len(ends) == len(starts), (len(ends), len(starts))


def mean(pairs):
    differences = [[b - a for a, b in zip(first, last)] for first, last in pairs]
    return [sum(each) / len(differences) for each in zip(*differences)]


start = mean(list(zip(ends, starts[1:]))[skipped:])
whole = mean(list(zip(starts, starts[1:]))[skipped:])
names = ("cpu_ms", "statements", "transactions")
with open(file, "w") as out:
    json.dump({"start": dict(zip(names, start)), "whole": dict(zip(names, whole))}, out)
"""
PARTS = {"start": "start", "whole": "start, one report, end"}


def measure(version: Version, url: str, folder: Path) -> dict[str, dict[str, float]]:
    """What a trial costs in a process of that version. Raises RuntimeError with the last of what it said."""
    study, result = folder / "start.toml", folder / f"{uuid.uuid4().hex}.json"
    study.write_text(STUDY)
    command = version.command("search", [])
    flags = ["--storage", url, "--runs", str(folder / "runs"), "--name", f"start-{uuid.uuid4().hex[:8]}"]
    flags += ["--slots", "1", "--epoch-seconds", "0", "--as-worker"]
    command["args"] = [sys.executable, "-c", COUNTING, str(result), str(SKIPPED), "simulate", str(study), *flags]
    done = subprocess.run(**command, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"search simulate in {version.root}: {done.stderr[-3000:]}")
    measured: dict[str, dict[str, float]] = json.loads(result.read_text())
    return measured


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each part of a trial, database and version, and the ratio of CPU time with its interval."""
    lines = ["| what | database | version | statements | transactions | CPU ms | of the other's |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for part, title in PARTS.items():
        for place in dict.fromkeys(row["database"] for row in rows):
            here = [row for row in rows if row["database"] == place]
            for name in dict.fromkeys(row["version"] for row in here):
                own = [row[part] for row in here if row["version"] == name]
                ratio = _ratio(here, part) if name == THIS else ""
                middle = {key: statistics.median(each[key] for each in own) for key in own[0]}
                cells = f"{middle['statements']:.0f} | {middle['transactions']:.0f} | {middle['cpu_ms']:.1f} | {ratio}"
                lines.append(f"| {title} | {place} | {name} | {cells} |")
    return "\n".join(lines)


def _ratio(rows: list[dict[str, Any]], part: str) -> str:
    blocks = {row["block"] for row in rows}
    by = {(row["block"], row["version"]): row[part]["cpu_ms"] for row in rows}
    ratios = [by[block, THIS] / by[block, OTHER] for block in sorted(blocks) if (block, OTHER) in by]
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}" if ratios else ""
    low, high = interval(ratios)
    return f"{statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]"


def main() -> int:
    """Measure by turns and print the table; raw lines go to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of another version")
    parser.add_argument("--blocks", type=int, default=5, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the raw values there, a line of JSON each")
    args = parser.parse_args()
    both = versions(args.against, "search.worker")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o711)  # a PostgreSQL of root's runs as another account
        # A server each: versions may differ in their tables.
        servers = {version.name: OwnServer(folder / version.name) for version in both}
        try:
            for block in range(args.blocks):
                for version in both if block % 2 == 0 else both[::-1]:
                    url = servers[version.name].url.render_as_string(hide_password=False)
                    urls = {"PostgreSQL": url, "SQLite": f"sqlite:///{folder / uuid.uuid4().hex}.db"}
                    for place, url in urls.items():
                        named = {"version": version.name, "label": version.label}
                        rows.append({"block": block, "database": place, **named, **measure(version, url, folder)})
                        print(json.dumps(rows[-1]), flush=True)
        finally:
            for server in servers.values():
                server.stop()
    if args.out is not None:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
