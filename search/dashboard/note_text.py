"""What a study's note says: where the search stands, in words, tables and figures, for somebody who never saw it.

Whatever users chose (names, values, hosts, messages) stands in code spans alone.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.answer.summary import progress_words, rule_words, score_words
from search.study.progress import an_hour
from trainer.cli.durations import format_duration

RUNNING = 16
"""Running trials that are listed at most."""
FAILED = 10
"""Failed trials that are listed at most."""
CHOICES = 24
"""Choices of the front that are listed at most."""
MESSAGE = 160
"""Characters of a message."""

READING = """\
**How to read this**

- A **trial** is one student network, trained with one choice of settings; its score is that of its best epoch on the
  validation images. The search asks how small a student may be and still score well.
- **Unconfirmed**: the best of many trials on few images looks better than it is. Only training again with other seeds,
  and a test on images that the search never saw, confirm a score. A difference between arms is *not shown* before.
- An **arm** is a search of its own within this one, with a budget of its own; a control arm searches without
  distillation, so that distillation is compared with tuning and not with defaults.
- **Complete**: trained to its last epoch. **Pruned**: ended early, since trials like it were better at the same epoch.
  **Failed**: did not count, another trial takes its place. **Of**: the budget of the arm.
- The **front** joins the best score that each size reaches; a trial below it is beaten by one that is no larger.
- In this dashboard: *Trial (Table)* lists all settings, *Trial (List)* shows one trial's curve, attributes and
  pictures, *Analytics* the importance of settings."""

SEEDS = """\
**How to read this**

- Here networks that a search found are **trained again**: each **arm** is one of them, each **trial** is its training
  with a seed that the search did not use. Scores of trials are those of validation images.
- After its last epoch each is scored once on **test** images, which chose nothing. What is confirmed is the mean of
  these over seeds, and a difference with an interval that keeps clear of zero; a single seed confirms nothing.
- *kd-1* is the winner of the search, *no-kd-1* that of its arm without distillation, *kd-1-without* the winner with its
  distillation term off, *defaults* the network before any tuning."""


@dataclass(frozen=True)
class Shown:
    """A figure as a note embeds it."""

    path: str
    alt: str

    def markdown(self) -> str:
        """The embedded image; path and alternative text are the program's own."""
        return f"![{self.alt}]({self.path})"


def story(
    figures: Mapping[str, Any],
    *,
    arm: str,
    studies: Mapping[str, int],
    pictures: Mapping[str, Shown],
    without: str | None,
    now: float,
) -> str:
    """The note of one arm's study.

    figures: of `search.study.progress`, with `confirms` and `confirmation` as `search.commands.status.look` has them,
    and `terms`, by arm what each loss term moved (`search.study.trial_attributes`), where that is known. arm: whose
    study this is. studies: the dashboard's number of each arm's study. pictures: by `size`, `best` and `curves`.
    without: why there are no figures, where there are none. now: seconds since 1970.
    """
    parts = [_heading(figures, arm, studies), _summary(figures, now), *_confirmed(figures), _best(figures, studies)]
    parts += _arms(figures, studies)
    if without is not None:
        parts.append(f"*No figures: {without}.*")
    parts += [pictures[name].markdown() for name in ("size",) if name in pictures]
    parts += _front(figures)
    parts += [pictures[name].markdown() for name in ("best", "curves") if name in pictures]
    parts += [*_terms(figures), *_running(figures, studies), *_failures(figures, studies), *_cost(figures)]
    parts.append(READING if figures["confirms"] is None else SEEDS)
    return "\n\n".join(part for part in parts if part)


