"""The three figures of a note: score against size, best so far, and running trials beside finished ones."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from search.plotting import (
    DPI,
    GREY,
    SIZE,
    Scale,
    arm_style,
    columns_of,
    decorate,
    plain,
    png,
    printable,
    quantile,
    span,
)
from search.study.outcomes import completed_or_pruned, has_final_score
from search.study.snapshot import SearchSnapshot


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
        points = sorted((dot.size or 0.0, dot.score) for dot in known if dot.arm == arm)
        if not points:
            continue
        shift = step ** (2 * place - len(arms) + 1)
        colour, marker = arm_style(place)
        inside = [(x * shift, y) for x, y in points if low <= y <= high]
        axes.plot(*columns_of(inside), marker, color=colour, ms=5, alpha=0.45, mec="none", label=printable(arm))
        outside = [(x * shift, low if scale.maximize else high) for x, y in points if not low <= y <= high]
        axes.plot(*columns_of(outside), "v" if scale.maximize else "^", mfc="none", mec=colour, ms=6, clip_on=False)
        front = _front(points, scale)
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
        own = [dot for dot in dots if dot.arm == arm]
        if not own:
            continue
        colour, marker = arm_style(index)
        best = scale.best([dot.score for dot in own])
        steps = [*((dot.place, score) for dot, score in zip(own, best, strict=True)), (count, best[-1])]
        axes.step(*columns_of(steps), where="post", color=colour, lw=2, label=f"{printable(arm)}: {best[-1]:.4f}")
        seen = [(dot.place, dot.score) for dot in own if low <= dot.score <= high]
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
    front: list[tuple[float, float]] = []
    for size, score in sorted(points, key=lambda p: (p[0], -p[1] if scale.maximize else p[1])):
        if not front or (score > front[-1][1] if scale.maximize else score < front[-1][1]):
            front.append((size, score))
    return front


def _finish(axes: Axes, scale: Scale, label: str, dots: Sequence[Dot], hidden: int) -> None:
    low, high = span([dot.score for dot in dots], scale)
    axes.set_ylim(low, high)
    plain(axes.set_xlabel(printable(label, 60)))
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
        own = [curve for curve in curves if curve.choice == choice]
        finished = [curve for curve in own if not curve.running]
        _band(axes, finished)
        for curve in [c for c in own if c.running]:
            colour, marker = arm_style(arms.index(curve.arm))
            axes.plot(*columns_of(curve.points), f"-{marker}", color=colour, lw=1.4, ms=3, label=printable(curve.arm))
        _number(axes, [c for c in own if c.running], arms)
        if not own:
            axes.text(0.5, 0.5, "no epoch was reported yet", transform=axes.transAxes, ha="center", color=GREY)
        running = sum(c.running for c in own)
        title = f"{printable(f'{along} = {choice}')}\n" if along is not None and choice else ""
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
            colour, _ = arm_style(arms.index(curve.arm))
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


SIZE_LABEL = "parameters of the student (millions)"


@dataclass(frozen=True)
class Picture:
    """One figure, as a PNG file."""

    name: str
    alt: str
    """What it shows, in words."""
    data: bytes


def draw(rows: SearchSnapshot) -> dict[str, Picture]:
    """The figures by what they show: `size` where parameters are known, `best`, `curves`."""
    scale = Scale(rows.metric, rows.maximize, rows.teacher)
    arms = [arm.name for arm in rows.arms]
    dots, curves = dots_of(rows), curves_of(rows)
    finished = {arm: sum(map(completed_or_pruned, rows.leases[arm])) for arm in arms}
    label = SIZE_LABEL if not dots or rows.params_m() else str(rows.along)
    pictures = {
        "curves": Picture(
            "curves.png",
            "Curves of running trials against the band of finished trials",
            curves_figure(curves, arms, scale, rows.along),
        ),
    }
    if rows.confirms is None:  # the best seed of a network says nothing about it
        alt = "Best score so far by arm over finished trials"
        pictures["best"] = Picture("best.png", alt, best_figure(dots, finished, scale))
    if not dots or any(dot.size is not None for dot in dots):
        alt = "Score against the size of the student, with each arm's front"
        pictures["size"] = Picture("size.png", alt, size_figure(dots, arms, scale, label))
    return pictures


def dots_of(rows: SearchSnapshot) -> list[Dot]:
    """The trials that were trained to their end, in the order in which they ended.

    Where no trial recorded its parameters (a simulation builds no networks), a choice that is a number stands for them.
    """
    ended, sizes = rows.ended(), rows.params_m()
    if not sizes:
        choices = {lease.trial_id: rows.choice(lease) for lease in rows.every}
        sizes = {key: float(value) for key, value in choices.items() if isinstance(value, int | float)}
    timed = []
    for arm, leases in rows.leases.items():
        over = sorted(filter(completed_or_pruned, leases), key=lambda r: (ended.get(r.trial_id, 0.0), r.number))
        for place, r in enumerate(over, 1):
            if has_final_score(r):
                dot = Dot(arm, r.number, r.known_score, sizes.get(r.trial_id), place)
                timed.append((ended.get(r.trial_id, 0.0), dot))
    return [dot for _, dot in sorted(timed, key=lambda pair: pair[0])]


def curves_of(rows: SearchSnapshot) -> list[Curve]:
    """The validated epochs of all trials but failed ones."""
    curves = []
    for arm, trials in rows.trials.items():
        leases = {lease.trial_id: lease for lease in rows.leases[arm]}
        for trial in trials:
            lease = leases.get(trial._trial_id)
            if lease is None or lease.failure is not None:
                continue
            points = [(e, v) for e, v in sorted(trial.intermediate_values.items()) if math.isfinite(v)]
            choice = rows.choice(lease)
            if points:
                running = trial.state.name == "RUNNING"
                curves.append(Curve(trial.number, arm, "" if choice is None else str(choice), points, running))
    return curves
