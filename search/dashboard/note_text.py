"""The text of a study's note: the progress of the search in words, tables and figures, for a reader who is new to it.

All text that users chose (names, values, hosts, messages) stands in code spans alone.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.answer.summary import ConfirmationSummary, NetworkScore, progress_text, rule_text, score_text
from search.study.class_scores import shown_score
from search.study.progress import SearchProgress, an_hour
from search.study.trial_attributes import Share
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
  validation part. The search asks how small a student may be and still score well.
- **Unconfirmed**: the best of many trials on little data looks better than it is. Only training again with other seeds,
  and a test on data that the search never saw, confirm a score. A difference between arms is *not shown* before.
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
  with a seed that the search did not use. Scores of trials are those of validation.
- After its last epoch each is scored once on the **test** part, which chose nothing. What is confirmed is the mean of
  these over seeds, and a difference with an interval that keeps clear of zero; a single seed confirms nothing.
- *kd-1* is the winner of the search, *no-kd-1* that of its arm without distillation, *kd-1-without* the winner with its
  distillation term off, *defaults* the network before any tuning."""


@dataclass(frozen=True)
class EmbeddedFigure:
    """A figure as a note embeds it."""

    path: str
    alt: str

    def markdown(self) -> str:
        """The embedded image; path and alternative text are the program's own."""
        return f"![{self.alt}]({self.path})"


def note_body(
    progress: SearchProgress,
    confirmation: ConfirmationSummary | None,
    terms: Mapping[str, Sequence[Share]],
    *,
    arm: str,
    studies: Mapping[str, int],
    pictures: Mapping[str, EmbeddedFigure],
    without: str | None,
    now: float,
) -> str:
    """The note of one arm's study.

    terms: what each loss term moved, by arm, where that is known. arm: whose study this is. studies: the dashboard's
    number of each arm's study. pictures: by `size`, `best` and `curves`. without: why there are no figures, where
    there are none. now: seconds since 1970.
    """
    parts = [_heading(progress, arm, studies), _summary(progress, now), *_confirmed(progress, confirmation)]
    parts += [_best(progress, confirmation, studies), *_arms(progress, studies)]
    parts += _classes(progress)
    parts += [] if progress.tied is None else [progress.tied + "."]
    if without is not None:
        parts.append(f"*No figures: {without}.*")
    parts += [pictures[name].markdown() for name in ("size",) if name in pictures]
    parts += _front(progress)
    parts += [pictures[name].markdown() for name in ("best", "curves") if name in pictures]
    parts += [*_terms(terms), *_running(progress, studies), *_failures(progress, studies), *_cost(progress)]
    parts.append(READING if progress.confirms is None else SEEDS)
    return "\n\n".join(part for part in parts if part)


def study_attributes(progress: SearchProgress, confirmation: ConfirmationSummary | None, arm: str) -> dict[str, str]:
    """The attributes that the first page of an arm's study shows before anybody opens the note."""
    own = progress.arms[arm]
    finished = f"{own.finished} of {own.of} trials finished"
    best = "none yet" if own.best is None else f"{progress.metric} {own.best.score:.4f} (#{own.best.trial})"
    ended = f", the {_kind(progress)} has ended" if progress.ended else ""
    shown = {
        "start here": "the Note, last of the icons at the left, tells what this is and how far it is",
        "progress": f"{finished}, {own.running} running{ended}",
        "best so far, unconfirmed" if progress.confirms is None else "best seed, on validation": best,
    }
    return shown | _confirmed_attribute(progress, confirmation, arm)


def _confirmed_attribute(
    progress: SearchProgress, confirmation: ConfirmationSummary | None, arm: str
) -> dict[str, str]:
    """The confirmed network: a search's winner, or in a confirmation the arm's own."""
    result = None if confirmation is None else confirmation.result
    if confirmation is None or result is None:
        return {}
    network = arm if progress.confirms is not None else result.network
    if network is None or network not in result.networks:
        return {}
    return {"confirmed": f"{network}: {score_text(result, network)}; more: {confirmation.report}"}


def _kind(progress: SearchProgress) -> str:
    return "search" if progress.confirms is None else "confirmation"


