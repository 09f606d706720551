"""What else works with each network: ONNX, `torch.compile`, channels last, bf16 autocast.

    OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.network_portability    # goes on after the cells that are done
    python -m benchmarks.network_portability --table                         # the table of what is done

Each network of `benchmarks.structures`, weights of seed 0, two images. onnx: exported as `trainer export` does, the
largest difference of a probability between onnxruntime and torch, on two images and on three. aot_eager, inductor: a
training step compiled as one graph (else: how many times the graph breaks) against the same step as it is, the largest
difference of the gradient over its largest value; inductor for three networks, as it compiles for long. channels last:
probabilities of images that lie so against those of images that do not. bf16: a training step under autocast has
finite gradients for all parameters that fp32 reaches, and probabilities differ from fp32's by so much.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cells import HERE, Cells
from benchmarks.structures import CHANNELS, STRUCTURES, network, student
from models.output import Output, Segmenter
from trainer.cli.entry import guard
from trainer.package.onnx_export import export
from trainer.package.onnx_runtime import Session

RAW = HERE / "network_portability_raw.jsonl"
INDUCTOR = ("unet", "swin-unet", "smp-unet")
BOUNDS = {"onnx": 1e-3, "aot_eager": 1e-2, "inductor": 1e-2, "channels last": 1e-4, "bf16": 0.2}
"""Differences above them count as wrong. Gradients differ by rounding that grows on the way through a network."""


def images(size: int, count: int = 2) -> Tensor:
    """Normalised noise (count, CHANNELS, size, size)."""
    return torch.randn(count, CHANNELS, size, size, generator=torch.Generator().manual_seed(1))


def probabilities(model: Callable[[Tensor], Output], given: Tensor) -> Tensor:
    """Softmax of the logits, without gradient."""
    with torch.no_grad():
        return model(given).logits.float().softmax(1)


def gradient(model: Callable[[Tensor], Output], weights: list[nn.Parameter], given: Tensor) -> list[Tensor | None]:
    """The gradient of a training step: a sum of squares of logits and heads; None where it does not reach."""
    torch.manual_seed(2)
    output = model(given)
    total = sum(each.float().square().mean() for each in (output.logits, *output.heads))
    return list(torch.autograd.grad(total, weights, allow_unused=True))  # type: ignore[arg-type]  # a tensor


def onnx(built: Segmenter, size: int) -> float:
    """The largest difference of a probability."""
    built.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export(built, path, channels=CHANNELS, size=size)
        session = Session(path, threads=1)
        gaps = []
        for count in (2, 3):
            given = images(size, count)
            packed = torch.from_numpy(np.asarray(session(given.numpy()))).softmax(1)
            gaps.append((packed - probabilities(built, given)).abs().max().item())
    return max(gaps)


def compiled(built: Segmenter, size: int, backend: str) -> tuple[float, str]:
    """The largest difference of a gradient over its largest value, and a note where it is not one graph."""
    built.train()
    weights, given = list(built.parameters()), images(size)
    plain = gradient(built, weights, given)
    note = ""
    try:
        torch._dynamo.reset()
        fast = gradient(torch.compile(built, backend=backend, fullgraph=True), weights, given)
    except Exception as error:  # noqa: BLE001 - what a compiler cannot do is what the table is about
        torch._dynamo.reset()
        breaks = torch._dynamo.explain(built)(given).graph_break_count
        note = f", {breaks} graph breaks ({str(error).strip().splitlines()[0][:100]})"
        torch._dynamo.reset()
        fast = gradient(torch.compile(built, backend=backend), weights, given)
    torch._dynamo.reset()
    return apart(plain, fast), note


def apart(plain: list[Tensor | None], other: list[Tensor | None]) -> float:
    """The largest difference over the largest value; infinite where one reaches what the other does not."""
    if [each is None for each in plain] != [each is None for each in other]:
        return float("inf")
    both = [(a, b) for a, b in zip(plain, other, strict=True) if a is not None and b is not None]
    largest = max(a.abs().max().item() for a, _ in both)
    return max((a - b).abs().max().item() for a, b in both) / largest


def channels_last(built: Segmenter, size: int) -> float:
    """The largest difference of a probability."""
    built.eval()
    given = images(size)
    lying = given.to(memory_format=torch.channels_last)
    return (probabilities(built, lying) - probabilities(built, given)).abs().max().item()


def bf16(built: Segmenter, size: int) -> float:
    """The largest difference of a probability; infinite where a gradient is none or not finite."""
    built.train()
    weights, given = list(built.parameters()), images(size)
    plain = gradient(built, weights, given)
    with torch.autocast("cpu", torch.bfloat16):
        half = gradient(built, weights, given)
    for a, b in zip(plain, half, strict=True):
        if (a is None) != (b is None) or (b is not None and not torch.isfinite(b).all()):
            return float("inf")
    built.eval()
    full = probabilities(built, given)
    with torch.autocast("cpu", torch.bfloat16):
        return (probabilities(built, given) - full).abs().max().item()


def ways(name: str) -> dict[str, Callable[[Segmenter, int], float | tuple[float, str]]]:
    """What is tried with a network."""
    known: dict[str, Callable[[Segmenter, int], float | tuple[float, str]]] = {
        "onnx": onnx,
        "aot_eager": lambda built, size: compiled(built, size, "aot_eager"),
        "channels last": channels_last,
        "bf16": bf16,
    }
    if name in INDUCTOR:
        known["inductor"] = lambda built, size: compiled(built, size, "inductor")
    return known


def measure(name: str, way: str) -> str:
    """ok with the difference, or in one line what is wrong."""
    size = STRUCTURES[name].size
    built = network(student(name), size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = ways(name)[way](built, size)
    except Exception as error:  # noqa: BLE001 - what does not work is what the table is about
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
    value, note = result if isinstance(result, tuple) else (result, "")
    return f"{'ok' if value <= BOUNDS[way] else 'apart'} {value:.1g}{note}"


def table(cells: Cells) -> Iterator[str]:
    """A row a network, in Markdown."""
    yield f"| network | {' | '.join(BOUNDS)} |"
    yield f"| --- | {' | '.join('---' for _ in BOUNDS)} |"
    for name in STRUCTURES:
        results = {line["way"]: line["result"].removeprefix("ok ") for line in cells.lines(network=name)}
        if results:
            yield f"| {name} | {' | '.join(results.get(way, '') for way in BOUNDS)} |"


def main() -> int:
    """Measure the cells that are not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=STRUCTURES, default=list(STRUCTURES), metavar="NAME")
    parser.add_argument("--ways", nargs="+", choices=BOUNDS, default=list(BOUNDS), metavar="WAY")
    parser.add_argument("--raw", type=Path, default=RAW, help="one line a cell; what is there is not done again")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(args.raw, ("network", "way"))
    for way in () if args.table else args.ways:
        for name in args.networks:
            if way in ways(name) and {"network": name, "way": way} not in cells:
                begun = time.perf_counter()
                result = measure(name, way)
                cells.add(network=name, way=way, result=result, seconds=round(time.perf_counter() - begun, 1))
    print("\n".join(table(cells)))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