def attributes(figures: Mapping[str, Any], arm: str) -> dict[str, str]:
    """What the study's first page tells before anybody opens the note."""
    of = figures["arms"][arm]
    finished = f"{of['complete'] + of['pruned']} of {of['of']} trials finished"
    best = (
        "none yet" if of["best"] is None else f"{figures['metric']} {of['best']['score']:.4f} (#{of['best']['trial']})"
    )
    ended = f", the {_kind(figures)} has ended" if figures["ended"] else ""
    said = {
        "start here": "the Note, last of the icons at the left, tells what this is and how far it is",
        "progress": f"{finished}, {of['running']} running{ended}",
        "best so far, unconfirmed" if figures["confirms"] is None else "best seed, on validation": best,
    }
    return said | _confirmed_attribute(figures, arm)


def _confirmed_attribute(figures: Mapping[str, Any], arm: str) -> dict[str, str]:
    """Of a search: the network that was confirmed. Of a confirmation: what became of the arm's own."""
    found = figures["confirmation"]
    result = None if found is None else found["result"]
    if result is None:
        return {}
    network = arm if figures["confirms"] is not None else result["network"]
    if network not in result["networks"]:
        return {}
    return {"confirmed": f"{network}: {score_words(result, network)}; more: {found['report']}"}


def _kind(figures: Mapping[str, Any]) -> str:
    return "search" if figures["confirms"] is None else "confirmation"


def _confirmed(figures: Mapping[str, Any]) -> list[str]:
    """What training again on fresh seeds showed, or how far it is, or how to begin it."""
    found = figures["confirmation"]
    if found is None:
        begin = code(f"python -m search confirm {figures['study']}", MESSAGE)
        return [f"**Unconfirmed** until it is trained again on fresh seeds: {begin}"] if figures["ended"] else []
    link = f"[{code(found['name'])}](/dashboard/studies/{found['study_id']}/note)"
    result = found["result"]
    if result is None or result["network"] is None:
        state = ", without a score on test" if found["ended"] else "; no result before it has ended"
        return [f"**Confirmation** {link}: {progress_words(found)}{state}."]
    best = f"{code(result['network'])} ({code(result['what'])}): **{score_words(result, result['network'])}**"
    gone = f" Missing: {len(result['missing'])} of what was to be measured." if result["missing"] else ""
    begun = f"**Confirmed** by {link}, {progress_words(found)}"
    text = f"{begun}; {rule_words(result)} {best}. Distillation: **{result['distillation']}**.{gone}"
    lines = [
        [code(name), f"{format_duration['score']:.4f}", _interval(format_duration), str(format_duration["seeds"] or "")]
        for name, format_duration in result["networks"].items()
    ]
    heads = ["network", f"test {result['metric']}", "interval, 95 %", "seeds"]
    return [f"{text} All comparisons: {code(found['report'], MESSAGE)}", table(heads, lines)]


def _interval(format_duration: Mapping[str, Any]) -> str:
    return "" if format_duration["low"] is None else f"{format_duration['low']:.4f} to {format_duration['high']:.4f}"


def _heading(figures: Mapping[str, Any], arm: str, studies: Mapping[str, int]) -> str:
    whole = f"# {_kind(figures).capitalize()} {code(figures['study'])}"
    names = list(studies)
    if len(names) < 2:
        return whole
    others = ", ".join(f"[{code(name)}](/dashboard/studies/{studies[name]}/note)" for name in names if name != arm)
    return f"{whole}\n\nThis page is the study of its arm {code(arm)}. The other arms: {others}."


def _summary(figures: Mapping[str, Any], now: float) -> str:
    arms = figures["arms"].values()
    done, of = sum(a["complete"] + a["pruned"] for a in arms), sum(a["of"] for a in arms)
    running, failed = sum(a["running"] for a in arms), sum(sum(a["failed"].values()) for a in arms)
    stamp = time.strftime("%d %b %Y %H:%M UTC", time.gmtime(now))
    state = "ended" if figures["ended"] else "is running" if figures["holding"] else "waits for workers"
    whole = f"**The {_kind(figures)} {state}: {done} of {of} trials finished**"
    words = [f"{whole}, {running} running, {failed} failed ({stamp})."]
    if figures["closed"]:
        words.append(f"No new trials begin: {code(figures['closed'], MESSAGE)}.")
    if figures["trials_an_hour"] is not None:
        words.append(f"About {an_hour(figures['trials_an_hour'])} trials an hour.")
    if not figures["ended"]:
        eta = figures["eta_seconds"]
        words.append(
            f"Done in about {format_duration(eta)}."
            if eta is not None
            else f"When: unknown ({figures['eta_unknown']})."
        )
    return " ".join(words)


