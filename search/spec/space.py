"""The search space: ranges and choices under dotted paths into [run], and the conditions under which each is live.

[space] of a study file is parsed here; every mistake is one line with the field, the value and the remedy.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeGuard

from losses.ranges import RANGES, default_space
from trainer.config import RunConfig
from trainer.config_paths import Table, flatten, known_paths, unknown_path
from trainer.errors import UserError, nearest, received

Scalar = bool | int | float | str
When = tuple[tuple[str, tuple[Scalar, ...]], ...]

MOST_WORLDS = 4096
"""Combinations of the values that conditions name."""


@dataclass(frozen=True)
class FloatRange:
    """Real numbers from low to high, both included; on a grid of `step` where given."""

    name: str
    path: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When = ()

    def contains(self, value: Scalar) -> bool:
        """Whether a value may be drawn; whole numbers count as real ones."""
        if not is_number(value) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-6

    def probes(self) -> tuple[Scalar, ...]:
        """Both ends, and a value between them that is no whole number where the range has one."""
        if self.step is not None:
            count = int((Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step)))
            return _distinct(
                [self.low, float(Decimal(str(self.low)) + (count // 2) * Decimal(str(self.step))), self.high]
            )
        return _distinct([self.low, self.low + (self.high - self.low) * 0.3819660112501051, self.high])

    def facts(self) -> Table:
        """What the study's identity takes from it."""
        return {"kind": "float", "low": self.low, "high": self.high, "log": self.log, "step": self.step}


@dataclass(frozen=True)
class IntRange:
    """Whole numbers from low to high, both included."""

    name: str
    path: str
    low: int
    high: int
    log: bool = False
    step: int = 1
    when: When = ()

    def contains(self, value: Scalar) -> bool:
        """Whether a value may be drawn."""
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def probes(self) -> tuple[Scalar, ...]:
        """Both ends."""
        return _distinct([self.low, self.high])

    def facts(self) -> Table:
        """What the study's identity takes from it."""
        return {"kind": "int", "low": self.low, "high": self.high, "log": self.log, "step": self.step}


@dataclass(frozen=True)
class Choices:
    """Some values of one kind, in the file's order."""

    name: str
    path: str
    choices: tuple[Scalar, ...]
    when: When = ()

    def contains(self, value: Scalar) -> bool:
        """Whether a value may be drawn."""
        return any(same(value, choice) for choice in self.choices)

    def probes(self) -> tuple[Scalar, ...]:
        """All of them."""
        return self.choices

    def facts(self) -> Table:
        """What the study's identity takes from it."""
        return {"kind": "choices", "choices": list(self.choices)}


Parameter = FloatRange | IntRange | Choices
"""What may stand in [space]. `name` is the path, or `path[0]`, `path[1]`, ... where one path has several ranges."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(one: object, other: object) -> bool:
    """Equality that keeps true apart from 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def shown(parameter: Parameter) -> str:
    """A parameter's range as words: `1.0..10.0 log`, `8, 12, 16`."""
    facts = parameter.facts()
    if "choices" in facts:
        return ", ".join(str(choice) for choice in facts["choices"])
    extra = " log" if facts["log"] else f" step {facts['step']}" if facts["step"] not in (None, 1) else ""
    return f"{facts['low']}..{facts['high']}{extra}"


def condition(parameter: Parameter) -> str:
    """A parameter's conditions as words."""
    parts = [f"{path} = {' or '.join(str(v) for v in allowed)}" for path, allowed in parameter.when]
    return f"it needs {' and '.join(parts)}"


def value_at(values: Mapping[str, Scalar], path: str) -> Scalar | None:
    """The value of a path among values keyed by parameter name or path; a chosen `path[i]` goes before `path`."""
    if path in values and not any(name.startswith(f"{path}[") for name in values):
        return values[path]
    chosen = (value for name, value in values.items() if name.startswith(f"{path}[") and name.endswith("]"))
    return next(chosen, values.get(path))


def active(parameter: Parameter, values: Mapping[str, Scalar]) -> bool:
    """Whether a parameter is live, given what was chosen so far on top of the arm's run (`Arm.values`)."""
    return all(any(same(value_at(values, path), v) for v in allowed) for path, allowed in parameter.when)


def ordered(space: Sequence[Parameter], where: str) -> tuple[Parameter, ...]:
    """The parameters in the given order, but each after those that its conditions name. Raises UserError."""
    by_path: dict[str, list[Parameter]] = {}
    for parameter in space:
        by_path.setdefault(parameter.path, []).append(parameter)
    done: dict[str, Parameter] = {}
    trail: list[str] = []

    def visit(path: str) -> None:
        if path in trail:
            circle = " -> ".join([*trail[trail.index(path) :], path])
            raise UserError(f"{where}: space.{path}.when: conditions go in a circle: {circle}; remove one of them")
        trail.append(path)
        for parameter in by_path.get(path, ()):
            if parameter.name not in done:
                for other, _ in parameter.when:
                    visit(other)
                done[parameter.name] = parameter
        trail.pop()

    for parameter in space:
        visit(parameter.path)
    return tuple(done.values())


