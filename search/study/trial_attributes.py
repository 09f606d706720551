"""Attributes of a trial for people who look at the dashboard, written in transactions that are needed anyway.

Names are dotted, so that they sort into groups: `attempts`, `best.*`, `checkpoint.*`, `disk.*`, `failure*`,
`gradient.*`, `host`, `limit`, `model.*`, `seconds.*`, `teacher.*`. The page of a trial shows about six without
scrolling, so they are few: what people sort by is a number, the rest stands in short texts of one line.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.trial import FrozenTrial

from search.planning.network_costs import Cost
from search.storage.leases import LeaseRow
from trainer.config import RunConfig
from trainer.errors import one_line

if TYPE_CHECKING:
    from trainer.dry_run import Facts
from collections import defaultdict
from collections.abc import Iterator
from statistics import median

from pydantic import Field

from models.config import Frozen

LONGEST = 200
"""Characters of a text."""
REJECTED = "checkpoint.rejected"
"""The attribute that says which checkpoint of a trial could not be used, and why: the trial began again."""
SHARES = "gradient.shares"
"""The attribute that holds the share of each loss term in the gradient, by name."""
WAITS = "disk.waits"
"""The attribute that holds what the disk of a trial's worker does not take, and since when; none or null: nothing."""
DEAD = 0.01
"""A term with a smaller share of the gradient moves nothing."""
_ABREAST = 4
"""Scores in one line."""


@dataclass(frozen=True)
class Attempt:
    """One holder of a trial."""

    host: str
    first_epoch: int
    """The epoch that it began with, from 1."""
    why: str | None
    """How it ended; None while it goes on."""


class TeacherScore(NamedTuple):
    """The quality of a search's teacher."""

    dice: float
    """The Dice on the validation images."""
    seen: str
    """On which of the images that judge students the teacher was trained."""


def known_before(
    run: RunConfig, facts: "Facts", teacher_params: int | None, teacher: TeacherScore | None
) -> dict[str, Any]:
    """The attributes of a run that are known before it is trained.

    teacher_params: parameters of the search's teacher, for runs without one; None where it has none. teacher: used
    only where the run is taught.
    """
    attributes: dict[str, Any] = {
        "model.params_m": _short(facts.params / 1e6),
        "model.gflops": _short(facts.flops / 1e9),
    }
    if compared := facts.teacher_params or teacher_params:
        attributes["model.percent_of_teacher"] = _short(100 * facts.params / compared)
    if teacher is not None and run.methods():
        attributes |= {"teacher.dice": _short(teacher.dice), "teacher.seen": teacher.seen}
    return attributes


def attribute_builder(costs: Sequence[Cost], teacher: TeacherScore | None) -> Callable[[RunConfig], dict[str, Any]]:
    """`known_before` for the runs of a search whose networks were built; one that was not is built when it comes."""
    built = {_networks(cost.run): cost.facts for cost in costs}
    teacher_params = next((cost.facts.teacher_params for cost in costs if cost.facts.teacher_params), None)

    def known(run: RunConfig) -> dict[str, Any]:
        from trainer.dry_run import check

        name = _networks(run)
        if name not in built:
            built[name] = check(run)
        return known_before(run, built[name], teacher_params, teacher)

    return known


def no_attributes(_run: RunConfig) -> dict[str, Any]:
    """No attributes, for a search that builds no networks."""
    return {}


def attempts(holders: Sequence[Attempt], outcome: str = "running") -> str:
    """How many held the trial, where and why each ended: `2: gpu1 (lost), gpu2 from epoch 12 (finished)`.

    outcome: of those that have not ended.
    """
    texts = [
        f"{each.host}{f' from epoch {each.first_epoch}' if each.first_epoch > 1 else ''} ({each.why or outcome})"
        for each in holders
    ]
    return _shown(f"{len(texts)}: {', '.join(texts)}")


