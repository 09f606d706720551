"""What a search did, as values, from the rows that it left in the database."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from optuna.trial import FrozenTrial

from search.answer.comparisons import search_threshold
from search.answer.power import data_of_search
from search.report.content.document import (
    Arm,
    Best,
    Dot,
    Edge,
    Equal,
    Expected,
    Fact,
    ForegroundClass,
    FrontLine,
    Importance,
    Rung,
    Search,
    Teacher,
)
from search.report.content.groups import families_of, methods_of
from search.report.content.statistics import (
    Times,
    cost_of,
    curve,
    edges_of,
    expected_best,
    importance_of,
    importance_unknown,
    pruned_at,
    rungs_of,
)
from search.storage.leases import LeaseDetails
from search.storage.searches import ArmRow, Closed
from search.study.class_scores import foreground_of, hexadecimal, scores_by_class
from search.study.outcomes import completed_or_pruned, has_final_score
from search.study.progress import ArmProgress, progress_of
from search.study.snapshot import SearchSnapshot
from search.study.trial_attributes import shares_of
from trainer.config import RunConfig
from trainer.config_paths import flatten
from trainer.data.splits.part_sizes import counted_groups, scored_as

GFLOPS, PERCENT = "model.gflops", "model.percent_of_teacher"
"""Attributes of trials that hold the GFLOP of one image, and the parameters in percent of the teacher's."""
NO_RUN = ("seed", "data.root", "data.split", "teacher.checkpoint", "teacher.min_dice")

ClosedOf = Callable[[int], tuple[Closed | None, str | None]]


def search_part(rows: SearchSnapshot, closed_of: ClosedOf, time_of: Times, *, margin: float | None) -> Search:
    """All of it. closed_of: as `Searches.closed`. margin: how far below the teacher a student may be, where known."""
    progress = progress_of(rows, closed_of)
    base = json.loads(rows.search.spec)["run"]
    dots = dots_of(rows, time_of)
    arms = tuple(_arm(rows, arm, progress.arms[arm.name], dots) for arm in rows.arms)
    spent = sum(sum(json.loads(lease.seconds or "{}").values()) for lease in rows.every)
    epochs = sum(lease.epoch for lease in rows.every)
    data = data_of_search(rows)
    return Search(
        metric=rows.metric,
        threshold=search_threshold(rows.metric),
        images=_validation_images(rows),
        scored="image" if data is None else scored_as(data),
        maximize=rows.maximize,
        epochs=int(base["epochs"]),
        along=rows.along,
        state="ended" if progress.ended else "running" if progress.holding else "waits for workers",
        closed=progress.closed,
        simulated=any(json.loads(lease.environment or "{}").get("simulated") for lease in rows.every),
        teacher=_teacher(rows, base),
        margin=margin,
        arms=arms,
        equal=_equal(rows),
        front=_front(rows, dots),
        families=tuple(families_of(rows, dots)),
        methods=tuple(methods_of(rows, dots)),
        dots=tuple(dots),
        failures=tuple((f.arm, f.trial, f.failure, f.message) for f in progress.failures),
        seconds_an_epoch=spent / epochs if epochs else None,
        cost=cost_of(rows.every),
        data=_facts(base.get("data", {}), skip=("root", "split")),
        limits=_facts(rows.record.get("limits", {})),
        space=_space(rows.record.get("space", {})),
        classes=tuple(ForegroundClass(name=c.name, colour=hexadecimal(c)) for c in foreground_of(rows)),
        regions=progress.regions,
        tie=None if progress.tie is None else astuple(progress.tie),
        volumes=base.get("data", {}).get("name") == "volumes",
    )


def _validation_images(rows: SearchSnapshot) -> int | None:
    data = data_of_search(rows)
    counted = None if data is None else counted_groups(data, "validation")
    return None if counted is None else counted[0]


def dots_of(rows: SearchSnapshot, time_of: Times) -> list[Dot]:
    """The trials that were trained to their end, in the order of their numbers."""
    attributes = {t._trial_id: t.user_attrs for trials in rows.trials.values() for t in trials}
    sizes = rows.params_m()
    dots = []
    for arm, leases in rows.leases.items():
        for lease in leases:
            if has_final_score(lease):
                flops = attributes.get(lease.trial_id, {}).get(GFLOPS)
                dots.append(
                    Dot(
                        arm=arm,
                        trial=lease.number,
                        score=lease.known_score,
                        choice=_scalar(rows.choice(lease)),
                        family=rows.family(lease),
                        params_m=sizes.get(lease.trial_id),
                        gflops=None if flops is None else float(flops),
                        latency_ms=time_of(json.loads(lease.known_run)),
                    )
                )
    return dots


