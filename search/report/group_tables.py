"""The tables of a search by family of networks and by way of distilling."""

from search.answer.build import methods_claims
from search.answer.document import Comparison, ConfirmedPart, method_of
from search.report.content.document import Method, Search
from search.report.content.text import searched_title, title_of
from search.report.table_formats import Cell, Column, Table
from search.study.snapshot import NO_METHOD


def family_table(search: Search) -> Table:
    """One line a network, with its best width; no row where the search was not dealt over several networks."""
    arms = [arm.name for arm in search.arms]
    columns = (
        Column((search.along or "family").partition(",")[0]),
        Column("choices", "count"),
        Column("complete", "count"),
        *(Column(f"best of {name}", "score") for name in arms),
        Column("its choice"),
        Column("trial", "plain"),
        Column("parameters (M)", "short"),
        Column("GFLOP", "short"),
    )
    rows = tuple(
        (
            line.name,
            line.choices,
            line.complete,
            *(line.best.get(name) for name in arms),
            None if line.choice is None else str(line.choice),
            line.trial,
            line.params_m,
            line.gflops,
        )
        for line in search.families
    )
    return Table("families", f"Best validation {searched_title(search)} by network, unconfirmed", columns, rows)


def method_table(search: Search, part: ConfirmedPart | None) -> Table:
    """The ways of distilling in their order: by what each gains on test where that is known, else on validation."""
    claims = {} if part is None else {method_of(claim.name) or "": claim for claim in methods_claims(part)}
    sign = 1 if not claims or not any(claim.lower_is_better for claim in claims.values()) else -1

    def place(line: Method) -> tuple[bool, float]:
        claim = claims.get(line.name)
        gain = 0.0 if line.name == NO_METHOD else None if claim is None else claim.estimate
        return gain is None, -sign * (gain or 0.0)

    lines = sorted(search.methods, key=place) if claims else list(search.methods)
    confirmed = (
        *(Column(word, "signed") for word in (f"gain in test {title_of(search)}", "from", "to")),
        Column("p (Holm)", "p"),
        Column("verdict"),
    )
    columns = (
        Column("rank", "count"),
        Column("method"),
        Column("trials", "count"),
        Column(f"best validation {searched_title(search)}", "score"),
        Column("parameters (M)", "short"),
        *(confirmed if claims else ()),
        Column("terms' median share of the gradient"),
        Column("never moved it"),
    )
    rows = tuple(
        (
            rank,
            line.name,
            line.trials,
            line.best,
            line.params_m,
            *(_gain(line, claims.get(line.name)) if claims else ()),
            ", ".join(f"{share.term} {share.median:.1%}" for share in line.terms),
            ", ".join(share.term for share in line.terms if share.dead == share.trials),
        )
        for rank, line in enumerate(lines, 1)
    )
    by = "gain over no distillation" if claims else f"best validation {title_of(search)}, unconfirmed"
    return Table("methods", f"Methods by {by}", columns, rows)


def _gain(line: Method, claim: Comparison | None) -> tuple[Cell, ...]:
    if line.name == NO_METHOD:
        return (None, None, None, None, "what the others are compared with")
    if claim is None:
        return (None, None, None, None, "not confirmed")
    verdict = claim.verdict.replace("_", " ")
    why = "" if claim.reason is None else f": {claim.reason}"
    return (claim.estimate, claim.low, claim.high, claim.p_holm, f"{verdict}{why}")
