"""The tables of a report, from its document alone: page, CSV and LaTeX show the same ones."""

from collections.abc import Sequence

from search.answer.document import ConfirmedPart, Scores
from search.answer.score_arrays import describe_thresholds
from search.report.content.document import Arm, Fact, Search, Study
from search.report.content.text import searched_title
from search.report.group_tables import family_table, method_table
from search.report.series_tables import published_table
from search.report.table_formats import CLAIM, Cell, Column, Table
from search.study.class_scores import SHOWN_SCORES


def tables(study: Study) -> list[Table]:
    """All tables of one study that have a row."""
    search = study.search
    every = [] if study.confirmed is None else confirmed_tables(search, study.confirmed)
    published = [] if study.published is None else [published_table(study.published)]
    every += [
        _arms(search),
        _searched_classes(search),
        family_table(search),
        method_table(search, study.confirmed),
        _front(search),
        _at_equal_budget(search),
        _settings(search),
        *(_importance(arm) for arm in search.arms),
        _edges(search),
        _shares(search),
        _rungs(search),
        _cost_by_arm(search),
        _cost_by_part(search),
        _failures(search),
        _facts("data", "Data", search.data),
        _facts("space", "What the search varied", search.space),
        _facts("limits", "Limits of the student", search.limits),
        *published,
    ]
    return [table for table in every if table.rows]


def _arms(search: Search) -> Table:
    columns = (
        Column("arm"),
        Column("differs in"),
        Column("budget", "count"),
        Column("complete", "count"),
        Column("pruned", "count"),
        Column("failed", "count"),
        Column("running", "count"),
        Column(f"best {searched_title(search)}", "score"),
        Column("trial", "plain"),
        Column("network"),
        Column("parameters (M)", "short"),
    )
    return Table("arms", "Arms of the search", columns, tuple(_arm(arm) for arm in search.arms))


def _arm(arm: Arm) -> tuple[Cell, ...]:
    sets = ", ".join(f"{path} = {value}" for path, value in arm.sets.items()) or "\N{EN DASH}"
    best = arm.best
    facts = (None,) * 4 if best is None else (best.score, best.trial, best.network, best.params_m)
    return (arm.name, sets, arm.of, arm.complete, arm.pruned, arm.failed, arm.running, *facts)


def _front(search: Search) -> Table:
    arms = [arm.name for arm in search.arms]
    sized = search.along is not None
    columns = (
        Column(search.along if search.along is not None else "size"),
        Column("parameters (M)", "short"),
        Column("GFLOP", "short"),
        Column("complete", "count"),
        *(Column(f"best of {name}", "score") for name in arms),
    )
    rows = tuple(
        (
            str(line.choice) if sized and line.choice is not None else _network_of(search, line.best),
            line.params_m,
            line.gflops,
            line.complete,
            *(line.best.get(name) for name in arms),
        )
        for line in search.front
    )
    by = "size" if search.along is None or search.along.startswith("student.") else search.along
    return Table("front", f"Best validation {searched_title(search)} by {by}, unconfirmed", columns, rows)


def _network_of(search: Search, best: dict[str, float]) -> str:
    """The network of an arm that has no choice of the front."""
    return next((a.best.network for a in search.arms if a.name in best and a.best is not None), "\N{EN DASH}")


def _searched_classes(search: Search) -> Table:
    """Scores by class of the best trial of each arm; no row with one foreground class."""
    best = {arm.name: arm.best.by_class for arm in search.arms if arm.best is not None}
    columns = (
        Column(search.kind),
        *(Column(f"{score} of {name}", "score") for score in SHOWN_SCORES for name in best),
    )
    rows = tuple(
        (known.name, *(each.get(f"{score}.{known.name}") for score in SHOWN_SCORES for each in best.values()))
        for known in search.classes
    )
    title = f"Validation scores by {search.kind} of the best trial of each arm, unconfirmed"
    return Table("classes-searched", title, columns, rows, _colours(search))


def _colours(search: Search) -> dict[str, str]:
    return {known.name: known.colour for known in search.classes}


