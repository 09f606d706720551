"""The size plot of a series, from the document alone: score against parameters, from each teacher to its student."""

from collections.abc import Mapping, Sequence
from math import sqrt

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from search.plotting import COLOURS, printable
from search.report.content.document import Report, SeriesMember, SeriesPart
from search.report.svg import INK, MUTED, PAPER, Drawn, canvas, named_axes, quiet, svg
from search.study.snapshot import NO_METHOD

SMALLEST, LARGEST = 5.0, 26.0
"""Diameters of bubbles, points."""
BESIDE = 1.06
"""Between the places of two methods on the axis of sizes, as a factor."""
NAME_HEIGHT = 0.06
"""Of a network's name, as a share of the axis of scores."""
TAUGHT = "Filled: students, in the colour of their method; open: their teachers, from which arrows lead to them. "
PANELS = 6
"""Panels below each other at most; of more data sets the first ones are drawn."""


def draw_series_figures(report: Report) -> list[Drawn]:
    """One size plot a series that knows the size and the score of a network."""
    return [figure for part in report.series if (figure := _sizes(part)) is not None]


def _known(member: SeriesMember) -> bool:
    return bool(member.params_m) and member.score is not None


def _sizes(part: SeriesPart) -> Drawn | None:
    members = [member for member in part.members if _known(member)]
    panels = list(dict.fromkeys(member.panel for member in members))[:PANELS]
    if not panels:
        return None
    methods = sorted({member.method or NO_METHOD for member in members}, key=lambda m: (m == NO_METHOD, m))
    colours = {method: MUTED if method == NO_METHOD else COLOURS[i % 6] for i, method in enumerate(methods)}
    flops = [f for m in members for f in (m.gflops, m.teacher_gflops) if f]
    with canvas(3.0 * len(panels) + 0.6) as figure:
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)
        for axes, panel in zip(grid.flat, panels, strict=True):
            _panel(axes, [member for member in members if member.panel == panel], colours, max(flops, default=0.0))
            axes.set_title(printable(panel, 40), fontsize=9.5, color=INK, parse_math=False)
            named_axes(axes, "parameters (millions)" if panel == panels[-1] else "", part.metric)
        _size_ticks(grid.flat[-1], [x for m in members for x in (m.params_m, m.teacher_params_m) if x])
        taught = any(map(_has_teacher, members))
        _legend(figure, colours, teachers=taught)
        data = svg(figure)
    unconfirmed = any(member.part != "test" for member in members)
    note = (
        f"{TAUGHT if taught else ''}"
        "The area of a bubble is the network's GFLOP, where that is known; of one size they stand side by side. "
        "Scores are test scores, means over fresh seeds, with their intervals"
        f"{'; of a study that is not confirmed the best of its search on validation' if unconfirmed else ''}."
    )
    if len(dict.fromkeys(member.panel for member in members)) > PANELS:
        note += f" Of more than {PANELS} data sets the first ones are drawn; the table has all."
    alt = f"{part.metric} against parameters of the members of {part.name}, a panel a data set"
    return Drawn(f"{part.name}-sizes", f"Score against parameters: {part.name}", alt, data, note)


def _diameter(gflops: float | None, most: float) -> float:
    """Of a bubble whose area is a network's operations."""
    return SMALLEST if not gflops or not most else max(SMALLEST, LARGEST * sqrt(gflops / most))


