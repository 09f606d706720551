"""The four sentences of a study, confirmed or not, and what its numbers do not say."""

import shlex

from search.answer.build import GAIN, TERM, chosen_or_best, claim, distillation, methods_claims, verdict_lines
from search.answer.comparisons import unit_text
from search.answer.document import Comparison, ConfirmedPart, Network, Verdict, method_of
from search.answer.score_arrays import describe_thresholds
from search.answer.uncertainty import FEW_SEEDS
from search.report.content.document import Arm, Search
from search.report.content.number_format import shown
from trainer.errors import counted
from trainer.evaluation.score_names import unit_of

Four = tuple[str, str, str, str]
MOST_METHODS = 3
"""Ways of distilling whose gains stand in the answer, the search's best first; the table has all."""


def unconfirmed(search: Search) -> tuple[str, Four]:
    """(headline, which network to ship, whether distillation was the reason, how sure, what it costs)."""
    main = search.arms[0]
    headline = f"Unconfirmed: scores on the validation {search.scored}s that also chose the winner"
    if search.simulated:
        headline = "Simulated and unconfirmed: nothing was trained, every score is a formula's"
    if main.best is None:
        yet = "" if search.state == "ended" else " yet"
        return headline, (
            f"Unconfirmed: no trial of {main.name} has been trained to its end{yet}, so there is no network to ship.",
            f"{NO_QUESTION}." if not main.taught else f"Whether distillation helps is not shown: {_nothing(yet)}.",
            f"So far {_finished(search)} trials have finished{'; every number below will change' if yet else ''}.",
            f"The search took {_device_time(search)}.",
        )
    return headline, (_which(search, main), _why(search), _sure(search, main), _cost(search))


def next_step(name: str, search: Search, part: ConfirmedPart | None, powerless: str | None) -> str:
    """What to do next, with its command. powerless: why a confirmation could show nothing, where that is known."""
    word = shlex.quote(name)
    if part is not None:
        if part.missing:
            return f"Let the confirmation train what is missing: python -m search confirm {word}"
        best = chosen_or_best(part)
        if best is None:
            return f"See what failed: python -m search status {word}"
        # Where the rule of [confirm] chooses none, a network has to be named.
        named = "" if best.chosen else f" --configuration {shlex.quote(best.name)}"
        return f"Take it home: python -m search export {word} --confirmed{named} --package package"
    if search.state != "ended":
        return f"Let workers go on, the search has not ended: python -m search work {word}"
    if search.arms[0].best is None:
        return f"See what failed: python -m search status {word}"
    if powerless is not None:
        return (
            f"A confirmation could show nothing: {powerless}. "
            f"The candidate as it is, unconfirmed: python -m search export {word} --top 1 -o best.json"
        )
    return f"Confirm or refute it on fresh seeds and test {search.scored}s: python -m search confirm {word}"


def title_of(search: Search) -> str:
    """The metric as a label."""
    return _label(search.metric)


def _label(metric: str) -> str:
    return metric[:1].upper() + metric[1:]


def searched_title(search: Search) -> str:
    """The metric of the search's own scores as a label, with their threshold."""
    unit = unit_of(search.metric.partition(".")[0], spacing=False)
    title = f"{title_of(search)} ({unit})" if unit else title_of(search)
    return title if search.likeliest or search.threshold is None else f"{title} {_at(search)}"


def _at(search: Search) -> str:
    """How a pixel (or voxel) of a score of the search got its class."""
    if search.likeliest:
        return f"each {search.nouns.element} of its likeliest class"
    if search.threshold is None:
        return "at the threshold that is best for it"
    return f"at threshold {shown(search.threshold, 'plain')}"


NO_QUESTION = "Whether distillation helps was not asked: the main search trains without a teacher"
"""What is said of a study whose main search has no KD."""


def _nothing(yet: str) -> str:
    return f"there is nothing to compare{yet}"


def control_of(search: Search) -> Arm | None:
    """The first arm that trains without distillation, against a main search with it."""
    if not search.arms[0].taught:
        return None
    return next((arm for arm in search.arms[1:] if not arm.taught), None)


