"""What validation costs by the number of classes: a U-Net of width 8 at 224 with masks of 512 x 512.

Run as `python -m benchmarks.count_pass [--classes 2 9] [--rounds 15]`: a Markdown table of CPU milliseconds a batch of
eight on one thread (medians), and of the ratio of each number of classes to the first, taken round by round, with a
95 % interval; the numbers of classes take turns, so that what else the machine does falls on all of them. Counting
class by class, as was done before, stands beside.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import models
from benchmarks.clock import cpu_flags, interval
from models.config import UNetNetwork
from trainer.data.dataset import Placement
from trainer.evaluation.confusion import confusion, labels
from trainer.evaluation.metrics import BATCH, native_logits

SIZE, NATIVE = 224, 512
PLACEMENT = Placement(height=NATIVE, width=NATIVE, top=0, left=0, inner_height=SIZE, inner_width=SIZE)


def class_by_class(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """The counts as they were made before: a few sums over all pixels for each class."""
    valid = truth != 255
    pixels = valid.sum((1, 2))
    rows = []
    for label in range(classes):
        positive_mask, true = (predicted == label) & valid, truth == label
        tp, positive, labelled = (positive_mask & true).sum((1, 2)), positive_mask.sum((1, 2)), true.sum((1, 2))
        rows.append(torch.stack((tp, positive - tp, labelled - tp, pixels - positive - labelled + tp), dim=-1))
    return torch.stack(rows, dim=1)


def steps(classes: int) -> Mapping[str, Callable[[], object]]:
    """The parts of a validation step by name; each can be run again and again."""
    generator = torch.Generator().manual_seed(0)
    network = models.build(UNetNetwork(name="unet", width=8), in_channels=3, classes=classes).eval()
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator).to(memory_format=torch.channels_last)
    coarse = torch.randint(0, classes, (BATCH, 8, 8), generator=generator, dtype=torch.uint8)
    truth = coarse.repeat_interleave(NATIVE // 8, 1).repeat_interleave(NATIVE // 8, 2)
    truth[:, :16] = 255
    logits = network(images).logits
    native = native_logits(logits, PLACEMENT)
    predicted = labels(native)
    assert torch.equal(confusion(predicted, truth, classes), class_by_class(predicted, truth, classes))  # noqa: S101
    return {
        "network": lambda: network(images),
        "logits at native size": lambda: native_logits(logits, PLACEMENT),
        "labels": lambda: labels(native),
        "counts": lambda: confusion(predicted, truth, classes),
        "(counts, class by class)": lambda: class_by_class(predicted, truth, classes),
    }


def measured(classes: list[int], rounds: int) -> Mapping[str, list[list[float]]]:
    """CPU milliseconds by part, a list for each number of classes; a first round is thrown away."""
    every = [steps(number) for number in classes]
    spent: dict[str, list[list[float]]] = {name: [[] for _ in classes] for name in every[0]}
    for turn in range(rounds + 1):
        for place, parts in enumerate(every):
            for name, run in parts.items():
                began = time.process_time()
                run()
                if turn:
                    spent[name][place].append(1000 * (time.process_time() - began))
    return spent


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description="what validation costs by the number of classes")
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 9])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        spent = dict(measured(options.classes, options.rounds))
    whole = [part for name, part in spent.items() if not name.startswith("(")]
    spent["all but the last"] = [[sum(each) for each in zip(*(part[i] for part in whole), strict=True)]
                                 for i in range(len(options.classes))]  # fmt: skip
    print(cpu_flags(), f"torch {torch.__version__}", sep="; ", end="\n\n")
    print("| part |", " | ".join(f"{number} classes (ms) | ratio" for number in options.classes), "|")
    print(f"|---|{'---|---|' * len(options.classes)}")
    for name, columns in spent.items():
        cells = []
        for column in columns:
            ratios = [value / first for value, first in zip(column, columns[0], strict=True)]
            low, high = interval(ratios)
            cells.append(f"{statistics.median(column):.1f} | {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
