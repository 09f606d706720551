"""Log axes that name the values people look for."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, StrMethodFormatter


def size_axis(axes: Axes, sizes: Sequence[float], room: float = 1.2) -> None:
    """Ascending sizes on a log axis, each named where there is place; `room`: how far the axis goes beyond the last."""
    if sizes[-1] <= 2 * sizes[0]:
        axes.set_xlim(sizes[0] * 0.8, sizes[-1] * room)
        return
    axes.set_xscale("log")
    ticks: list[float] = []
    for size in sizes:
        if not ticks or size > 1.25 * ticks[-1]:
            ticks.append(float(f"{size:.3g}"))
    axes.set_xticks(ticks, minor=False)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlim(sizes[0] / 1.2, sizes[-1] * room)


def count_axis(axes: Axes, most: int) -> None:
    """Trials from 1 to `most` on a log axis with whole numbers as ticks."""
    axes.set_xscale("log")
    ticks = [tick * 10**power for power in range(7) for tick in (1, 2, 5) if tick * 10**power <= most]
    axes.set_xticks(ticks, minor=False)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlim(0.93, max(most, 2) * 1.07)


def share_axis(axes: Axes, shares: Sequence[float]) -> None:
    """Shares on a log axis, named in percent at each power of ten around them."""
    powers = range(math.floor(math.log10(min(shares))), math.ceil(math.log10(max(shares))) + 1)
    axes.set_yscale("log")
    axes.set_yticks([10.0**power for power in powers], minor=False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0.8 * 10.0 ** powers[0], 1.25 * 10.0 ** powers[-1])
