"""What `recompute` in [run] spares a training step and what it costs: memory and CPU time with it and without, in turn.

    OMP_NUM_THREADS=1 python -m benchmarks.recompute --blocks 7

kept: bytes of a batch that autograd keeps between forward and backward pass, each memory once, weights not counted.
peak: what a fresh process had at most while it took three steps, beyond what it had before the first. time: CPU seconds
of a step (forward, loss, backward), the median of the ratios of neighbouring blocks with its interval. same: whether
gradients and running means are equal bit for bit.
"""

import argparse
import copy
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import models
from benchmarks.clock import interval, peak
from models.config import NetworkConfig, network_config
from models.costs import kept_bytes
from models.output import Segmenter
from models.recompute import recomputing
from trainer.cli.entry import guard

REPEATS = 1
HOW = ("none", "normalisation")


@dataclass(frozen=True)
class Case:
    """A network with its batch."""

    config: NetworkConfig
    side: int = 128
    batch: int = 8
    dims: int = 2

    def made(self) -> tuple[Segmenter, Tensor, Tensor]:
        """The network in training, images and labels; always the same ones."""
        torch.manual_seed(0)
        channels, classes = (3, 2) if self.dims == 2 else (1, 14)
        network = models.build(self.config, in_channels=channels, classes=classes, size=self.side, dims=self.dims)
        shape = [self.side] * self.dims
        images = torch.randn(self.batch, channels, *shape)
        if self.dims == 2:
            images = images.to(memory_format=torch.channels_last)
        return network.train(), images, torch.randint(0, classes, (self.batch, *shape))


CASES: Mapping[str, Case] = {
    "unet 8": Case(network_config("unet", width=8)),
    "unet 16": Case(network_config("unet", width=16)),
    "unet 32": Case(network_config("unet", width=32)),
    "resunetplusplus 16": Case(network_config("resunetplusplus", width=16)),
    "smp-unet resnet18": Case(network_config("smp-unet", encoder="resnet18")),
    "swin-unet 24": Case(network_config("swin-unet", width=24), side=224, batch=2),
    "unet 8, volumes": Case(network_config("unet", width=8), side=32, batch=2, dims=3),
    "residual-unet-3d": Case(network_config("residual-unet-3d"), side=32, batch=2, dims=3),
    "segresnet": Case(network_config("segresnet"), side=32, batch=2, dims=3),
}


def step(network: Segmenter, images: Tensor, target: Tensor, bf16: bool, how: str) -> None:
    """Forward, loss and backward; gradients are added to those that are there."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), recomputing(how):
        logits = network(images).logits
    functional.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]


def same(case: Case, bf16: bool) -> bool:
    """Whether two steps give the same gradients and running means with it and without."""
    outcomes = []
    for how in HOW:
        network, images, target = case.made()
        for _ in range(2):
            step(network, images, target, bf16, how)
        outcomes.append([*(each.grad for each in network.parameters()), *network.buffers()])
    pairs = zip(*outcomes, strict=True)
    return all((one is None and other is None) or torch.equal(one, other) for one, other in pairs)


def kept(case: Case, bf16: bool, how: str) -> int:
    """Bytes of a batch that are kept for the backward pass."""
    network, images, _ = case.made()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return kept_bytes(network, images, how)[0]


def timed(case: Case, bf16: bool, blocks: int) -> tuple[dict[str, float], list[float]]:
    """Milliseconds of a step either way, and the ratios of blocks."""
    network, images, target = case.made()
    acts: dict[str, Callable[[], None]] = {}
    for how in HOW:
        own = copy.deepcopy(network)
        acts[how] = lambda how=how, own=own: step(own, images, target, bf16, how)  # type: ignore[misc]
    times: dict[str, list[float]] = {how: [] for how in HOW}
    for act in acts.values():
        act()
    for block in range(blocks):
        order = list(HOW)
        random.Random(block).shuffle(order)  # noqa: S311 - no secret
        for how in order:
            began = time.process_time()
            for _ in range(REPEATS):
                acts[how]()
            times[how].append((time.process_time() - began) / REPEATS)
    ratios = [other / one for one, other in zip(times["none"], times["normalisation"], strict=True)]
    return {how: 1000 * statistics.median(taken) for how, taken in times.items()}, ratios


def peak_of(name: str, how: str, bf16: bool) -> int:
    """Megabytes that three steps took beyond what was there, in a process of its own."""
    words = ["--case", name, "--how", how, *(["--bf16"] if bf16 else [])]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.recompute", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


def measure_peak(case: Case, how: str, bf16: bool) -> int:
    """The same, in this process."""
    network, images, target = case.made()
    for each in network.parameters():
        each.grad = torch.zeros_like(each)
    before = _resident()
    for _ in range(3):
        step(network, images, target, bf16, how)
    return peak() - before


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


def main() -> int:
    """Print a row for each network and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=7, help="of a comparison (default 7)")
    parser.add_argument("--case", choices=CASES, help="the peak of this one alone, in MB")
    parser.add_argument("--how", choices=HOW, default="none")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES), help="these alone")
    args = parser.parse_args()
    if args.case:
        print(measure_peak(CASES[args.case], args.how, args.bf16))
        return 0
    print("| network | precision | kept MB | ratio | peak MB | ratio | ms | time | same |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for name in args.only:
        for bf16 in (False, True):
            case = CASES[name]
            sizes = [kept(case, bf16, how) for how in HOW]
            peaks = [peak_of(name, how, bf16) for how in HOW]
            times, ratios = timed(case, bf16, args.blocks)
            low, high = interval(ratios)
            cells = [
                *(name, "bf16" if bf16 else "fp32"),
                *(" / ".join(f"{size / 1e6:.1f}" for size in sizes), f"{sizes[1] / sizes[0]:.2f}"),
                *(" / ".join(map(str, peaks)), f"{peaks[1] / max(peaks[0], 1):.2f}"),
                " / ".join(f"{times[how]:.0f}" for how in HOW),
                f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]",
                "yes" if same(case, bf16) else "no",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
