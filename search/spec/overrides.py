"""Values of a study file replaced: by `--set PATH=VALUE` on the command line, and by the members of a series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.spec.config import StudyTables
from search.spec.file import check_depth
from search.spec.space import entries
from trainer.config import RunConfig
from trainer.config_paths import Table, nest, replace, setting
from trainer.errors import UserError, nearest, received
from trainer.series import SERIES

_LISTS = ("enqueue", "arms")


@dataclass(frozen=True)
class Override:
    """One value in the place of another."""

    path: str
    """From the top of the file."""
    value: Any
    label: str
    """What a person wrote, for messages: `--set run.epochs=5`."""

    @property
    def searched_remedy(self) -> str:
        """What to write where every trial takes the path from [space]."""
        space = f"space.{self.path.partition('.')[2]}"
        if self.label.startswith("--set "):
            return f"write --set '{space}={{ choices = [...] }}'"
        return f'write "{space}" = {{ choices = [...] }}'


def apply(raw: Mapping[str, Any], overrides: Sequence[str], where: str) -> tuple[Table, tuple[str, ...]]:
    """The file's tables with each `PATH=VALUE` of --set; see `put`. Raises UserError."""
    return put(raw, [Override(*setting(text), f"--set {text}") for text in overrides], where, f"{where} with ")


def put(raw: Mapping[str, Any], overrides: Sequence[Override], where: str, whole: str) -> tuple[Table, tuple[str, ...]]:
    """The file's tables with each override set, one after the other, and the entries that went away because a `name`
    changed. A table that is set replaces that of the file. whole: what stands before an override's label where a table
    is wrong with it. Raises UserError."""
    table = dict(raw)
    dropped: list[str] = []
    for one in overrides:
        top, _, rest = one.path.partition(".")
        if top not in StudyTables.model_fields or top == SERIES:
            known = [name for name in StudyTables.model_fields if name != SERIES]
            what = "says itself what its members are" if top == SERIES else "no table of a study file"
            raise UserError(f"{one.label}: {top}: {what}{'' if top == SERIES else nearest(top, known)}")
        if top == "arms" and rest.count("."):
            table["arms"] = _arm(table.get("arms", []), rest, one)
            continue
        if top in _LISTS:
            raise UserError(f"{one.label}: {top} is a list; change it in {where}")
        if not rest:
            raise UserError(
                f"{one.label}: replaces a whole table; name a value in it, such as {_EXAMPLES.get(top, top)}"
            )
        place = f"{whole}{one.label}: {top}."
        if top == "space":
            table["space"] = _space(entries(_table(table, top, where), where), rest, one)
        elif top in ("run", "teach"):
            if top == "run":
                _refuse_searched(table, rest, where, one)
            table[top], gone = replace(RunConfig, nest(_table(table, top, where), place), {rest: one.value})
            dropped += [f"{top}.{key}" for key in gone]
        else:
            table, gone = replace(
                StudyTables, nest(table, f"{where}: ") if top not in table else table, {one.path: one.value}
            )
            dropped += gone
    check_depth(table, where)
    return table, tuple(dropped)


_EXAMPLES = {
    "run": "run.epochs=5",
    "budget": "budget.trials=20",
    "pruner": "pruner.name=none",
    "space": "space.optim.lr.low=1e-4",
}


def _arm(arms: Any, rest: str, one: Override) -> list[Any]:
    """[[arms]] with one key of one entry replaced: `arms.no-kd.trials`."""
    name, _, key = rest.partition(".")
    names = [str(arm.get("name")) for arm in arms if isinstance(arm, Mapping)]
    if name not in names:
        raise UserError(f"{one.label}: no arm {name!r}{nearest(name, names)}")
    return [{**arm, key: one.value} if arm.get("name") == name else arm for arm in arms]


def _table(table: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {name} = {received(value)}: not a table; write [{name}]")
    return value


def _space(space: Mapping[str, Any], rest: str, one: Override) -> Table:
    """A whole range, or one key of a range that the file has."""
    owner = next((path for path in space if rest.startswith(f"{path}.")), None)
    if owner is None:
        return {**space, rest: one.value}
    entry = space[owner]
    if not isinstance(entry, Mapping):
        raise UserError(f"{one.label}: {owner} has several ranges; replace them all: space.{owner}=[...]")
    key, _, inner = rest.removeprefix(f"{owner}.").partition(".")
    below = entry.get(key, {})
    new = {**below, inner: one.value} if inner and isinstance(below, Mapping) else one.value
    return {**space, owner: {**entry, key: new}}


def _refuse_searched(table: Mapping[str, Any], path: str, where: str, one: Override) -> None:
    """A value that every trial takes from [space] cannot be set in [run]."""
    entry = entries(_table(table, "space", where), where).get(path)
    if isinstance(entry, Mapping) and not entry.get("when"):
        raise UserError(f"{one.label}: {path} is searched, every trial takes it from [space]; {one.searched_remedy}")
