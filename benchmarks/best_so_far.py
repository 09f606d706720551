"""A figure of how far the best student of each width is from the best there is, against time: plain search beside ours.

    python -m benchmarks.best_so_far -o docs/best-so-far.png

The searches, their clock and their worlds are those of `benchmarks.time_to_answer` and `benchmarks.pausing`. A line is
the median over seeds, its band the middle half, of the shortfall of the worst width: the best of many random trials of
that width, trained to their ends, less the best that the search has finished. Before every width has one, a width
falls short by all of the best.
"""

import argparse
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.pausing import lines
from benchmarks.record_curves import widths_of
from benchmarks.time_to_answer import Cost, Found
from benchmarks.worlds import WORLDS, World
from search.plotting import COLOURS, DPI, GREY
from trainer.cli.entry import guard

TRIALS, WITHIN = 60, 0.005
FLOOR = 1e-3
"""The shortfall that is drawn for all below it."""
Searches = Mapping[str, Callable[[int], Found]]


def searches(world: World) -> Searches:
    """Label to a search by its seed: plain search, and ours with the default pruner and with those that pause."""
    tenth, third = max(world.arm.epochs // 10, 1), round(world.arm.epochs / 3)
    ours = lines(world, Cost(), TRIALS, WITHIN)
    plain = "plain TPE + median, one at a time"
    return {
        plain: ours[plain],
        "8 side by side, median": ours["today: 8 in flight, median"],
        "8 side by side, promote": ours[f"promote, first rung {third}"],
        "8 side by side, curves": ours[f"curves, first rung {tenth}"],
    }


def shortfall(world: World, found: Found, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the worst width, at each time."""
    worst = np.zeros(len(times))
    for width in widths_of(world.arm):
        best = np.zeros(len(times))
        for time, whose, value in found.finished:
            if whose == width:
                best = np.where(times >= time, np.maximum(best, value), best)
        worst = np.maximum(worst, world.best(width) - best)
    return np.maximum(worst, FLOOR)


def draw(worlds: Sequence[World], seeds: int) -> bytes:
    """A PNG with one panel a world."""
    figure = Figure(figsize=(4.6 * len(worlds), 4.0), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, world in zip(figure.subplots(1, len(worlds), squeeze=False)[0], worlds, strict=True):
        for (label, search), colour in zip(searches(world).items(), COLOURS, strict=False):
            every = [search(seed) for seed in range(seeds)]
            times = np.linspace(0.0, max(found.ended for found in every), 400)
            curves = np.array([shortfall(world, found, times) for found in every])
            low, middle, high = np.percentile(curves, [25, 50, 75], axis=0)
            axes.step(times, middle, where="post", color=colour, label=label)
            axes.fill_between(times, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.axhline(WITHIN, color=GREY, linestyle=":", linewidth=1)
        axes.set_yscale("log")
        axes.set_ylim(FLOOR, 1.0)
        axes.set_title(f"{world.name}, {len(widths_of(world.arm))} widths", fontsize=10)
        axes.set_xlabel("time, in plain epochs of the widest student")
    figure.axes[0].set_ylabel("Dice that the worst width falls short of its best")
    figure.axes[0].legend(fontsize=8, loc="upper right")
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def main() -> int:
    """Search and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--worlds", nargs="+", choices=tuple(WORLDS), default=["recorded", "kvasir", "formula"])
    parser.add_argument("-o", "--output", type=Path, default=Path("best-so-far.png"), metavar="FILE")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    args.output.write_bytes(draw([WORLDS[name]() for name in args.worlds], args.seeds))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