def _which(search: Search, main: Arm) -> str:
    best = main.best
    if best is None:
        raise ValueError("no best trial")
    size = "" if best.params_m is None else f" with {shown(best.params_m, 'short')} M parameters"
    share = "" if best.share_of_teacher is None else f" ({shown(best.share_of_teacher, 'percent')} of the teacher's)"
    teacher = "" if search.teacher is None or search.teacher.score is None else _against(search.teacher.score)
    at = _at(search)
    return (
        f"Unconfirmed: the candidate is trial {best.trial}, {best.network}{size}{share}, with a validation "
        f"{title_of(search)} of {shown(best.score, 'score')}{teacher} ({at}{_on(search)})."
    )


def _on(search: Search) -> str:
    return "" if search.images is None else f", on {counted(search.images, search.scored)}"


def _against(score: float) -> str:
    return f", where the teacher has {shown(score, 'score')}"


def _why(search: Search) -> str:
    main, control = search.arms[0], control_of(search)
    if not main.taught:
        return f"{NO_QUESTION}{_others(search)}."
    if search.methods:
        return f"Whether distillation was the reason is not shown: {_methods_so_far(search)}."
    if control is None:
        return (
            "Whether distillation was the reason is not estimable: no arm searched without it; one is searched with "
            '[[arms]] and set = { method = "none" } in the study file.'
        )
    if control.best is None or main.best is None:
        return f"Whether distillation was the reason is not shown: the arm {control.name} has no finished network yet."
    return (
        f"Whether distillation was the reason is not shown: the best without it ({control.name}, trial "
        f"{control.best.trial}) has {shown(control.best.score, 'score')}, and both are the best of many on the same "
        f"validation {search.scored}s, each with a single seed."
    )


def _methods_so_far(search: Search) -> str:
    """The best method beside none, on validation."""
    scored = {line.name: line.best for line in search.methods if line.best is not None}
    none = scored.pop("none", None)
    best = next(iter(scored), None)
    if best is None or none is None:
        return "nothing to compare yet"
    return (
        f"the best method is {best} with {shown(scored[best], 'score')}, and none of them has {shown(none, 'score')}; "
        f"both are the best of several on the same validation {search.scored}s, each with a single seed"
    )


def _others(search: Search) -> str:
    """The best of the other arms, beside a main search without KD."""
    parts = [
        f"{arm.name}, {'with a teacher' if arm.taught else 'without one too'}, has {shown(arm.best.score, 'score')}"
        for arm in search.arms[1:]
        if arm.best is not None
    ]
    return f"; the best of {', of '.join(parts)}" if parts else ""


def _sure(search: Search, main: Arm) -> str:
    finished = main.complete + main.pruned
    rival = control_of(search) or next(iter(search.arms[1:]), None)
    fair = ""
    both = [e for e in search.equal if rival is not None and {main.name, rival.name} <= set(e.expected)]
    if rival is not None and both:
        equal = both[-1]
        fair = (
            f"; after the same {equal.n} trials each, {shown(equal.expected[main.name], 'score')} would be expected of "
            f"{main.name} and {shown(equal.expected[rival.name], 'score')} of {rival.name}"
        )
    best = f"the best of {finished} trials is likely to be too high" if finished > 1 else "one trial had one seed"
    return f"Nobody can be sure yet, since {best}{fair}."


def _device_time(search: Search) -> str:
    return f"{shown(search.cost.hours, 'hours')} of device time" if search.cost.hours > 0 else "no measured device time"


def _cost(search: Search) -> str:
    flops = search.arms[0].best.gflops if search.arms[0].best is not None else None
    passes = "" if flops is None else f"The candidate takes {shown(flops, 'short')} GFLOP {search.nouns.an_input}; "
    took = f"search took {_device_time(search)} for {_finished(search)} finished trials."
    return f"{passes}the {took}" if passes else f"The {took}"


def _finished(search: Search) -> int:
    return sum(arm.complete + arm.pruned for arm in search.arms)