def _best(figures: Mapping[str, Any], studies: Mapping[str, int]) -> str:
    found = [(name, arm["best"]) for name, arm in figures["arms"].items() if arm["best"] is not None]
    metric = figures["metric"].capitalize()
    if figures["confirms"] is not None:
        return ""
    if not found:
        return f"**Best {metric} so far**: no trial was trained to its end yet."
    said = [f"{code(name)} **{best['score']:.4f}** ({_trial(studies[name], best['trial'])})" for name, best in found]
    teacher = f", teacher {figures['teacher']:.4f}" if figures["teacher"] is not None else ""
    confirmed = figures["confirmation"] is not None and figures["confirmation"]["result"] is not None
    what = "of the search itself" if confirmed else "so far, unconfirmed"
    return f"**Best validation {metric} {what}**: {', '.join(said)}{teacher}.{_unequal(figures)}"


def _unequal(figures: Mapping[str, Any]) -> str:
    """A warning where the arms' best scores are of very different numbers of trials."""
    tried = {name: arm["complete"] + arm["pruned"] for name, arm in figures["arms"].items()}
    if max(tried.values()) <= 1.5 * min(tried.values()):
        return ""
    counts = ", ".join(f"{code(name)} {count}" for name, count in tried.items())
    return f" These do not compare: the arms finished unequal numbers of trials ({counts}); the best of more is higher."


def _arms(figures: Mapping[str, Any], studies: Mapping[str, int]) -> list[str]:
    heads = ("complete", "pruned", "running", "waiting")
    rows = []
    for name, arm in figures["arms"].items():
        best = arm["best"]
        score = ["", ""] if best is None else [f"{best['score']:.4f}", _trial(studies[name], best["trial"])]
        failed = ", ".join(f"{count} {code(kind)}" for kind, count in arm["failed"].items()) or "0"
        rows.append([code(name), *(str(arm[head]) for head in heads), failed, str(arm["of"]), *score])
    return [table(["arm", *heads, "failed", "of", f"best {figures['metric']}", "trial"], rows)]


def _front(figures: Mapping[str, Any]) -> list[str]:
    if not figures["front"]:
        return []
    names = list(figures["arms"])
    sized = any(line["params_m"] is not None for line in figures["front"])
    rows = []
    for line in figures["front"][:CHOICES]:
        size = [] if not sized else ["" if line["params_m"] is None else f"{line['params_m']:.3g} M"]
        best = [f"{line['best'][name]:.4f}" if name in line["best"] else "" for name in names]
        rows.append(["-" if line["choice"] is None else code(line["choice"]), *size, str(line["complete"]), *best])
    heads = [code(figures["along"]), *(["parameters"] if sized else []), "complete"]
    heads += [f"best {figures['metric']}, {code(name)}" for name in names]
    return [f"**Best by {code(figures['along'])}**", table(heads, rows), _more(len(figures["front"]), CHOICES)]