def _panel(axes: Axes, members: Sequence[SeriesMember], colours: Mapping[str, str], most: float) -> None:
    for member in members:
        if member.params_m is None or member.score is None:
            continue
        colour = colours[member.method or NO_METHOD]
        # Networks of one size stand side by side, a method a place.
        x = member.params_m * BESIDE ** list(colours).index(member.method or NO_METHOD)
        own = _diameter(member.gflops, most)
        if _has_teacher(member) and (member.method or NO_METHOD) != NO_METHOD:
            _arrow(axes, member, x, colour, own, _diameter(member.teacher_gflops, most))
        if member.low is not None and member.high is not None:
            axes.vlines(x, member.low, member.high, color=colour, lw=1.2)
        axes.plot([x], [member.score], "o", color=colour, alpha=0.75, ms=own, mew=0, ls="")
    # A teacher of several members stands once.
    teachers = list({(m.teacher, m.teacher_params_m): m for m in members if _has_teacher(m)}.values())
    for member in teachers:
        ms = _diameter(member.teacher_gflops, most)
        at = (member.teacher_params_m or 0.0, member.teacher_score or 0.0)
        axes.plot([at[0]], [at[1]], "o", mfc=PAPER, mec=INK, ms=ms, mew=1.2, ls="", alpha=0.9)
    axes.margins(y=0.15)
    axes.tick_params(axis="x", which="minor", length=0)
    quiet(axes)
    _name(
        axes,
        [
            (m.teacher or "", m.teacher_params_m or 0.0, m.teacher_score or 0.0, _diameter(m.teacher_gflops, most))
            for m in teachers
        ],
        right=True,
    )
    columns = list(colours)
    for column in {0, len(columns) - 1} if len(columns) < 3 else {0}:
        _name(
            axes,
            [
                (m.network or "", (m.params_m or 0.0) * BESIDE**column, m.score or 0.0, _diameter(m.gflops, most))
                for m in members
                if (m.method or NO_METHOD) == columns[column]
            ],
            right=column > 0,
        )


def _name(axes: Axes, bubbles: Sequence[tuple[str, float, float, float]], *, right: bool) -> None:
    """Names of networks beside their bubbles (name, x, y, diameter in points), moved apart where they would overlap."""
    low, high = axes.get_ylim()
    bubbles = sorted(bubbles, key=lambda bubble: bubble[2])
    away = max((diameter for *_, diameter in bubbles), default=0.0) / 2 + 5
    heights = apart([y for _, _, y, _ in bubbles], NAME_HEIGHT * (high - low))
    for (name, x, *_), height in zip(bubbles, heights, strict=True):
        axes.annotate(
            printable(name.partition(",")[0], 24), (x, height), (away if right else -away, 0),
            textcoords="offset points", ha="left" if right else "right", va="center", fontsize=7, color=MUTED,
            parse_math=False,
        )  # fmt: skip


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights moved so that neighbours are `gap` apart or more; a group that is moved keeps its mean."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _lowest(groups[-1], gap) < _lowest(groups[-2], gap) + gap * len(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_lowest(group, gap) + gap * place for group in groups for place in range(len(group))]


def _lowest(group: Sequence[float], gap: float) -> float:
    """The first height of a group that lies around its mean."""
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _has_teacher(member: SeriesMember) -> bool:
    return bool(member.teacher_params_m) and member.teacher_score is not None


def _size_ticks(axes: Axes, sizes: Sequence[float]) -> None:
    """A log axis from below the smallest network to beyond the largest, with ticks of one digit: 0.1, 0.3, 1."""
    low, high = min(sizes) / 3.5, max(sizes) * 3.5
    axes.set_xscale("log")
    ticks = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 3)]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high], minor=False)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlim(low, high)


def _arrow(axes: Axes, member: SeriesMember, x: float, colour: str, own: float, teacher: float) -> None:
    """From the edge of the teacher's bubble to that of the student's."""
    axes.annotate(
        "",
        xy=(x, member.score or 0.0),
        xytext=(member.teacher_params_m or 0.0, member.teacher_score or 0.0),
        arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.0, "alpha": 0.7, "shrinkA": teacher / 2 + 1,
                    "shrinkB": own / 2 + 1},
    )  # fmt: skip


def _legend(figure: Figure, colours: Mapping[str, str], *, teachers: bool) -> None:
    """Methods with their colours, and what stands for teachers, below all panels."""
    axes = figure.axes[0]
    handles = [axes.plot([], [], "o", color=colour, ms=6, mew=0, ls="")[0] for colour in colours.values()]
    labels = [printable(method, 40) for method in colours]
    if teachers:
        handles += axes.plot([], [], "o", mfc=PAPER, mec=INK, ms=6, mew=1.2, ls="")
        labels.append("teacher")
    box = figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    for text in box.get_texts():
        text.set_parse_math(False)
