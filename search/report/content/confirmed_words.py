"""The four sentences of a study that was confirmed."""

from search.answer.document import Claim, ConfirmedPart, Network, Verdict
from search.answer.uncertainty import FEW_SEEDS
from search.report.content.document import Search
from search.report.content.number_format import shown
from search.report.content.text import NO_QUESTION, Four, title_of

GAIN, TERM, TEACHER = "gain", "kd_term_effect", "not_below_teacher"
"""Names of the claims that the sentences speak of."""


def confirmed_words(search: Search, part: ConfirmedPart) -> tuple[str, Four, Verdict]:
    """(headline, the four sentences, verdict on distillation)."""
    verdict = distillation(part)
    headline = "Confirmed: trained again on fresh seeds and scored on test images that chose nothing"
    if part.missing:
        headline = "Being confirmed: some of the trainings on fresh seeds are missing, numbers may change"
    if search.simulated:
        headline = f"Simulated, so it says nothing of any network. {headline}"
    return headline, (_confirmed_which(search, part), _confirmed_why(search, part, verdict), _confirmed_sure(part), _confirmed_cost(search, part)), verdict


def distillation(part: ConfirmedPart) -> Verdict:
    """Whether distillation is the reason, on test: shown where both comparisons show it, with the tuned control and
    with the same network without its KD term; worse where one of them is worse."""
    verdicts = [c.verdict for name in (GAIN, TERM) if (c := claim(part, name)) is not None]
    if "worse" in verdicts:
        return "worse"
    if not verdicts or set(verdicts) == {"not estimable"}:
        return "not estimable"
    return "shown" if set(verdicts) == {"shown"} else "not_shown"


def claim(part: ConfirmedPart, name: str) -> Claim | None:
    """The claim of a name on test, of the network to ship where there are several."""
    found = [c for c in part.claims if c.name == name and c.part == "test"]
    mine = [c for c in found if c.minuend == part.chosen]
    return next(iter([*mine, *found]), None)


def _confirmed_which(search: Search, part: ConfirmedPart) -> str:
    title = title_of(search)
    margin = shown(part.margin, "plain")
    network = next((n for n in part.networks if n.name == part.chosen), None)
    if network is not None:
        return (
            f"Ship {network.name}: {_network(network)}, test {title} {_interval(network)}, the smallest that is shown "
            f"not to lie more than {margin} below the teacher."
        )
    best = chosen_or_best(part)
    if best is None:
        return "Nothing was confirmed: no winner has a test score, so there is no network to ship."
    teacher = next((n for n in part.networks if n.role == "teacher"), None)
    if teacher is None:
        near = "No teacher is there to be compared with"
    elif teacher.test is None:
        near = "The teacher has no test score to be compared with"
    else:
        near = f"No network is shown to lie within {margin} {title} of the teacher"
    return f"{near}; what the search found best is {best.name}: {_network(best)}, test {title} {_interval(best)}."


def chosen_or_best(part: ConfirmedPart) -> Network | None:
    """The network to ship; where there is none, of the winners with a test score the one that its search ranked first:
    a choice by the test score would make that too high."""
    chosen = next((network for network in part.networks if network.name == part.chosen), None)
    scored = [network for network in part.networks if network.role == "winner" and network.test is not None]
    return chosen or min(scored, key=lambda network: network.rank, default=None)


def _network(network: Network) -> str:
    share = (
        "" if network.share_of_teacher is None else f", {shown(network.share_of_teacher, 'percent')} of the teacher's"
    )
    return f"{network.words} with {shown(network.params_m, 'short')} M parameters{share}"


def _interval(network: Network) -> str:
    if network.test is None:
        return "not known"
    if network.low is None or network.high is None:
        return shown(network.test, "score")
    return f"{shown(network.test, 'score')} [{shown(network.low, 'score')}, {shown(network.high, 'score')}]"


def _confirmed_why(search: Search, part: ConfirmedPart, verdict: Verdict) -> str:
    if not search.arms[0].taught:
        others = [c for c in part.claims if c.part == "test" and c.margin is None and c.estimate is not None]
        told = [f"{c.minuend} less {c.subtrahend} is {_difference(c)}" for c in others]
        return f"{'; '.join([NO_QUESTION, *told])}."
    said = {
        "shown": "Distillation was a reason",
        "worse": "Distillation was not the reason, it did harm",
        "not_shown": "That distillation was the reason is not shown",
        "not estimable": "Whether distillation was the reason is not estimable",
    }[verdict]
    gain, term = claim(part, GAIN), claim(part, TERM)
    parts = []
    if gain is not None:
        parts.append(f"over the best search without it {_told(gain)}")
    if term is not None:
        parts.append(f"over the same network with its KD term off {_told(term)}")
    return f"{said}: {'; '.join(parts)}." if parts else f"{said}: nothing to compare with was confirmed."


def _told(claim: Claim) -> str:
    if claim.estimate is None:
        return f"the gain is not estimable, {claim.reason or 'no numbers'}"
    return f"the gain is {_difference(claim, f' ({claim.minuend} less {claim.subtrahend})')}"


def _difference(claim: Claim, pair: str = "") -> str:
    """The estimate with its interval, what it is of, and what that shows."""
    if claim.estimate is None:
        return "not estimable"
    text = shown(claim.estimate, "signed")
    verdict = claim.verdict.replace("_", " ")
    if claim.low is None or claim.high is None:
        return f"{text}{pair}, {verdict}, since {claim.reason or 'there are too few groups'}"
    return f"{text} [{shown(claim.low, 'signed')}, {shown(claim.high, 'signed')}]{pair}, {verdict}"


def _confirmed_sure(part: ConfirmedPart) -> str:
    gone = "" if not part.missing else f"; missing: {len(part.missing)} of what was to be trained"
    made = [c for c in part.claims if c.part == "test" and c.estimate is not None]
    if not made:
        return f"No comparison could be made{gone}."
    whole = [c for c in made if c.low is not None]
    first = next(iter([*whole, *made]))
    sizes = f"{first.groups} groups of {first.images} images and {first.seeds} seeds"
    few = f"; fewer than {FEW_SEEDS} seeds make every interval unsure" if first.seeds < FEW_SEEDS else ""
    if not whole:
        return f"Nobody can say: an interval is not estimable of {sizes}, since {first.reason or 'they are few'}{gone}."
    return (
        f"The intervals hold {shown(first.confidence, 'percent')} and vary {sizes}, paired; what is shown is corrected "
        f"for the number of claims (Holm){few}{gone}."
    )


def _confirmed_cost(search: Search, part: ConfirmedPart) -> str:
    network = chosen_or_best(part)
    hours = f"the search took {shown(search.cost.hours, 'short')} device hours" if search.cost.hours > 0 else ""
    image = ""
    if network is not None:
        time = "" if network.latency_ms is None else f" and {shown(network.latency_ms, 'short')} ms"
        image = f"it takes {shown(network.gflops, 'short')} GFLOP{time} an image"
    cost = " and ".join(filter(None, [image, hours])) or "what it costs is not known"
    unseen = sorted({s.part for s in part.scores if s.part not in ("validation", "test")})
    beyond = f"data like the test images and {', '.join(unseen)}" if unseen else "data like the test images"
    return f"{cost[:1].upper()}{cost[1:]}; the numbers speak of {beyond}, and of nothing else."