def _confirmed(progress: SearchProgress, confirmation: ConfirmationSummary | None) -> list[str]:
    """What training again on fresh seeds showed, or how far it is, or how to begin it."""
    if confirmation is None:
        begin = code(f"python -m search confirm {progress.study}", MESSAGE)
        return [f"**Unconfirmed** until it is trained again on fresh seeds: {begin}"] if progress.ended else []
    link = f"[{code(confirmation.name)}](/dashboard/studies/{confirmation.study_id}/note)"
    result, how_far = confirmation.result, progress_text(confirmation)
    if result is None or result.network is None:
        state = ", without a score on test" if confirmation.ended else "; no result before it has ended"
        return [f"**Confirmation** {link}: {how_far}{state}."]
    best = f"{code(result.network)} ({code(result.what)}): **{score_text(result, result.network)}**"
    gone = f" Missing: {len(result.missing)} of what was to be measured." if result.missing else ""
    begun = f"**Confirmed** by {link}, {how_far}"
    text = f"{begun}; {rule_text(result)} {best}. Distillation: **{result.distillation}**.{gone}"
    lines = [
        [code(name), f"{network.score:.4f}", _interval(network), str(network.seeds or "")]
        for name, network in result.networks.items()
    ]
    heads = ["network", f"test {result.metric}", "interval, 95 %", "seeds"]
    return [f"{text} All comparisons: {code(confirmation.report, MESSAGE)}", table(heads, lines)]


def _interval(network: NetworkScore) -> str:
    return "" if network.low is None else f"{network.low:.4f} to {network.high:.4f}"


def _heading(progress: SearchProgress, arm: str, studies: Mapping[str, int]) -> str:
    whole = f"# {_kind(progress).capitalize()} {code(progress.study)}"
    names = list(studies)
    if len(names) < 2:
        return whole
    others = ", ".join(f"[{code(name)}](/dashboard/studies/{studies[name]}/note)" for name in names if name != arm)
    return f"{whole}\n\nThis page is the study of its arm {code(arm)}. The other arms: {others}."


def _summary(progress: SearchProgress, now: float) -> str:
    arms = progress.arms.values()
    done, of = sum(arm.finished for arm in arms), sum(arm.of for arm in arms)
    running, failed = sum(arm.running for arm in arms), sum(arm.failures for arm in arms)
    stamp = time.strftime("%d %b %Y %H:%M UTC", time.gmtime(now))
    state = "ended" if progress.ended else "is running" if progress.holding else "waits for workers"
    whole = f"**The {_kind(progress)} {state}: {done} of {of} trials finished**"
    sentences = [f"{whole}, {running} running, {failed} failed ({stamp})."]
    if progress.closed:
        sentences.append(f"No new trials begin: {code(progress.closed, MESSAGE)}.")
    if progress.trials_an_hour is not None:
        sentences.append(f"About {an_hour(progress.trials_an_hour)} trials an hour.")
    if not progress.ended:
        eta = progress.eta_seconds
        sentences.append(
            f"Done in about {format_duration(eta)}." if eta is not None else f"When: unknown ({progress.eta_unknown})."
        )
    return " ".join(sentences)


def _best(progress: SearchProgress, confirmation: ConfirmationSummary | None, studies: Mapping[str, int]) -> str:
    best = [(name, arm.best) for name, arm in progress.arms.items() if arm.best is not None]
    metric = _with_unit(progress).capitalize()
    if progress.confirms is not None:
        return ""
    if not best:
        return f"**Best {metric} so far**: no trial was trained to its end yet."
    scores = [f"{code(name)} **{each.score:.4f}** ({_trial(studies[name], each.trial)})" for name, each in best]
    teacher = f", teacher {progress.teacher:.4f}" if progress.teacher is not None else ""
    confirmed = confirmation is not None and confirmation.result is not None
    what = "of the search itself" if confirmed else "so far, unconfirmed"
    return f"**Best validation {metric} {what}**: {', '.join(scores)}{teacher}.{_unequal(progress)}"


def _with_unit(progress: SearchProgress) -> str:
    return f"{progress.metric} ({progress.unit})" if progress.unit else progress.metric


def _unequal(progress: SearchProgress) -> str:
    """A warning where the arms' best scores are of very different numbers of trials."""
    tried = {name: arm.finished for name, arm in progress.arms.items()}
    if max(tried.values()) <= 1.5 * min(tried.values()):
        return ""
    counts = ", ".join(f"{code(name)} {count}" for name, count in tried.items())
    return f" These do not compare: the arms finished unequal numbers of trials ({counts}); the best of more is higher."


def _arms(progress: SearchProgress, studies: Mapping[str, int]) -> list[str]:
    heads = ("complete", "pruned", "running", "waiting")
    rows = []
    for name, arm in progress.arms.items():
        best = arm.best
        score = ["", ""] if best is None else [f"{best.score:.4f}", _trial(studies[name], best.trial)]
        failed = ", ".join(f"{count} {code(kind)}" for kind, count in arm.failed.items()) or "0"
        counts = [str(count) for count in (arm.complete, arm.pruned, arm.running, arm.waiting)]
        rows.append([code(name), *counts, failed, str(arm.of), *score])
    return [table(["arm", *heads, "failed", "of", f"best {_with_unit(progress)}", "trial"], rows)]