def limits(search: Search, part: ConfirmedPart | None, *, begun: int) -> tuple[str, ...]:
    """What the numbers do not say, in sentences. begun: how many confirmations were begun."""
    sentences = []
    if part is not None and part.needed is not None:
        sentences.append(part.needed.words)
    if begun > 1:
        sentences.append(
            f"The test rows were opened for {begun} confirmations; this report tells of the newest, which what the "
            "earlier ones showed may have guided."
        )
    if search.simulated:
        sentences.append("This search was simulated: its scores come from a formula and say nothing of any network.")
    if part is None:
        sentences.append(
            f"All scores are of validation {search.scored}s that also chose epochs and trials; no test {search.scored} "
            f"has been read. They are higher than what new {search.scored}s will give, and by how much is not known "
            "before confirmation."
        )
        if begun:
            sentences.append("A confirmation was begun, and no network of it has been scored on test yet.")
        sentences.append("Every trial has one seed: what a second seed would give is not known.")
    short = [arm.name for arm in search.arms if arm.complete + arm.pruned < arm.of]
    if short:
        sentences.append(f"The budgets of {', '.join(short)} are not used up.")
    counts = [arm.complete + arm.pruned for arm in search.arms]
    if max(counts) > min(counts):
        sentences.append(
            "The arms finished unequal numbers of trials, and the best of more is higher: compare them at equal ones."
        )
    sentences += _dead_terms(search)
    sentences += _tie(search)
    sentences += _threshold_sentences(search, part)
    sentences.append(
        "The expected best treats the trials as if they had been drawn in random order; those of a guided search were "
        "not, so the curve describes these trials and promises nothing of the next ones."
    )
    if search.metric == "dice":
        sentences.append(
            f"Dice is taken per {search.scored} at native size and averaged over {search.scored}s; where truth and "
            "prediction are both empty it is 1."
        )
    return tuple(sentences)


def _dead_terms(search: Search) -> list[str]:
    """Which terms of the search never moved the gradient."""
    dead = {share.term: share.trials for arm in search.arms for share in arm.shares if share.dead == share.trials}
    return [
        f"The term {term} never moved the gradient: its share was below 1 % at the end of each of the "
        f"{counted(trials, 'trial')} that had it."
        for term, trials in dead.items()
    ]


def _tie(search: Search) -> list[str]:
    """How many networks the search cannot tell apart, as their masks at its threshold are all empty."""
    if search.tie is None or search.threshold is None:
        return []
    trials, score, instead = search.tie
    return [
        f"{trials} of {counted(len(search.dots), 'trial')} that were trained to their end have one score, "
        f"{shown(score, 'score')}: at threshold {shown(search.threshold, 'plain')} their masks are alike, empty as a "
        "rule. At another threshold, which a confirmation chooses for each seed, such a network may be as good as "
        f'others, but the search cannot tell one of them from the next; a study with maximize = "{instead}" can.'
    ]


def _threshold_sentences(search: Search, part: ConfirmedPart | None) -> list[str]:
    """At which threshold scores are; with several classes, what they are the mean of."""
    names = ", ".join(known.name for known in search.classes)
    if search.likeliest:
        return [
            f"A score without a class's name is the mean over {names}; each {search.nouns.element} counts for its "
            "likeliest class, and there is no threshold."
        ]
    own = "" if part is None else f" Confirmed scores are each seed's at its own: {part.threshold_rule}."
    of = "each region's probability" if search.regions else "the foreground's probability"
    mean = [f"A score without a region's name is the mean over {names}."] if search.regions and names else []
    if search.threshold is None:
        each = "region of a network" if search.regions else "network"
        return [*mean, f"In the search, each {each} is scored at the threshold of {of} that is best for it.{own}"]
    at = shown(search.threshold, "plain")
    return [*mean, f"Scores of the search, its teacher's too, are at threshold {at} of {of}.{own}"]