def _running(figures: Mapping[str, Any], studies: Mapping[str, int]) -> list[str]:
    if not figures["running"]:
        return []
    rows = []
    for trial in figures["running"][:RUNNING]:
        where = code(trial["host"]) if trial["host"] is not None else "waits for a worker"
        epoch = f"{trial['epoch']} of {trial['epochs']}" if trial["epochs"] is not None else str(trial["epoch"])
        since = "" if trial["seconds"] is None else format_duration(trial["seconds"])
        score = "" if trial["score"] is None else f"{trial['score']:.4f}"
        link = _trial(studies[trial["arm"]], trial["trial"])
        rows.append([code(trial["arm"]), link, where, str(trial["attempt"]), epoch, since, score])
    heads = ["arm", "trial", "host", "attempt", "epoch", "for", f"best {figures['metric']}"]
    return ["**Running now**", table(heads, rows, left=3), _more(len(figures["running"]), RUNNING)]


def _failures(figures: Mapping[str, Any], studies: Mapping[str, int]) -> list[str]:
    if not figures["failures"]:
        return []
    rows = [
        [code(f["arm"]), _trial(studies[f["arm"]], f["trial"]), code(f["class"]), code(f["message"], MESSAGE)]
        for f in figures["failures"][:FAILED]
    ]
    total = sum(sum(arm["failed"].values()) for arm in figures["arms"].values())
    return ["**Failed trials**", table(["arm", "trial", "class", "message"], rows, left=4), _more(total, FAILED)]


def _terms(figures: Mapping[str, Any]) -> list[str]:
    """What each loss term moved over the trials that were trained to their end."""
    rows = [
        [code(arm), code(s.term), f"{s.median:.1%}", f"{s.dead} of {s.trials}{_mark(2 * s.dead > s.trials)}"]
        for arm, shares in figures.get("terms", {}).items()
        for s in shares
    ]
    if not rows:
        return []
    heads = ["arm", "loss term", "median share of the gradient", "trials where below 1 %"]
    return ["**What the loss terms moved**", table(heads, rows, left=2)]


def _mark(dead: bool) -> str:
    return ": **dead**" if dead else ""


def _cost(figures: Mapping[str, Any]) -> list[str]:
    total = sum(figures["seconds"].values())
    of = "" if figures["gpu_hours_of"] is None else f" of {figures['gpu_hours_of']:g}"
    parts = ", ".join(
        f"{code(part)} {spent / total:.0%}" for part, spent in sorted(figures["seconds"].items()) if total
    )
    words = f"**Device hours**: {figures['gpu_hours']:.3g}{of}{f': {parts}' if parts else ''}."
    rows = [
        [code(name), str(sum(ends.values())), ", ".join(f"{count} {code(why)}" for why, count in sorted(ends.items()))]
        for name, ends in figures["workers"].items()
    ]
    return [words, table(["worker", "attempts", "how they ended"], rows, left=3)] if rows else [words]


def _trial(study_id: int, number: int) -> str:
    return f"[#{int(number)}](/dashboard/studies/{int(study_id)}/trials?numbers={int(number)})"


def _more(there: int, most: int) -> str:
    return f"and {there - most} more" if there > most else ""


LONGEST = 80
"""Characters of a text that are shown."""

WIDE = "\N{EM SPACE}"


def code(text: object, longest: int = LONGEST) -> str:
    """Any text as one code span, in one line and cut where it is long; an empty one as a dash.

    Inside a code span markdown knows no escapes, links, entities or HTML; what could end it is a run of backticks as
    long as its fence, a line break, or, in a table, a bar. A bar is shown as a look-alike.
    """
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    line = line.replace("|", "\N{BOX DRAWINGS LIGHT VERTICAL}")
    if not line:
        return "\N{EN DASH}"
    if len(line) > longest:
        line = f"{line[: longest - 3]}..."
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table whose first `left` columns are words and the others numbers; cells are markdown already.

    The dashboard draws tables without borders: wide spaces keep the columns apart.
    """
    heads = [*heads[:1], *(f"{WIDE}{head}" for head in heads[1:])]
    rows = [
        [cell if place == 0 or place >= left else f"{WIDE}{cell}" for place, cell in enumerate(row)] for row in rows
    ]
    ruler = [":--" if place < left else "--:" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ruler, *rows])
