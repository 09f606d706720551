"""What single levers give for one student's step and one teacher's pass, so that each is used or left for a reason.

    OMP_NUM_THREADS=1 python -m benchmarks.levers [--width 8] [--size 128] [--blocks 5]

For a student's step (forward, loss, backward, AdamW): the order of channels in memory, `torch.compile`, on a GPU its
CUDA graphs too. For the optimizer alone: torch's default and its fused kernel. For a teacher's pass: batch
normalisation folded into the convolutions. Ratios are taken within blocks of random order: CPU seconds of this
process, on a GPU its own clock; what compiling costs once is printed beside them.
"""

import argparse
import copy
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from models.config import SmpTeacher, UNetNetwork
from trainer.cli.entry import guard

BATCH, REPEATS = 8, 5
Act = Callable[[], None]


def seconds(act: Act, device: torch.device) -> float:
    """Of one of several calls: CPU seconds, or those of the GPU."""
    if device.type != "cuda":
        began = time.process_time()
        for _ in range(REPEATS):
            act()
        return (time.process_time() - began) / REPEATS
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(REPEATS):
        act()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / REPEATS


def step(network: nn.Module, images: Tensor, target: Tensor, bf16: bool, compiled: str | None = None) -> Act:
    """A training step of a student with an optimizer of its own."""
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def loss(batch: Tensor) -> Tensor:
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
            output = network(batch)
        return functional.cross_entropy(output.logits.float(), target)

    forward = loss if compiled is None else torch.compile(loss, mode=compiled)

    def act() -> None:
        optimizer.zero_grad()
        forward(images).backward()
        optimizer.step()

    return act


def students(width: int, size: int, device: torch.device, bf16: bool) -> Iterator[tuple[str, Act]]:
    """The step as it is, first; then with one thing changed."""
    torch.manual_seed(0)
    network = models.build(UNetNetwork(name="unet", width=width), in_channels=3, classes=2).to(device).train()
    images = torch.randn(BATCH, 3, size, size, device=device)
    target = torch.randint(0, 2, (BATCH, size, size), device=device)
    last = torch.channels_last
    ours = copy.deepcopy(network).to(memory_format=last), images.to(memory_format=last)
    yield "channels last (used)", step(*ours, target, bf16)
    yield "channels first", step(copy.deepcopy(network), images, target, bf16)
    yield "torch.compile", step(copy.deepcopy(ours[0]), ours[1], target, bf16, "default")
    if device.type == "cuda":
        yield "torch.compile, CUDA graphs", step(copy.deepcopy(ours[0]), ours[1], target, bf16, "reduce-overhead")


def optimizers(width: int, device: torch.device) -> Iterator[tuple[str, Act]]:
    """AdamW over all weights of a student."""
    network = models.build(UNetNetwork(name="unet", width=width), in_channels=3, classes=2)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()]).to(device)
    for label, fused in (("one fused kernel (used)", True), ("torch's default", False)):
        weights = flat.clone().requires_grad_()
        weights.grad = torch.randn_like(flat)
        yield label, torch.optim.AdamW([weights], fused=fused).step


def teachers(size: int, device: torch.device, bf16: bool) -> Iterator[tuple[str, Act]]:
    """A pass of a U-Net on ResNet-101, and of the same with its normalisations folded away."""
    torch.manual_seed(0)
    teacher = models.build(SmpTeacher(name="smp-unet", encoder="resnet101"), in_channels=3, classes=2)
    teacher = teacher.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, size, size, device=device).to(memory_format=torch.channels_last)
    for label, network in (("as it is (used)", teacher), ("normalisation folded", folded(teacher, images))):

        def act(network: nn.Module = network) -> None:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                network(images)

        yield label, act


def folded(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy in which each convolution that feeds one normalisation carries it in its weights."""
    network = copy.deepcopy(network)
    ran: list[tuple[nn.Module, int, int]] = []
    pairs = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [
        module.register_forward_hook(lambda m, given, out: ran.append((m, given[0].data_ptr(), out.data_ptr())))
        for module in network.modules()
        if isinstance(module, pairs)
    ]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    places = {child: (parent, name) for parent in network.modules() for name, child in parent.named_children()}
    for (conv, _, out), (norm, given, _) in pairwise(ran):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and out == given:
            setattr(*places[conv], nn.utils.fusion.fuse_conv_bn_eval(conv, norm))
            setattr(*places[norm], nn.Identity())
    return network.to(memory_format=torch.channels_last)


def compare(title: str, arms: list[tuple[str, Act]], blocks: int, device: torch.device) -> None:
    """Print the seconds of each and the first over it, medians over blocks; and what the first call took."""
    first, times = {}, {label: list[float]() for label, _ in arms}
    for label, act in arms:
        began = time.perf_counter()
        act()
        first[label] = time.perf_counter() - began
        act()
    for block in range(blocks):
        order = list(arms)
        random.Random(block).shuffle(order)  # noqa: S311 - no secret
        for label, act in order:
            times[label].append(seconds(act, device))
    used = times[arms[0][0]]
    for label, _ in arms:
        ratios = [one / other for one, other in zip(used, times[label], strict=True)]
        cells = [title, label, f"{1000 * statistics.median(times[label]):.1f}", f"{statistics.median(ratios):.2f}"]
        print(f"| {' | '.join([*cells, f'{first[label]:.1f}'])} |", flush=True)


def main() -> int:
    """Measure all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8, help="of the student (default 8)")
    parser.add_argument("--size", type=int, default=128, help="of the square images (default 128)")
    parser.add_argument("--blocks", type=int, default=5)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print("| what | how | ms | used over this | first call, s |\n| --- | --- | ---: | ---: | ---: |")
    for bf16 in (False, True):
        word = "bf16" if bf16 else "fp32"
        arms = list(students(args.width, args.size, device, bf16))
        compare(f"step of width {args.width}, {word}", arms, args.blocks, device)
        compare(f"teacher's pass, {word}", list(teachers(args.size, device, bf16)), args.blocks, device)
    compare(f"AdamW of width {args.width}", list(optimizers(args.width, device)), args.blocks, device)
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