def confirmed_text(search: Search, part: ConfirmedPart) -> tuple[str, Four, Verdict]:
    """(headline, the four sentences, verdict on distillation)."""
    verdict = distillation(part)
    headline = f"Confirmed: trained again on fresh seeds and scored on test {part.scored}s that chose nothing"
    if part.missing:
        headline = "Being confirmed: some of the trainings on fresh seeds are missing, numbers may change"
    if search.simulated:
        headline = f"Simulated, so it says nothing of any network. {headline}"
    return (
        headline,
        (
            _confirmed_which(search, part),
            _confirmed_why(search, part, verdict),
            _confirmed_sure(search, part),
            _confirmed_cost(search, part),
        ),
        verdict,
    )


def _confirmed_which(search: Search, part: ConfirmedPart) -> str:
    title = title_of(search)
    within = f"{shown(part.margin, 'plain')} {_label(part.margin_metric)}"
    margin = shown(part.margin, "plain") if part.margin_metric == search.metric else within
    network = next((n for n in part.networks if n.name == part.chosen), None)
    if network is not None:
        return (
            f"Ship {network.name}: {_network(network)}, test {title} {_interval(search, network)}{_of(part, network)}, "
            f"the smallest that is shown not to lie more than {margin} below the teacher."
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
        near = f"No network is shown to lie within {within} of the teacher"
    score = f"test {title} {_interval(search, best)}{_of(part, best)}"
    text = f"{near}; what the search found best"
    better = _better_control(search, part, best)
    if better is None or better.searched is None or best.searched is None:
        return f"{text} is {best.name}: {_network(best)}, {score}."
    own, other = shown(best.searched, "score"), shown(better.searched, "score")
    return (
        f"{text} in arm {best.arm} is {best.name}: {_network(best)}, {score}. In the search the control {better.name} "
        f"was better: {other} on validation, {best.name} {own}."
    )


def _better_control(search: Search, part: ConfirmedPart, best: Network) -> Network | None:
    """The control that the search scored highest, where that is above the best winner's score; by validation alone."""
    sign = 1 if search.maximize else -1
    above = [
        (sign * network.searched, network)
        for network in part.networks
        if network.role == "control" and network.searched is not None and best.searched is not None
        if sign * network.searched > sign * best.searched
    ]
    return max(above, key=lambda pair: pair[0])[1] if above else None


def _network(network: Network) -> str:
    share = (
        "" if network.share_of_teacher is None else f", {shown(network.share_of_teacher, 'percent')} of the teacher's"
    )
    return f"{network.words} with {shown(network.params_m, 'short')} M parameters{share}"


def _of(part: ConfirmedPart, network: Network) -> str:
    """How many test images (or cases) and seeds the score is of."""
    whole = next((s for s in part.scores if (s.network, s.part, s.by) == (network.name, "test", "all")), None)
    return "" if whole is None else f", on {counted(whole.images, part.scored)} with {counted(whole.seeds, 'seed')}"


def _interval(search: Search, network: Network) -> str:
    """The test score with its interval and thresholds."""
    if network.test is None:
        return "not known"
    at = describe_thresholds(threshold for _, threshold in network.thresholds)
    at = f"at {at}" if network.thresholds else f"(each {search.nouns.element} of its likeliest class)"
    text = f"{shown(network.test, 'score')} {at}"
    if network.low is None or network.high is None:
        return text
    return f"{shown(network.test, 'score')} [{shown(network.low, 'score')}, {shown(network.high, 'score')}] {at}"


def _confirmed_why(search: Search, part: ConfirmedPart, verdict: Verdict) -> str:
    if not search.arms[0].taught:
        others = [c for c in part.claims if c.part == "test" and c.margin is None and c.estimate is not None]
        differences = [f"{c.minuend} less {c.subtrahend} is {_difference(c)}" for c in others]
        return f"{'; '.join([NO_QUESTION, *differences])}."
    opening = {
        "shown": "Distillation was a reason",
        "worse": "Distillation was not the reason, it did harm",
        "not_shown": "That distillation was the reason is not shown",
        "not estimable": "Whether distillation was the reason is not estimable",
    }[verdict]
    gain, term = claim(part, GAIN), claim(part, TERM)
    parts = [
        f"{method_of(each.name)}: {_with_interval(each)}" for each in methods_claims(part) if each.estimate is not None
    ][:MOST_METHODS]
    if gain is not None:
        parts.append(f"over the best search without it {_with_interval(gain)}")
    if term is not None:
        parts.append(f"over the same network with its KD term off {_with_interval(term)}")
    return f"{opening}: {'; '.join(parts)}." if parts else f"{opening}: nothing to compare with was confirmed."


def _with_interval(claim: Comparison) -> str:
    if claim.estimate is None:
        return f"the gain is not estimable, {claim.reason or 'no numbers'}"
    lower = f"; {unit_text(claim)}lower is better" if claim.lower_is_better else ""
    what = "difference" if claim.lower_is_better else "gain"
    return f"the {what} is {_difference(claim, f' ({claim.minuend} less {claim.subtrahend}{lower})')}"


def _difference(claim: Comparison, pair: str = "") -> str:
    """The estimate with its interval, what it is of, and what that shows."""
    if claim.estimate is None:
        return "not estimable"
    text = shown(claim.estimate, "signed")
    verdict = claim.verdict.replace("_", " ")
    if claim.low is None or claim.high is None:
        return f"{text}{pair}, {verdict}, since {claim.reason or 'there are too few groups'}"
    return f"{text} [{shown(claim.low, 'signed')}, {shown(claim.high, 'signed')}]{pair}, {verdict}"


def _confirmed_sure(search: Search, part: ConfirmedPart) -> str:
    gone = "" if not part.missing else f"; missing: {len(part.missing)} of what was to be trained"
    made = [c for c in part.claims if c.part == "test" and c.estimate is not None]
    if not made:
        return f"No comparison could be made{gone}."
    whole = [c for c in made if c.low is not None]
    first = next(iter([*whole, *made]))
    sizes = f"{first.groups} groups of {first.images} {part.scored}s and {first.seeds} seeds"
    few = f"; fewer than {FEW_SEEDS} seeds make every interval unsure" if first.seeds < FEW_SEEDS else ""
    if not whole:
        return f"Nobody can say: an interval is not estimable of {sizes}, since {first.reason or 'they are few'}{gone}."
    alone = sorted(
        {s.part for s in part.scores if s.by == "all" and s.part != "validation" and s.groups == s.images > 0}
    )
    each = f"every {part.scored} of {', '.join(alone)}"
    single = f"; {each} is a group of its own and taken as independent" if alone else ""
    verdicts = "; ".join(verdict_lines([*made, *part.class_claims]))
    single_ones = "regions" if search.regions else "classes"
    classes = ", methods among themselves" if methods_claims(part) else ""
    classes += f", single {single_ones} among themselves" if part.class_claims else ""
    confidence = shown(first.confidence, "percent")
    return (
        f"{verdicts[:1].upper()}{verdicts[1:]}. The intervals have a confidence of {confidence}, over {sizes}, paired "
        f"by {part.scored} and seed; what is shown is corrected for the number of claims (Holm{classes})"
        f"{single}{few}{gone}."
    )


def _confirmed_cost(search: Search, part: ConfirmedPart) -> str:
    network = chosen_or_best(part)
    hours = f"the search took {shown(search.cost.hours, 'hours')} of device time" if search.cost.hours > 0 else ""
    passes = ""
    if network is not None:
        time = "" if network.latency_ms is None else f" and {shown(network.latency_ms, 'short')} ms"
        passes = f"it takes {shown(network.gflops, 'short')} GFLOP{time} {search.nouns.an_input}"
    cost = " and ".join(filter(None, [passes, hours])) or "what it costs is not known"
    unseen = sorted({s.part for s in part.scores if s.part not in ("validation", "test")})
    beyond = f"data like the test {part.scored}s"
    beyond += f" and {', '.join(unseen)}" if unseen else ""
    return f"{cost[:1].upper()}{cost[1:]}; the numbers speak of {beyond}, and of nothing else."
