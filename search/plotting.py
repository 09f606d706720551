"""What all figures share: colours, markers, axes, text that users chose, and PNG.

Drawn with matplotlib's objects alone, without its global state. Colours and markers tell arms apart for colour-blind
people too (palette: Okabe and Ito, 2008). Log axes name the values that people look for. Text that users chose is drawn
as it is: no formulas, and a question mark for what the font lacks.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, NullFormatter, StrMethodFormatter

from trainer.evaluation.score_names import unit_of

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#555555"
SIZE, DPI = (8.0, 4.5), 150
"""Inches, and dots an inch: 1200 by 675 pixels."""
LABEL = 28
"""Characters of a label that are drawn."""


@dataclass(frozen=True)
class Scale:
    """What a score is called, which way is better, and what the teacher reaches."""

    metric: str
    maximize: bool
    teacher: float | None = None

    @property
    def title(self) -> str:
        """The metric of the search's own scores as a label; lengths of validation are in pixels."""
        unit = unit_of(self.metric.partition(".")[0], spacing=False)
        return self.metric[:1].upper() + self.metric[1:] + (f" ({unit})" if unit else "")

    def best(self, scores: Sequence[float]) -> list[float]:
        """The best so far, one a score."""
        return list(accumulate(scores, max if self.maximize else min))


def printable(text: str, longest: int = LABEL) -> str:
    """A text as a figure can show it: short, in one line, and of glyphs that the font has."""
    line = "".join(c if ord(c) in _glyphs() and c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


@lru_cache(1)
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def arm_style(place: int) -> tuple[str, str]:
    """The colour and the marker of the arm at this place."""
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def plain(text: Text) -> None:
    """Take a text as it is, without formulas between dollar signs."""
    text.set_parse_math(False)


def columns_of(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points as matplotlib takes them: all x, all y."""
    return [x for x, _ in points], [y for _, y in points]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie, interpolated."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def span(scores: Sequence[float], scale: Scale) -> tuple[float, float]:
    """The part of the axis that is shown: all of it, but for a few hopeless trials that would flatten the rest."""
    every = [*scores, *([] if scale.teacher is None else [scale.teacher])]
    if not scores:
        return (every[0] - 0.1, every[0] + 0.1) if every else (0.0, 1.0)
    ordered = sorted(every)
    quarter, middle = quantile(ordered, 0.25), quantile(ordered, 0.5)
    three = quantile(ordered, 0.75)
    reach = 2 * max(three - quarter, 0.002 * abs(middle), 1e-6)
    low, high = ordered[0], ordered[-1]
    if scale.maximize:
        low = next(score for score in ordered if score >= quarter - reach)
    else:
        high = next(score for score in reversed(ordered) if score <= three + reach)
    room = 0.06 * max(high - low, 0.01 * abs(middle), 1e-6)
    return low - room, high + room


def decorate(axes: Axes) -> None:
    """A quiet grid and two spines."""
    axes.grid(visible=True, color="#E5E5E5", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png")
    return data.getvalue()


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
