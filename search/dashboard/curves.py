"""The figure of a search's curves: running trials against the finished ones of their choice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from search.plotting import DPI, GREY, SIZE, Scale, columns_of, decorate, look, plain, png, quantile, shown, span

PANELS = 6
"""Choices that are shown at most."""
NAMED = 8
"""Running trials of one panel that get their number beside the curve."""


@dataclass(frozen=True)
class Curve:
    """The scores of one trial by epoch."""

    number: int
    arm: str
    choice: str
    """Its value of the front's parameter; empty where there is no front."""
    points: Sequence[tuple[int, float]]
    """(epoch, score), rising in the epoch."""
    running: bool


def curves_figure(curves: Sequence[Curve], arms: Sequence[str], scale: Scale, along: str | None) -> bytes:
    """Running trials against the middle 80 % of the finished ones of their choice, one panel a choice."""
    live = [curve for curve in curves if curve.running]
    choices = _in_order({curve.choice for curve in live or curves})
    panels = choices[:PANELS] or [""]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure((SIZE[0], 0.6 + (3.4 if rows == 1 else 2.6) * rows), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    low, high = span([value for curve in curves if curve.choice in panels for _, value in curve.points], scale)
    for axes, choice in zip(grid.flat, panels, strict=False):
        mine = [curve for curve in curves if curve.choice == choice]
        finished = [curve for curve in mine if not curve.running]
        _band(axes, finished)
        for curve in [c for c in mine if c.running]:
            colour, marker = look(arms.index(curve.arm))
            axes.plot(*columns_of(curve.points), f"-{marker}", color=colour, lw=1.4, ms=3, label=shown(curve.arm))
        _number(axes, [c for c in mine if c.running], arms)
        if not mine:
            axes.text(0.5, 0.5, "no epoch was reported yet", transform=axes.transAxes, ha="center", color=GREY)
        running = sum(c.running for c in mine)
        title = f"{shown(f'{along} = {choice}')}\n" if along is not None and choice else ""
        plain(axes.set_title(f"{title}{len(finished)} finished, {running} running", fontsize=9))
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_axis_off()
        if place + columns >= len(panels):
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
    for axes in grid.flat:
        decorate(axes)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _shared_legend(figure, grid.flat)
    plain(figure.supylabel(scale.title, fontsize=10))
    more = f"; {len(choices) - PANELS} more choices not shown" if len(choices) > PANELS else ""
    what = "Running trials against the finished ones" if live else "Finished trials (none is running)"
    figure.suptitle(f"{what}: band 10 to 90 %, line the median{more}", fontsize=11)
    return png(figure)


def _band(axes: Axes, finished: Sequence[Curve]) -> None:
    """The middle 80 % of the finished trials at each epoch that at least two reached."""
    by_epoch: dict[int, list[float]] = {}
    for curve in finished:
        for epoch, value in curve.points:
            by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(epoch for epoch, values in by_epoch.items() if len(values) > 1)
    if not epochs:
        return
    at = {epoch: sorted(by_epoch[epoch]) for epoch in epochs}
    low, middle, high = ([quantile(at[epoch], q) for epoch in epochs] for q in (0.1, 0.5, 0.9))
    axes.fill_between(epochs, low, high, color="#BBBBBB", alpha=0.6, lw=0, label="finished, 10 to 90 %")
    axes.plot(epochs, middle, color=GREY, lw=1.2, ls="--", label="finished, median")


def _number(axes: Axes, running: Sequence[Curve], arms: Sequence[str]) -> None:
    """Trial numbers at the ends of the curves, the first few alone."""
    for curve in running[:NAMED]:
        if curve.points:
            colour, _ = look(arms.index(curve.arm))
            label = axes.annotate(
                f"#{curve.number}",
                curve.points[-1],
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=colour,
            )
            label.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _shared_legend(figure: Figure, panels: Iterable[Axes]) -> None:
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        legend = figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4, fontsize=8)
        for text in legend.get_texts():
            plain(text)


def _in_order(choices: set[str]) -> list[str]:
    """Numbers by value, words behind them by letter."""

    def key(choice: str) -> tuple[bool, float, str]:
        try:
            return False, float(choice), choice
        except ValueError:
            return True, 0.0, choice

    return sorted(choices, key=key)
