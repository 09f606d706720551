"""Tables as people write them: TOML text, and dotted paths in and out of nested tables, on the command line (`--set`)
and as a configuration knows them."""

import re
import tomllib
import types
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.errors import UserError, nearest, received

Table = dict[str, Any]

_PLACE = re.compile(r"\(at line (\d+), column \d+\)")
_TWICE = ("Cannot overwrite", "Cannot declare", "Cannot mutate", "Duplicate")
"""How tomllib's messages begin for what is there already."""


def text_of(content: bytes, where: str) -> str:
    """A file's bytes as text, without the byte order mark that some editors put before it. Raises UserError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise UserError(f"{where}: is UTF-16 and no UTF-8; save the file as UTF-8") from None
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}: byte {error.start}, in line {line}, is no UTF-8; save the file as UTF-8") from None


def toml_table(text: str, where: str) -> Table:
    """The tables of a TOML text. Raises UserError, with the line that is wrong; RecursionError."""
    try:
        return tomllib.loads(text)
    except ValueError as error:  # also of a number of thousands of digits
        place = _PLACE.search(str(error))
        lines = text.splitlines()
        number = int(place[1]) if place else len(lines) if "at end of document" in str(error) else 0
        line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        twice = " is given twice; keep one" if str(error).startswith(_TWICE) else ""
        raise UserError(f"{where}: not TOML: {error}{line and f': {received(line)}{twice}'}") from error


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as {dotted path: value}; lists and empty tables are values."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def nest(table: Mapping[str, Any], where: str) -> Table:
    """The same values as nested tables only: a key with dots is taken apart. A value that is given twice is refused."""
    nested: Table = {}
    for key, value in table.items():
        _put(nested, key.split("."), nest(value, where) if isinstance(value, Mapping) else value, f"{where}{key}")
    return nested


def _put(table: Table, steps: list[str], value: object, where: str) -> None:
    if not all(steps):
        raise UserError(f"{where}: a dotted path has an empty part")
    for step in steps[:-1]:
        table = table.setdefault(step, {})
        if not isinstance(table, dict):
            raise UserError(f"{where} = {received(value)}: {step} is a value already; give each path once")
    last = steps[-1]
    if isinstance(value, dict) and isinstance(table.get(last), dict):
        for key, inner in value.items():
            _put(table[last], [key], inner, f"{where}.{key}")
    elif last in table:
        raise UserError(f"{where} = {received(value)}: given twice; keep one")
    else:
        table[last] = value


def setting(text: str) -> tuple[str, Any]:
    """Path and value of `--set PATH=VALUE`; the value as TOML writes it, a bare word is a text. Raises UserError."""
    path, equals, value = text.partition("=")
    steps, value = [step.strip() for step in path.split(".")], value.strip()
    if not equals or not all(steps):
        raise UserError(f"--set {text}: write PATH=VALUE, such as run.epochs=5")
    path = ".".join(steps)
    if "\n" in value or "\r" in value:
        raise UserError(f"--set {path}={received(value)}: one value on one line")
    try:
        return path, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        if value and not any(c in value for c in "\"'[]{}#=,"):
            return path, value
        raise UserError(f"--set {text}: {received(value)} is no TOML value; quote a text, such as '\"kl\"'") from None


def replace(
    model: type[BaseModel], table: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[Table, tuple[str, ...]]:
    """A copy of a nested table with each dotted path set, and the paths that went away.

    Where `values` changes the `name` of a table, entries that the new name does not take leave the table.
    """
    copy = _copied(table)
    dropped: list[str] = []
    for path, value in values.items():
        parent, _, last = path.rpartition(".")
        inner = copy
        for step in parent.split(".") if parent else ():
            below = inner.get(step)
            if not isinstance(below, dict):
                below = inner[step] = {}
            inner = below
        taken = takes(model, parent, value) if last == "name" and isinstance(value, str) else None
        if taken is not None and inner.get("name") != value:
            gone = [key for key in inner if key not in taken and f"{parent}.{key}" not in values]
            dropped += [f"{parent}.{key}" for key in gone]
            for key in gone:
                del inner[key]
        inner[last] = _copied(value) if isinstance(value, Mapping) else value
    return copy, tuple(dropped)


def _copied(table: Mapping[str, Any]) -> Table:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in table.items()}


@cache
def known_paths(model: type[BaseModel]) -> frozenset[str]:
    """The dotted path of every value in a configuration, over all variants of its tables; by alias, as files say it."""
    return frozenset(_paths(model))


@cache
def takes(model: type[BaseModel], path: str, name: str) -> frozenset[str] | None:
    """The keys of the table at `path` when its `name` is this one; None where no variant of the table has that name.

    What the name itself stands for (`PRESETS` of the variant) is none of them.
    """
    for variant in _at(model, path):
        if "name" in variant.model_fields and name in get_args(variant.model_fields["name"].annotation):
            presets: Mapping[str, Mapping[str, object]] = getattr(variant, "PRESETS", {})
            return frozenset(_keys(variant)) - presets.get(name, {}).keys()
    return None


@cache
def names_of(model: type[BaseModel], path: str) -> frozenset[str]:
    """The names that the table at `path` may have; empty where it is no table with variants."""
    variants = [v for v in _at(model, path) if "name" in v.model_fields]
    return frozenset(str(name) for v in variants for name in get_args(v.model_fields["name"].annotation))


def unknown_path(model: type[BaseModel], path: str) -> str:
    """Why a dotted path is no value of a configuration, with what is known at the place where it goes wrong."""
    steps = path.split(".")
    for i, step in enumerate(steps):
        above = ".".join(steps[:i])
        known = {key for variant in _at(model, above) for key in _keys(variant)}
        if not known:
            return f"{above} is a single value and has no {step!r}; name {above} itself"
        if step not in known:
            return f"unknown path: {above or '[run]'} has no {step!r}{nearest(step, known)}"
    below = {key for variant in _at(model, path) for key in _keys(variant)}
    return f"{path} is a table{nearest('', below)}; name one of its values"


def _at(model: type[BaseModel], path: str) -> list[type[BaseModel]]:
    here = [model]
    for step in path.split(".") if path else ():
        here = [variant for m in here if step in (keys := _keys(m)) for variant in variants(keys[step])]
    return here


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in _keys(model).items():
        below = variants(field)
        if not below:
            yield f"{prefix}{key}"
        for variant in below:
            yield from _paths(variant, f"{prefix}{key}.")


def _keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def variants(annotation: object) -> list[type[BaseModel]]:
    """The tables that an annotation allows; empty for a plain value."""
    if isinstance(annotation, FieldInfo):
        return variants(annotation.annotation)
    if get_origin(annotation) is Annotated:
        return variants(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [variant for part in get_args(annotation) for variant in variants(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
