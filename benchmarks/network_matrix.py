"""Which network works with which distillation method, as student and as teacher.

    OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.network_matrix    # goes on after the cells that are done
    python -m benchmarks.network_matrix --table                         # the tables of what is done

Each network of `benchmarks.structures` is the student of a U-Net on a ResNet-18 (segmentation-models-pytorch), and the
teacher of a U-Net of width 8: two steps (two epochs of one) under each method on drawn pictures, through the same code
as a search, so that nothing is special about any network. A cell is right where every loss is finite, the student's
weights move, and the term moves them: its share of the gradient in the second epoch is above 0. Feature methods compare
one pair of taps of one stride, as `benchmarks.structures.pairs` chooses it.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import models
from benchmarks.cells import HERE, Cells
from benchmarks.structures import CHANNELS, STRUCTURES, network, pairs, student, teacher
from losses.config import NEEDS_TEACHER, LossTerms
from models.config import NetworkConfig, NetworkTeacher, network_config, teacher_config
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks
from trainer.dry_run import check
from trainer.engine.cohort import Cohort
from trainer.engine.resources import SharedResources
from trainer.reports import EpochReport, Failure

RAW = HERE / "network_matrix_raw.jsonl"
METHODS = ("none", *sorted(NEEDS_TEACHER), "selfreg")
ROLES = ("student", "teacher")
BESIDE = 4
"""Students that train side by side, which bounds the memory."""
PARTNERS = {
    "student": teacher_config("smp-unet", encoder="resnet18"),
    "teacher": network_config("unet", width=8),
}
"""What a network is paired with in each role."""


def terms(method: str, between: tuple[list[tuple[str, str]], str]) -> dict[str, dict[str, Any]]:
    """Cross-entropy and the method's own term with its defaults; feature methods get the pairs."""
    if method == "none":
        return {"ce": {}}
    taps, resize = between
    name = next(n for n, info in LossTerms.model_fields.items() if method in (n, info.alias))
    known = next(kind for kind in _kinds(name) if hasattr(kind, "model_fields")).model_fields
    given: dict[str, Any] = {}
    if "taps" in known:
        given["taps"] = taps
    if "tap" in known:
        given["tap"] = taps[0]
    if given:
        given["resize"] = resize
    if "adapter" in known:
        given["adapter"] = "conv"
    return {"ce": {}, method: given}


def _kinds(name: str) -> Sequence[Any]:
    kinds: Sequence[Any] = LossTerms.model_fields[name].annotation.__args__  # type: ignore[union-attr]  # Kind | None
    return kinds


def run_of(
    method: str, learner: NetworkConfig, tutor: NetworkTeacher, between: tuple[list[tuple[str, str]], str], size: int
) -> RunConfig:
    """Two epochs of one step on two drawn pictures."""
    data = {"name": "blobs", "size": size, "train": 2, "validation": 1, "test": 1, "augment": "none"}
    return RunConfig.model_validate(
        {
            "method": method if method in NEEDS_TEACHER else "none",
            "epochs": 2,
            "batch_size": 2,
            "validate": {"from": 2},
            "data": data,
            "teacher": tutor,
            "student": learner,
            "losses": terms(method, between),
            "optim": {"lr": 1e-3, "schedule": {"name": "constant"}},
        }
    )


def measure(role: str, name: str, methods: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """A line a method."""
    size = STRUCTURES[name].size
    learner = student(name) if role == "student" else PARTNERS["teacher"]
    tutor = PARTNERS["student"] if role == "student" else teacher(name)
    with torch.device("meta"):
        taps = [models.build(each, in_channels=CHANNELS, classes=2, size=size).taps for each in (learner, tutor)]
    between = pairs(*taps)
    file = folder / f"{role}-{name}.safetensors"
    save_file({key: each.contiguous() for key, each in network(tutor, size).state_dict().items()}, file)
    tutor = tutor.model_copy(update={"checkpoint": str(file)})
    ranks = Ranks("cpu")
    resources = SharedResources(ranks, folder / "cache")
    for first in range(0, len(methods), BESIDE):
        some = methods[first : first + BESIDE]
        cohort = Cohort(ranks, slots=len(some), cache=folder / "cache", resources=resources)
        for key, method in enumerate(some):
            cohort.admit(key, run_of(method, learner, tutor, between, size))
        last: dict[int, EpochReport | Failure] = {}
        for _ in range(2):
            last |= cohort.epoch()
        for key, method in enumerate(some):
            run = run_of(method, learner, tutor, between, size)
            yield {"role": role, "network": name, "method": method, "result": verdict(run, method, last[key])}
    file.unlink()


def verdict(run: RunConfig, method: str, report: EpochReport | Failure) -> str:
    """ok, or in one line what is wrong: for what `validate` refuses, what it says."""
    if isinstance(report, Failure):
        try:
            check(run)
        except ValueError as error:
            return f"refused: {error}"
        return f"{report.kind}: {report.message.splitlines()[0]}"
    odd = [name for name, value in report.losses.items() if not math.isfinite(value)]
    if odd:
        return f"not finite: {', '.join(odd)}"
    if method != "none" and not report.shares.get(method, 0.0) > 0:
        return "its term moves nothing"
    return "ok"


def table(cells: Cells) -> Iterator[str]:
    """How many methods work with each network, and what does not, in Markdown."""
    for role in ROLES:
        lines = cells.lines(role=role)
        right = sum(line["result"] == "ok" for line in lines)
        yield f"As {role}: {right} of {len(lines)} pairs of network and method work."
        yield ""
        wrong = [line for line in lines if line["result"] != "ok"]
        if wrong:
            yield "| network | method | what it says |"
            yield "| --- | --- | --- |"
            yield from (f"| {line['network']} | {line['method']} | {line['result']} |" for line in wrong)
            yield ""


def main() -> int:
    """Measure the cells that are not done yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=STRUCTURES, default=list(STRUCTURES), metavar="NAME")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--raw", type=Path, default=RAW, help="one line a cell; what is there is not done again")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(args.raw, ("role", "network", "method"))
    with tempfile.TemporaryDirectory(prefix="matrix-") as name:
        for network_name in () if args.table else args.networks:
            for role in ROLES:
                todo = [
                    method
                    for method in args.methods
                    if {"role": role, "network": network_name, "method": method} not in cells
                ]
                for line in measure(role, network_name, todo, Path(name)) if todo else ():
                    cells.add(**line)
    print("\n".join(table(cells)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
