"""report.json from the database: one study after the other, and side by side where there are several."""

import json
import shlex
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from search.answer.build import GAIN, answer, chosen_or_best, claim, methods_claims
from search.answer.comparisons import TEST
from search.answer.document import ConfirmedPart, Verdict
from search.answer.power import powerless_search
from search.confirm.plan import confirmations
from search.confirm.results import Confirmed, confirmed
from search.report.content.document import Report, Search, Side, Study
from search.report.content.published import published_part
from search.report.content.search_results import search_part
from search.report.content.series_part import MadeStudy, series_part
from search.report.content.statistics import times
from search.report.content.text import confirmed_text, control_of, limits, next_step, unconfirmed
from search.report.content.worst_cases import DrawnNetwork, Wanted, pictures
from search.series.state import begun_members, place_of
from search.storage.database import Database
from search.storage.searches import series_place
from search.study.outcomes import trained_to_end
from search.study.snapshot import SearchSnapshot, read
from trainer.errors import UserError


def report(
    opened: Database,
    names: Sequence[str],
    *,
    wanted: Wanted | None = None,
    latency: str | None = None,
    refresh: int | None = None,
    now: float | None = None,
) -> Report:
    """The document. Raises UserError where a study is unknown.

    wanted: pictures; None leaves them out. latency: a table of measured times. refresh: seconds, for a page that reads
    itself again.
    """
    series = {name: [row.name for row in begun_members(opened, name)] for name in names}
    every = list(dict.fromkeys(each for name in names for each in series[name] or [name]))
    parts = {name: study(opened, name, wanted, latency) for name in every}
    studies = tuple(part.study for part in parts.values())
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time.time() if now is None else now))
    made = Report(
        written=stamp,
        program=_program(),
        studies=studies,
        sides=tuple(map(side, studies)) if len(studies) > 1 else (),
        refresh=refresh,
        series=tuple(series_part([parts[each] for each in members]) for members in series.values() if members),
    )
    return rounded(made)


def study(opened: Database, name: str, wanted: Wanted | None, latency: str | None) -> MadeStudy:
    """One study. Raises UserError where it is unknown, or the confirmation of another."""
    rows = read(opened, name)
    if rows.confirms is not None:
        raise UserError(
            f"study {name!r}: is the confirmation of {rows.confirms}, whose report tells it: "
            f"python -m search report {rows.confirms}"
        )
    time_of = times(rows.record.get("limits", {}), latency)
    begun = confirmations(name, opened.searches.names())
    result = _scored(opened, name) if begun else None
    # A table of times knows students.
    part = (
        None if result is None else answer(result, lambda each: None if each.role == "teacher" else time_of(each.run))
    )
    margin = None if part is None else part.margin
    searched = search_part(rows, opened.searches.closed, time_of, margin=margin)
    verdict: Verdict = "not_shown" if control_of(searched) is not None or searched.methods else "not estimable"
    if part is None:
        headline, four = unconfirmed(searched)
    else:
        headline, four, verdict = confirmed_text(searched, part)
    network = _drawn_network(opened, rows, searched, None if part is None else (begun[-1], part))
    drawn, without = pictures(rows, network, wanted)
    powerless = powerless_search(rows)
    whole = Study(
        name=name,
        identity=rows.search.identity,
        headline=headline,
        answer=four,
        following=next_step(name, searched, part, powerless),
        verdict=verdict,
        search=searched,
        confirmed=part,
        limits=limits(searched, part, begun=len(begun)),
        pictures=drawn,
        without_pictures=without,
        commands=commands(name, part, powerless=powerless is not None),
        published=published_part(rows.search.settings, result),
    )
    place = None if series_place(rows.search.settings) is None else place_of(rows.search)
    return MadeStudy(whole, place, result, rows.record["run"])


def _scored(opened: Database, name: str) -> Confirmed | None:
    """What was confirmed so far; None before the first network was scored on test."""
    result = confirmed(opened, name)
    return result if any(each.part == TEST and each.seed is not None for each in result.findings) else None


