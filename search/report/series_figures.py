"""The size plot of a series, from the document alone: score against parameters, from each teacher to its student."""

from collections.abc import Mapping, Sequence
from math import sqrt

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.plotting import COLOURS, printable, size_axis
from search.report.content.document import Report, SeriesMember, SeriesPart
from search.report.svg import INK, MUTED, PAPER, Drawn, canvas, named_axes, quiet, svg
from search.study.snapshot import NO_METHOD

SMALLEST, LARGEST = 5.0, 30.0
"""Diameters of bubbles, points."""
PANELS = 6
"""Panels beside and below each other at most; of more data sets the first ones are drawn."""


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
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with canvas(3.2 * lines + 0.7) as figure:
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                axes.set_visible(False)
                continue
            own = [member for member in members if member.panel == panels[place]]
            _panel(axes, own, colours, max(flops, default=0.0))
            axes.set_title(printable(panels[place], 40), fontsize=9.5, color=INK, parse_math=False)
            named_axes(axes, "parameters (millions)", part.metric if place % columns == 0 else "")
        _legend(figure, colours)
        data = svg(figure)
    unconfirmed = any(member.part != "test" for member in members)
    note = (
        "Filled: students, in the colour of their method; open: their teachers, from which arrows lead to them. The "
        "area of a bubble is the network's GFLOP, where that is known. Scores are test scores, means over fresh seeds, "
        "with their intervals"
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
    sizes: list[float] = []
    for member in members:
        if member.params_m is None or member.score is None:
            continue
        colour = colours[member.method or NO_METHOD]
        own = _diameter(member.gflops, most)
        sizes.append(member.params_m)
        if member.teacher_params_m and member.teacher_score is not None:
            sizes.append(member.teacher_params_m)
            _teacher(axes, member, most)
            if (member.method or NO_METHOD) != NO_METHOD:
                _arrow(axes, member, colour, own, _diameter(member.teacher_gflops, most))
        if member.low is not None and member.high is not None:
            axes.vlines(member.params_m, member.low, member.high, color=colour, lw=1.2)
        axes.plot([member.params_m], [member.score], "o", color=colour, alpha=0.75, ms=own, mew=0, ls="")
    ordered = sorted(sizes)
    size_axis(axes, ordered, room=1.6)
    axes.set_xlim(ordered[0] / 1.6, ordered[-1] * 1.9)
    axes.margins(y=0.12)
    quiet(axes)


def _teacher(axes: Axes, member: SeriesMember, most: float) -> None:
    at = (member.teacher_params_m or 0.0, member.teacher_score or 0.0)
    ms = _diameter(member.teacher_gflops, most)
    axes.plot([at[0]], [at[1]], "o", mfc=PAPER, mec=INK, ms=ms, mew=1.2, ls="", alpha=0.9)
    axes.annotate(
        printable(member.teacher or "", 26), at, (0, ms / 2 + 3), textcoords="offset points", ha="center", fontsize=7,
        color=MUTED, parse_math=False,
    )  # fmt: skip


def _arrow(axes: Axes, member: SeriesMember, colour: str, own: float, teacher: float) -> None:
    """From the edge of the teacher's bubble to that of the student's."""
    axes.annotate(
        "",
        xy=(member.params_m or 0.0, member.score or 0.0),
        xytext=(member.teacher_params_m or 0.0, member.teacher_score or 0.0),
        arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.0, "alpha": 0.7, "shrinkA": teacher / 2 + 1,
                    "shrinkB": own / 2 + 1},
    )  # fmt: skip


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """Methods with their colours, below all panels."""
    axes = figure.axes[0]
    handles = [axes.plot([], [], "o", color=colour, ms=6, mew=0, ls="")[0] for colour in colours.values()]
    handles += axes.plot([], [], "o", mfc=PAPER, mec=INK, ms=6, mew=1.2, ls="")
    labels = [printable(method, 40) for method in colours] + ["teacher"]
    box = figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    for text in box.get_texts():
        text.set_parse_math(False)