def result(best_epoch: int | None, scores: Mapping[str, float]) -> dict[str, Any]:
    """The best epoch and all its scores; nothing before the first validation."""
    if best_epoch is None:
        return {}
    texts = [f"{name} {score:.4f}" for name, score in scores.items()]
    # The page of a trial breaks no line: a long one makes it wider than a screen.
    lines = {"best.scores": texts[:_ABREAST], "best.scores_more": texts[_ABREAST:]}
    return {"best.epoch": best_epoch} | {name: _shown(", ".join(part)) for name, part in lines.items() if part}


def pace(seconds: Mapping[str, float], epochs: int) -> dict[str, Any]:
    """Seconds an epoch by part and in all, from the sums over some epochs; nothing before the first."""
    if epochs == 0:
        return {}
    parts = sorted(seconds.items(), key=lambda item: -item[1])
    return {
        "seconds.per_epoch": _short(sum(seconds.values()) / epochs),
        "seconds.parts": _shown(", ".join(f"{part} {spent / epochs:.3g}" for part, spent in parts)),
    }


def teacher_attributes(run: RunConfig, passes: float | None, epochs: int) -> dict[str, Any]:
    """The teacher's passes a student step, from their sum over some epochs; nothing for a run without a teacher."""
    if passes is None or not run.methods():
        return {}
    return {"teacher.passes_per_step": _short(passes / max(epochs, 1))}


def gradient_attributes(shares: Mapping[str, float]) -> dict[str, Any]:
    """Each loss term's share of the gradient in the last epoch, and the terms whose share is next to nothing."""
    if not shares:
        return {}
    dead = sorted(name for name, share in shares.items() if share < DEAD)
    attributes: dict[str, Any] = {SHARES: {name: _short(share) for name, share in shares.items()}}
    return attributes | ({"gradient.dead": _shown(", ".join(dead))} if dead else {})


def rejected(row: LeaseRow, resume_epoch: int) -> dict[str, str]:
    """Why a trial that was taken over begins again although it has a checkpoint; nothing where it goes on, or has none.

    resume_epoch: the epoch that the taker can resume it from, 0 for none. A checkpoint of the last epoch, which no
    worker writes, has nothing to go on to.
    """
    last = row.run is not None and row.epoch >= json.loads(row.run)["epochs"]
    if resume_epoch or row.epoch == 0 or row.checkpoint is None or last:
        return {}
    why = "is not what was written (another sha256)" if Path(row.checkpoint).is_file() else "is not there"
    return {REJECTED: f"its checkpoint of epoch {row.epoch} {why}: {row.checkpoint}"}


def failure(kind: str, message: str) -> dict[str, Any]:
    """Why a trial failed, by class and in one line: the first, or the error that ends a traceback."""
    lines = [line for line in message.splitlines() if line.strip()] or [kind]
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return {"failure": kind, "failure.message": plain(line)}


def plain(text: str) -> str:
    """One line of printable characters, cut where it is long, without passwords: of what others wrote."""
    return _shown(one_line(text))


def _shown(text: str) -> str:
    """Printable characters, cut where there are many."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."


def _networks(run: RunConfig) -> tuple[str, str]:
    return run.student.model_dump_json(), run.data.model_dump_json()


def _short(value: float) -> float:
    return float(f"{value:.4g}")


class Share(Frozen):
    """What one loss term moved at the end of training."""

    term: str
    trials: int
    median: float = Field(description="share of the gradient's norm with respect to the logits")
    dead: int = Field(description="trials in which it was below a hundredth")


def shares_of(trials: Sequence[FrozenTrial]) -> Iterator[Share]:
    """Each loss term over the trials that were trained to their end and recorded it."""
    by_term: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.state.name == "COMPLETE":
            for name, value in trial.user_attrs.get(SHARES, {}).items():
                by_term[name].append(float(value))
    for term, values in sorted(by_term.items()):
        yield Share(term=term, trials=len(values), median=median(values), dead=sum(v < DEAD for v in values))