def _confirmed_classes(search: Search, part: ConfirmedPart) -> Table:
    columns = (
        Column(search.kind),
        Column("on"),
        Column("network"),
        Column(f"{part.scored}s", "count"),
        Column("groups", "count"),
        Column("Dice", "score"),
        Column("from", "score"),
        Column("to", "score"),
        Column("IoU", "score"),
        Column("precision", "score"),
        Column("recall", "score"),
        Column(f"HD95, a miss as the diagonal ({part.length_unit})", "short"),
    )
    labels = [known.name for known in search.classes]
    chosen = [s for s in part.class_scores if s.label in labels]
    order = sorted(chosen, key=lambda s: (s.part == "validation", s.part != "test", labels.index(s.label)))
    rows = tuple(
        (s.label, s.part, s.network, s.images, s.groups, s.dice, s.low, s.high, s.iou, s.precision, s.recall,
         s.hd95_missed_as_diagonal)
        for s in order
    )  # fmt: skip
    return Table("scores-class", f"Scores by {search.kind}", columns, rows, _colours(search))


def _at_equal_budget(search: Search) -> Table:
    """The expected best of each arm at the sizes of all arms' budgets, where all of them can be compared."""
    arms = [arm.name for arm in search.arms]
    columns = (Column("trials", "count"), *(Column(f"expected of {name}", "score") for name in arms))
    rows = tuple((equal.n, *(equal.expected.get(name) for name in arms)) for equal in search.equal)
    return Table(
        "equal-budget", f"Expected best {searched_title(search)} after the same number of trials", columns, rows
    )


def _settings(search: Search) -> Table:
    arms = [arm for arm in search.arms if arm.best is not None]
    settings = {arm.name: arm.best.settings for arm in arms if arm.best is not None}
    names = sorted({name for each in settings.values() for name in each})
    columns = (Column("setting"), *(Column(arm.name) for arm in arms))
    rows = tuple((name, *(settings[arm.name].get(name) for arm in arms)) for name in names)
    return Table("settings", "Settings of the best trial of each arm", columns, rows)


def _importance(arm: Arm) -> Table:
    columns = (Column("parameter"), Column("share", "percent"), Column("from", "percent"), Column("to", "percent"))
    rows = tuple((each.parameter, each.share, each.low, each.high) for each in arm.importance)
    return Table(f"importance-{arm.name}", f"Importance of settings in {arm.name}", columns, rows)


def _edges(search: Search) -> Table:
    rows = tuple(
        (arm.name, edge.parameter, edge.end, edge.which, edge.hits, edge.of)
        for arm in search.arms
        for edge in arm.edges
    )
    columns = (
        Column("arm"),
        Column("parameter"),
        Column("end", "short"),
        Column("which"),
        Column("of the best, there", "count"),
        Column("of the best, all", "count"),
    )
    return Table("edges", "Ends of the space that the best trials hit", columns, rows)


def _shares(search: Search) -> Table:
    rows = tuple(
        (arm.name, s.term, s.median, s.dead, s.trials, "dead" if 2 * s.dead > s.trials else "")
        for arm in search.arms
        for s in arm.shares
    )
    columns = (
        Column("arm"),
        Column("loss term"),
        Column("median share", "percent"),
        Column("trials where dead", "count"),
        Column("trials", "count"),
        Column(""),
    )
    return Table("loss-terms", "Share of each loss term in the gradient", columns, rows)


def _rungs(search: Search) -> Table:
    at = {(arm.name, rung.epoch): rung.correlation for arm in search.arms for rung in arm.rungs}
    cut = {(arm.name, epoch): count for arm in search.arms for epoch, count in arm.pruned_at}
    epochs = sorted({epoch for _, epoch in (*at, *cut)})
    columns = (
        Column("epoch", "plain"),
        *(Column(f"correlation in {arm.name}", "correlation") for arm in search.arms),
        *(Column(f"pruned in {arm.name}", "count") for arm in search.arms),
    )
    names = [arm.name for arm in search.arms]
    rows = tuple((e, *(at.get((n, e)) for n in names), *(cut.get((n, e), 0) for n in names)) for e in epochs)
    return Table("rungs", "Early scores and the end", columns, rows)


