"""A real search on polyps whose trials are paused and promoted, and whether what it exports trains again bit for bit.

    OMP_NUM_THREADS=1 python -m benchmarks.promoted --data FOLDER

FOLDER holds `Kvasir-SEG`. The study is that of `recorded_polyps.toml` with a pruner that pauses and a smaller teacher:
that is taught, one worker works on the study to its end, and each exported configuration is trained anew, alone, by
`trainer fit`. Prints how many trials were paused, promoted and finished, and fails where one of the runs is not equal
to its trial.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.record_curves import RECORDINGS, places
from search.storage.database import open_storage
from search.storage.lookup import known_search
from search.storage.schema import PAUSED
from trainer.cli.entry import guard

DATA, NAME = "kvasir", "promoted"
EQUAL = "equal, bit for bit"


def module(*words: object, cwd: Path) -> str:
    """Run a command of this program in a folder; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=cwd, env=environment, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{words}: exit code {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def promoted(url: str) -> dict[str, int]:
    """How many trials were paused, went on after a pause, and ended so; who completed without one passed at once."""
    opened = open_storage(url, create=False)
    row = known_search(opened, NAME, None)
    study_ids = [arm.study_id for arm in opened.searches.arms_of(row.search_id)]
    attempts = opened.leases.attempts_of(study_ids)
    first: dict[int, int] = {}
    for attempt in attempts:
        if attempt.why == PAUSED:
            first[attempt.trial_id] = min(attempt.token, first.get(attempt.trial_id, attempt.token))
    later = {each.trial_id for each in attempts if each.token > first.get(each.trial_id, each.token)}
    states = Counter(
        trial.state.name.lower()
        for study_id in study_ids
        for trial in opened.storage.get_all_trials(study_id, deepcopy=False)
    )
    return {"trials": sum(states.values()), "paused": len(first), "promoted after a pause": len(later), **states}


def main() -> int:
    """Search, export, train again, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds Kvasir-SEG")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--pruner", choices=("promote", "curves"), default="promote")
    args = parser.parse_args()
    recording = RECORDINGS[DATA]
    with tempfile.TemporaryDirectory(prefix="promoted-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder}/search.db"
        study = folder / f"{NAME}.toml"
        sets = dict(each.split("=", 1) for each in places(recording, args.data, folder))
        changes = {
            '"$POLYP_ROOT"': sets["run.data.root"],
            "epochs     = 20": f"epochs     = {args.epochs}",
            "epochs = 40": "epochs = 8",  # of the teacher
            "width      = 32": "width      = 16",
            "trials = 160": f'trials = {args.trials}\n[pruner]\nname = "{args.pruner}"',
        }
        text = recording.study.read_text()
        for old, new in changes.items():
            if old not in text:
                raise RuntimeError(f"{recording.study.name}: holds no {old!r}; the changes of this file follow it")
            text = text.replace(old, new)
        study.write_text(text)
        cache = ("--cache", folder / "cache")
        module("trainer", "teach", study, *cache, cwd=folder)
        module("search", "work", study, "--storage", url, "--runs", folder / "runs", *cache, cwd=folder)
        counts = promoted(url)
        print(", ".join(f"{what} {count}" for what, count in counts.items()), flush=True)
        best = folder / "best.json"
        module("search", "export", NAME, "--storage", url, "-o", best, cwd=folder)
        exported = json.loads(best.read_text())["best"]
        for rank, each in enumerate(exported, start=1):
            said = module("trainer", "fit", best, "--rank", rank, *cache, cwd=folder)
            print(f"trial {each['trial']}: {EQUAL if EQUAL in said else 'NOT equal'}", flush=True)
            if EQUAL not in said:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
