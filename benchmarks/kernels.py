"""What compiled kernels would give a training step: a layer beside a plain copy of its map, and whole steps, by turns.

    pip install numba
    OMP_NUM_THREADS=1 python -m benchmarks.kernels

Layer: batch normalisation and ReLU in bf16, channels last, forward and backward, and the time to copy the map once: a
pass that reads and writes it, which is what memory allows; forward and backward cannot do with fewer than five of
them (statistics and output; two sums and the gradient). Step: a student of 128 pixels in bf16, cross-entropy, forward
and backward, without a teacher. CPU time of one thread; a ratio is torch's over the kernels', within a block. Before
anything is timed, both are compared with torch in double precision.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from benchmarks.clock import interval
from benchmarks.fused_norm import fuse
from models.config import network_config
from trainer.cli.entry import guard

LAYERS = ((8, 128), (16, 64), (32, 32), (64, 16))
"""Channels and side of the maps of a U-Net of width 8, from its first level down."""
STEPS: dict[str, dict[str, Any]] = {
    "unet 8": {"name": "unet", "width": 8},
    "unet 16": {"name": "unet", "width": 16},
    "resunetplusplus 8": {"name": "resunetplusplus", "width": 8},
    "smp-unet resnet18": {"name": "smp-unet", "encoder": "resnet18"},
}
BATCH, SIDE = 16, 128


def cpu_ms(action: Callable[[], object], times: int = 10) -> float:
    """Milliseconds of CPU time that one call takes."""
    begun = time.process_time()
    for _ in range(times):
        action()
    return 1e3 * (time.process_time() - begun) / times


def by_turns(actions: dict[str, Callable[[], object]], blocks: int, times: int) -> dict[str, list[float]]:
    """What each takes in each block; all run once before."""
    for action in actions.values():
        action()
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for block in range(blocks):
        order = list(actions) if block % 2 == 0 else list(actions)[::-1]
        for name in order:
            taken[name].append(cpu_ms(actions[name], times))
    return taken


def layer(channels: int, side: int, blocks: int) -> str:
    """A line of the first table."""
    plain = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    fused = copy.deepcopy(plain)
    fuse(fused)
    images, grad = (_drawn(BATCH, channels, side).to(torch.bfloat16) for _ in range(2))
    other = torch.empty_like(images)

    def passes(network: nn.Module) -> Callable[[], object]:
        def both() -> None:
            given = images.detach().requires_grad_()
            network(given).backward(grad)

        return both

    actions = {"copy": lambda: other.copy_(images), "torch": passes(plain), "numba": passes(fused)}
    taken = by_turns(actions, blocks, 10)
    copied, torch_ms, numba_ms = (statistics.median(taken[name]) for name in ("copy", "torch", "numba"))
    size = images.numel() * 2 / 1e6
    ratio = _ratio(taken)
    return f"| {channels} x {side} x {side} | {size:.1f} | {copied:.3f} | {torch_ms:.2f} | {numba_ms:.2f} | {ratio} |"


def step(name: str, blocks: int) -> str:
    """A line of the second table."""
    config = network_config(**STEPS[name])
    plain = models.build(config, in_channels=3, classes=2, size=SIDE).train()
    fused = copy.deepcopy(plain)
    fuse(fused)
    images, target = _drawn(BATCH, 3, SIDE), torch.randint(0, 2, (BATCH, SIDE, SIDE))

    def steps(network: nn.Module) -> Callable[[], object]:
        def whole() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images).logits
            functional.cross_entropy(logits.float(), target).backward()
            network.zero_grad()

        return whole

    taken = by_turns({"torch": steps(plain), "numba": steps(fused)}, blocks, 2)
    torch_ms, numba_ms = (statistics.median(taken[way]) for way in ("torch", "numba"))
    return f"| {name} | {torch_ms:.0f} | {numba_ms:.0f} | {_ratio(taken)} |"


def check(dtype: torch.dtype) -> None:
    """Output, gradients and running means against double precision. Raises AssertionError where they differ."""
    exact = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()).double()
    nn.init.normal_(exact[0].weight)
    fused = copy.deepcopy(exact).float()
    fuse(fused)
    images, grad = (_drawn(4, 16, 64) for _ in range(2))
    images = (images * 3 + 5).to(dtype)  # a mean that is far from 0 for its deviation
    own, other = images.clone().requires_grad_(), images.double().requires_grad_()
    outs = [network(given) for network, given in ((fused, own), (exact, other))]
    for out in outs:
        out.backward(grad.to(dtype).to(out.dtype))
    pairs = [(outs[0], outs[1]), (own.grad, other.grad)]
    pairs += [(getattr(fused[0], name).grad, getattr(exact[0], name).grad) for name in ("weight", "bias")]
    pairs += [(getattr(fused[0], name), getattr(exact[0], name)) for name in ("running_mean", "running_var")]
    loose = 1e-5 if dtype == torch.float32 else 2**-7
    for one, two in pairs:
        torch.testing.assert_close(one.double(), two, rtol=loose, atol=loose)


def _ratio(taken: dict[str, list[float]]) -> str:
    ratios = [one / other for one, other in zip(taken["torch"], taken["numba"], strict=True)]
    low, high = interval(ratios)
    return f"{statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]"


def _drawn(count: int, channels: int, side: int) -> Tensor:
    return torch.randn(count, channels, side, side).to(memory_format=torch.channels_last)


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=7, metavar="N")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        check(dtype)
    print("| map | MB | copy ms | torch ms | numba ms | times as fast |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for channels, side in LAYERS:
        print(layer(channels, side, args.blocks), flush=True)
    print("\n| step | torch ms | numba ms | times as fast |\n| --- | ---: | ---: | ---: |")
    for name in STEPS:
        print(step(name, args.blocks), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
