"""[space] of a study file as parameters: every mistake is one line that names the field, the value and the remedy."""

import math
from collections.abc import Mapping
from decimal import Decimal

from search.spec.space import Choices, FloatRange, IntRange, Parameter, Scalar, When
from trainer.config import RunConfig
from trainer.config_paths import flatten, known_paths, unknown_path
from trainer.errors import UserError, nearest, received

LARGEST_INT = 2**53
"""Whole numbers above it are not kept exactly by a database column of doubles."""
_KEYS = ("low", "high", "log", "step", "choices", "when")


def parse(table: Mapping[str, object], where: str) -> tuple[Parameter, ...]:
    """The parameters of a [space] table in the file's order; nested tables are flattened. Raises UserError."""
    found: list[Parameter] = []
    for path, entry in entries(table, where).items():
        place = f"{where}: space.{path}"
        if path not in known_paths(RunConfig):
            raise UserError(f"{place} = {received(entry)}: {unknown_path(RunConfig, path)}")
        several = entry if isinstance(entry, list) else [entry]
        if not several:
            raise UserError(f"{place} = []: no range; write {{ low = ..., high = ... }} or remove it")
        for i, one in enumerate(several):
            name = path if len(several) == 1 else f"{path}[{i}]"
            found.append(_parameter(name, path, one, f"{where}: space.{name}"))
    return tuple(found)


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
            f"{place}.high = {high!r}: low = {low!r} plus whole steps of {step!r} miss it; nearest: {end!r}"
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
    found: list[tuple[str, tuple[Scalar, ...]]] = []
    for path, wanted in flatten(value).items():
        listed = wanted if isinstance(wanted, list) else [wanted]
        if path not in known_paths(RunConfig):
            raise UserError(f"{place}.when.{path} = {received(wanted)}: {unknown_path(RunConfig, path)}")
        if not listed or not all(isinstance(one, bool | int | float | str) for one in listed):
            raise UserError(f"{place}.when.{path} = {received(wanted)}: write one value or a list of values")
        found.append((path, tuple(listed)))
    return tuple(found)
