"""Which configurations of a search are trained again: winners, their controls, and what tells them apart."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from search.planning.network_costs import student_size
from search.spec.config import MAIN
from search.study.outcomes import has_final_score
from search.study.snapshot import NO_METHOD, SearchSnapshot
from trainer.config import RunConfig
from trainer.config_paths import flatten
from trainer.config_paths import replace as replaced
from trainer.errors import UserError
from trainer.run_file import PLACES


@dataclass(frozen=True)
class Configuration:
    """One run that is confirmed, and where it comes from."""

    name: str
    role: Literal["winner", "control", "ablation", "defaults", "teacher"]
    arm: str
    of: str | None
    rank: int
    trial: int | None
    searched: float | None
    params: int
    gflops: float
    run: Mapping[str, Any]


@dataclass(frozen=True)
class Finished:
    """A trial of the search that was trained to its end."""

    arm: str
    rank: int
    """1: the best of its arm."""
    number: int
    score: float
    run: RunConfig
    params: int
    gflops: float
    gpu_seconds: float


def chosen(rows: SearchSnapshot, top: int) -> tuple[tuple[Configuration, ...], dict[str, float]]:
    """The configurations in the order of their names' first mention, and the GPU seconds that a run of each took.

    Winners: the best of the main search; with a front then the best of each of its values, the best value first; then
    what is next best, until there are `top`. They are named kd-1, kd-2, ... from the best one down. Controls, of each
    other arm: its best, and for each winner the best with no more parameters. A study along its methods has its own
    share without a teacher in the place of an arm: none-1, none-2, ... are what of it is compared and is no winner.
    Ablation: the best winner that a teacher taught, without any term that needs it. Defaults: the values of [run]
    without a teacher, with the student of the best winner. Raises UserError where the main search has nothing to
    confirm.
    """
    every = {arm.name: finished(rows, arm.name) for arm in rows.arms}
    if not every.get(MAIN):
        raise UserError(
            f"study {rows.search.name!r}: no trial of the main search has finished, so there is nothing to confirm; "
            f"see: python -m search status {rows.search.name}"
        )
    winners = _winners(every[MAIN], top, rows)
    configurations = [_named(f"{MAIN}-{i}", "winner", trial) for i, trial in enumerate(winners, 1)]
    costs = {each.name: trial.gpu_seconds for each, trial in zip(configurations, winners, strict=True)}
    for arm in (name for name in every if name != MAIN):
        for i, trial in enumerate(_controls(every[arm], winners), 1):
            configurations.append(_named(f"{arm}-{i}", "control", trial))
            costs[configurations[-1].name] = trial.gpu_seconds
    for i, trial in enumerate(_without_method(every[MAIN], winners) if rows.methods else [], 1):
        configurations.append(_named(f"{f'{MAIN}-' if NO_METHOD in every else ''}{NO_METHOD}-{i}", "control", trial))
        costs[configurations[-1].name] = trial.gpu_seconds
    for extra in (_without_teacher(configurations), _defaults(rows, configurations[0])):
        if extra is not None:
            configurations.append(extra)
            costs[extra.name] = costs[extra.of or configurations[0].name]
    return tuple(configurations), costs


def finished(rows: SearchSnapshot, arm: str) -> list[Finished]:
    """The trials of an arm that were trained to their end, each run once, the best first."""
    ranked = [lease for lease in rows.leases[arm] if has_final_score(lease)]
    ranked.sort(key=lambda lease: ((-1 if rows.maximize else 1) * lease.known_score, lease.number))
    unlike: list[Finished] = []
    for lease in ranked:
        run = RunConfig.model_validate_json(lease.known_run)
        if any(_recipe(run) == _recipe(other.run) for other in unlike):
            continue
        rank, size = len(unlike) + 1, student_size(run)
        unlike.append(Finished(arm, rank, lease.number, lease.known_score, run, *size, lease.gpu_seconds))
    return unlike


def _winners(trials: Sequence[Finished], top: int, rows: SearchSnapshot) -> list[Finished]:
    first = [trials[0]]
    if rows.front:
        seen: set[Any] = set()
        for trial in trials:
            value = rows.choice_in(trial.run.model_dump(mode="json"))
            if value not in seen:
                seen.add(value)
                first.append(trial)
    order = list(dict.fromkeys(trial.rank for trial in (*first, *trials)))[:top]
    return [trials[rank - 1] for rank in sorted(order)]


def _controls(trials: Sequence[Finished], winners: Iterable[Finished]) -> list[Finished]:
    if not trials:
        return []
    ranks = {1}
    for winner in winners:
        ranks |= {next((trial.rank for trial in trials if trial.params <= winner.params), 1)}
    return [trials[rank - 1] for rank in sorted(ranks)]


def _without_method(trials: Sequence[Finished], winners: Sequence[Finished]) -> list[Finished]:
    """Of a study along its methods: what each taught winner is compared with and is no winner itself."""
    untaught = [trial for trial in trials if not trial.run.methods()]
    taken = {trial.rank for trial in winners}
    ranks = {
        next(trial.rank for trial in untaught if trial.params <= winner.params)
        for winner in winners
        if winner.run.methods() and any(trial.params <= winner.params for trial in untaught)
    }
    return [trials[rank - 1] for rank in sorted(ranks - taken)]


def _named(name: str, role: Literal["winner", "control"], trial: Finished) -> Configuration:
    run = trial.run.model_dump(mode="json")
    return Configuration(
        name=name, role=role, arm=trial.arm, of=None, rank=trial.rank, trial=trial.number, searched=trial.score,
        params=trial.params, gflops=trial.gflops, run=run,
    )  # fmt: skip


def _without_teacher(configurations: Sequence[Configuration]) -> Configuration | None:
    """The best winner with the weight of every term that needs a teacher zero; None where none has such a term."""
    taught = [each for each in configurations if each.role == "winner" and each.run["method"] != "none"]
    if not taught:
        return None
    run = RunConfig.model_validate({**taught[0].run, "method": "none"}).model_dump(mode="json")
    return replace(
        taught[0],
        name=f"{taught[0].name}-without",
        role="ablation",
        of=taught[0].name,
        trial=None,
        searched=None,
        run=run,
    )


def _defaults(rows: SearchSnapshot, best: Configuration) -> Configuration:
    """[run] as the study file has it, at the places and with the student of the best winner, without a teacher."""
    places = {path: value for path, value in flatten(best.run).items() if path in PLACES}
    table, _ = replaced(RunConfig, {**rows.record["run"], "teacher": best.run["teacher"]}, {**places, "method": "none"})
    if any(name.startswith("student.") for name in rows.record["space"]):
        table["student"] = best.run["student"]
    run = RunConfig.model_validate(table)
    params, gflops = student_size(run)
    return Configuration(
        name="defaults", role="defaults", arm=MAIN, of=None, rank=1, trial=None, searched=None,
        params=params, gflops=gflops, run=run.model_dump(mode="json"),
    )  # fmt: skip


def _recipe(run: RunConfig) -> str:
    """A run without its seed."""
    return run.model_copy(update={"seed": 0}).model_dump_json()


def used_seeds(rows: SearchSnapshot) -> set[int]:
    """The seeds of all runs of the search."""
    return {json.loads(lease.run)["seed"] for lease in rows.every if lease.run is not None}
