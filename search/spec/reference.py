"""`python -m search.spec.reference`: write docs/study-file.md from the models that read a study file, so that it cannot
go stale.

`--check` writes nothing and ends with 1 where the file is not what would be written.
"""

import ast
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from losses import LOSSES
from losses.config import NEEDS_TEACHER, ONE_LABEL, LossTerms
from losses.ranges import RANGES
from models import MODELS
from search.exit_codes import EXIT_CODES
from search.pruners import PRUNERS
from search.samplers import PLACES, SAMPLERS
from search.spec.config import ArmEntry, StudyTables
from search.spec.load import load
from search.spec.proposals import pruner_notes, sampler_notes
from search.spec.reference_examples import (
    ABLE_IN,
    ABLE_SETTINGS,
    ABLE_STUDY,
    EXAMPLES,
    INTRODUCTION,
    NOTES,
    SPACE_KEYS,
)
from trainer.cli.entry import guard
from trainer.cli.parser import CommandLine
from trainer.config import RunConfig
from trainer.config_paths import variants
from trainer.data import DATASETS
from trainer.data.augment import PRESETS
from trainer.errors import UserError
from trainer.repository import REPOSITORY

PAGE = REPOSITORY / "docs" / "study-file.md"
_LISTS = ("enqueue", "arms")
"""Tables that are written as [[name]], one for each entry."""
HEADS = ("key", "type", "default", "range", "meaning")


def page() -> str:
    """The whole page, Markdown."""
    blocks = [INTRODUCTION, _fence(EXAMPLES["whole"]), "## The tables", _rows(("table", "what it says"), _overview())]
    for key, field in StudyTables.model_fields.items():
        blocks += list(_section(key, field.annotation, field.description or ""))
    blocks += ["## Names", NOTES["names"], *_names()]
    codes = [(f"`{code}`", meaning) for code, meaning in EXIT_CODES.items()]
    blocks += ["## Exit codes", "Of all commands and of the workers.", _rows(("code", "meaning"), codes)]
    return "\n\n".join(block.strip("\n") for block in blocks) + "\n"


def _overview() -> Iterator[tuple[str, str]]:
    for key, field in StudyTables.model_fields.items():
        need = " **Required.**" if field.is_required() else ""
        yield f"[`{_title(key)}`](#{key})", f"{_sentence(field.description or '')}{need}"


def _section(key: str, annotation: object, meaning: str) -> Iterator[str]:
    """One table of the file with everything below it."""
    yield f'## <a id="{key}"></a>`{_title(key)}`'
    yield f"{_sentence(meaning)} {NOTES.get(key, '')}".strip()
    if key in EXAMPLES:
        yield _fence(EXAMPLES[key])
    if key == "space":
        yield _rows(("key", "type", "meaning"), SPACE_KEYS)
    elif key == "run":
        yield from _tables("run", [RunConfig])
    elif key == "arms":
        yield _rows(HEADS, _keys(ArmEntry))
    elif key not in ("teach", "enqueue"):
        yield from _tables(key, variants(annotation))


def _tables(path: str, models: Sequence[type[BaseModel]]) -> Iterator[str]:
    """The keys of a table, one listing for each of its variants, then the tables in it."""
    inner: dict[str, list[type[BaseModel]]] = {}
    for model in models:
        names = get_args(model.model_fields["name"].annotation) if "name" in model.model_fields else ()
        if len(models) > 1:
            which = f" with `name` = {' or '.join(f'`{name}`' for name in names)}" if names else ""
            yield f"**`{_title(path)}`{which}.** {_first(model.__doc__)}"
        rows = list(_keys(model, names if len(models) > 1 else ()))
        if rows:
            yield _rows(HEADS, rows)
        for key, field in model.model_fields.items():
            below = inner.setdefault(f"{path}.{field.alias or key}", [])
            below += [one for one in variants(field.annotation) if one not in below]
    for place, below in inner.items():
        below = [one for one in below if one.model_fields]
        if below:
            yield f"### `[{place}]`"
            if place in NOTES:
                yield NOTES[place]
            if place in EXAMPLES:
                yield _fence(EXAMPLES[place])
            yield from _losses() if below == [LossTerms] else _tables(place, below)


