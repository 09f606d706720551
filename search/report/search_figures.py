"""The figures of one search, and of several studies side by side, from the document alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from search.plotting import Scale, arm_style, columns_of, count_axis, printable, size_axis, span
from search.report.content.document import Arm, Dot, Report, Search, Side
from search.report.svg import (
    GRID,
    INK,
    MUTED,
    PAPER,
    Drawn,
    canvas,
    legend_below,
    named_axes,
    quiet,
    style_of,
    svg,
)

SIZES: dict[str, tuple[str, str, Callable[[Dot], float | None]]] = {
    "params": ("parameters of the student (millions)", "parameters", lambda dot: dot.params_m),
    "gflops": ("GFLOP of one {input}", "floating-point operations", lambda dot: dot.gflops),
    "latency": ("latency of one {input} (ms)", "latency", lambda dot: dot.latency_ms),
}
"""Measures of cost -> (label with its place for what a network takes, title, of a dot)."""
BARS = 10
"""Settings whose importance is drawn at most."""


def draw_search_figures(search: Search) -> list[Drawn]:
    """All figures for which there are numbers."""
    figures: list[Drawn | None] = [_families(search), *(_front(search, name) for name in SIZES)]
    figures += [_expected(search), _importance(search), _rungs(search), _pruned(search), _cost(search), _shares(search)]
    return [figure for figure in figures if figure is not None]


def _at_threshold(search: Search) -> str:
    if search.likeliest:
        return f"Each {search.nouns.element} counts for its likeliest class."
    if search.threshold is None:
        return "Each network is scored at the threshold that is best for it."
    return f"All scores are at threshold {search.threshold:g}."


def _names(search: Search) -> list[str]:
    return [arm.name for arm in search.arms]


def _front(search: Search, measure: str) -> Drawn | None:
    label, title, of = SIZES[measure]
    known = [(of(dot), dot) for dot in search.dots]
    points = [(size, dot) for size, dot in known if size is not None and size > 0]
    if not points:
        return None
    groups = {arm: [(x, dot.score) for x, dot in points if dot.arm == arm] for arm in _names(search)}
    scale, data, outside = _against_size(search, groups, label)
    alt = f"Scatter of validation {scale.title} against {title}, one dot a trial, with each arm's front as a line"
    note = "Dots are trials trained to their end; a line joins the best that an arm reaches up to a size. "
    note += f"{_at_threshold(search)}{outside}"
    return Drawn(f"front-{measure}", f"{scale.title} against {title}", alt, data, note)


def _families(search: Search) -> Drawn | None:
    """The trials of the main search by the network that they train, where it was dealt over several."""
    label, title, of = SIZES["params"]
    main = [dot for dot in search.dots if dot.arm == search.arms[0].name and dot.family is not None]
    points = [(size, dot) for dot in main if (size := of(dot)) is not None and size > 0]
    if not points:
        return None
    names = [line.name for line in search.families]
    groups = {name: [(size, dot.score) for size, dot in points if dot.family == name] for name in names}
    scale, data, outside = _against_size(search, groups, label)
    alt = f"Scatter of validation {scale.title} against {title}, one dot a trial, one colour a network"
    note = (
        f"Dots are trials of {search.arms[0].name} trained to their end; a line joins the best that a network reaches "
        f"up to a size. {_at_threshold(search)}{outside}"
    )
    return Drawn("families", f"{scale.title} against {title}, by network", alt, data, note)


def _against_size(
    search: Search, groups: Mapping[str, Sequence[tuple[float, float]]], label: str
) -> tuple[Scale, bytes, str]:
    """(scale, SVG, what is said of trials far off) of (size, score) by group, each with its front as a line."""
    teacher = None if search.teacher is None else search.teacher.score
    scale = Scale(search.metric, search.maximize, teacher)
    every = [point for points in groups.values() for point in points]
    low, high = span([score for _, score in every], scale)
    with canvas(4.0) as figure:
        axes = figure.subplots()
        for name, points in groups.items():
            if points:
                _group_front(axes, sorted(points, key=lambda p: p[0]), name, list(groups), scale, (low, high))
        _teacher_lines(axes, search)
        axes.set_ylim(low, high)
        size_axis(axes, sorted({size for size, _ in every}))
        quiet(axes)
        named_axes(axes, label.format(input=search.nouns.input), f"validation {scale.title}, unconfirmed")
        legend_below(figure, axes)
        data = svg(figure)
    hidden = " Trials far off are drawn at the axis as open triangles."
    return scale, data, hidden if any(not low <= score <= high for _, score in every) else ""


def _group_front(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    name: str,
    names: Sequence[str],
    scale: Scale,
    shown_part: tuple[float, float],
) -> None:
    low, high = shown_part
    colour, marker = style_of(names, name)
    shift = 1.012 ** (2 * list(names).index(name) - len(names) + 1)  # of one size side by side, so that all are seen
    moved = [(x * shift, y) for x, y in points]
    inside = [(x, y) for x, y in moved if low <= y <= high]
    axes.plot(*columns_of(inside), marker, color=colour, ms=4, alpha=0.4, mec="none")
    outside = [(x, low if scale.maximize else high) for x, y in moved if not low <= y <= high]
    if outside:  # an empty line that is not clipped takes room in the layout
        axes.plot(*columns_of(outside), "v" if scale.maximize else "^", mfc="none", mec=colour, ms=5, clip_on=False)
    front = _best_up_to(moved, maximize=scale.maximize)
    axes.step(*columns_of(front), where="post", color=colour, lw=1.7)
    axes.plot(*columns_of(front), marker, color=colour, mfc=PAPER, mew=1.6, ms=7, label=printable(name))


def _best_up_to(points: Sequence[tuple[float, float]], *, maximize: bool) -> list[tuple[float, float]]:
    """The points that none of at most their size surpasses, rising in size."""
    sign = -1 if maximize else 1
    front: list[tuple[float, float]] = []
    for size, score in sorted(points, key=lambda p: (p[0], sign * p[1])):
        if not front or sign * score < sign * front[-1][1]:
            front.append((size, score))
    return front


def _teacher_lines(axes: Axes, search: Search) -> None:
    if search.teacher is None or search.teacher.score is None:
        return
    axes.axhline(search.teacher.score, color=INK, lw=1.2, ls=":", label="teacher")
    if search.margin is not None:
        bound = search.teacher.score - (search.margin if search.maximize else -search.margin)
        axes.axhspan(min(bound, search.teacher.score), max(bound, search.teacher.score), color=GRID, alpha=0.6, lw=0)
        axes.axhline(bound, color=MUTED, lw=1, ls="--", label="teacher less the margin")


def _expected(search: Search) -> Drawn | None:
    arms = _names(search)
    known = [arm for arm in search.arms if arm.expected]
    if not known:
        return None
    scale = Scale(search.metric, search.maximize)
    with canvas(4.0) as figure:
        axes = figure.subplots()
        for arm in known:
            colour, marker = style_of(arms, arm.name)
            points = [(float(point.n), point.score) for point in arm.expected]
            axes.plot(*columns_of(points), color=colour, lw=2)
            axes.plot(*columns_of(points[-1:]), marker, color=colour, ms=7, label=printable(arm.name))
        fewest = min(arm.expected[-1].n for arm in known)
        if len(known) > 1:
            axes.axvline(fewest, color=MUTED, lw=1, ls="--", label="as many as each arm finished")
        count_axis(axes, max(arm.expected[-1].n for arm in known))
        # All of every curve: an arm whose beginning is cut off looks as if it had not been tried.
        scores = [point.score for arm in known for point in arm.expected]
        room = 0.05 * max(max(scores) - min(scores), 1e-4)
        axes.set_ylim(min(scores) - room, max(scores) + room)
        quiet(axes)
        named_axes(axes, "finished trials of the arm", f"expected best validation {scale.title}")
        legend_below(figure, axes)
        data = svg(figure)
    alt = f"Expected best {scale.title} after a number of finished trials, one line an arm"
    compare = ": compare arms at the same n" if len(known) > 1 else ""
    note = (
        "Mean best of n of the arm's finished trials, drawn without replacement (Tang et al., ACL; after Dodge et al., "
        f"EMNLP){compare}. Pruned trials count with the best that they reached. "
        f"{_at_threshold(search)}"
    )
    return Drawn("expected-best", "Expected best after n trials", alt, data, note)


def _importance(search: Search) -> Drawn | None:
    known = [arm for arm in search.arms if arm.importance]
    if not known:
        return None
    arms = _names(search)
    drawn = [(arm, [i for i in arm.importance if i.high >= 0.005][:BARS]) for arm in known]
    drawn = [(arm, bars) for arm, bars in drawn if bars]
    if not drawn:
        return None
    total = sum(len(bars) for _, bars in drawn)
    with canvas(1.0 + 0.27 * total + 0.35 * len(drawn)) as figure:
        panels = figure.subplots(
            len(drawn),
            1,
            squeeze=False,
            sharex=True,
            gridspec_kw={"height_ratios": [len(bars) + 0.6 for _, bars in drawn]},
        )[:, 0]
        for axes, (arm, bars) in zip(panels, drawn, strict=True):
            colour, _ = style_of(arms, arm.name)
            ups = list(range(len(bars)))[::-1]
            axes.barh(ups, [bar.share for bar in bars], color=colour, alpha=0.75, height=0.62)
            axes.hlines(ups, [bar.low for bar in bars], [bar.high for bar in bars], color=INK, lw=1.3)
            axes.set_yticks(ups, [printable(bar.parameter) for bar in bars], parse_math=False)
            axes.set_title(printable(arm.name), fontsize=9.5, loc="left", parse_math=False)
            axes.set_ylim(-0.6, len(bars) - 0.4)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            quiet(axes)
            axes.grid(visible=False, axis="y")
        panels[-1].set_xlabel("share of the importance")
        data = svg(figure)
    within = "" if search.along is None else f" among {_alike(search.along)}"
    note = (
        f"How far the settings of the best tenth differ from those of all trials{within} (PED-ANOVA of Optuna). Lines: "
        "the middle eight tenths over trials drawn anew. Long lines mean that the order is not known yet; a bar off "
        "its own line rests on few trials."
    )
    alt = "Bars of the importance of each setting, by arm, with the spread over redrawn trials"
    return Drawn("importance", "Which settings decide", alt, data, note)


def _alike(along: str) -> str:
    """What trials of one choice of the front have in common."""
    return "networks of the same size" if along.startswith("student.") else f"trials of the same {along}"


def _rungs(search: Search) -> Drawn | None:
    known = [arm for arm in search.arms if arm.rungs]
    if not known:
        return None
    arms = _names(search)
    with canvas(3.3) as figure:
        axes = figure.subplots()
        for arm in known:
            colour, marker = style_of(arms, arm.name)
            points = [(float(rung.epoch), rung.correlation) for rung in arm.rungs]
            axes.plot(*columns_of(points), f"-{marker}", color=colour, ms=4, lw=1.5, label=printable(arm.name))
        axes.axhline(0, color=MUTED, lw=0.8)
        axes.set_ylim(min(-0.05, *(rung.correlation for arm in known for rung in arm.rungs)), 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        quiet(axes)
        named_axes(axes, "epoch", "rank correlation with the end")
        legend_below(figure, axes)
        data = svg(figure)
    within = "" if search.along is None else f", among {_alike(search.along)}"
    note = (
        "Spearman's correlation of the scores at an epoch with the final ones, over trials trained to their end"
        f"{within}. Where it is low, pruning there is a guess. Pruned trials have no end and are not in it: among "
        "all trials it would be higher."
    )
    return Drawn("rungs", "How early the end can be told", "Rank correlation by epoch, one line an arm", data, note)


def _pruned(search: Search) -> Drawn | None:
    known = [arm for arm in search.arms if arm.pruned_at]
    if not known:
        return None
    arms = _names(search)
    last = max(search.epochs, *(epoch for arm in known for epoch, _ in arm.pruned_at))
    with canvas(2.6) as figure:
        axes = figure.subplots()
        for arm in known:
            _left(axes, arm, last, *style_of(arms, arm.name))
        axes.set_ylim(0, 1.03)
        axes.set_xlim(0, last)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        quiet(axes)
        named_axes(axes, "epoch", "trials still trained")
        legend_below(figure, axes)
        data = svg(figure)
    alt = "Share of each arm's trials that were still trained after an epoch, falling where trials were pruned"
    return Drawn(
        "pruned", "Where trials were pruned", alt, data, "Trials that completed or were pruned; failed ones left out."
    )


def _left(axes: Axes, arm: Arm, last: int, colour: str, _marker: str) -> None:
    total = arm.complete + arm.pruned
    left = total
    points = [(0.0, 1.0)]
    for epoch, count in arm.pruned_at:
        left -= count
        points.append((float(epoch), left / total))
    points.append((float(last), left / total))
    axes.step(*columns_of(points), where="post", color=colour, lw=1.8, label=printable(arm.name))


def _cost(search: Search) -> Drawn | None:
    parts = sorted(search.cost.part_shares.items(), key=lambda item: -item[1])
    if not parts:
        return None
    with canvas(0.8 + 0.28 * len(parts)) as figure:
        axes = figure.subplots()
        ups = list(range(len(parts)))[::-1]
        axes.barh(ups, [share for _, share in parts], color=MUTED, height=0.62)
        axes.set_yticks(ups, [printable(name) for name, _ in parts], parse_math=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        quiet(axes)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share of the time of all trials")
        data = svg(figure)
    return Drawn("cost", "Where the time went", "Bars of the share of the time by part", data)


def _shares(search: Search) -> Drawn | None:
    rows = [(arm.name, share) for arm in search.arms for share in arm.shares]
    if not rows:
        return None
    arms = _names(search)
    with canvas(0.9 + 0.26 * len(rows)) as figure:
        axes = figure.subplots()
        ups = list(range(len(rows)))[::-1]
        colours = [style_of(arms, arm)[0] for arm, _ in rows]
        axes.barh(ups, [share.median for _, share in rows], color=colours, alpha=0.8, height=0.62)
        axes.set_yticks(ups, [printable(f"{share.term} ({arm})") for arm, share in rows], parse_math=False)
        axes.axvline(0.01, color=INK, lw=1, ls="--")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        quiet(axes)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("median share of the gradient's norm at the end")
        data = svg(figure)
    note = "Norm of each weighted term's gradient over the sum of all. Left of the dashed line a term is dead."
    return Drawn("loss-terms", "What each loss term moves", "Bars of the share of each loss term", data, note)


def draw_figures_across(report: Report) -> list[Drawn]:
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
            colour, marker = arm_style(place)
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
            axes.plot([], [], marker, label=printable(side.study), **style)
        size_axis(axes, sorted(seen), room=1.35)
        quiet(axes)
        named_axes(axes, "parameters (millions)", "score")
        legend_below(figure, axes)
        data = svg(figure)
    note = (
        "Filled: with distillation; open: without. Confirmed studies stand with their mean test scores, others with "
        "their best validation scores, at threshold 0.5 where the score names no other. Networks of one size stand "
        "side by side"
        f"{'; of some studies size or score is not known' if left_out else ''}."
    )
    alt = "Scores with and without distillation against parameters, one marker a study"
    return Drawn("studies-size", "Scores against parameters, by study", alt, data, note)
