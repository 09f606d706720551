"""One search among those of a study: the main one, or a control with some values of [run] set and a smaller space."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from search.spec.config import ArmEntry, PrunerConfig, RungsConfig, SamplerConfig, StudyTables
from search.spec.space import Parameter, Scalar, active, condition, ordered, shown, worlds
from search.spec.uses import check_conditions, dead_kd, shrink
from trainer.config import RunConfig
from trainer.config_paths import Table, flatten, known_paths, replace, unknown_path
from trainer.errors import UserError, explain, nearest, received

MAIN = "kd"
"""The name of the main search among the arms."""


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
    front: str | None
    """The path that trials are spread along; its parameter has choices and is always live."""
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
    identity: str = ""
    """sha256 over resolved run and space; `search.spec.identity.arm_identity` adds the contents of data and teacher."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The space, in an order in which conditions come after what they name."""
        return self.space

    @property
    def epochs(self) -> int:
        """Epochs of the longest run."""
        ends = [value for p in self.space if p.path == "epochs" for value in p.probes()]
        return max(int(value) for value in (ends or [self.base.epochs]))

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
        found = list(self.worlds())
        for world in found:
            yield self.complete(world)
            yield self.complete(world, pick=-1)
        for parameter in self.space:
            live = next((world for world in found if parameter.name in self.complete(world)), {})
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
                raise UserError(f"{self.where}: {p.name} = {received(params[p.name])}: not live here; {condition(p)}")
            if live:
                if not p.contains(params[p.name]):
                    raise UserError(f"{self.where}: {p.name} = {received(params[p.name])}: outside {shown(p)}")
                chosen[p.name] = params[p.name]
        return self.run_with({p.path: chosen[p.name] for p in self.space if p.name in chosen})

    def run_with(self, values: Mapping[str, Scalar]) -> RunConfig:
        """[run] with values by path, validated. Raises UserError."""
        table, _ = replace(RunConfig, self.run, values)
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


def main_arm(tables: StudyTables, run: Table, space: Sequence[Parameter], study_name: str, where: str) -> Arm:
    """The main search: nothing may be dropped from its space. Raises UserError."""
    base = run_config(run, where)
    fixed = fixed_values(base)
    _check_tables_present(base, space, where)
    parameters = ordered(space, where)
    found = list(worlds(parameters, fixed, where))
    check_conditions(parameters, fixed, found, where)
    dead = dead_kd(parameters, fixed)
    if dead:
        term = dead[0].path.split(".")[1]
        raise UserError(
            f"{where}: space.{dead[0].name}: has no effect, as method is never {term!r}; "
            f"add {term!r} to the choices of method or remove the parameter"
        )
    front = _front(tables, parameters, where)
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
        dropped=(),
        base=base,
        fixed=fixed,
    )


def in_flight_of(trials: int) -> int:
    """How many trials run at a time: with more the sampler is blind (`benchmarks/RESULTS.md`, time to an answer)."""
    return max(8, trials // 8)


def control_arm(main: Arm, entry: ArmEntry, where: str) -> Arm:
    """A control search: the main one with the entry's values set, less the parameters that lost their use."""
    place = f"{where}: arms.{entry.name}"
    values = _set_values(entry, place)
    run, gone = replace(RunConfig, main.run, values)
    base = run_config(run, place)
    fixed = fixed_values(base)
    names = {path: value for path, value in values.items() if path.rpartition(".")[2] == "name"}
    dropped = [f"run.{path} ({names.get(_name_of(path), 'the arm')} does not take it)" for path in gone]
    space, reasons = shrink(main.space, values, fixed, place)
    return Arm(
        name=entry.name,
        study_name=f"{main.study_name}.{entry.name}",
        where=place,
        run=run,
        space=space,
        front=main.front if any(p.path == main.front for p in space) else None,
        trials=entry.trials or main.trials,
        in_flight=entry.in_flight or main.in_flight,
        sampler=entry.sampler or main.sampler,
        pruner=entry.pruner or main.pruner,
        enqueue=(),
        dropped=(*dropped, *reasons),
        base=base,
        fixed=fixed,
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


def _front(tables: StudyTables, space: Sequence[Parameter], where: str) -> str | None:
    if tables.front is None:
        return None
    along = tables.front.along
    found = [p for p in space if p.path == along]
    if not found:
        hint = nearest(along, [p.path for p in space])
        raise UserError(f"{where}: front.along = {along!r}: not in [space]{hint}")
    if len(found) > 1 or found[0].when or "choices" not in found[0].facts():
        raise UserError(
            f"{where}: front.along = {along!r}: needs one list of choices without when; write choices = [...]"
        )
    return along


def check_pruner(arm: Arm) -> None:
    """A first rung has to lie within a run. Raises UserError."""
    if isinstance(arm.pruner, RungsConfig) and arm.pruner.first_rung > arm.epochs:
        key = "min_epochs" if arm.pruner.min_epochs > arm.pruner.warmup_epochs else "warmup_epochs"
        value = getattr(arm.pruner, key)
        raise UserError(f"{arm.where}: pruner.{key} = {value}: no rung within {arm.epochs} epochs; lower it")
