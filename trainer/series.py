"""A study file with [series]: several studies that share what the file says, each with values of its own.

The members of `studies/kd.toml` are the studies kd.1, kd.2 and so on, in the file's order; `studies/kd.2.toml` is the
path of the second one, although no such file exists. Free of torch.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from models.config import Frozen
from trainer.cli.durations import seconds
from trainer.config import RunConfig
from trainer.config.validation import explain
from trainer.config_paths import Table, flatten, nest, replace, text_of, toml_table
from trainer.errors import UserError, nearest, received

SERIES = "series"
"""The table that makes a file a series."""
TITLE = "title"
"""The key of a member or choice that is its name for people, and no path."""
FILLED = ("run.data.root", "run.data.split", "run.teacher.checkpoint", "run.student.checkpoint")
"""Paths whose text may hold the choices of a product: `teachers/{data}-{teacher}.safetensors`."""
MOST_MEMBERS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,63}")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MEMBER = re.compile(r"(?P<series>.+)\.(?P<number>[1-9][0-9]{0,3})")


def _duration(text: str) -> str:
    seconds(text)
    return text


DeviceHours = Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)]
"""Hours of devices, summed over all ranks, that a search or a series may use."""
Duration = Annotated[str, AfterValidator(_duration)]
"""A time such as "12h" or "90m", as it was written."""


class SeriesTable(Frozen):
    """[series]: the members, as a list or as a product, and what all of them together may use."""

    members: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="a table a member: dotted paths as --set has them, in quotes, with their values, such as "
        '{ title = "DeepLabV3", "run.teacher.name" = "deeplabv3" }',
    )
    product: dict[str, dict[str, dict[str, Any]]] = Field(
        default={},
        description="in place of members: axes, the choices of each, and what each choice sets, by path; a member is "
        "one choice of each axis, the last axis changes fastest",
    )
    leave_out: tuple[dict[str, str], ...] = Field(
        default=(),
        description='combinations of a product that are no member: { data = "kvasir", teacher = "r18" }; an axis that '
        "is not named stands for all of its choices",
    )
    gpu_hours: DeviceHours | None = Field(
        default=None,
        description="hours of devices, summed over the searches of all members, after which nothing begins",
    )
    wall: Duration | None = Field(
        default=None, description='time from the first trial of any member, such as "12h" or "2d"; nothing begins after'
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if not self.members and not self.product:
            raise ValueError("has no members; write members = [...] or [series.product.AXIS.CHOICE]")
        if self.members and self.product:
            raise ValueError("members and product: keep one of them")
        if self.leave_out and not self.product:
            raise ValueError("leave_out: takes combinations of a product away; members are left out of their list")
        return self

    @property
    def wall_seconds(self) -> float | None:
        """`wall` in seconds."""
        return None if self.wall is None else seconds(self.wall)


@dataclass(frozen=True)
class Member:
    """One study of a series."""

    series: str
    number: int
    """From 1."""
    values: Mapping[str, Any]
    """What it sets, by dotted path from the top of the file."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Axis -> choice, of a product."""
    title: str | None = None

    @property
    def name(self) -> str:
        """The name of the study."""
        return f"{self.series}.{self.number}"

    @property
    def label(self) -> str:
        """What makes it this member: `data=kvasir, teacher=r18`, or its title; empty where it has neither."""
        return self.title or ", ".join(f"{axis}={choice}" for axis, choice in self.choices.items())

    @property
    def called(self) -> str:
        """The name with the label, for messages: `kd.3 (data=kvasir, teacher=r18)`."""
        return f"{self.name} ({self.label})" if self.label else self.name


@dataclass(frozen=True)
class Series:
    """A series as its file says it; the members' own values are not checked yet."""

    file: Path
    name: str
    table: SeriesTable
    shared: Table
    """The file's other tables."""
    members: tuple[Member, ...]

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Axis -> its choices, in the file's order; none of a list."""
        return {axis: tuple(choices) for axis, choices in self.table.product.items()}

    @property
    def sets(self) -> dict[str, tuple[str, ...]]:
        """Axis -> the paths that its choices set."""
        return {
            axis: tuple(dict.fromkeys(path for each in choices.values() for path in _paths_of(each)))
            for axis, choices in self.table.product.items()
        }

    def path(self, member: Member) -> Path:
        """The path by which commands take one member."""
        return self.file.with_name(f"{member.name}.toml")

    def member(self, number: int) -> Member:
        """A member by its number. Raises UserError."""
        if not 1 <= number <= len(self.members):
            raise UserError(f"{self.file}: {self.name}.{number}: no such member; there are {len(self.members)}")
        return self.members[number - 1]


