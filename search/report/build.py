"""report.json from the database: one study after the other, and side by side where there are several."""

import shlex
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from search.report.document import Report, Search, Side, Study
from search.report.pictures import Wanted, pictures
from search.report.search_part import search_part
from search.report.times import times
from search.report.words import control_of, limits, unconfirmed
from search.standing import Rows, read
from search.storage import Opened


def report(
    opened: Opened,
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
    studies = tuple(study(opened, name, wanted, latency) for name in names)
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time.time() if now is None else now))
    return Report(
        written=stamp,
        program=_program(),
        studies=studies,
        sides=tuple(map(side, studies)) if len(studies) > 1 else (),
        refresh=refresh,
    )


def study(opened: Opened, name: str, wanted: Wanted | None, latency: str | None) -> Study:
    """One study. Raises UserError where it is unknown."""
    rows = read(opened, name)
    time_of = times(rows.record.get("limits", {}), latency)
    searched = search_part(rows, opened.leases.closed, time_of, margin=None)
    headline, answer = unconfirmed(name, searched)
    drawn, without = pictures(rows, _weights(rows, searched), wanted)
    return Study(
        name=name,
        identity=rows.search.identity,
        headline=headline,
        answer=answer,
        verdict="not_shown" if control_of(searched) is not None else "not estimable",
        search=searched,
        confirmed=None,
        limits=limits(searched, confirmed=False),
        pictures=drawn,
        without_pictures=without,
        commands=commands(name, confirmed=False),
    )


def _weights(rows: Rows, searched: Search) -> str | None:
    """The file of the candidate's weights."""
    main = searched.arms[0]
    if main.best is None:
        return None
    trial = main.best.trial
    return next((lease.weights for lease in rows.leases[main.name] if lease.number == trial), None)


def side(study: Study) -> Side:
    """A study's line beside others."""
    search = study.search
    ours, control = search.arms[0].best, control_of(search)
    theirs = None if control is None else control.best
    return Side(
        study=study.name,
        data=next((str(fact.value) for fact in search.data if fact.name == "name"), None),
        network=None if ours is None else ours.network,
        params_m=None if ours is None else ours.params_m,
        share_of_teacher=None if ours is None else ours.share_of_teacher,
        teacher=None if search.teacher is None else search.teacher.score,
        without_kd=None if theirs is None else theirs.score,
        with_kd=None if ours is None else ours.score,
        difference=None if ours is None or theirs is None else ours.score - theirs.score,
        low=None,
        high=None,
        verdict=study.verdict,
        part="validation, unconfirmed",
    )


def commands(name: str, *, confirmed: bool) -> tuple[str, ...]:
    """What leads to this report again, in order."""
    word = shlex.quote(name)
    steps = [f"python -m search validate {word}", f"python -m search work {word}"]
    steps += [f"python -m search confirm {word}"] if confirmed else []
    return (*steps, f"python -m search report {word}", f"python -m search export {word} --top 1 -o best.json")


def _program() -> str:
    try:
        return f"kd-search {version('kd-search')}"
    except PackageNotFoundError:
        return "kd-search"