def _drawn_network(
    opened: Database, rows: SearchSnapshot, searched: Search, confirmation: tuple[str, ConfirmedPart] | None
) -> DrawnNetwork | None:
    """The network to ship, or the candidate; of several seeds the first whose weights are known."""
    if confirmation is not None:
        name, part = confirmation
        best = chosen_or_best(part)
        leases = () if best is None else read(opened, name).leases.get(best.name, ())
        trained = next((lease for lease in leases if trained_to_end(lease)), None)
        if best is None or trained is None or trained.weights is None:
            return None
        return DrawnNetwork(f"{best.name} (seed {json.loads(trained.known_run)['seed']})", trained.weights)
    main = searched.arms[0]
    number = None if main.best is None else main.best.trial
    weights = next((lease.weights for lease in rows.leases[main.name] if lease.number == number), None)
    return None if weights is None else DrawnNetwork(f"trial {number} of {main.name}", weights)


def rounded(made: Report) -> Report:
    """The same with numbers of 15 digits: what arithmetic adds behind them is noise, such as 0.8999999999999999."""
    return Report.model_validate(_rounded(made.model_dump(by_alias=True)))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.15g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def side(study: Study) -> Side:
    """A study's line beside others: what was confirmed on test, else the best of the search on validation."""
    search, part = study.search, study.confirmed
    line = Side(
        study=study.name,
        data=next((str(fact.value) for fact in search.data if fact.name == "name"), None),
        network=None,
        params_m=None,
        share_of_teacher=None,
        teacher=None if search.teacher is None else search.teacher.score,
        without_kd=None,
        with_kd=None,
        difference=None,
        low=None,
        high=None,
        verdict=study.distillation,
        part="validation, unconfirmed",
    )
    if part is not None:
        return line.model_copy(update=_confirmed_side(search, part))
    ours, control = search.arms[0].best, control_of(search)
    theirs = None if control is None else control.best
    if ours is None:
        return line.model_copy(update={} if theirs is None else {"without_kd": theirs.score})
    sizes = _sizes(ours.network, ours.params_m, ours.share_of_teacher)
    if not search.arms[0].taught:
        return line.model_copy(update={**sizes, "without_kd": ours.score})
    beside = {} if theirs is None else {"without_kd": theirs.score, "difference": ours.score - theirs.score}
    return line.model_copy(update={**sizes, "with_kd": ours.score, **beside})


def _confirmed_side(search: Search, part: ConfirmedPart) -> dict[str, Any]:
    gain = claim(part, GAIN) or next(iter(methods_claims(part)), None)
    networks = {network.name: network for network in part.networks}
    teacher = next((network.test for network in part.networks if network.role == "teacher"), None)
    fields: dict[str, Any] = {"teacher": teacher, "part": TEST}
    ours = networks.get("" if gain is None else gain.minuend) or chosen_or_best(part)
    if ours is None:
        return fields
    fields |= _sizes(ours.words, ours.params_m, ours.share_of_teacher)
    fields["with_kd" if search.arms[0].taught else "without_kd"] = ours.test
    if gain is None or gain.subtrahend not in networks:
        return fields
    fields["without_kd"] = networks[gain.subtrahend].test
    return fields | {"difference": gain.estimate, "low": gain.low, "high": gain.high}


def _sizes(network: str, params_m: float | None, share: float | None) -> dict[str, Any]:
    return {"network": network, "params_m": params_m, "share_of_teacher": share}


def commands(name: str, part: ConfirmedPart | None, *, powerless: bool = False) -> tuple[str, ...]:
    """What leads to this report again, in order. powerless: the confirmation could show nothing, and was asked for all
    the same."""
    word = shlex.quote(name)
    steps = [f"python -m search validate {word}", f"python -m search work {word}"]
    if part is None:
        return (*steps, f"python -m search report {word}", f"python -m search export {word} --top 1 -o best.json")
    best = chosen_or_best(part)
    # Where the rule of [confirm] chooses none, a network has to be named.
    named = "" if best is None or best.chosen else f" --configuration {shlex.quote(best.name)}"
    ship = [] if best is None else [f"python -m search export {word} --confirmed{named} --package package"]
    anyway = " --anyway" if powerless else ""
    return (*steps, f"python -m search confirm {word}{anyway}", f"python -m search report {word}", *ship)


def _program() -> str:
    try:
        return f"kd-search {version('kd-search')}"
    except PackageNotFoundError:
        return "kd-search"