def _cost_by_arm(search: Search) -> Table:
    columns = (
        Column("arm"),
        Column("device hours", "hours", "device time"),
        *(Column(word, "percent") for word in ("complete", "pruned", "failed", "unfinished")),
    )
    rows = []
    for name, cost in [*((arm.name, arm.cost) for arm in search.arms), ("all", search.cost)]:
        shares = [cost.outcome_shares.get(column.title) for column in columns[2:]]
        rows.append((name, cost.hours, *shares))
    return Table("cost-by-arm", "Device time by how trials ended", columns, tuple(rows))


def _cost_by_part(search: Search) -> Table:
    cost = search.cost
    rows = tuple((part, hours, cost.part_shares.get(part)) for part, hours in cost.by_part.items())
    columns = (Column("part"), Column("hours", "hours", "time"), Column("share", "percent"))
    return Table("cost-by-part", "Time of all trials by part", columns, rows)


def _failures(search: Search) -> Table:
    columns = (Column("arm"), Column("trial", "plain"), Column("class"), Column("message"))
    return Table("failures", "The newest failed trials", columns, search.failures)


def _facts(name: str, title: str, facts: Sequence[Fact]) -> Table:
    rows = tuple((fact.name, fact.value) for fact in facts)
    return Table(name, title, (Column("what"), Column("value")), rows)


def confirmed_tables(search: Search, part: ConfirmedPart) -> list[Table]:
    """All tables that may have a row."""
    return [
        _networks(search, part),
        _claims(part),
        _class_claims(search, part),
        _distances(part),
        _scores(part, "all", "Scores on whole parts"),
        _confirmed_classes(search, part),
        _scores(part, "source", "By source"),
        _scores(part, "size", f"By size of the {'foreground' if search.classes else 'object'}"),
        _reliability(part, search.nouns.element),
        _openings(part),
        _missing(part),
    ]


def _missing(part: ConfirmedPart) -> Table:
    rows = tuple((line,) for line in part.missing)
    return Table("missing", "What was to be confirmed and is not there", (Column("what"),), rows)


def _networks(search: Search, part: ConfirmedPart) -> Table:
    columns = (
        Column("network"),
        Column("role"),
        Column("trial", "plain"),
        Column("what"),
        Column("parameters (M)", "short"),
        Column("GFLOP", "short"),
        Column("latency (ms)", "short"),
        Column(f"searched {searched_title(search)}", "score"),
        Column("own thresholds"),
        Column("validation at own", "score", "validation" if search.likeliest else None),
        Column("test at own", "score", "test" if search.likeliest else None),
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
            _by_seed(n.thresholds),
            n.validation,
            n.test,
            n.low,
            n.high,
            "yes" if n.chosen else "",
        )
        for n in part.networks
    )
    return Table("networks", "Networks that were trained again on fresh seeds", columns, rows)


def _by_seed(thresholds: Sequence[tuple[int | None, float]]) -> str:
    """`0.5`, where all are one; else by seed, `11: 0.5, 12: 0.65`, and by region, `11: 0.5 / 0.4`."""
    if len({threshold for _, threshold in thresholds}) == 1:
        return f"{thresholds[0][1]:g}"
    own: dict[int | None, list[str]] = {}
    for seed, threshold in thresholds:
        own.setdefault(seed, []).append(f"{threshold:g}")
    return ", ".join(f"{seed}: {' / '.join(values)}" for seed, values in own.items())


