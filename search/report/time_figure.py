"""Size against time: what each student of a study has in parameters, and what one pass takes on the target."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from search.plotting import (
    DPI,
    GREY,
    SIZE,
    arm_style,
    columns_of,
    decorate,
    plain,
    png,
    printable,
    size_axis,
)

MOST_NAMED = 24
"""Students whose options stand beside their dots; of more, the table has them."""


@dataclass(frozen=True)
class TimedStudent:
    """One student of a study at one size of its input."""

    network: str
    """A name in [run.student]."""
    label: str
    """What else it is, such as `width=8`."""
    params_m: float
    """Millions of parameters."""
    median_ms: float
    """Of one pass, milliseconds."""
    p95_ms: float


def time_figure(students: Sequence[TimedStudent], what: str, bound: float | None = None) -> bytes:
    """A PNG: parameters and milliseconds on log axes, a line from the smallest to the largest student of each network,
    a bar from the median to the 95th percentile.

    students: one at least. what: what was timed and where, as the axis has it. bound: milliseconds that the study
    allows.
    """
    figure = Figure(SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for place, network in enumerate(dict.fromkeys(each.network for each in students)):
        own = sorted((each for each in students if each.network == network), key=lambda each: each.params_m)
        colour, marker = arm_style(place)
        points = [(each.params_m, each.median_ms) for each in own]
        late = [max(each.p95_ms - each.median_ms, 0.0) for each in own]
        axes.errorbar(
            *columns_of(points), yerr=([0.0] * len(own), late), fmt=f"{marker}-", color=colour, ms=6, lw=1.2,
            elinewidth=0.9, capsize=2, label=printable(network),
        )  # fmt: skip
        for each in own if len(students) <= MOST_NAMED else ():
            at = (each.params_m, each.median_ms)
            name = axes.annotate(
                printable(each.label, 40), at, (6, -10), textcoords="offset points", fontsize=7.5, color=colour,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
            plain(name)
    if bound is not None:
        axes.axhline(bound, color=GREY, ls="--", lw=1)
        axes.annotate(f"at most {bound:g} ms", (0.01, bound), (0, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=8, color=GREY)  # fmt: skip
    size_axis(axes, sorted(each.params_m for each in students), room=1.6)
    times = [each.median_ms for each in students] + [each.p95_ms for each in students]
    _time_axis(axes, sorted([*times, *([] if bound is None else [bound])]))
    axes.set_xlabel("parameters of the student (millions)")
    plain(axes.set_ylabel(printable(what, 60)))
    decorate(axes)
    for text in axes.legend(loc="best", fontsize=9, framealpha=0.85).get_texts():
        plain(text)
    return png(figure)


def _time_axis(axes: Axes, times: Sequence[float]) -> None:
    """Milliseconds: from 0 where they differ by little, else a log axis with plain numbers."""
    if times[-1] <= 3 * times[0]:
        axes.set_ylim(0.0, 1.15 * times[-1])
        return
    low, high = times[0] / 1.3, times[-1] * 1.3
    axes.set_yscale("log")
    ticks = [tick * 10.0**power for power in range(-3, 7) for tick in (1, 2, 5)]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high], minor=False)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(low, high)