def _keys(model: type[BaseModel], names: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
    """A row for each key: name, type, default, range, meaning. names: of this variant, told before."""
    schema = model.model_json_schema(by_alias=True)
    for key, entry in schema.get("properties", {}).items():
        if key == "name" and names:
            continue
        required = key in schema.get("required", ())
        default = "**required**" if required else _default(entry.get("default"))
        yield f"`{key}`", _kind(entry), default, _range(entry), entry.get("description", "")


def _losses() -> Iterator[str]:
    """All terms in one listing: their options are few and alike."""
    terms = LossTerms.model_fields.items()
    what = [
        (
            f"`{field.alias or key}`",
            "yes" if (field.alias or key) in NEEDS_TEACHER else "",
            "classes" if (field.alias or key) in ONE_LABEL else "classes, regions",
            field.description or "",
        )
        for key, field in terms
    ]
    yield _rows(("term", "needs a teacher", "of", "what it is"), what)
    rows = [
        (f"`{field.alias or key}`", *row)
        for key, field in terms
        for model in variants(field.annotation)
        for row in _keys(model)
    ]
    yield "Their options:"
    yield _rows(("term", *HEADS), rows)
    yield f'#### <a id="ranges"></a>Published values and ranges\n\n{NOTES["ranges"]}'
    yield _rows(("term", "option", "left out", "published", "range", "source"), _ranges())


def _ranges() -> Iterator[tuple[str, ...]]:
    """Every option that has a published value or a range, with what it is where a file leaves it out."""
    models = {field.alias or key: variants(field.annotation)[0] for key, field in LossTerms.model_fields.items()}
    for term, options in RANGES.items():
        for option, values in options.items():
            field = models[term].model_fields[option]
            log = ", log" if values.log else ""
            drawn = "" if values.low is None else f"{_default(values.low)} to {_default(values.high)}{log}"
            choices = ", ".join(_default(choice) for choice in values.choices)
            yield (
                f"`{term}`", f"`{option}`", _default(field.default), _default(values.published), choices or drawn,
                values.source,
            )  # fmt: skip


def _names() -> Iterator[str]:
    """What the literal tables of the program hold, with the first sentence of the file behind each name."""
    yield from _listing("Networks", ((name, _behind(place)) for name, place in MODELS.items()))
    yield from _listing("Losses", ((name, _module(place)) for name, place in LOSSES.items()))
    settings = dict(_named(variants(RunConfig.model_fields["data"].annotation)))
    yield from _listing("Data sets", ((name, settings[name]) for name in DATASETS))
    yield from _listing("Augmentation presets", ((name, _first(made.__doc__)) for name, made in PRESETS.items()))
    for title, table, key in (("Samplers", {**SAMPLERS, **PLACES}, "sampler"), ("Pruners", PRUNERS, "pruner")):
        described = dict(_named(variants(StudyTables.model_fields[key].annotation)))
        yield from _listing(title, ((name, described[name]) for name in table))
    yield f'### <a id="able"></a>What each sampler and pruner can do\n\n{NOTES["able"]}'
    yield _rows(("name", *ABLE_IN), _abilities("sampler", sorted({**SAMPLERS, **PLACES})))
    yield _rows(("name", *ABLE_IN), _abilities("pruner", sorted({*PRUNERS, "wilcoxon"} - {"none"})))


def _abilities(kind: str, names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    for name in names:
        yield f"`{name}`", *(ability(kind, name, feature) for feature in ABLE_IN)


def able_study(kind: str, name: str, feature: str) -> str:
    """The study in which a sampler or pruner, by `kind`, is tried with a feature of ABLE_IN."""
    chosen = {"sampler": 'name = "random"', "pruner": 'name = "none"'}
    chosen[kind] = f'name = "{name}"\n{ABLE_SETTINGS.get(name, "")}'
    return ABLE_STUDY.replace("SAMPLER", chosen["sampler"]).replace("PRUNER", chosen["pruner"]) + ABLE_IN[feature]


def ability(kind: str, name: str, feature: str) -> str:
    """What reading such a study says: `works`, `refused: ...`, or `warned: ...` with what `validate` says of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "able.toml"
        notes = {}
        for each in (feature, "several workers") if ABLE_IN[feature] else (feature,):
            path.write_text(able_study(kind, name, each))
            try:
                spec = load(path)
            except UserError as error:
                return f"refused: {str(error).rpartition(f'{kind}.name = {name!r}: ')[2].rpartition(f': {kind}: ')[2]}"
            lines = [*sampler_notes(spec.main), *pruner_notes(spec.main, maximize=True)]
            notes[each] = [note.partition(f"{kind} {name} ")[2] for note in lines]
    more = [note for note in notes[feature] if note not in notes.get("several workers", notes[feature])]
    return f"warned: {'; '.join(more)}" if more else "works"


def _named(models: Iterable[type[BaseModel]]) -> Iterator[tuple[str, str]]:
    """Each name that a variant may have, with the variant's sentence."""
    for model in models:
        for name in get_args(model.model_fields["name"].annotation):
            yield name, _first(model.__doc__)


def _listing(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"### {title}"
    yield _rows(("name", "what it is"), [(f"`{name}`", text) for name, text in rows])


def _behind(place: str) -> str:
    """What a network is: its file says it, or its class where several share a file."""
    module, _, name = place.partition(":")
    if sum(other.partition(":")[0] == module for other in MODELS.values()) == 1:
        return _module(place)
    tree = ast.parse((REPOSITORY / f"{module.replace('.', '/')}.py").read_text())
    return next(_first(ast.get_docstring(n)) for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def _module(place: str) -> str:
    """The first paragraph of a module's docstring, read without importing it."""
    path = REPOSITORY / f"{place.partition(':')[0].replace('.', '/')}.py"
    return _first(ast.get_docstring(ast.parse(path.read_text())))


def _kind(entry: Mapping[str, Any]) -> str:
    """A JSON schema's type in words."""
    several = [one for one in entry.get("anyOf", entry.get("oneOf", [])) if one.get("type") != "null"]
    if several and not all("$ref" in one for one in several):
        return " or ".join(dict.fromkeys(_kind(one) for one in several))
    values = entry.get("enum", [entry["const"]] if "const" in entry else [])
    if values:
        return ", ".join(f'`"{value}"`' for value in values)
    if entry.get("type") == "array":
        if "prefixItems" in entry:
            kinds = list(dict.fromkeys(map(_kind, entry["prefixItems"])))
            return f"{len(entry['prefixItems'])} {' or '.join(f'{kind}s' for kind in kinds)}"
        inside = entry.get("items", {})
        if "anyOf" in inside:
            kinds = ["pair" if one.get("type") == "array" else _kind(one) for one in inside["anyOf"]]
            return f"list of {' or '.join(f'{kind}s' for kind in kinds)}"
        if inside.get("type") == "array":
            return "list of pairs"
        return (
            f"list of {_kind(inside)}s" if inside.get("type") in ("integer", "number", "string") else "list of tables"
        )
    plain = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return plain.get(entry.get("type", ""), "table")


def _default(value: object) -> str:
    """A default as the file would say it; a table by its name."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return f'`name = "{value["name"]}"`' if "name" in value else "its own defaults"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _range(entry: Mapping[str, Any]) -> str:
    """A JSON schema's bounds in words."""
    for one in entry.get("anyOf", ()):
        if text := _range(one):
            return text
    if "prefixItems" in entry:  # its length stands in the type
        each = _range(entry["prefixItems"][0])
        return each and f"each {each}"
    return ", ".join(_bounds(entry))


def _bounds(entry: Mapping[str, Any]) -> list[str]:
    whole = entry.get("type") == "integer"
    bounds: list[str] = []
    if "exclusiveMinimum" in entry:
        low = entry["exclusiveMinimum"]
        bounds.append(f"at least {low + 1}" if whole else f"above {low:g}")
    if "minimum" in entry:
        bounds.append(f"at least {_figure(entry['minimum'])}")
    if "exclusiveMaximum" in entry:
        bounds.append(f"below {_figure(entry['exclusiveMaximum'])}")
    if "maximum" in entry:
        bounds.append(f"at most {_figure(entry['maximum'])}")
    if "minItems" in entry:
        bounds.append(f"at least {entry['minItems']} of them")
    if "maxItems" in entry:
        bounds.append(f"at most {entry['maxItems']} of them")
    inside = entry.get("items", {})
    if inside.get("type") in ("integer", "number") and (each := _range(inside)):
        bounds.append(f"each {each}")
    return bounds


def _figure(bound: float) -> str:
    """A bound as a person writes it."""
    if isinstance(bound, int):
        return f"2**{bound.bit_length() - 1}" if bound >= 2**32 and not bound & (bound - 1) else str(bound)
    return f"{bound:g}".replace("e+0", "e").replace("e+", "e")


def _rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns in which nothing stands are left out."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    kept = [at for at in range(len(heads)) if any(row[at] for row in escaped)]
    lines = [[heads[at] for at in kept], ["---"] * len(kept), *([row[at] for at in kept] for row in escaped)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _title(path: str) -> str:
    return f"[[{path}]]" if path in _LISTS else f"[{path}]"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _first(doc: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((doc or "").split("\n\n")[0].split())


def _fence(code: str) -> str:
    return f"```toml\n{code.strip()}\n```"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or say whether it is stale."""
    parser = CommandLine(
        prog="python -m search.spec.reference", description=__doc__, epilog="example: python -m search.spec.reference"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the page is stale")
    args = parser.parse_args(arguments)
    text = page()
    if args.check:
        stale = not PAGE.is_file() or PAGE.read_text() != text
        print(f"{PAGE}: {'stale; write it with: python -m search.spec.reference' if stale else 'as the models say'}")
        return int(stale)
    try:
        PAGE.write_text(text)
    except OSError as error:
        raise UserError(f"{PAGE}: {error.strerror}; the page is written in the repository") from None
    print(f"{PAGE}  {len(text.splitlines())} lines")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
