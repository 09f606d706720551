"""Which parameters of a space have a use: conditions that can hold, and what an arm's own values leave over."""

from collections.abc import Mapping, Sequence
from typing import Any

from losses.config import NEEDS_TEACHER
from search.spec.space import FloatRange, Parameter, Scalar, active, condition, same, worlds
from trainer.config import RunConfig
from trainer.config_paths import names_of, takes
from trainer.errors import UserError, nearest, received


def shrink(
    space: Sequence[Parameter], values: Mapping[str, Any], fixed: Mapping[str, Scalar], where: str
) -> tuple[tuple[Parameter, ...], list[str]]:
    """What stays of a space, and why the rest left; repeated, as a parameter that leaves may decide over others."""
    reasons: list[str] = []
    left = tuple(space)
    while True:
        found = list(worlds(left, fixed, where))
        gone = {p.name: reason for p in left if (reason := _useless(p, left, values, fixed, found)) is not None}
        if not gone:
            return left, reasons
        reasons += [f"{name} ({reason})" for name, reason in gone.items()]
        left = tuple(p for p in left if p.name not in gone)


def _useless(
    parameter: Parameter,
    space: Sequence[Parameter],
    values: Mapping[str, Any],
    fixed: Mapping[str, Scalar],
    found: Sequence[Mapping[str, Scalar]],
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
    if not any(active(parameter, {**fixed, **world}) for world in found):
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
    space: Sequence[Parameter], fixed: Mapping[str, Scalar], found: Sequence[Mapping[str, Scalar]], where: str
) -> None:
    """Every condition names values that its path may have, can hold, and lets one range of a path be live at a time.

    found: the space's `worlds`. Raises UserError.
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
        live = [world for world in found if active(p, {**fixed, **world})]
        if not live:
            raise UserError(f"{where}: space.{p.name}.when: can never hold; {condition(p)}")
        for q in space:
            both = q.path == p.path and q.name != p.name and any(active(q, {**fixed, **w}) for w in live)
            if both:
                raise UserError(
                    f"{where}: space.{p.name}.when: overlaps with {q.name}; let one range be live at a time"
                )
