"""What was confirmed, as values of report.json, from findings and claims."""

import time
from collections.abc import Sequence

from search.confirm_choice import Configuration
from search.confirmed import Confirmed
from search.report.confirmed_part import Claim, ConfirmedPart, Network, Opening
from search.report.numbers import shown
from search.report.search_part import network_words
from search.report.strata import by_network, mean_of, means_by_seed, reliability_of, scores_of

NOT_BELOW = "not_below_teacher"
"""The claim by which the network to ship is chosen."""


def confirmed_part(found: Confirmed, claims: Sequence[Claim]) -> ConfirmedPart:
    """All of it."""
    chosen = _chosen(found, claims)
    choose = found.choose
    margin, level = shown(choose.margin, "plain"), shown(choose.confidence, "percent")
    return ConfirmedPart(
        networks=tuple(_network(found, each, chosen) for each in found.configurations),
        claims=tuple(claims),
        scores=tuple(scores_of(found)),
        reliability=tuple(reliability_of(found)),
        thresholds=_thresholds(found),
        chosen=chosen,
        choice=(
            f"The network to ship is the smallest winner, by {choose.smallest}, whose {found.objective} on test is "
            f"shown not to lie more than {margin} below the teacher's, with {level} confidence."
        ),
        margin=choose.margin,
        confidence=choose.confidence,
        openings=tuple(
            Opening(
                who=each.who,
                when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(each.when)),
                purpose=each.purpose,
                configurations=each.configurations,
            )
            for each in found.openings
        ),
        missing=found.missing,
    )


def _chosen(found: Confirmed, claims: Sequence[Claim]) -> str | None:
    near = {c.minuend for c in claims if c.name == NOT_BELOW and c.part == "test" and c.verdict == "shown"}
    winners = [each for each in found.configurations if each.role == "winner" and each.name in near]
    if not winners:
        return None
    by_params = found.choose.smallest == "params"
    return min(winners, key=lambda each: (each.params if by_params else each.gflops, each.rank)).name


def _network(found: Confirmed, each: Configuration, chosen: str | None) -> Network:
    validation = by_network(found, "validation").get(each.name, [])
    test = by_network(found, "test").get(each.name, [])
    teacher = next((c for c in found.configurations if c.role == "teacher"), None)
    table = each.run["teacher"] if each.role == "teacher" else each.run["student"]
    share = None if teacher is None or not teacher.params or each.role == "teacher" else each.params / teacher.params
    return Network(
        name=each.name,
        role=each.role,
        arm=each.arm,
        of=each.of,
        rank=each.rank,
        trial=each.trial,
        words=network_words(table),
        searched=each.searched,
        validation=mean_of(validation, found.objective) if validation else None,
        test=mean_of(test, found.objective) if test else None,
        low=None,
        high=None,
        by_seed=means_by_seed(test, found.objective) if each.role != "teacher" else (),
        params_m=each.params / 1e6,
        gflops=each.gflops,
        latency_ms=None,
        share_of_teacher=share,
        chosen=each.name == chosen,
    )


def _thresholds(found: Confirmed) -> tuple[tuple[str, float], ...]:
    """(network and seed, threshold)."""
    named = {}
    for each in found.findings:
        named[each.configuration if each.seed is None else f"{each.configuration} seed {each.seed}"] = each.threshold
    return tuple(sorted(named.items()))
