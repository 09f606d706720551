"""`--set PATH=VALUE`: values of a study file replaced on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from search.spec.config import StudyTables
from search.spec.file import check_depth
from search.spec.space import entries
from trainer.config import RunConfig
from trainer.config_paths import Table, nest, replace, setting
from trainer.errors import UserError, nearest, received

_LISTS = ("enqueue", "arms")


def apply(raw: Mapping[str, Any], overrides: Sequence[str], where: str) -> tuple[Table, tuple[str, ...]]:
    """The file's tables with each override set, one after the other, and the entries that went away because a `name`
    changed. A table that is set replaces that of the file. Raises UserError."""
    table = dict(raw)
    dropped: list[str] = []
    for text in overrides:
        path, value = setting(text)
        top, _, rest = path.partition(".")
        if top not in StudyTables.model_fields:
            raise UserError(f"--set {text}: {top}: no table of a study file{nearest(top, StudyTables.model_fields)}")
        if top == "arms" and rest.count("."):
            table["arms"] = _arm(table.get("arms", []), rest, value, text)
            continue
        if top in _LISTS:
            raise UserError(f"--set {text}: {top} is a list; change it in {where}")
        if not rest:
            raise UserError(
                f"--set {text}: replaces a whole table; name a value in it, such as {_EXAMPLES.get(top, top)}"
            )
        place = f"{where} with --set {text}: {top}."
        if top == "space":
            table["space"] = _space(entries(_table(table, top, where), where), rest, value, text)
        elif top in ("run", "teach"):
            if top == "run":
                _refuse_searched(table, rest, where, text)
            table[top], gone = replace(RunConfig, nest(_table(table, top, where), place), {rest: value})
            dropped += [f"{top}.{key}" for key in gone]
        else:
            table, gone = replace(StudyTables, nest(table, f"{where}: ") if top not in table else table, {path: value})
            dropped += gone
    check_depth(table, where)
    return table, tuple(dropped)


_EXAMPLES = {
    "run": "run.epochs=5",
    "budget": "budget.trials=20",
    "pruner": "pruner.name=none",
    "space": "space.optim.lr.low=1e-4",
}


def _arm(arms: Any, rest: str, value: object, text: str) -> list[Any]:
    """[[arms]] with one key of one entry replaced: `arms.no-kd.trials`."""
    name, _, key = rest.partition(".")
    names = [str(arm.get("name")) for arm in arms if isinstance(arm, Mapping)]
    if name not in names:
        raise UserError(f"--set {text}: no arm {name!r}{nearest(name, names)}")
    return [{**arm, key: value} if arm.get("name") == name else arm for arm in arms]


def _table(table: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {name} = {received(value)}: not a table; write [{name}]")
    return value


def _space(space: Mapping[str, Any], rest: str, value: object, text: str) -> Table:
    """A whole range, or one key of a range that the file has."""
    owner = next((path for path in space if rest.startswith(f"{path}.")), None)
    if owner is None:
        return {**space, rest: value}
    entry = space[owner]
    if not isinstance(entry, Mapping):
        raise UserError(f"--set {text}: {owner} has several ranges; replace them all: space.{owner}=[...]")
    key, _, inner = rest.removeprefix(f"{owner}.").partition(".")
    new = {**entry.get(key, {}), inner: value} if inner and isinstance(entry.get(key, {}), Mapping) else value
    return {**space, owner: {**entry, key: new}}


def _refuse_searched(table: Mapping[str, Any], path: str, where: str, text: str) -> None:
    """A value that every trial takes from [space] cannot be set in [run]."""
    entry = entries(_table(table, "space", where), where).get(path)
    if isinstance(entry, Mapping) and not entry.get("when"):
        raise UserError(
            f"--set {text}: {path} is searched, every trial takes it from [space]; "
            f"write --set 'space.{path}={{ choices = [...] }}'"
        )