def _classes(progress: SearchProgress) -> list[str]:
    """The scores of single classes of each arm's best trial; nothing with one foreground class."""
    best = {
        name: arm.best.by_class for name, arm in progress.arms.items() if arm.best is not None and arm.best.by_class
    }
    if not progress.classes or not best:
        return []
    score = shown_score(progress.metric, next(iter(best.values())))
    rows = []
    for label, colour in progress.classes.items():
        values = [each.get(f"{score}.{label}") for each in best.values()]
        rows.append([code(label), code(colour), *("" if value is None else f"{value:.4f}" for value in values)])
    heads = [progress.kind, "colour", *(f"{score}, best of {code(name)}" for name in best)]
    return [
        f"**{score.capitalize()} by {progress.kind}**, of the best trial of each arm on validation",
        table(heads, rows, left=2),
    ]


def _front(progress: SearchProgress) -> list[str]:
    if not progress.front:
        return []
    names = list(progress.arms)
    sized = any(line.params_m is not None for line in progress.front)
    rows = []
    for line in progress.front[:CHOICES]:
        size = [] if not sized else ["" if line.params_m is None else f"{line.params_m:.3g} M"]
        best = [f"{line.best[name]:.4f}" if name in line.best else "" for name in names]
        rows.append(["-" if line.choice is None else code(line.choice), *size, str(line.complete), *best])
    heads = [code(progress.along), *(["parameters"] if sized else []), "complete"]
    heads += [f"best {progress.metric}, {code(name)}" for name in names]
    return [f"**Best by {code(progress.along)}**", table(heads, rows), _more(len(progress.front), CHOICES)]


def _running(progress: SearchProgress, studies: Mapping[str, int]) -> list[str]:
    if not progress.running:
        return []
    rows = []
    for trial in progress.running[:RUNNING]:
        where = code(trial.host) if trial.host is not None else "waits for a worker"
        epoch = f"{trial.epoch} of {trial.epochs}" if trial.epochs is not None else str(trial.epoch)
        since = "" if trial.seconds is None else format_duration(trial.seconds)
        score = "" if trial.score is None else f"{trial.score:.4f}"
        link = _trial(studies[trial.arm], trial.trial)
        rows.append([code(trial.arm), link, where, str(trial.attempt), epoch, since, score])
    heads = ["arm", "trial", "host", "attempt", "epoch", "for", f"best {_with_unit(progress)}"]
    return ["**Running now**", table(heads, rows, left=3), _more(len(progress.running), RUNNING)]


def _failures(progress: SearchProgress, studies: Mapping[str, int]) -> list[str]:
    if not progress.failures:
        return []
    rows = [
        [code(each.arm), _trial(studies[each.arm], each.trial), code(each.failure), code(each.message, MESSAGE)]
        for each in progress.failures[:FAILED]
    ]
    total = sum(arm.failures for arm in progress.arms.values())
    return ["**Failed trials**", table(["arm", "trial", "class", "message"], rows, left=4), _more(total, FAILED)]


def _terms(terms: Mapping[str, Sequence[Share]]) -> list[str]:
    """What each loss term moved over the trials that were trained to their end."""
    rows = [
        [code(arm), code(s.term), f"{s.median:.1%}", f"{s.dead} of {s.trials}{_mark(2 * s.dead > s.trials)}"]
        for arm, shares in terms.items()
        for s in shares
    ]
    if not rows:
        return []
    heads = ["arm", "loss term", "median share of the gradient", "trials where below 1 %"]
    return ["**What the loss terms moved**", table(heads, rows, left=2)]


def _mark(dead: bool) -> str:
    return ": **dead**" if dead else ""


def _cost(progress: SearchProgress) -> list[str]:
    total = sum(progress.seconds.values())
    of = "" if progress.gpu_hours_of is None else f" of {progress.gpu_hours_of:g}"
    parts = ", ".join(f"{code(part)} {spent / total:.0%}" for part, spent in sorted(progress.seconds.items()) if total)
    text = f"**Device hours**: {progress.gpu_hours:.3g}{of}{f': {parts}' if parts else ''}."
    rows = [
        [code(name), str(sum(ends.values())), ", ".join(f"{count} {code(why)}" for why, count in sorted(ends.items()))]
        for name, ends in progress.workers.items()
    ]
    return [text, table(["worker", "attempts", "how they ended"], rows, left=3)] if rows else [text]


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