def worlds(space: Sequence[Parameter], run: Mapping[str, Scalar], where: str) -> Iterator[dict[str, Scalar]]:
    """Every combination that conditions can tell apart, as {path: value} over the paths that conditions name.

    space: in the order of `ordered`. run: the flat values that hold where nothing is chosen. A path without a live
    parameter has its value in `run`. Of the values that no condition names, one stands for all.
    """
    named = {path for parameter in space for path, _ in parameter.when}
    paths = list(dict.fromkeys([p.path for p in space if p.path in named] + sorted(named)))

    def extend(i: int, chosen: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
        if i == len(paths):
            yield chosen
            return
        path = paths[i]
        live = [p for p in space if p.path == path and active(p, {**run, **chosen})]
        options = _distinguished(live[0], space) if live else [run[path]] if path in run else []
        if not options:
            yield from extend(i + 1, chosen)
        for value in options:
            yield from extend(i + 1, {**chosen, path: value})

    for count, world in enumerate(extend(0, {})):
        if count == MOST_WORLDS:
            raise UserError(f"{where}: space: its conditions have more than {MOST_WORLDS} combinations; use fewer")
        yield world


def _distinguished(parameter: Parameter, space: Sequence[Parameter]) -> list[Scalar]:
    """The values of a parameter that conditions name, and one more."""
    wanted = [value for p in space for path, allowed in p.when if path == parameter.path for value in allowed]
    hit = list(_distinct([value for value in wanted if parameter.contains(value)]))
    inside = parameter.probes() if isinstance(parameter, Choices | FloatRange) else _some(parameter, len(hit) + 1)
    other = next((value for value in inside if not any(same(value, h) for h in hit)), None)
    return hit if other is None else [*hit, other]


def _some(parameter: IntRange, count: int) -> list[Scalar]:
    return list(range(parameter.low, parameter.high + 1, parameter.step)[:count])


def _distinct(values: Sequence[Scalar]) -> tuple[Scalar, ...]:
    return tuple(value for i, value in enumerate(values) if not any(same(value, v) for v in values[:i]))


LARGEST_INT = 2**53
"""Whole numbers above it are not kept exactly by a database column of doubles."""
_KEYS = ("low", "high", "log", "step", "choices", "when")


def parse(table: Mapping[str, object], where: str) -> tuple[Parameter, ...]:
    """The parameters of a [space] table in the file's order; nested tables are flattened. Raises UserError."""
    parameters: list[Parameter] = []
    for path, entry in _with_defaults(entries(table, where), where):
        place = f"{where}: space.{path}"
        if path not in known_paths(RunConfig):
            raise UserError(f"{place} = {received(entry)}: {unknown_path(RunConfig, path)}")
        several = entry if isinstance(entry, list) else [entry]
        if not several:
            raise UserError(f"{place} = []: no range; write {{ low = ..., high = ... }} or remove it")
        for i, one in enumerate(several):
            name = path if len(several) == 1 else f"{path}[{i}]"
            parameters.append(_parameter(name, path, one, f"{where}: space.{name}"))
    return tuple(parameters)


DEFAULT = "default"
"""What stands in [space] for a loss whose ranges are those of `losses.ranges`."""


def _with_defaults(flat: Mapping[str, object], where: str) -> Iterator[tuple[str, object]]:
    """The entries with those of a loss in the place of `"losses.cwd" = "default"`; what the file itself has stays."""
    given = flat.get("method")
    listed = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, Mapping)]
    methods = tuple(str(choice) for one in listed for choice in one.get("choices", ()))
    for path, entry in flat.items():
        table, _, term = path.partition(".")
        if table != "losses" or "." in term or isinstance(entry, Mapping | list):
            yield path, entry
            continue
        place = f"{where}: space.{path} = {received(entry)}"
        searched = [name for name, options in RANGES.items() if any(one.searched for one in options.values())]
        if entry != DEFAULT:
            raise UserError(f'{place}: write "{DEFAULT}" for the ranges of docs/study-file.md, or a table')
        if term not in searched:
            raise UserError(f"{place}: no term with ranges{nearest(term, searched)}")
        yield from ((name, one) for name, one in default_space(term, methods) if name not in flat)


def entries(table: Mapping[str, object], where: str, prefix: str = "") -> dict[str, object]:
    """[space] as {path: range or list of ranges}; nested tables are flattened, given twice is refused."""
    flat: dict[str, object] = {}
    for key, value in table.items():
        path = f"{prefix}{key}"
        inside = _tables_inside(path, value)
        inner = {path: value} if inside is None else entries(inside, where, f"{path}.")
        for name, entry in inner.items():
            if name in flat:
                raise UserError(
                    f"{where}: space.{name} = {received(entry)}: given twice; put both into one list of ranges"
                )
            flat[name] = entry
    return flat


