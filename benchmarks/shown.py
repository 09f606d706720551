"""How often the two claims of the demo come out as its drawn data has them: one effect that is there, one that is not.

    OMP_NUM_THREADS=1 nice python -m benchmarks.shown --seeds 20    # goes on after the seeds that are done
    python -m benchmarks.shown --table                              # the table of what is done

The study is `studies/demo.toml` on drawn data of one seed after the other, without its search: what is confirmed has
fixed settings, and is trained on the seeds of [confirm], measured and judged as `search confirm` does, with all three
claims corrected together.

There (`gain`): the masks to train on are outlined loosely, and the teacher learned from exact ones, so a student that
is distilled knows more of the outline than one that is not. Not there (`tuning_gain`): the search without distillation
has one width and changes only what hardly moves a weight in so few steps, Adam or AdamW and a weight decay of at most
1e-6 (1e-4 in [run]); the two networks differ by rounding that grew, as two seeds do, and not on average.
"""

import argparse
import contextlib
import hashlib
import io
import json
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from search.answer.build import CONFIDENCE
from search.answer.comparisons import TEST, comparisons
from search.answer.score_arrays import score_arrays
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed, PerImageScores
from search.planning.network_costs import student_size
from search.spec.config import MAIN, Choose
from search.spec.load import find, load
from trainer.__main__ import main as train
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.data import record_opening
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.resources import SharedResources
from trainer.errors import UserError
from trainer.evaluation.per_image import FinalEvaluation
from trainer.reports import Failure, PerImageResult
from trainer.run_file import read

STUDY = "demo"
RAW = Path(__file__).with_name("shown_raw.jsonl")
ANY_TEACHER = ("run.teacher.min_dice=0.0",)
"""What differs from the demo: no seed ends for a weak teacher."""
TAUGHT = ("run.data.loose=0.0",)
"""What the demo's teacher is trained with: exact masks."""
TUNED = {"name": "adam", "weight_decay": 1e-6}
"""The settings of the control, at the far ends of its space; those of [run] are the untuned ones."""
CLAIMS = {"gain": "there", "tuning_gain": "not there"}
SHOWN_AT_LEAST, SHOWN_AT_MOST = 16, 2
"""Of twenty seeds: how often what is there is to be shown, and what is not may be."""


def runs(sets: Sequence[str]) -> dict[str, RunConfig]:
    """The distilled run with the values of [run], the tuned control and the untuned run, both without a teacher."""
    distilled = read(find(STUDY), sets=sets).run
    untuned = distilled.model_copy(update={"method": "none"})
    tuned = untuned.model_copy(update={"optim": untuned.optim.model_copy(update=TUNED)})
    return {f"{MAIN}-1": distilled, "no-kd-1": tuned, "defaults": untuned}


def confirmed(trained: Mapping[str, RunConfig], seeds: Sequence[int], folder: Path) -> Confirmed:
    """Every run on every seed, measured on test. Raises UserError where a training fails."""
    ranks = Ranks("cpu")
    resources = SharedResources(ranks, folder)
    evaluation = FinalEvaluation(record_opening(folder, "benchmark of drawn data"), folder)
    names = list(trained)
    scores: list[PerImageScores] = []
    for seed in seeds:
        cohort = Cohort(ranks, slots=len(names), cache=folder, examination=evaluation, resources=resources)
        for key, run in enumerate(trained.values()):
            cohort.admit(key, run.model_copy(update={"seed": seed}))
        last: dict[int, tuple[PerImageResult, ...]] = {}
        while len(last) < len(names):
            for key, report in cohort.epoch().items():
                if isinstance(report, Failure):
                    raise UserError(f"{names[key]} seed {seed}: {report.message}")
                if report.measured is not None:
                    last[key] = report.measured
        for key, measured in sorted(last.items()):
            scores += [PerImageScores(configuration=names[key], seed=seed, **vars(one)) for one in measured]
    # The distilled run has the values of [run], so without its KD term it is the untuned run, number by number.
    ablation = f"{MAIN}-1-without"
    scores += [replace(one, configuration=ablation) for one in scores if one.configuration == "defaults"]
    return Confirmed(
        study=STUDY, objective="dice", configurations=tuple(configurations(trained, ablation)),
        findings=tuple(scores), budgets={}, choose=Choose(), openings=(), missing=(),
    )  # fmt: skip


