"""Time of one image and of a training step for each network at its published size, on one thread.

    OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.network_times    # goes on after what is done
    OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.network_times --turn 2    # once more: the least is shown
    python -m benchmarks.network_times --table                         # the table of what is done

Every network with the options that it has by default, as `trainer models` lists it, weights drawn at random, 3 channels
and 2 classes, in a process of its own. Times are CPU time of one thread, which neighbours change less than that of a
clock on the wall. One image of 224 and of 352 pixels: the median of three passes in torch and in onnxruntime after one
that is not timed (of one where a pass takes above a second). A training step: two images at the size
that its paper or code trains with, forward, cross-entropy of the logits, backward, AdamW in fp32; the second step is
timed. Its memory is what the process takes from before the network is built to its peak; a step whose weights,
gradients, moments and kept activations are more than the machine has free does not fit, and is not tried.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import models
from benchmarks.cells import HERE, Cells
from models.config import names_for
from models.costs import costs
from models.output import Segmenter
from trainer.cli.entry import guard
from trainer.commands.models import configured
from trainer.package.onnx_export import export
from trainer.package.onnx_runtime import Session
from trainer.profiling.command import Peak
from trainer.profiling.step_timing import free_bytes

RAW = HERE / "network_times_raw.jsonl"
NAMES = tuple(name for name in models.MODELS if name in names_for(2) and name != "ducknet")
"""Those for images; ducknet is ducknet-17."""
SIZES = (224, 352)
TRAINED_AT = {
    **dict.fromkeys(("unet", "unetplusplus", "resunet", "resunetplusplus"), 320),
    **dict.fromkeys(("ducknet-17", "ducknet-34", "cascade-pvt", "cascade-transunet"), 352),
    "resunetplusplus-author": 256,
}
"""Sides of training images; 224 of all others."""
BATCH, CHANNELS, CLASSES, LONG = 2, 3, 2, 1.0


def built(name: str, size: int) -> Segmenter:
    """The network with the weights of seed 0."""
    torch.manual_seed(0)
    return models.build(configured(name), in_channels=CHANNELS, classes=CLASSES, size=size)


def milliseconds(once: Callable[[], object]) -> float:
    """The median of some passes."""
    begun = time.process_time()
    once()
    count = 1 if time.process_time() - begun > LONG else 3
    taken = []
    for _ in range(count):
        begun = time.process_time()
        once()
        taken.append(time.process_time() - begun)
    return round(1e3 * statistics.median(taken), 1)


def in_torch(name: str, size: int) -> dict[str, Any]:
    """One image in torch."""
    torch.set_num_threads(1)
    peak = Peak()
    network = built(name, size).eval().requires_grad_(False)
    image = torch.randn(1, CHANNELS, size, size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return {"ms": milliseconds(lambda: network(image)), "mb": round(peak.megabytes())}


def in_onnxruntime(name: str, size: int) -> dict[str, Any]:
    """One image in onnxruntime."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export(built(name, size).eval(), path, channels=CHANNELS, size=size)
        peak = Peak()
        session = Session(path, threads=1)
        image = np.random.default_rng(0).standard_normal((1, CHANNELS, size, size), dtype=np.float32)
        return {"ms": milliseconds(lambda: session(image)), "mb": round(peak.megabytes())}


def training(name: str, size: int) -> dict[str, Any]:
    """One step on two images."""
    torch.set_num_threads(1)
    known = costs(configured(name), in_channels=CHANNELS, classes=CLASSES, sizes=[size])
    need = BATCH * known.by_size[0].activations + 16 * models.parameters(known.network)
    if need > free_bytes(torch.device("cpu")):
        return {"fits": False, "mb": round(need / 1e6)}
    peak = Peak()
    network = built(name, size).train()
    images = torch.randn(BATCH, CHANNELS, size, size).to(memory_format=torch.channels_last)
    target = torch.randint(CLASSES, (BATCH, size, size))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(network(images).logits, target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    begun = time.process_time()
    step()
    return {"fits": True, "ms": round(1e3 * (time.process_time() - begun)), "mb": round(peak.megabytes())}


KINDS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "torch": in_torch,
    "onnxruntime": in_onnxruntime,
    "training": training,
}


def cells_of(name: str) -> Iterator[tuple[str, int]]:
    """What is measured of a network."""
    yield from (("torch", size) for size in SIZES)
    yield "training", TRAINED_AT.get(name, 224)
    yield from (("onnxruntime", size) for size in SIZES)


def measure(name: str, kind: str, size: int) -> dict[str, Any]:
    """In a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return {"result": "ok", **pool.submit(KINDS[kind], name, size).result()}
        except BrokenProcessPool:
            return {"result": "does not fit: the process was ended"}
        except Exception as error:  # noqa: BLE001 - what does not work is what the table is about
            return {"result": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"}


def least(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """By kind and size the quickest of several measurements: neighbours on a machine only ever add to a time."""
    known: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        key = line["kind"], line["size"]
        if key not in known or line.get("ms", math.inf) < known[key].get("ms", math.inf):
            known[key] = line
    return known


def table(cells: Cells) -> Iterator[str]:
    """A row a network, in Markdown."""
    yield (
        "| network | torch 224, ms | 352 | onnxruntime 224, ms | 352 | MB, torch 352 | step of two images | ms | MB |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |"
    for name in NAMES:
        known = least(cells.lines(network=name))
        if known:
            shown = [_shown(known.get((kind, size)), "ms") for kind in ("torch", "onnxruntime") for size in SIZES]
            side = TRAINED_AT.get(name, 224)
            step = known.get(("training", side))
            shown += [_shown(known.get(("torch", SIZES[-1])), "mb"), f"{side}"]
            yield f"| {name} | {' | '.join([*shown, _shown(step, 'ms'), _shown(step, 'mb')])} |"
    yield ""
    for line in cells.lines():
        if line["result"] != "ok":
            yield f"- {line['network']}, {line['kind']} {line['size']}: {line['result']}"


def _shown(line: dict[str, Any] | None, what: str) -> str:
    if line is None or line["result"] != "ok":
        return "" if line is None else "-"
    if line.get("fits") is False and what == "ms":
        return "does not fit"
    return f"{line[what]:,.0f}"


def main() -> int:
    """Measure what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--raw", type=Path, default=RAW, help="one line a cell; what is there is not done again")
    parser.add_argument("--turn", type=int, default=1, help="2: once more; of all turns the least is shown")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    cells = Cells(args.raw, ("network", "kind", "size", "turn"))
    for name in () if args.table else args.networks:
        for kind, size in cells_of(name):
            cell = {"network": name, "kind": kind, "size": size, "turn": args.turn}
            if kind in args.kinds and cell not in cells:
                cells.add(**cell, **measure(name, kind, size))
    print("\n".join(table(cells)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