def finished_scores(leases: Sequence[LeaseDetails], *, maximize: bool) -> list[float]:
    """One score a trial that completed or was pruned.

    A pruned trial counts with the best that it reached, one that was pruned before its first score with the arm's
    worst: it took a place in the budget all the same.
    """
    over = [lease for lease in leases if completed_or_pruned(lease)]
    known = [lease.best_score for lease in over if lease.best_score is not None and math.isfinite(lease.best_score)]
    if not known:
        return []
    return known + [(min if maximize else max)(known)] * (len(over) - len(known))


def _arm(rows: SearchSnapshot, arm: ArmRow, counts: ArmProgress, dots: Sequence[Dot]) -> Arm:
    leases, trials = rows.leases[arm.name], rows.trials[arm.name]
    of_arm = [dot for dot in dots if dot.arm == arm.name]
    scores = finished_scores(leases, maximize=rows.maximize)
    shares, judged = importance_of(trials, maximize=rows.maximize, along=rows.dealt)
    choices = {lease.trial_id: rows.choice(lease) for lease in leases}
    return Arm(
        name=arm.name,
        study=arm.study_name,
        taught=rows.taught(arm.name),
        sets=_difference(rows, arm.name),
        of=arm.trials,
        complete=counts.complete,
        pruned=counts.pruned,
        running=counts.running,
        waiting=counts.waiting,
        failed=counts.failures,
        failed_by_class=dict(counts.failed),
        best=_best(rows, leases, trials, of_arm),
        expected=tuple(Expected(n=n, score=score) for n, score in curve(scores, maximize=rows.maximize)),
        importance=tuple(Importance(parameter=p, share=s, low=low, high=high) for p, s, low, high in shares),
        importance_trials=judged,
        importance_unknown=None if shares or not trials else importance_unknown(judged),
        pruned_at=tuple(pruned_at(leases)),
        rungs=tuple(Rung(epoch=e, trials=n, correlation=c) for e, n, c in rungs_of(leases, trials, choices)),
        edges=tuple(
            Edge(parameter=p, end=end, which=which, hits=hits, of=of, words=sentence)
            for p, end, which, hits, of, sentence in edges_of(trials, maximize=rows.maximize, along=rows.dealt)
        ),
        shares=tuple(shares_of(trials)),
        cost=cost_of(leases),
    )


def _equal(rows: SearchSnapshot) -> tuple[Equal, ...]:
    """The arms after as many trials as each of them finished: the smallest of these compares them all."""
    scores = {name: finished_scores(leases, maximize=rows.maximize) for name, leases in rows.leases.items()}
    return tuple(
        Equal(
            n=n,
            expected={
                name: expected_best(of_arm, n, maximize=rows.maximize)
                for name, of_arm in scores.items()
                if len(of_arm) >= n
            },
        )
        for n in sorted({len(of_arm) for of_arm in scores.values() if of_arm})
    )


def _best(
    rows: SearchSnapshot, leases: Sequence[LeaseDetails], trials: Sequence[FrozenTrial], dots: Sequence[Dot]
) -> Best | None:
    if not dots:
        return None
    dot = (max if rows.maximize else min)(dots, key=lambda d: d.score)
    lease = next(lease for lease in leases if lease.number == dot.trial)
    trial = next((t for t in trials if t.number == dot.trial), None)
    share = None if trial is None else trial.user_attrs.get(PERCENT)
    return Best(
        trial=dot.trial,
        score=dot.score,
        epoch=lease.best_epoch,
        network=network_text(json.loads(lease.known_run)["student"]),
        params_m=dot.params_m,
        gflops=dot.gflops,
        share_of_teacher=None if share is None else float(share) / 100,
        by_class=scores_by_class(lease),
        settings={} if trial is None else {name: _scalar(value) or 0 for name, value in sorted(trial.params.items())},
    )


def network_text(network: Mapping[str, Any]) -> str:
    """A network in words: `unet, width 16`, `smp-unet, resnet18`."""
    width = network.get("width")
    return ", ".join(filter(None, [str(network["name"]), f"width {width}" if width else network.get("encoder")]))


def _teacher(rows: SearchSnapshot, base: Mapping[str, Any]) -> Teacher | None:
    network = base.get("teacher")
    if network is None:
        return None
    sizes = []
    for trials in rows.trials.values():
        for trial in trials:
            params, percent = trial.user_attrs.get("model.params_m"), trial.user_attrs.get(PERCENT)
            if params and percent:
                sizes.append(float(f"{100 * params / percent:.3g}"))
    return Teacher(network=network_text(network), score=rows.teacher, params_m=sizes[0] if sizes else None)


