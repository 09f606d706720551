"""One search among those of a study: the main one, or a control with some values of [run] set and a smaller space.

A parameter leaves the space of an arm where its conditions can no longer hold or its value no longer has an effect. The
entries of [[enqueue]] are checked against the space of their arm.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from losses.config import NEEDS_TEACHER
from search.spec.config import MAIN, ArmEntry, PrunerConfig, RungsConfig, SamplerConfig, StudyTables
from search.spec.front import Point, checked_front, points
from search.spec.space import FloatRange, Parameter, Scalar, active, condition, ordered, same, shown, worlds
from search.spec.strategies import PausingConfig
from trainer.config import RunConfig
from trainer.config.validation import explain
from trainer.config_paths import Table, flatten, known_paths, names_of, replace, takes, unknown_path
from trainer.errors import UserError, counted, nearest, received
from trainer.run_file import NETWORKS, normalised_by_word


@dataclass(frozen=True)
class Arm:
    """One search, with an Optuna study of its own."""

    name: str
    study_name: str
    where: str
    """The file and the arm, for messages."""
    run: Mapping[str, Any]
    """The arm's [run] as nested tables, as written."""
    space: tuple[Parameter, ...]
    """In an order in which conditions come after what they name."""
    front: tuple[str, ...]
    """The paths that trials are spread along: one, whose parameter has choices and is always live, several, of which
    each combination is a choice (`points`), or none."""
    trials: int
    in_flight: int
    sampler: SamplerConfig
    pruner: PrunerConfig
    enqueue: tuple[Mapping[str, Scalar], ...]
    """Values by parameter name; what an entry leaves out is sampled."""
    dropped: tuple[str, ...]
    """What left [run] or the space because the arm has no use for it, with the reason."""
    base: RunConfig
    """The arm's run, validated, defaults filled in."""
    fixed: Mapping[str, Scalar]
    """The single values of `base` by path."""
    planned: bool = False
    """Whether its trials are those of its queue alone: in a confirmation nothing is proposed, and what was trained is
    examined."""
    pretrained: Literal["encoder", "imagenet"] = "encoder"
    """How a student's images are normalised where neither [run] nor the arm says it."""
    identity: str = ""
    """sha256 over resolved run and space; `search.spec.identity.arm_identity` adds the contents of data and teacher."""

    @property
    def epochs(self) -> int:
        """Epochs of the longest run."""
        ends = [value for p in self.space if p.path == "epochs" for value in p.probes()]
        return max(int(value) for value in (ends or [self.base.epochs]))

    @property
    def points(self) -> tuple[Point, ...]:
        """The choices of its front; none without one."""
        return points(self.front, self.space, self.fixed)

    def values(self, chosen: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """What conditions are judged by: the run's values with the chosen ones (by parameter name) on top."""
        return {**self.fixed, **chosen}

    def parameter(self, name: str) -> Parameter:
        """A parameter by name. Raises UserError."""
        for parameter in self.space:
            if parameter.name == name:
                return parameter
        raise UserError(f"{self.where}: {name}: not in the space{nearest(name, [p.name for p in self.space])}")

    def worlds(self) -> Iterator[dict[str, Scalar]]:
        """Every combination that the space's conditions can tell apart."""
        return worlds(self.space, self.fixed, self.where)

    def complete(self, wanted: Mapping[str, Scalar], pick: int = 0) -> dict[str, Scalar]:
        """Values for every live parameter, by name: those wanted (by name or path) where they fit, else a probe."""
        chosen: dict[str, Scalar] = {}
        for parameter in self.space:
            if active(parameter, self.values(chosen)):
                value = wanted.get(parameter.name, wanted.get(parameter.path))
                fits = value is not None and parameter.contains(value)
                chosen[parameter.name] = value if fits and value is not None else parameter.probes()[pick]
        return chosen

    def probes(self) -> Iterator[dict[str, Scalar]]:
        """Parameters of runs that together show both ends of every range, every choice and every condition."""
        combinations = list(self.worlds())
        for world in combinations:
            yield self.complete(world)
            yield self.complete(world, pick=-1)
        for parameter in self.space:
            live = next((world for world in combinations if parameter.name in self.complete(world)), {})
            for value in parameter.probes():
                yield self.complete({**live, parameter.name: value})

    def resolve(self, params: Mapping[str, Scalar]) -> RunConfig:
        """The run of a trial: [run] with each parameter's path replaced, validated again. Raises UserError."""
        for name in params:
            self.parameter(name)
        chosen: dict[str, Scalar] = {}
        for p in self.space:
            live = active(p, self.values(chosen))
            if live and p.name not in params:
                raise UserError(f"{self.where}: {p.name}: missing; it is live here and needs a value")
            if not live and p.name in params:
                raise UserError(
                    f"{self.where}: {p.name} = {received(params[p.name])}: "
                    f"has no effect with these values; {condition(p)}"
                )
            if live:
                if not p.contains(params[p.name]):
                    raise UserError(f"{self.where}: {p.name} = {received(params[p.name])}: outside {shown(p)}")
                chosen[p.name] = params[p.name]
        return self.run_with({p.path: chosen[p.name] for p in self.space if p.name in chosen})

    def run_with(self, values: Mapping[str, Scalar]) -> RunConfig:
        """[run] with values by path, validated. Raises UserError."""
        table, _ = replace(RunConfig, self.run, values)
        if any(path in NETWORKS for path in values):
            table = normalised_by_word(table, self.pretrained)
        return run_config(table, self.where)


def run_config(table: Mapping[str, Any], where: str, under: str = "run") -> RunConfig:
    """A [run] table as a run. Raises UserError."""
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        raise UserError(explain(error, where, under=under, model=RunConfig)) from None


def fixed_values(run: RunConfig) -> dict[str, Scalar]:
    """The single values of a run by path, defaults filled in."""
    flat = flatten(run.model_dump(mode="json"))
    return {path: value for path, value in flat.items() if isinstance(value, bool | int | float | str)}


def main_arm(
    tables: StudyTables,
    run: Table,
    space: Sequence[Parameter],
    study_name: str,
    where: str,
    pretrained: Literal["encoder", "imagenet"] = "encoder",
    *,
    shrinks: bool = False,
) -> Arm:
    """The main search. shrinks: of a member of a series, whose space is that of all members less what it has no use
    for; else nothing may be dropped. Raises UserError."""
    run = normalised_by_word(run, pretrained)
    base = run_config(run, where)
    fixed = fixed_values(base)
    parameters = ordered(space, where)
    dropped: list[str] = []
    along = tables.front
    if shrinks:
        parameters, dropped = shrink(parameters, {}, fixed, where)
        kept = [path for path in along.paths if any(p.path == path for p in parameters)] if along else []
        along = along.model_copy(update={"along": tuple(kept)}) if along is not None and kept else None
    _check_tables_present(base, parameters, where)
    if not shrinks:
        check_conditions(parameters, fixed, list(worlds(parameters, fixed, where)), where)
        _check_alive(parameters, fixed, where)
    front = checked_front(along, parameters, where)
    return Arm(
        name=MAIN,
        study_name=study_name,
        where=where,
        run=run,
        space=parameters,
        front=front,
        trials=tables.budget.trials,
        in_flight=tables.budget.in_flight or in_flight_of(tables.budget.trials),
        sampler=tables.sampler,
        pruner=tables.pruner,
        enqueue=(),
        dropped=tuple(dropped),
        base=base,
        fixed=fixed,
        pretrained=pretrained,
    )


def _check_alive(space: Sequence[Parameter], fixed: Mapping[str, Scalar], where: str) -> None:
    """Every parameter of a loss belongs to a term that some trial has. Raises UserError."""
    dead = dead_kd(space, fixed)
    if dead:
        term = dead[0].path.split(".")[1]
        raise UserError(
            f"{where}: space.{dead[0].name}: has no effect, as method is never {term!r}; "
            f"add {term!r} to the choices of method or remove the parameter"
        )


def in_flight_of(trials: int) -> int:
    """How many trials run at a time: with more the sampler is blind (`benchmarks/RESULTS.md`, time to an answer)."""
    return max(8, trials // 8)


def control_arm(main: Arm, entry: ArmEntry, where: str) -> Arm:
    """A control search: the main one with the entry's values set, less the parameters that lost their use."""
    place = f"{where}: arms.{entry.name}"
    values = _set_values(entry, place)
    run, gone = replace(RunConfig, main.run, values)
    run = normalised_by_word(run, main.pretrained)
    base = run_config(run, place)
    fixed = fixed_values(base)
    names = {path: value for path, value in values.items() if path.rpartition(".")[2] == "name"}
    gone = tuple(path for path in gone if path != "student.normalisation")
    dropped = [f"run.{path} ({names.get(_name_of(path), 'the arm')} does not take it)" for path in gone]
    space, reasons = shrink(main.space, values, fixed, place)
    return Arm(
        name=entry.name,
        study_name=f"{main.study_name}.{entry.name}",
        where=place,
        run=run,
        space=space,
        front=tuple(path for path in main.front if any(p.path == path for p in space)),
        trials=entry.trials or main.trials,
        in_flight=entry.in_flight or main.in_flight,
        sampler=entry.sampler or main.sampler,
        pruner=entry.pruner or main.pruner,
        enqueue=(),
        dropped=(*dropped, *reasons),
        base=base,
        fixed=fixed,
        pretrained=main.pretrained,
    )


def _set_values(entry: ArmEntry, place: str) -> dict[str, Any]:
    values = flatten(entry.set)
    if not values:
        raise UserError(
            f"{place}.set = {{}}: sets nothing, so the arm is the main search again; set a value or remove it"
        )
    for path, value in values.items():
        if path not in known_paths(RunConfig):
            raise UserError(f"{place}.set.{path} = {received(value)}: {unknown_path(RunConfig, path)}")
    return values


def _name_of(path: str) -> str:
    return f"{path.rpartition('.')[0]}.name"


def _check_tables_present(run: RunConfig, space: Sequence[Parameter], where: str) -> None:
    """Parameters of a table that the run leaves out would bring it into the run; that has to be said in [run]."""
    dump = run.model_dump(mode="json")
    for parameter in space:
        here: Any = dump
        steps = parameter.path.split(".")
        for i, step in enumerate(steps[:-1]):
            here = here.get(step) if isinstance(here, dict) else None
            if here is None:
                table = ".".join(steps[: i + 1])
                raise UserError(f"{where}: space.{parameter.name}: [run] has no {table}; add [run.{table}]")


def check_pruner(arm: Arm) -> None:
    """A first rung has to lie within a run. Raises UserError."""
    if isinstance(arm.pruner, RungsConfig) and arm.pruner.first_rung > arm.epochs:
        key = "min_epochs" if arm.pruner.min_epochs > arm.pruner.warmup_epochs else "warmup_epochs"
        value = getattr(arm.pruner, key)
        raise UserError(f"{arm.where}: pruner.{key} = {value}: no rung within {counted(arm.epochs, 'epoch')}; lower it")
    if isinstance(arm.pruner, PausingConfig) and arm.pruner.first_rung(arm.epochs) >= arm.epochs:
        value = arm.pruner.first_rung(arm.epochs)
        raise UserError(
            f"{arm.where}: pruner.min_epochs = {value}: no trial can be paused within {counted(arm.epochs, 'epoch')}; "
            'lower it, or write pruner.name = "none"'
        )


def with_enqueued(arms: Sequence[Arm], entries: Sequence[Mapping[str, Any]], where: str) -> tuple[Arm, ...]:
    """The arms with the entries that name them; an entry without `arm` belongs to the main search. Raises UserError."""
    wanted: dict[str, list[Mapping[str, Scalar]]] = {arm.name: [] for arm in arms}
    for i, entry in enumerate(entries):
        name = entry.get("arm", MAIN)
        if name not in wanted:
            raise UserError(f"{where}: enqueue[{i}].arm = {received(name)}: no such arm{nearest(str(name), wanted)}")
        arm = next(arm for arm in arms if arm.name == name)
        values = flatten({key: value for key, value in entry.items() if key != "arm"})
        wanted[arm.name].append(_values(arm, values, f"{where}: enqueue[{i}]"))
    for arm in arms:
        if len(wanted[arm.name]) > arm.trials:
            count = len(wanted[arm.name])
            raise UserError(
                f"{arm.where}: enqueue: {count} trials for a budget of {arm.trials}; raise trials or remove some"
            )
    return tuple(dataclasses.replace(arm, enqueue=tuple(wanted[arm.name])) for arm in arms)


def _values(arm: Arm, values: Mapping[str, Any], where: str) -> Mapping[str, Scalar]:
    """The entry's values by parameter name."""
    if not values:
        raise UserError(f"{where}: empty; name at least one parameter")
    matches = {path: _fitting(arm, path, value, where) for path, value in values.items()}
    named = {p.name: values[path] for path, several in matches.items() for p in several}
    # What the entry leaves out is still open: it is wrong only if it fits none of the combinations.
    trials = [arm.complete({**world, **named}) for world in arm.worlds()]
    live = {path: {p.name for p in several} for path, several in matches.items()}
    fitting = [trial for trial in trials if all(names & trial.keys() for names in live.values())]
    chosen: dict[str, Scalar] = {}
    for path, several in matches.items():
        place = f"{where}.{path} = {received(values[path])}"
        if not any(live[path] & trial.keys() for trial in fitting or trials):
            raise UserError(f"{place}: not live with the entry's other values; {condition(several[0])}")
        meant = [p for p in several if any(p.name in trial for trial in fitting)]
        if len(meant) > 1:
            raise UserError(f"{place}: fits several ranges; name one of {', '.join(p.name for p in meant)}")
        for p in meant:
            chosen[p.name] = float(values[path]) if isinstance(p, FloatRange) else values[path]
    if not fitting:
        raise UserError(
            f"{where}: no trial has these values together; {'; '.join(map(str, sorted(values)))} exclude each other"
        )
    return chosen


def _fitting(arm: Arm, path: str, value: object, where: str) -> list[Parameter]:
    """The parameters that a key may mean, by path or by name, and whose range holds the value."""
    meant = [p for p in arm.space if path in (p.path, p.name)]
    if not meant:
        known = nearest(path, [p.path for p in arm.space])
        raise UserError(f"{where}.{path} = {received(value)}: not in the space of {arm.name}{known}")
    fitting = [p for p in meant if isinstance(value, bool | int | float | str) and p.contains(value)]
    if not fitting:
        ranges = "; ".join(shown(p) for p in meant)
        raise UserError(f"{where}.{path} = {received(value)}: outside the range {ranges}")
    return fitting


def shrink(
    space: Sequence[Parameter], values: Mapping[str, Any], fixed: Mapping[str, Scalar], where: str
) -> tuple[tuple[Parameter, ...], list[str]]:
    """What stays of a space, and why the rest left; repeated, as a parameter that leaves may decide over others."""
    reasons: list[str] = []
    left = tuple(space)
    while True:
        combinations = list(worlds(left, fixed, where))
        gone = {p.name: reason for p in left if (reason := _useless(p, left, values, fixed, combinations)) is not None}
        if not gone:
            return left, reasons
        reasons += [f"{name} ({reason})" for name, reason in gone.items()]
        left = tuple(p for p in left if p.name not in gone)


def _useless(
    parameter: Parameter,
    space: Sequence[Parameter],
    values: Mapping[str, Any],
    fixed: Mapping[str, Scalar],
    combinations: Sequence[Mapping[str, Scalar]],
) -> str | None:
    """Why an arm has no use for a parameter of the main search; None where it has."""
    if parameter.path in values:
        return "set by the arm"
    table, _, key = parameter.path.rpartition(".")
    name = fixed.get(f"{table}.name")
    searched = any(p.path == f"{table}.name" for p in space)
    if not searched and isinstance(name, str) and names_of(RunConfig, table):
        taken = takes(RunConfig, table, name)
        if taken is not None and key not in taken:
            return f"{name} does not take it"
    if not any(active(parameter, {**fixed, **world}) for world in combinations):
        return "its when can no longer hold"
    if parameter in dead_kd(space, fixed):
        return "its term is in no method of the arm"
    return None


def dead_kd(space: Sequence[Parameter], fixed: Mapping[str, Scalar]) -> list[Parameter]:
    """Parameters of terms that need a teacher and that no method names where the parameter may be live."""
    searched = [value for p in space if p.path == "method" for value in p.probes()]
    dead = []
    for p in space:
        steps = p.path.split(".")
        if steps[0] != "losses" or steps[1] not in NEEDS_TEACHER:
            continue
        wanted = dict(p.when).get("method")
        methods: list[Scalar] = [m for m in (searched or [fixed["method"]]) if wanted is None or m in wanted]
        if not any(steps[1] in str(method).split("+") for method in methods):
            dead.append(p)
    return dead


def check_conditions(
    space: Sequence[Parameter], fixed: Mapping[str, Scalar], combinations: Sequence[Mapping[str, Scalar]], where: str
) -> None:
    """Every condition names values that its path may have, can hold, and lets one range of a path be live at a time.

    combinations: the space's `worlds`. Raises UserError.
    """
    for p in space:
        for path, allowed in p.when:
            place = f"{where}: space.{p.name}.when.{path}"
            there = [q for q in space if q.path == path]
            if any(isinstance(q, FloatRange) for q in there):
                raise UserError(f"{place} = {received(allowed[0])}: {path} is a real number; name a path with choices")
            known = [str(value) for q in there for value in q.probes()] or [str(fixed.get(path))]
            for value in allowed:
                if not any(q.contains(value) for q in there) and not same(value, fixed.get(path)):
                    raise UserError(f"{place} = {received(value)}: never the case{nearest(str(value), known)}")
        live = [world for world in combinations if active(p, {**fixed, **world})]
        if not live:
            raise UserError(f"{where}: space.{p.name}.when: can never hold; {condition(p)}")
        for q in space:
            both = q.path == p.path and q.name != p.name and any(active(q, {**fixed, **w}) for w in live)
            if both:
                raise UserError(
                    f"{where}: space.{p.name}.when: overlaps with {q.name}; let one range be live at a time"
                )
