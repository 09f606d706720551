"""The figure of several studies side by side, from the document alone."""

from collections.abc import Sequence
from typing import Any

from search.axes import size_axis
from search.plotting import look, shown
from search.report.content.document import Report, Side
from search.report.svg import PAPER, Drawn, canvas, legend_below, named_axes, quiet, svg


def figures_across(report: Report) -> list[Drawn]:
    """Score against size, with and without KD; nothing where no study tells its size and score."""
    known = [side for side in report.sides if side.params_m and _scores(side)]
    return [_size(known, len(report.sides) - len(known))] if known else []


def _scores(side: Side) -> list[float]:
    return [score for score in (side.with_kd, side.without_kd) if score is not None]


def _size(sides: Sequence[Side], left_out: int) -> Drawn:
    with canvas(4.0) as figure:
        axes = figure.subplots()
        seen: dict[float, int] = {}
        for place, side in enumerate(sides):
            colour, marker = look(place)
            size = side.params_m or 0.0
            x = size * 1.05 ** seen.get(size, 0)  # networks of one size stand side by side
            seen[size] = seen.get(size, 0) + 1
            scores = _scores(side)
            axes.vlines(x, min(scores), max(scores), color=colour, lw=1.2)
            style: dict[str, Any] = dict(color=colour, mew=1.6, ms=7, ls="")
            if side.without_kd is not None:
                axes.plot([x], [side.without_kd], marker, mfc=PAPER, **style)
            if side.with_kd is not None:
                axes.plot([x], [side.with_kd], marker, **style)
            axes.plot([], [], marker, label=shown(side.study), **style)
        size_axis(axes, sorted(seen), room=1.35)
        quiet(axes)
        named_axes(axes, "parameters (millions)", "score")
        legend_below(figure, axes)
        data = svg(figure)
    note = (
        "Filled: with distillation; open: without. Confirmed studies stand with their mean test scores, others with "
        "their best validation scores. Networks of one size stand side by side"
        f"{'; of some studies size or score is not known' if left_out else ''}."
    )
    alt = "Scores with and without distillation against parameters, one marker a study"
    return Drawn("studies-size", "Scores against parameters, by study", alt, data, note)