def series_in(path: Path) -> Series | None:
    """The series of a study file; None where there is no such file, or where it is one study. Raises UserError."""
    if path.suffix != ".toml" or not path.is_file():
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a study file") from error
    if SERIES.encode() not in content:
        return None
    try:
        tables = toml_table(text_of(content, str(path)), str(path))
    except RecursionError:
        return None  # whoever reads it as a study says so
    return None if SERIES not in tables else series_of(tables, path)


def member_at(path: Path) -> tuple[Series, Member] | None:
    """The series and the member of a path such as studies/kd.2.toml; None for every file that exists, and for paths
    beside which no series lies. Raises UserError."""
    named = _MEMBER.fullmatch(path.stem) if path.suffix == ".toml" and not path.exists() else None
    series = None if named is None else series_in(path.with_name(f"{named['series']}.toml"))
    return None if series is None or named is None else (series, series.member(int(named["number"])))


def series_of(tables: Table, path: Path) -> Series:
    """The series that a file's tables say. Raises UserError in one line."""
    try:
        table = SeriesTable.model_validate(tables[SERIES])
    except ValidationError as error:
        raise UserError(explain(error, str(path), under=SERIES, model=SeriesTable)) from None
    where = f"{path}: {SERIES}"
    shared = {name: value for name, value in tables.items() if name != SERIES}
    drawn = _listed(table, where) if table.members else _filled(_product(table, where), shared, str(path))
    members = tuple(
        Member(path.stem, number, values, choices, title) for number, (values, choices, title) in enumerate(drawn, 1)
    )
    if not members:
        raise UserError(f"{where}.leave_out: no member is left; take an entry away")
    if len(members) > MOST_MEMBERS:
        raise UserError(f"{where}: {len(members)} members; at most {MOST_MEMBERS}")
    series = Series(path, path.stem, table, shared, members)
    for place, member in enumerate(members):
        twin = next((other for other in members[:place] if other.values == member.values), None)
        if twin is not None:
            raise UserError(f"{where}: {twin.called} and {member.called} set the same; let them differ, or keep one")
        if series.path(member).is_file():
            raise UserError(
                f"{series.path(member)}: has the name of a member of the series {path}; give one of them another name"
            )
    return series


def with_members_run(series: Series, member: Member) -> Table:
    """The file's tables with what the member sets in [run] and [teach]; its other values are left out."""
    tables = dict(series.shared)
    for path, value in in_order(member.values):
        top, _, rest = path.partition(".")
        if top in ("run", "teach"):
            before = tables.get(top, {})
            if not isinstance(before, Mapping):
                raise UserError(f"{series.file}: {top} = {received(before)}: expected a table [{top}]")
            nested = nest(before, f"{series.file}: {top}.")
            tables[top] = replace(RunConfig, nested, {rest: value})[0]
    return tables


