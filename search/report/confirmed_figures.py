"""The figures of what was confirmed, from the document alone."""

from collections.abc import Callable, Sequence
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from search.answer.document import Comparison, ConfirmedPart, Network, Scores, claim_title
from search.plotting import COLOURS, MARKERS, printable, share_axis, size_axis
from search.report.content.document import Search
from search.report.content.text import title_of
from search.report.svg import GRID, INK, MUTED, PAPER, Drawn, canvas, legend_below, named_axes, quiet, svg
from trainer.evaluation.score_names import unit_of

SHOWN_NETWORKS = 4
"""Networks that a figure with several panels or lines compares at most."""
SHARES = ("dice", "iou", "precision", "recall")
"""Metrics from 0 to 1."""
ROLES = {"winner": 0, "control": 1, "ablation": 2, "defaults": 3, "teacher": 4}
"""Role -> place among the colours and markers."""
MEASURES: dict[str, tuple[str, str, Callable[[Network], float | None]]] = {
    "params": ("parameters (millions)", "parameters", lambda n: n.params_m),
    "gflops": ("GFLOP of one {input}", "floating-point operations", lambda n: n.gflops),
    "latency": ("latency of one {input} (ms)", "latency", lambda n: n.latency_ms),
}
"""Measures of cost -> (label with its place for what a network takes, title, of a network)."""


def draw_confirmed_figures(search: Search, part: ConfirmedPart) -> list[Drawn]:
    """All figures for which there are numbers."""
    figures = [
        *(_size(search, part, measure) for measure in MEASURES),
        _claims(part),
        _near(part),
        _strata(part, "source"),
        _strata(part, "size"),
        _reliability(search, part),
    ]
    return [figure for figure in figures if figure is not None]


def compared_networks(part: ConfirmedPart) -> list[Network]:
    """The networks that figures compare: the chosen one or the best winner, the best control, the ablation of the
    first, and the teacher."""
    winners = sorted((n for n in part.networks if n.role == "winner"), key=lambda n: (not n.chosen, n.rank))
    first = winners[:1]
    against = next((c.subtrahend for c in part.claims if c.name == "gain" and c.minuend in {n.name for n in first}), "")
    controls = [n for n in part.networks if n.role == "control"]
    controls = sorted(controls, key=lambda n: (n.name != against, n.rank, n.name))[:1]
    without = [n for n in part.networks if n.role == "ablation" and first and n.of == first[0].name][:1]
    teacher = [n for n in part.networks if n.role == "teacher"][:1]
    return [*first, *controls, *without, *teacher][:SHOWN_NETWORKS]


def _own(part: ConfirmedPart, text: str) -> str:
    """What is said of thresholds, where there are any: not with several foreground classes, unless they are regions."""
    return "" if part.class_scores and not part.thresholds else text


def _look(network: Network) -> tuple[str, str]:
    place = ROLES[network.role]
    return COLOURS[place], MARKERS[place]


def _size(search: Search, part: ConfirmedPart, measure: str) -> Drawn | None:
    label, title, of = MEASURES[measure]
    sized = [(of(n), n) for n in part.networks if n.test is not None and n.role != "teacher"]
    points = [(x, n) for x, n in sized if x is not None and x > 0]
    points.sort(key=lambda p: (ROLES[p[1].role], p[0], p[1].name))
    if not points:
        return None
    teacher = next((n for n in part.networks if n.role == "teacher"), None)
    with canvas(4.0) as figure:
        axes = figure.subplots()
        _dots(axes, points)
        if teacher is not None and teacher.test is not None:
            axes.axhline(teacher.test, color=INK, lw=1.2, ls=":", label="teacher")
            if search.metric == part.margin_metric:
                bound = teacher.test - part.margin
                axes.axhspan(bound, teacher.test, color=GRID, alpha=0.6, lw=0)
                axes.axhline(bound, color=MUTED, lw=1, ls="--", label="teacher less the margin")
        size_axis(axes, sorted({x for x, _ in points}), room=1.35)
        if search.metric.partition(".")[0] in SHARES:
            axes.set_ylim(*_possible(*axes.get_ylim()))
        quiet(axes)
        unit = unit_of(search.metric.partition(".")[0], spacing=part.length_unit == "mm")
        named_axes(
            axes, label.format(input=search.nouns.input), f"test {title_of(search)}" + (f" ({unit})" if unit else "")
        )
        legend_below(figure, axes)
        data = svg(figure)
    note = (
        f"Mean over test {part.scored}s and fresh seeds{_own(part, ', each seed at its own threshold')}; "
        "bars are intervals of the mean, small "
        "dots single seeds."
        f"{' The ring is the network to ship.' if part.chosen is not None else ''}"
    )
    alt = f"Test {title_of(search)} of the confirmed networks against {title}, with intervals, teacher and margin"
    return Drawn(f"confirmed-{measure}", f"Confirmed {title_of(search)} against {title}", alt, data, note)


