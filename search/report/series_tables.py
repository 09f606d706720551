"""The tables of several studies, of a series, and of what others published, from the document alone."""

from collections.abc import Sequence

from search.report.content.document import MethodScore, PublishedPart, Report, SeriesMember, SeriesPart
from search.report.table_formats import Cell, Column, Table

SIDES = (
    "Studies side by side: scores on validation at threshold 0.5 where they name no other, on test at each seed's own"
)
"""Title of the table of several studies."""


def across(report: Report) -> list[Table]:
    """Several studies side by side; nothing for one."""
    columns = (
        Column("study"),
        Column("data"),
        Column("network"),
        Column("parameters (M)", "short"),
        Column("of the teacher's", "percent"),
        Column("teacher", "score"),
        Column("without KD", "score"),
        Column("with KD", "score"),
        Column("difference", "signed"),
        Column("from", "signed"),
        Column("to", "signed"),
        Column("verdict"),
        Column("scores on"),
    )
    rows = tuple(
        (
            side.study,
            side.data,
            side.network,
            side.params_m,
            side.share_of_teacher,
            side.teacher,
            side.without_kd,
            side.with_kd,
            side.difference,
            side.low,
            side.high,
            side.verdict,
            side.part,
        )
        for side in report.sides
    )
    return [Table("studies", SIDES, columns, rows)] if rows else []


def series_tables(part: SeriesPart) -> list[Table]:
    """All tables of a series that have a row."""
    every = [members_table(part), methods_table(part), _classes(part), _differences(part)]
    return [table for table in every if table.rows]


def members_table(part: SeriesPart) -> Table:
    """One line a study, with its network to ship, or the best of its search."""
    axes = list(part.axes)
    columns = (
        Column("study"),
        *(Column(axis) for axis in axes),
        *(() if axes else (Column("what"),)),
        Column("state"),
        *(() if "method" in axes else (Column("method"),)),
        Column("teacher"),
        Column("teacher's parameters (M)", "short"),
        Column(f"teacher's {part.metric}", "score"),
        Column("network"),
        Column("parameters (M)", "short"),
        Column("GFLOP", "short"),
        Column(part.metric, "score"),
        Column("from", "score"),
        Column("to", "score"),
        Column("SD over seeds", "score"),
        Column("seeds", "count"),
        Column("scores on"),
    )
    rows = tuple(_member(each, axes) for each in part.members)
    title = "Members: the network to ship of each, else the best of its search"
    return Table(f"{part.name}-members", title, columns, rows)


def _member(each: SeriesMember, axes: Sequence[str]) -> tuple[Cell, ...]:
    what: tuple[Cell, ...] = tuple(each.choices.get(axis) for axis in axes) if axes else (each.label,)
    teacher = (each.teacher, each.teacher_params_m, each.teacher_score)
    own = (each.network, each.params_m, each.gflops, each.score, each.low, each.high, each.deviation)
    method = () if "method" in axes else (each.method,)
    return (each.study, *what, each.state, *method, *teacher, *own, each.seeds or None, each.part)


def methods_table(part: SeriesPart) -> Table:
    """One row a way of distilling; for each group its Dice and HD95 with their deviations over seeds, and its rank."""
    cells = {(score.method, score.group): score for score in part.scores}
    several = len(part.groups) > 1
    columns = [Column("rank", "short"), Column("method")]
    for group in part.groups:
        of = f"{group}: " if several else ""
        columns += [
            Column(f"{of}Dice", "score"),
            Column(f"{of}SD of it", "score"),
            Column(f"{of}HD95 ({part.length_unit})", "short"),
            Column(f"{of}SD of that", "short"),
            *([Column(f"{of}rank", "count")] if several else []),
        ]
    rows = []
    for method in part.methods:
        row: list[Cell] = [part.mean_ranks.get(method), method]
        for group in part.groups:
            row += _method_cells(cells.get((method, group)), ranked=several)
        rows.append(tuple(row))
    seeds = sorted({score.seeds for score in part.scores})
    over = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else "".join(map(str, seeds))
    title = f"Methods on test: means and deviations (SD) over {over} fresh seeds, by mean rank of Dice"
    return Table(f"{part.name}-methods", title, tuple(columns), tuple(rows))


def _method_cells(score: MethodScore | None, *, ranked: bool) -> list[Cell]:
    if score is None:
        return [None] * (5 if ranked else 4)
    cells: list[Cell] = [score.dice, score.dice_deviation, score.hd95, score.hd95_deviation]
    return [*cells, *([score.rank] if ranked else [])]


def _classes(part: SeriesPart) -> Table:
    """The same by class, where there are several foreground classes."""
    columns = (
        Column("class"),
        Column("group"),
        Column("method"),
        Column("Dice", "score"),
        Column("SD of it", "score"),
        Column(f"HD95 ({part.length_unit})", "short"),
        Column("SD of that", "short"),
    )
    rows = tuple(
        (c.label, score.group, score.method, c.dice, c.dice_deviation, c.hd95, c.hd95_deviation)
        for score in part.scores
        for c in score.classes
    )
    return Table(f"{part.name}-classes", "Methods on test by class", columns, tuple(sorted(rows, key=lambda r: r[:2])))


def _differences(part: SeriesPart) -> Table:
    columns = (
        Column("group"),
        Column("method"),
        Column("what"),
        Column("minus"),
        Column("score"),
        Column("difference", "signed"),
        Column("from", "signed"),
        Column("to", "signed"),
        Column("p", "p"),
        Column("p (Holm)", "p"),
        Column("images", "count"),
        Column("groups of images", "count"),
        Column("seeds", "count"),
        Column("verdict"),
    )
    rows = tuple(
        (
            d.group,
            d.method,
            d.minuend,
            d.subtrahend,
            d.metric,
            d.estimate,
            d.low,
            d.high,
            d.p,
            d.p_holm,
            d.images or None,
            d.groups or None,
            d.seeds or None,
            d.verdict.replace("_", " ") + (f": {d.reason}" if d.reason else ""),
        )
        for d in part.differences
    )
    title = "Each method less no distillation on test; p corrected over the whole series (Holm)"
    return Table(f"{part.name}-differences", title, columns, rows)


def published_table(part: PublishedPart) -> Table:
    """What others printed, and in columns of their own what was confirmed here."""
    columns = (
        Column("method"),
        Column("teacher"),
        Column("student"),
        Column("pretrained"),
        Column("data"),
        Column("published: score"),
        Column("published", "short"),
        Column("published SD", "short"),
        Column("unit"),
        Column("their images"),
        Column("here: network"),
        Column("here: score"),
        Column("here, test", "score"),
        Column("SD over seeds", "score"),
        Column("unit here"),
        Column("source"),
        Column("no value, why"),
    )
    rows = tuple(
        (
            r.method,
            r.teacher or None,
            r.student,
            r.pretrained or None,
            r.data,
            r.metric,
            r.value,
            r.deviation,
            r.unit,
            r.part,
            r.ours,
            r.our_metric,
            r.our_value,
            r.our_deviation,
            r.our_unit or None,
            r.source,
            r.blank or None,
        )
        for r in part.rows
    )
    return Table("published", "Published by others, beside what was confirmed here", columns, rows)


def tables_of_series(report: Report) -> list[Table]:
    """Those of all series of a report."""
    return [table for part in report.series for table in series_tables(part)]