def in_order(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Paths and values as they are set: names before the options that belong to them."""
    return sorted(values.items(), key=lambda item: item[0].rpartition(".")[2] != "name")


Drawn = tuple[Mapping[str, Any], Mapping[str, str], str | None]
"""What a member sets, its choices, its title."""


def _listed(table: SeriesTable, where: str) -> Iterator[Drawn]:
    for place, entry in enumerate(table.members):
        title = _title(entry, f"{where}.members[{place}]")
        values = _values(entry, f"{where}.members[{place}]")
        if not values:
            raise UserError(f"{where}.members[{place}]: sets nothing; name a path with its value")
        yield values, {}, title


def _product(table: SeriesTable, where: str) -> Iterator[Drawn]:
    sets: dict[str, dict[str, Mapping[str, Any]]] = {}
    for axis, choices in table.product.items():
        _check_name(axis, f"{where}.product.{axis}")
        if not choices:
            raise UserError(f"{where}.product.{axis}: has no choices; write [{SERIES}.product.{axis}.NAME]")
        sets[axis] = {}
        for choice, entry in choices.items():
            place = f"{where}.product.{axis}.{choice}"
            _check_name(choice, place)
            if TITLE in entry:
                raise UserError(f"{place}.{TITLE}: a choice has none; its name {choice!r} is shown")
            sets[axis][choice] = _values(entry, place)
    _check_apart(sets, where)
    for number, left in enumerate(table.leave_out):
        _check_combination(left, table.product, f"{where}.leave_out[{number}]")
    for combination in itertools.product(*(choices for choices in sets.values())):
        chosen = dict(zip(sets, combination, strict=True))
        if not any(all(chosen[axis] == choice for axis, choice in left.items()) for left in table.leave_out):
            values = {path: value for axis, choice in chosen.items() for path, value in sets[axis][choice].items()}
            yield values, chosen, None


def _filled(members: Iterator[Drawn], shared: Table, where: str) -> Iterator[Drawn]:
    """The members with their choices in the place of `{axis}` in places, of the shared tables, too."""
    written = {f"run.{path}": text for path, text in flatten(_table_of(shared, "run")).items()}
    for values, choices, title in members:
        own = dict(values)
        for path in FILLED:
            text = own.get(path, written.get(path))
            if isinstance(text, str) and _BRACES.search(text):
                own[path] = _filled_text(text, choices, f"{where}: {path} = {received(text)}")
        yield own, choices, title


def _filled_text(text: str, choices: Mapping[str, str], where: str) -> str:
    strange = next((axis for axis in _BRACES.findall(text) if axis not in choices), None)
    if strange is not None:
        raise UserError(f"{where}: {{{strange}}} is no axis of the series{nearest(strange, choices)}")
    return _BRACES.sub(lambda match: choices[match[1]], text)


def _table_of(tables: Table, name: str) -> Mapping[str, Any]:
    table = tables.get(name, {})
    return table if isinstance(table, Mapping) else {}


def _check_apart(sets: Mapping[str, Mapping[str, Mapping[str, Any]]], where: str) -> None:
    """No two axes set the same path, or a path and what lies below it: one of them would have no effect."""
    every = [
        (axis, choice, path) for axis, choices in sets.items() for choice, values in choices.items() for path in values
    ]
    for (axis, choice, path), (other, second, below) in itertools.permutations(every, 2):
        if axis != other and f"{below}.".startswith(f"{path}."):
            raise UserError(
                f"{where}.product.{axis}.{choice}: {path} is set by {other}.{second}, too; let one axis set it"
            )


def _check_combination(left: Mapping[str, str], product: Mapping[str, Mapping[str, object]], where: str) -> None:
    if not left:
        raise UserError(f"{where} = {{}}: leaves every member out; name a choice")
    for axis, choice in left.items():
        if axis not in product:
            raise UserError(f"{where}.{axis} = {received(choice)}: no axis of the product{nearest(axis, product)}")
        if choice not in product[axis]:
            raise UserError(f"{where}.{axis} = {received(choice)}: no such choice{nearest(choice, product[axis])}")


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: {received(name)} is no name; it has letters, digits, '_', '-' and '+', 64 at most")


def _title(entry: Mapping[str, Any], where: str) -> str | None:
    title = entry.get(TITLE)
    if title is not None and (not isinstance(title, str) or not title.strip() or len(title) > 80):
        raise UserError(f"{where}.{TITLE} = {received(title)}: write a text of 1 to 80 characters")
    return title


def _values(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a member sets by path: a key with dots is a path, a table under another key is taken apart into paths."""
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key == TITLE:
            continue
        if "." in key:
            inner = {key: value}
        elif isinstance(value, Mapping):
            inner = flatten(value, f"{key}.")
        else:
            raise UserError(f'{where}.{key} = {received(value)}: no path of a study file; write "run.{key}" = ...')
        for path, one in inner.items():
            if not all(path.split(".")):
                raise UserError(f"{where}.{path} = {received(one)}: a dotted path has an empty part")
            if path in values:
                raise UserError(f"{where}.{path} = {received(one)}: given twice; keep one")
            values[path] = one
    return values


def _paths_of(entry: Mapping[str, Any]) -> Sequence[str]:
    return list(_values(entry, ""))
