"""The tables of what was confirmed."""

from search.answer.document import ConfirmedPart, Scores
from search.report.content.document import Search
from search.report.content.text import title_of
from search.report.table import Column, Table


def confirmed_tables(search: Search, part: ConfirmedPart) -> list[Table]:
    """All tables that may have a row."""
    return [
        _networks(search, part),
        _claims(part),
        _scores(search, part, "all", "Scores on whole parts"),
        _scores(search, part, "source", "By source"),
        _scores(search, part, "size", "By size of the polyp"),
        _reliability(part),
        _openings(part),
        Table(
            "missing", "What was to be confirmed and is not there", (Column("what"),), tuple((m,) for m in part.missing)
        ),
    ]


def _networks(search: Search, part: ConfirmedPart) -> Table:
    columns = (
        Column("network"),
        Column("role"),
        Column("trial", "plain"),
        Column("what"),
        Column("parameters (M)", "short"),
        Column("GFLOP", "short"),
        Column("latency (ms)", "short"),
        Column(f"searched {title_of(search)}", "score"),
        Column("validation", "score"),
        Column("test", "score"),
        Column("from", "score"),
        Column("to", "score"),
        Column("to ship"),
    )
    rows = tuple(
        (
            n.name,
            n.role if n.of is None else f"{n.role} of {n.of}",
            n.trial,
            n.words,
            n.params_m,
            n.gflops,
            n.latency_ms,
            n.searched,
            n.validation,
            n.test,
            n.low,
            n.high,
            "yes" if n.chosen else "",
        )
        for n in part.networks
    )
    return Table("networks", "Networks that were trained again on fresh seeds", columns, rows)


def _claims(part: ConfirmedPart) -> Table:
    columns = (
        Column("claim"),
        Column("on"),
        Column("what"),
        Column("minus"),
        Column("difference", "signed"),
        Column("from", "signed"),
        Column("to", "signed"),
        Column("p", "p"),
        Column("p (Holm)", "p"),
        Column("images", "count"),
        Column("groups", "count"),
        Column("seeds", "count"),
        Column("verdict"),
    )
    rows = tuple(
        (
            c.name,
            c.part,
            c.minuend,
            c.subtrahend,
            c.estimate,
            c.low,
            c.high,
            c.p,
            c.p_holm,
            c.images,
            c.groups,
            c.seeds,
            c.verdict.replace("_", " ") if c.reason is None else f"{c.verdict.replace('_', ' ')}: {c.reason}",
        )
        for c in part.claims
    )
    return Table("claims", "Comparisons", columns, rows)


def _scores(search: Search, part: ConfirmedPart, by: str, title: str) -> Table:
    columns = (
        Column("on"),
        *(() if by == "all" else (Column("source" if by == "source" else "size"),)),
        Column("network"),
        Column("images", "count"),
        Column("groups", "count"),
        Column(title_of(search), "score"),
        Column("from", "score"),
        Column("to", "score"),
        Column("IoU", "score"),
        Column("precision", "score"),
        Column("recall", "score"),
        Column("HD95 (px)", "short"),
        Column("polyps", "count"),
        Column("missed", "percent"),
        Column("false areas a negative", "short"),
        Column("Brier", "score"),
        Column("ECE", "score"),
    )
    strata = dict.fromkeys((s.part, s.stratum) for s in part.scores)
    # What chose epochs and trials comes last.
    order = {name: place for place, name in enumerate(sorted(strata, key=lambda each: each[0] == "validation"))}
    mine = sorted((s for s in part.scores if s.by == by), key=lambda s: order[s.part, s.stratum])
    rows = tuple(_score_row(s, by) for s in mine)
    return Table(f"scores-{by}", title, columns, rows)


def _score_row(s: Scores, by: str) -> tuple[str | int | float | None, ...]:
    where: tuple[str, ...] = (s.part,) if by == "all" else (s.part, s.stratum)
    score = (s.dice, s.low, s.high, s.iou, s.precision, s.recall, s.hd95)
    return (*where, s.network, s.images, s.groups, *score, s.polyps, s.missed, s.false_positives, s.brier, s.ece)


def _reliability(part: ConfirmedPart) -> Table:
    columns = (
        Column("on"),
        Column("network"),
        Column("confidence", "short"),
        Column("right", "percent"),
        Column("of the pixels", "percent"),
    )
    rows = tuple((r.part, r.network, *each) for r in part.reliability for each in r.bins)
    return Table("reliability", "Calibration: share of pixels right by confidence", columns, rows)


def _openings(part: ConfirmedPart) -> Table:
    columns = (Column("when"), Column("who"), Column("what for"), Column("configurations"))
    rows = tuple((o.when, o.who, o.purpose, ", ".join(o.configurations)) for o in part.openings)
    return Table("openings", "Openings of the test rows", columns, rows)