def _possible(low: float, high: float) -> tuple[float, float]:
    """An axis without values that no score has: with two seeds an interval may be longer than that."""
    return max(low, -0.03), min(high, 1.03)


def _dots(axes: Axes, points: Sequence[tuple[float, Network]]) -> None:
    named: set[str] = set()
    seen: dict[float, int] = {}
    for size, network in points:
        if network.test is None:
            continue
        colour, marker = _look(network)
        # Networks of one size stand side by side.
        place = seen.get(size, 0)
        seen[size] = place + 1
        x = size * 1.035**place
        label = None if network.role in named else network.role
        named.add(network.role)
        axes.plot(
            [x] * len(network.by_seed), [score for _, score in network.by_seed], ".", color=colour, ms=4, alpha=0.5
        )
        if network.low is not None and network.high is not None:
            axes.vlines(x, network.low, network.high, color=colour, lw=1.6)
        axes.plot([x], [network.test], marker, color=colour, mfc=PAPER, mew=1.6, ms=7, ls="", label=label)
        if network.chosen:
            axes.plot([x], [network.test], "o", mfc="none", mec=INK, ms=14, mew=1.3)


def _claims(part: ConfirmedPart) -> Drawn | None:
    rows = [
        (f"{claim_title(c.name)} ({c.part})", c) for c in part.claims if c.estimate is not None and c.margin is None
    ]
    note = (
        "Estimates with their intervals, which are each comparison's own"
        f"{_own(part, ', of networks at their own thresholds')}. Filled: "
        "shown or worse; open: not shown or "
        "not estimable. Those on test are corrected for their number before that is said; those on unseen sources "
        "describe."
    )
    if any(claim.lower_is_better for _, claim in rows):
        note += " Lower is better: a gain lies left of zero."
    return _forest("claims", "Comparisons", "Forest plot of the comparisons with their intervals", rows, note)


def _near(part: ConfirmedPart) -> Drawn | None:
    rows = [(c.minuend, c) for c in part.claims if c.estimate is not None and c.margin is not None]
    note = (
        f"Intervals of the difference{_own(part, ', each network at its own threshold')}. Filled green: "
        "shown not to lie below the "
        "teacher by more than the margin."
    )
    alt = "Forest plot of each network less the teacher, with the margin"
    return _forest("near-teacher", "Less the teacher", alt, rows, note)


def _forest(name: str, title: str, alt: str, rows: Sequence[tuple[str, Comparison]], note: str) -> Drawn | None:
    if not rows:
        return None
    with canvas(0.9 + 0.4 * len(rows)) as figure:
        axes = figure.subplots()
        for up, (_, claim) in zip(range(len(rows))[::-1], rows, strict=True):
            _row(axes, up, claim)
        axes.axvline(0, color=INK, lw=1)
        margin = next((claim.margin for _, claim in rows if claim.margin is not None), None)
        if margin is not None:
            axes.axvline(-margin, color=INK, lw=1, ls="--", label="margin")
            legend_below(figure, axes)
        axes.set_yticks(
            range(len(rows))[::-1], ["\n".join(wrap(printable(label, 60), 24)) for label, _ in rows], parse_math=False
        )
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        quiet(axes)
        axes.grid(visible=False, axis="y")
        named_axes(axes, f"difference of {rows[0][1].unit.partition(',')[0]}", "")
        data = svg(figure)
    return Drawn(name, title, alt, data, note)


def _row(axes: Axes, up: int, claim: Comparison) -> None:
    firm = claim.verdict in ("shown", "worse")
    colour = {"shown": COLOURS[2], "worse": COLOURS[1]}.get(claim.verdict, MUTED)
    if claim.low is not None and claim.high is not None:
        axes.hlines(up, claim.low, claim.high, color=colour, lw=2)
    axes.plot([claim.estimate or 0.0], [up], "o", color=colour, mfc=colour if firm else PAPER, mew=1.6, ms=7)


