"""Two figures of a search: score against the student's size, and the best so far over finished trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from search.plotting import DPI, GREY, SIZE, Scale, columns_of, decorate, look, plain, png, shown, span


@dataclass(frozen=True)
class Dot:
    """One trial that was trained to its end, in the order in which they ended."""

    arm: str
    number: int
    score: float
    size: float | None
    """Millions of parameters, or another measure of size; None where unknown."""
    place: int
    """How many trials of its arm had finished by then, pruned ones and this one included."""


def size_figure(dots: Sequence[Dot], arms: Sequence[str], scale: Scale, label: str) -> bytes:
    """Score against size, one dot a finished trial, and each arm's front: what no smaller student reaches.

    label: what a size is, with its unit.
    """
    figure = Figure(SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    known = [dot for dot in dots if dot.size is not None]
    low, high = span([dot.score for dot in known], scale)
    sizes = [dot.size for dot in known if dot.size] or [1.0]
    step = 1.01 * (max(sizes) / min(sizes)) ** 0.008  # arms share their sizes: side by side, all dots are seen
    for place, arm in enumerate(arms):
        mine = sorted((dot.size or 0.0, dot.score) for dot in known if dot.arm == arm)
        if not mine:
            continue
        shift = step ** (2 * place - len(arms) + 1)
        colour, marker = look(place)
        inside = [(x * shift, y) for x, y in mine if low <= y <= high]
        axes.plot(*columns_of(inside), marker, color=colour, ms=5, alpha=0.45, mec="none", label=shown(arm))
        outside = [(x * shift, low if scale.maximize else high) for x, y in mine if not low <= y <= high]
        axes.plot(*columns_of(outside), "v" if scale.maximize else "^", mfc="none", mec=colour, ms=6, clip_on=False)
        front = _front(mine, scale)
        axes.step(*columns_of([(x * shift, y) for x, y in front]), where="post", color=colour, lw=1.8)
        axes.plot(*columns_of([(x * shift, y) for x, y in front]), marker, mfc="white", mec=colour, ms=8, mew=1.8)
    hidden = sum(not low <= dot.score <= high for dot in known)
    _finish(axes, scale, label, known, hidden)
    _size_axis(axes, [dot.size or 0.0 for dot in known])
    axes.set_title(f"{scale.title} against size: dots are trials, lines each arm's best up to a size", fontsize=11)
    return png(figure)


def best_figure(dots: Sequence[Dot], finished: Mapping[str, int], scale: Scale) -> bytes:
    """The best score so far of each arm over its finished trials.

    finished: how many trials of each arm finished, pruned ones included; in the order of the arms.
    """
    figure = Figure(SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    low, high = span([dot.score for dot in dots], scale)
    for index, (arm, count) in enumerate(finished.items()):
        mine = [dot for dot in dots if dot.arm == arm]
        if not mine:
            continue
        colour, marker = look(index)
        best = scale.best([dot.score for dot in mine])
        steps = [*((dot.place, score) for dot, score in zip(mine, best, strict=True)), (count, best[-1])]
        axes.step(*columns_of(steps), where="post", color=colour, lw=2, label=f"{shown(arm)}: {best[-1]:.4f}")
        seen = [(dot.place, dot.score) for dot in mine if low <= dot.score <= high]
        axes.plot(*columns_of(seen), marker, color=colour, ms=3.5, alpha=0.35, mec="none")
        axes.plot(*columns_of(steps[-1:]), marker, color=colour, ms=8)
    hidden = sum(not low <= dot.score <= high for dot in dots)
    _finish(axes, scale, "trials of the arm that finished (complete or pruned)", dots, hidden)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, max(5.5, 1.03 * max(finished.values(), default=0)))
    axes.set_title(f"Best {scale.title} so far, unconfirmed: dots are trials trained to their end", fontsize=11)
    return png(figure)


def _front(points: Sequence[tuple[float, float]], scale: Scale) -> list[tuple[float, float]]:
    """The points that none of at most their size surpasses, rising in size."""
    found: list[tuple[float, float]] = []
    for size, score in sorted(points, key=lambda p: (p[0], -p[1] if scale.maximize else p[1])):
        if not found or (score > found[-1][1] if scale.maximize else score < found[-1][1]):
            found.append((size, score))
    return found


def _finish(axes: Axes, scale: Scale, label: str, dots: Sequence[Dot], hidden: int) -> None:
    low, high = span([dot.score for dot in dots], scale)
    axes.set_ylim(low, high)
    plain(axes.set_xlabel(shown(label, 60)))
    plain(axes.set_ylabel(f"validation {scale.title}"))
    if scale.teacher is not None:
        axes.axhline(scale.teacher, color=GREY, ls=":", lw=1.5, label=f"teacher: {scale.teacher:.4f}")
    if not dots:
        axes.text(0.5, 0.25, "no trial has finished yet", transform=axes.transAxes, ha="center", color=GREY)
    if hidden:
        side = "below" if scale.maximize else "above"
        what = f"{hidden} far-off {'trial' if hidden == 1 else 'trials'} {side} the axis"
        axes.text(0.99, 0.02, what, transform=axes.transAxes, ha="right", fontsize=8)
    decorate(axes)
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(loc="best", fontsize=9, framealpha=0.85).get_texts():
            plain(text)


def _size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers where sizes differ by much; a single size gets room to both sides."""
    known = [size for size in sizes if size > 0]
    if not known:
        return
    smallest, largest = min(known), max(known)
    if largest > 2 * smallest:
        axes.set_xscale("log")
        axes.set_xticks(_ticks(sorted(set(known))), minor=False)
        plain = ScalarFormatter()
        plain.set_scientific(False)
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(smallest / 1.25, largest * 1.25)
    else:
        axes.set_xlim(smallest * 0.8, largest * 1.2)


def _ticks(sizes: Sequence[float]) -> list[float]:
    """Sizes that occur, far enough apart for their numbers to be read."""
    ticks: list[float] = []
    for size in sizes:
        if not ticks or size > 1.25 * ticks[-1]:
            ticks.append(float(f"{size:.3g}"))
    return ticks
