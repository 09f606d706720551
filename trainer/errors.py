"""Mistakes of the user as one line: file and field, the value received, what is known and nearest. Free of torch."""

import errno
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from models.config import Frozen
from models.nearest import nearest as listed

SECRET_PARAMETERS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
"""What only the database may see of a URL's query, and of a list `key=value` as libpq reads it."""
_IN_URL = re.compile(r"(?<![\w+.-])(?!(?:sqlite|file)\b)([\w+.-]+)://(\S*)@")
_SECRET = "|".join(SECRET_PARAMETERS)
_IN_QUERY = re.compile(rf"([?&]\w*(?:{_SECRET})=)[^\s&]*", re.IGNORECASE)
_IN_LIST = re.compile(
    rf"""((?<![?&\w])\w*(?:{_SECRET})[ \t]*=[ \t]*)(?:\\?(['"])(?:\\.|(?!\2).)*(?:\2|$)|\S+)""",
    re.IGNORECASE | re.DOTALL,
)
SHOWN = 80
"""Characters of a received value that a message repeats."""


class UserError(Exception):
    """A mistake of the user, in one line; a command that meets one ends with exit code 2."""


def on_stderr(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr)


def one_line(error: Exception | str) -> str:
    """An error's message without line breaks, and without the passwords in it."""
    return without_passwords(" ".join(str(error).split()))


def without_passwords(text: str) -> str:
    """A text in which `***` stands for all that may be a password.

    In a URL that is what lies between the first colon behind `//` and the last `@` of the word; all before that `@`
    where no plain name stands before the colon, or no colon is there (a token), but for the user of a PostgreSQL.
    In a query, and in a list `key=value`, it is the value of each of `SECRET_PARAMETERS`: in a list in quotes up to the
    closing one, or to the end of the text where that is cut off; without quotes up to the next white space.
    """
    return _IN_URL.sub(_hidden, _IN_LIST.sub(r"\1***", _IN_QUERY.sub(r"\1***", text)))


def _hidden(url: re.Match[str]) -> str:
    scheme, inside = url.groups()
    user, colon, _ = inside.partition(":")
    if "@" in user or "/" in user:
        return f"{scheme}://***@"
    if colon:
        return f"{scheme}://{user}:***@"
    return url[0] if scheme.startswith("postgres") else f"{scheme}://***@"


def nearest(name: str, known: Iterable[str]) -> str:
    """`; known: a, b; nearest: a` for a name that is none of them, to be put behind a message; sorted."""
    return listed(name, sorted(set(known)))


_IN_THE_WAY = {
    errno.EEXIST: "a file is where a folder is needed",
    errno.ENOTDIR: "a file is where a folder is needed",
    errno.EISDIR: "a folder is where a file is needed",
}


def refusal_text(error: OSError) -> str:
    """Why the system refuses a place, in its own words but where they do not say what is in the way ("File exists")."""
    return _IN_THE_WAY.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def counted(number: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`: a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def received(value: object) -> str:
    """A value as a message shows it, its passwords hidden before it is cut: half a URL is not known as one. Dates are
    shown as TOML writes them."""
    text = without_passwords(str(value) if isinstance(value, date | time) else repr(value))
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


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


class DataError(Exception):
    """A data set that cannot be used, in one line: which file or field, what it holds, what is expected, the remedy."""


class CheckpointError(Exception):
    """A file that cannot be used, in one line: which, what it holds, what is expected, the remedy."""