def configurations(trained: Mapping[str, RunConfig], ablation: str) -> Iterator[Configuration]:
    """What `search confirm` would name so."""
    of: dict[str, dict[str, Any]] = {
        f"{MAIN}-1": {"role": "winner", "arm": MAIN, "of": None},
        "no-kd-1": {"role": "control", "arm": "no-kd", "of": None},
        ablation: {"role": "ablation", "arm": MAIN, "of": f"{MAIN}-1"},
        "defaults": {"role": "defaults", "arm": MAIN, "of": None},
    }
    for name, facts in of.items():
        run = trained.get(name, trained["defaults"])
        params, gflops = student_size(run)
        yield Configuration(
            name=name, rank=1, trial=None, searched=None, params=params, gflops=gflops,
            run=run.model_dump(mode="json"), **facts,
        )  # fmt: skip


def settings() -> str:
    """A hash of what is written of all that a line of the raw file depends on, beside the seed of the data."""
    study = tomllib.loads(find(STUDY).read_text())
    text = json.dumps([study["run"], study["teach"], ANY_TEACHER, TAUGHT, TUNED, seeds()])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def seeds() -> tuple[int, ...]:
    """Those of [confirm] in the demo."""
    return load(find(STUDY)).confirm.seeds


def measure(seed: int) -> dict[str, Any]:
    """One line of the raw file: the drawn data of a seed."""
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = (*ANY_TEACHER, f"run.data.seed={seed}", f"run.teacher.checkpoint='{folder}/teacher.safetensors'")
        sets = [word for value in (*drawn, *TAUGHT) for word in ("--set", value)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = train(["teach", str(find(STUDY)), "--cache", name, *sets])
        if code:
            raise UserError(f"seed {seed}: the teacher's training ended with code {code}")
        result = confirmed(runs(drawn), seeds(), folder)
    scores = score_arrays(result)
    claims = {each.name: each for each in comparisons(result, scores, [TEST], CONFIDENCE)}
    kept = ("estimate", "low", "high", "p_holm", "verdict")
    return {
        "seed": seed,
        "settings": settings(),
        "claims": {name: {key: getattr(claims[name], key) for key in kept} for name in claims},
        "test_dice": {
            name: scores[name, TEST].values("dice").mean(axis=1).round(4).tolist() for name in runs(drawn)
        },
        "cpu_seconds": round(time.process_time() - begun, 1),
    }  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    """What is done, by seed. Raises UserError where it was done with other settings."""
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    other = next((line for line in done if line["settings"] != settings()), None)
    if other is not None:
        raise UserError(f"{path}: seed {other['seed']} was measured with other settings; move the file away")
    return sorted(done, key=lambda line: line["seed"])


def table(done: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| seed | Dice: KD, tuned, untuned | gain (there) | p | | gain of tuning (not there) | p | |"
    yield "|---:|---|---|---:|---|---|---:|---|"
    for line in done:
        dice = ", ".join(f"{sum(each) / len(each):.3f}" for each in line["test_dice"].values())
        cells = [f"| {line['seed']} | {dice} |"]
        for name in CLAIMS:
            one = line["claims"][name]
            interval = f"{one['estimate']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]"
            cells.append(f" {interval} | {one['p_holm']:.2g} | {one['verdict'].replace('_', ' ')} |")
        yield "".join(cells)
    counts = {name: sum(line["claims"][name]["verdict"] == "shown" for line in done) for name in CLAIMS}
    yield ""
    yield (
        f"Shown of {len(done)}: what is there {counts['gain']} (of 20: at least {SHOWN_AT_LEAST}), what is not there "
        f"{counts['tuning_gain']} (at most {SHOWN_AT_MOST})."
    )
    yield f"{sum(line['cpu_seconds'] for line in done):.0f} CPU seconds."


def main() -> int:
    """Measure the seeds that are not done yet, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shown", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="seeds of the drawn data, from 0 (default 20)")
    parser.add_argument("--raw", type=Path, default=RAW, help="one line a seed; what is there is not done again")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = {line["seed"] for line in lines(args.raw)}
    for seed in () if args.table else (seed for seed in range(args.seeds) if seed not in known):
        line = json.dumps(measure(seed))
        with args.raw.open("a") as file:
            file.write(f"{line}\n")
        print(line, file=sys.stderr, flush=True)
    print("\n".join(table(lines(args.raw))))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
