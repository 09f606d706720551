"""What is wrong with a configuration, as one line: file and field, the value received, what is known and nearest."""

import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from models.config import Frozen
from trainer.errors import nearest, one_line, received


def explain(error: ValidationError, where: str, *, under: str = "", model: type[BaseModel] | None = None) -> str:
    """The first mistake of a validation in one line, an unknown key before all others, and how many more there are.

    where: the file (or other origin) that the values came from. under: the dotted path of the validated table in it,
    such as "run". model: the validated class; found by its name among the configurations where not given.
    """
    mistakes = error.errors(include_url=False)
    # A mistyped key is also missing under its right name: the key that is there says more.
    first = next((each for each in mistakes if each["type"] == "extra_forbidden"), mistakes[0])
    text = f"{where}: {_message(first, model or _model_named(error.title), under)}"
    return one_line(text if len(mistakes) == 1 else f"{text} (and {len(mistakes) - 1} more)")


def _message(detail: Mapping[str, Any], model: type[BaseModel] | None, under: str) -> str:
    steps, place = _walk(detail["loc"], model)
    path = ".".join([under, *steps] if under else steps)
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    known = re.findall(r"'([^']*)'", str(context.get("expected_tags", context.get("expected", ""))))
    if kind == "extra_forbidden":
        return f"{path} = {received(value)}: unknown key{nearest(steps[-1], _keys(place))}"
    if kind == "union_tag_invalid":
        tag = str(context["tag"])
        return f"{path}.{_plain(context['discriminator'])} = {tag!r}: unknown name{nearest(tag, known)}"
    if kind == "union_tag_not_found":
        field = _plain(context["discriminator"])
        return f"{path}.{field}: missing{nearest('', _tagged(_members(place), field))}"
    if kind == "missing":
        note = _note(place, steps[-1] if steps else "")
        return f"{path}: missing{f'; it is {note}' if note else ''}"
    if kind == "literal_error":
        return f"{path} = {received(value)}: not one of the choices{nearest(str(value), known)}"
    if kind == "value_error":
        return f"{path}: {context['error']}" if steps else ".".join(filter(None, [under, str(context["error"])]))
    message = str(detail["msg"])
    return f"{path} = {received(value)}: {message[:1].lower()}{message[1:]}" if path else message


def _walk(loc: Sequence[str | int], model: type[BaseModel] | None) -> tuple[list[str], Any]:
    """The dotted path as the file has it (without the names of union members that pydantic adds), and the type whose
    entry the last step is."""
    steps: list[str] = []
    here: Any = model
    place: Any = model
    for step in loc:
        members = list(_members(here))
        chosen = None if step in _keys(here) and len(members) == 1 else _member(members, step)
        if chosen is not None:
            here = place = chosen
            continue
        if step == "[key]":
            continue
        steps.append(str(step))
        place, here = here, _entry(members, step)
    return (steps, here) if here is not None else (steps, place)


def _members(kind: object) -> Iterator[Any]:
    """The types that a value may have, without None."""
    if isinstance(kind, FieldInfo):
        yield from _members(kind.annotation)
    elif get_origin(kind) is Annotated:
        yield from _members(get_args(kind)[0])
    elif get_origin(kind) in (Union, types.UnionType):
        for part in get_args(kind):
            yield from _members(part)
    elif kind is not None and kind is not types.NoneType:
        yield kind


def _member(members: Sequence[Any], step: str | int) -> object:
    """The member of a union that pydantic names in a location: by its tag, or by the name of its type."""
    if len(members) < 2:
        return None
    for field in ("name", "kind"):
        tagged = _tagged(members, field)
        if step in tagged:
            return tagged[str(step)]
    label = re.split(r"[\[(]", str(step))[0]
    return next((m for m in members if getattr(get_origin(m) or m, "__name__", "") == label), None)


def _tagged(members: Iterable[Any], field: str) -> dict[str, Any]:
    """Tag -> class for the members whose `field` is a literal."""
    classes = [m for m in members if _is_model(m) and field in m.model_fields]
    return {str(tag): c for c in classes for tag in get_args(c.model_fields[field].annotation)}


def _entry(members: Sequence[Any], step: str | int) -> object:
    """The type of one entry of a model, mapping or sequence; None where it has no such entry."""
    for kind in members:
        if _is_model(kind):
            for name, info in kind.model_fields.items():
                if step in (name, info.alias):
                    return info
        elif get_args(kind):
            inner = [a for a in get_args(kind) if a is not Ellipsis]
            return inner[-1]
    return None


def _keys(kind: object) -> list[str]:
    classes = [m for m in _members(kind) if _is_model(m)]
    return [info.alias or name for c in classes for name, info in c.model_fields.items()]


def _note(place: object, step: str) -> str:
    if isinstance(place, FieldInfo):
        return place.description or ""
    entry = _entry(list(_members(place)), step)
    return (entry.description or "") if isinstance(entry, FieldInfo) else ""


def _is_model(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _plain(quoted: str) -> str:
    return str(quoted).strip("'\"")


def _model_named(title: str) -> type[BaseModel] | None:
    waiting: list[type[BaseModel]] = [Frozen]
    while waiting:
        model = waiting.pop()
        if model.__name__ == title:
            return model
        waiting.extend(model.__subclasses__())
    return None