def _tables_inside(path: str, value: object) -> Mapping[str, object] | None:
    """The tables under a part of a path; None where the value is an entry of its own."""
    if path in known_paths(RunConfig) or not isinstance(value, Mapping) or not value:
        return None
    plain = any(key in _KEYS for key in value) or not all(isinstance(v, Mapping | list) for v in value.values())
    return None if plain else value


def _parameter(name: str, path: str, entry: object, place: str) -> Parameter:
    if not isinstance(entry, Mapping):
        raise UserError(
            f"{place} = {received(entry)}: write a table, {{ low = ..., high = ... }} or {{ choices = [...] }}"
        )
    for key in entry:
        if key not in _KEYS:
            raise UserError(f"{place}.{key} = {received(entry[key])}: unknown key{nearest(key, _KEYS)}")
    when = _when(entry.get("when", {}), place)
    if "choices" in entry:
        others = [key for key in ("low", "high", "log", "step") if key in entry]
        if others:
            raise UserError(
                f"{place}.{others[0]} = {received(entry[others[0]])}: not together with choices; keep one of them"
            )
        return Choices(name, path, _choices(entry["choices"], f"{place}.choices"), when)
    return _range(name, path, entry, when, place)


def _choices(value: object, place: str) -> tuple[Scalar, ...]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{place} = {received(value)}: no choices; list at least one value")
    for choice in value:
        if not isinstance(choice, bool | int | float | str):
            raise UserError(f"{place} = {received(choice)}: not a single value; known: bool, int, float, str")
        if isinstance(choice, float) and not math.isfinite(choice):
            raise UserError(f"{place} = {received(choice)}: not finite; remove it")
        if isinstance(choice, int) and abs(choice) > LARGEST_INT:
            raise UserError(f"{place} = {received(choice)}: whole numbers end at 2**53; write it with a decimal point")
    kinds = {type(choice) for choice in value}
    if kinds == {int, float}:
        value = [float(choice) for choice in value]
    elif len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UserError(f"{place} = {received(value)}: values of several kinds ({names}); keep to one kind")
    twice = next((choice for i, choice in enumerate(value) if choice in value[:i]), None)
    if twice is not None:
        raise UserError(f"{place} = {received(value)}: {received(twice)} is listed twice; keep one")
    return tuple(value)


def _range(name: str, path: str, entry: Mapping[str, object], when: When, place: str) -> Parameter:
    low, high = _number(entry, "low", place), _number(entry, "high", place)
    log = entry.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{place}.log = {received(log)}: write true or false")
    if low > high:
        raise UserError(f"{place}.low = {low!r}: above high = {high!r}; exchange them")
    if log and low <= 0:
        raise UserError(f"{place}.low = {low!r}: a log range starts above 0; raise low or remove log")
    step = _number(entry, "step", place) if "step" in entry else None
    if step is not None:
        _check_step(low, high, step, log, place)
    if isinstance(low, int) and isinstance(high, int):
        if isinstance(step, float):
            raise UserError(
                f"{place}.step = {step!r}: low and high are whole numbers; write 1.0 for 1, or a whole step"
            )
        return IntRange(name, path, low, high, log, 1 if step is None else step, when)
    return FloatRange(name, path, float(low), float(high), log, None if step is None else float(step), when)


def _check_step(low: float, high: float, step: float, log: bool, place: str) -> None:
    if log:
        raise UserError(f"{place}.step = {step!r}: a log range has no step; remove step or log")
    if step <= 0:
        raise UserError(f"{place}.step = {step!r}: must be above 0; remove it for no grid")
    rest = (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step))
    if rest != 0:
        end = type(high)(Decimal(str(high)) - rest)
        raise UserError(
            f"{place}.high = {high!r}: whole steps of {step!r} from low = {low!r} do not end there; nearest: {end!r}"
        )


def _number(entry: Mapping[str, object], key: str, place: str) -> int | float:
    if key not in entry:
        raise UserError(f"{place}.{key}: missing; a range needs low and high, or write choices = [...]")
    value = entry[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(
            f"{place}.{key} = {received(value)}: not a number; write 1 for whole numbers or 1.0 for real ones"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{place}.{key} = {value!r}: not finite; give a finite bound")
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise UserError(f"{place}.{key} = {received(value)}: whole numbers end at 2**53; write it with a decimal point")
    return value


def _when(value: object, place: str) -> When:
    if not isinstance(value, Mapping):
        raise UserError(
            f'{place}.when = {received(value)}: write a table of paths and values, such as {{ method = "kl" }}'
        )
    conditions: list[tuple[str, tuple[Scalar, ...]]] = []
    for path, wanted in flatten(value).items():
        listed = wanted if isinstance(wanted, list) else [wanted]
        if path not in known_paths(RunConfig):
            raise UserError(f"{place}.when.{path} = {received(wanted)}: {unknown_path(RunConfig, path)}")
        if not listed or not all(isinstance(one, bool | int | float | str) for one in listed):
            raise UserError(f"{place}.when.{path} = {received(wanted)}: write one value or a list of values")
        conditions.append((path, tuple(listed)))
    return tuple(conditions)