def _difference(rows: SearchSnapshot, arm: str) -> dict[str, Any]:
    """Where the fixed settings of an arm's runs differ from those of the main search."""
    main = str(rows.arms[0].name)
    if arm == main:
        return {}
    one, other = _fixed(rows, main), _fixed(rows, arm)
    return {path: other.get(path) for path in sorted({*one, *other}) if path in other and one.get(path) != other[path]}


def _fixed(rows: SearchSnapshot, arm: str) -> dict[str, Any]:
    """The values that all runs of an arm share, by path; parameters of its space are not among them."""
    first = next((json.loads(lease.run) for lease in rows.leases[arm] if lease.run is not None), None)
    if first is None:
        return {}
    drawn = {name.partition("[")[0] for trial in rows.trials[arm] for name in trial.params}
    live = set(RunConfig.model_validate(first).live_terms())
    return {
        path: _scalar(value)
        for path, value in flatten(first).items()
        if path not in drawn
        and path not in NO_RUN
        and not isinstance(value, list | dict)
        # The options of a term that is off set nothing.
        and (not path.startswith("losses.") or path.split(".")[1] in live)
    }


def _front(rows: SearchSnapshot, dots: Sequence[Dot]) -> tuple[FrontLine, ...]:
    """One line a choice of the front; without a front, one a size."""
    groups: dict[Any, list[Dot]] = {}
    for dot in dots:
        groups.setdefault(dot.params_m if rows.along is None or dot.choice is None else dot.choice, []).append(dot)
    pick = max if rows.maximize else min
    lines = []
    for members in groups.values():
        by_arm: dict[str, float] = {}
        for dot in members:
            by_arm[dot.arm] = pick(by_arm.get(dot.arm, dot.score), dot.score)
        sizes = {dot.params_m for dot in members if dot.params_m is not None}
        known = next((d for d in members if d.params_m is not None), members[0])
        if len(sizes) > 1:  # a front that is not along sizes has none of its own
            known = known.model_copy(update={"params_m": None, "gflops": None})
        lines.append(
            FrontLine(
                choice=members[0].choice,
                params_m=known.params_m,
                gflops=known.gflops,
                complete=len(members),
                best=by_arm,
            )
        )
    return tuple(sorted(lines, key=lambda line: (line.params_m is None, line.params_m or 0.0, str(line.choice))))


def _facts(table: Mapping[str, Any], skip: Sequence[str] = ()) -> tuple[Fact, ...]:
    flat = {path: value for path, value in flatten(table).items() if path not in skip and value is not None}
    return tuple(Fact(name=path, value=readable(value)) for path, value in sorted(flat.items()))


def readable(value: Any) -> Any:
    """A setting as a person reads it: named things as `liver 1, #ff0000; spleen 2`, other lists with commas."""
    if isinstance(value, Mapping):
        named = [str(value["name"])] if "name" in value else []
        others = {key: each for key, each in value.items() if key != "name" and each not in (None, [], {})}
        known = {"value": "", "colour": "", "classes": "of "} if named else {}
        texts = [f"{known.get(key, f'{key} ')}{readable(each)}" for key, each in others.items()]
        first = [" ".join([*named, *texts[:1]])] if named else texts[:1]
        return ", ".join([*first, *texts[1:]])
    if isinstance(value, Sequence) and not isinstance(value, str):
        apart = "; " if any(isinstance(each, Mapping) for each in value) else ", "
        return apart.join(str(readable(each)) for each in value)
    return _scalar(value)


def _space(space: Mapping[str, Any]) -> tuple[Fact, ...]:
    lines = []
    for name, facts in sorted(space.items()):
        if "choices" in facts:
            text = ", ".join(str(choice) for choice in facts["choices"])
        else:
            text = f"{facts['low']:g} to {facts['high']:g}{', logarithmic' if facts['log'] else ''}"
            text += f", step {facts['step']:g}" if facts.get("step") not in (None, 1) else ""
        when = [f"{path} = {' or '.join(v.strip(chr(34)) for v in allowed)}" for path, allowed in facts["when"].items()]
        lines.append(Fact(name=name, value=f"{text}{f' where {chr(32).join(when)}' if when else ''}"))
    return tuple(lines)


def _scalar(value: Any) -> Any:
    """A single value as JSON has it; others as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return json.dumps(value, sort_keys=True, default=str)