def _strata(part: ConfirmedPart, by: str) -> Drawn | None:
    networks = compared_networks(part)
    names = {network.name for network in networks}
    scores = [s for s in part.scores if s.network in names and s.dice is not None and _drawn(s, by)]
    if by == "source" and not any(s.part == "test" for s in scores):
        scores = [s for s in part.scores if s.network in names and s.dice is not None and s.by == "all"]
        scores = [s for s in scores if s.part != "validation"]
    strata = list(dict.fromkeys((s.part, s.stratum) for s in scores))
    if not strata:
        return None
    with canvas(1.1 + (0.18 * len(networks) + 0.22) * len(strata)) as figure:
        axes = figure.subplots()
        for place, network in enumerate(networks):
            colour, marker = _look(network)
            shift = 0.3 - 0.6 * place / (len(networks) - 1) if len(networks) > 1 else 0.0
            _stratum_rows(axes, [s for s in scores if s.network == network.name], strata, shift, (colour, marker))
            axes.plot([], [], marker, color=colour, mfc=PAPER, mew=1.4, ms=6, label=printable(network.name))
        ups = range(len(strata))[::-1]
        axes.set_yticks(ups, [_stratum(*where) for where in strata], parse_math=False)
        axes.set_ylim(-0.6, len(strata) - 0.4)
        axes.set_xlim(*_possible(*axes.get_xlim()))
        quiet(axes)
        axes.grid(visible=False, axis="y")
        named_axes(axes, "Dice", "")
        legend_below(figure, axes)
        data = svg(figure)
    size = "By size of the foreground" if part.class_scores else "By size of the object"
    title = "By source, and on sources that nothing has seen" if by == "source" else size
    own = _own(part, ", each seed at its own threshold")
    note = f"Means with intervals{own}; without an interval there are too few groups for one."
    alt = f"Dice of the compared networks {'by source' if by == 'source' else 'by size'}"
    return Drawn(f"by-{by}", title, alt, data, note)


def _drawn(scores: Scores, by: str) -> bool:
    """Sources: of the test images and all images of unseen ones. Sizes: of the test images."""
    if by == "size":
        return scores.by == "size" and scores.part == "test"
    return scores.part != "validation" and (scores.by == "source" if scores.part == "test" else scores.by == "all")


def _stratum(part: str, stratum: str) -> str:
    return printable(stratum.partition(" (")[0] if part == "test" else f"{part} (unseen)", 30)


def _stratum_rows(
    axes: Axes, rows: Sequence[Scores], strata: Sequence[tuple[str, str]], shift: float, style: tuple[str, str]
) -> None:
    colour, marker = style
    for row in rows:
        up = len(strata) - 1 - list(strata).index((row.part, row.stratum)) + shift
        if row.low is not None and row.high is not None:
            axes.hlines(up, row.low, row.high, color=colour, lw=1.5)
        if row.dice is not None:
            axes.plot([row.dice], [up], marker, color=colour, mfc=PAPER, mew=1.4, ms=6, clip_on=False)


def _reliability(search: Search, part: ConfirmedPart) -> Drawn | None:
    """The reliability of the foreground; that of the chosen class where that alone was kept."""
    networks = {network.name: network for network in compared_networks(part)}
    measured = [r for r in part.reliability if r.part == "test" and r.network in networks and r.bins]
    positive = all(r.positive_bins for r in measured)
    curves = [(r.network, r.positive_bins if positive else r.bins) for r in measured]
    if not curves:
        return None
    of, elements = "foreground" if positive else "chosen class", f"{search.nouns.element}s"
    with canvas(4.6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1.1]})
        least = 0.0 if positive else 0.5
        upper.plot([least, 1], [least, 1], color=MUTED, lw=1, ls="--")
        for name, bins in curves:
            colour, marker = _look(networks[name])
            xs, ys = [x for x, _, _ in bins], [y for _, y, _ in bins]
            upper.plot(xs, ys, f"-{marker}", color=colour, ms=4.5, lw=1.5, label=printable(name))
            lower.plot(xs, [share for _, _, share in bins], f"-{marker}", color=colour, ms=3, lw=1.2)
        share_axis(lower, [share for _, bins in curves for _, _, share in bins])
        quiet(upper)
        quiet(lower)
        named_axes(upper, "", f"share that is {of}" if positive else f"share of {elements} right")
        named_axes(lower, f"probability of the {of}", f"share of {elements}")
        legend_below(figure, upper)
        data = svg(figure)
    note = (
        f"Above: {elements} of the test {part.scored}s by the probability of the {of}, and how many of them are of it; "
        "on the dashed line a network is as sure as it is right, below it too sure. Below: how many "
        f"{elements} have each one."
    )
    return Drawn("reliability", f"Calibration of the {of}", "Reliability diagram of the compared networks", data, note)
