"""The trials of a search by family of networks, and by way of distilling, where it was dealt over these."""

import json
from collections.abc import Iterator, Sequence

from search.report.content.document import Dot, Family, Method
from search.spec.config import MAIN
from search.study.outcomes import completed_or_pruned
from search.study.snapshot import NO_METHOD, SearchSnapshot
from search.study.trial_attributes import shares_of


def families_of(rows: SearchSnapshot, dots: Sequence[Dot]) -> Iterator[Family]:
    """One line a choice of the first of a front's several paths, the best of the main search first."""
    names = dict.fromkeys(dot.family for dot in dots if dot.family is not None)
    pick = max if rows.maximize else min
    lines = []
    for name in names:
        members = [dot for dot in dots if dot.family == name]
        arms = {dot.arm: [other.score for other in members if other.arm == dot.arm] for dot in members}
        best = pick((d for d in members if d.arm == MAIN), key=lambda d: d.score, default=None)
        lines.append(
            Family(
                name=name,
                choices=len({dot.choice for dot in members}),
                complete=len(members),
                best={arm: pick(scores) for arm, scores in arms.items()},
                choice=None if best is None else best.choice,
                trial=None if best is None else best.trial,
                params_m=None if best is None else best.params_m,
                gflops=None if best is None else best.gflops,
            )
        )
    sign = -1 if rows.maximize else 1
    yield from sorted(lines, key=lambda line: (MAIN not in line.best, sign * line.best.get(MAIN, 0.0)))


def methods_of(rows: SearchSnapshot, dots: Sequence[Dot]) -> Iterator[Method]:
    """One line a way of distilling and one for none, the best on validation first; nothing for other studies."""
    if not rows.methods:
        return
    run_of = {lease.number: json.loads(lease.known_run)["method"] for lease in rows.leases[MAIN] if lease.run}
    over = [lease.number for lease in rows.leases[MAIN] if completed_or_pruned(lease)]
    pick = max if rows.maximize else min
    lines = []
    for method in (NO_METHOD, *rows.methods):
        members = [dot for dot in dots if dot.arm == MAIN and run_of.get(dot.trial) == method]
        best = pick(members, key=lambda dot: dot.score, default=None)
        trials = [trial for trial in rows.trials[MAIN] if run_of.get(trial.number) == method]
        lines.append(
            Method(
                name=method,
                trials=sum(run_of.get(number) == method for number in over),
                complete=len(members),
                best=None if best is None else best.score,
                trial=None if best is None else best.trial,
                params_m=None if best is None else best.params_m,
                terms=tuple(share for share in shares_of(trials) if share.term in method.split("+")),
            )
        )
    sign = -1 if rows.maximize else 1
    yield from sorted(lines, key=lambda line: (line.best is None, sign * (line.best or 0.0)))
