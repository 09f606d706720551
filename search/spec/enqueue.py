"""[[enqueue]]: parameters of trials that are wanted first, checked against the space of their arm."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from search.spec.arms import MAIN, Arm
from search.spec.space import FloatRange, Parameter, Scalar, condition, shown
from trainer.config_paths import flatten
from trainer.errors import UserError, nearest, received


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
    found = {path: _fitting(arm, path, value, where) for path, value in values.items()}
    named = {p.name: values[path] for path, several in found.items() for p in several}
    # What the entry leaves out is still open: it is wrong only if it fits none of the combinations.
    trials = [arm.complete({**world, **named}) for world in arm.worlds()]
    live = {path: {p.name for p in several} for path, several in found.items()}
    fitting = [trial for trial in trials if all(names & trial.keys() for names in live.values())]
    chosen: dict[str, Scalar] = {}
    for path, several in found.items():
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