def _claims(part: ConfirmedPart) -> Table:
    columns = (
        Column(CLAIM),
        Column("on"),
        Column("what"),
        Column("minus"),
        Column("difference", "signed"),
        Column("from", "signed"),
        Column("to", "signed"),
        Column("p", "p"),
        Column("p (Holm)", "p"),
        Column(f"{part.scored}s", "count"),
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


def _class_claims(search: Search, part: ConfirmedPart) -> Table:
    whole = _claims(part.model_copy(update={"claims": part.class_claims}))
    columns = (Column(search.kind), *whole.columns)
    rows = tuple((c.label, *row) for c, row in zip(part.class_claims, whole.rows, strict=True))
    title = f"Comparisons of single {'regions' if search.regions else 'classes'}, where that of their mean is shown"
    return Table("class-claims", title, columns, rows, _colours(search))


def _distances(part: ConfirmedPart) -> Table:
    columns = (
        Column(CLAIM),
        Column("on"),
        Column("what"),
        Column("minus"),
        Column(f"HD95 of what both found ({part.length_unit})", "signed"),
        Column(f"{part.scored}s that both found", "count"),
        Column(f"of {part.scored}s", "count"),
        Column(f"HD95, a miss as the diagonal ({part.length_unit})", "signed"),
        Column("from", "signed"),
        Column("to", "signed"),
    )
    rows = tuple(
        (
            d.name,
            d.part,
            d.minuend,
            d.subtrahend,
            d.hd95,
            d.compared,
            d.images,
            d.hd95_missed_as_diagonal,
            d.low,
            d.high,
        )
        for d in part.distances
    )
    return Table("distances", "Distances compared; below zero is nearer to the truth", columns, rows)


def _scores(part: ConfirmedPart, by: str, title: str) -> Table:
    columns = (
        Column("on"),
        *(() if by == "all" else (Column("source" if by == "source" else "size"),)),
        Column("network"),
        Column(f"{part.scored}s", "count"),
        Column("groups", "count"),
        Column("thresholds"),
        Column("Dice", "score"),
        Column("from", "score"),
        Column("to", "score"),
        Column("IoU", "score"),
        Column("precision", "score"),
        Column("recall", "score"),
        Column(f"HD95 ({part.length_unit})", "short", f"HD95 of what was found ({part.length_unit})"),
        Column(f"{part.scored}s left out of it", "short"),
        Column(f"HD95, a miss as the diagonal ({part.length_unit})", "short"),
        Column("polyps", "count", "connected objects" if part.class_scores else "objects"),
        Column("missed", "percent"),
        Column("false areas a negative", "short"),
        Column("Brier", "score"),
        Column("ECE of the foreground", "score"),
        Column("ECE of the chosen class", "score"),
    )
    strata = dict.fromkeys((s.part, s.stratum) for s in part.scores)
    # What chose epochs and trials comes last.
    order = {name: place for place, name in enumerate(sorted(strata, key=lambda each: each[0] == "validation"))}
    scores = sorted((s for s in part.scores if s.by == by), key=lambda s: order[s.part, s.stratum])
    rows = tuple(_score_row(s, by) for s in scores)
    return Table(f"scores-{by}", title, columns, rows)


def _score_row(s: Scores, by: str) -> tuple[str | int | float | None, ...]:
    where: tuple[str, ...] = (s.part,) if by == "all" else (s.part, s.stratum)
    score = (s.dice, s.low, s.high, s.iou, s.precision, s.recall, s.hd95, s.hd95_left_out, s.hd95_missed_as_diagonal)
    at = describe_thresholds(s.thresholds).partition(" ")[2] if s.thresholds else None
    return (
        *where,
        s.network,
        s.images,
        s.groups,
        at,
        *score,
        s.polyps,
        s.missed,
        s.false_positives,
        s.brier,
        s.ece_positive,
        s.ece,
    )


def _reliability(part: ConfirmedPart, element: str) -> Table:
    columns = (
        Column("on"),
        Column("network"),
        Column("of"),
        Column("probability", "short"),
        Column("right", "percent"),
        Column("of the pixels", "percent", f"of the {element}s"),
    )
    rows = tuple(
        (r.part, r.network, of, *each)
        for r in part.reliability
        for of, bins in (("the foreground", r.positive_bins), ("the chosen class", r.bins))
        for each in bins
    )
    return Table("reliability", f"Calibration: share of {element}s right by confidence", columns, rows)


def _openings(part: ConfirmedPart) -> Table:
    columns = (Column("when"), Column("who"), Column("what for"), Column("configurations"))
    rows = tuple((o.when, o.who, o.purpose, ", ".join(o.configurations)) for o in part.openings)
    return Table("openings", "Openings of the test rows", columns, rows)
