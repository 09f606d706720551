"""What a database already holds under a study's name; nothing is written, neither tables nor settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from search.storage import schema
from search.storage.database import Database, bare_engine
from search.storage.ownership import refuse_foreign
from search.storage.searches import SearchRow
from search.storage.url import DEFAULT, from_environment, label_of, storage_url
from trainer.errors import UserError, nearest, one_line


@dataclass(frozen=True)
class Stored:
    """The study of a name in one database."""

    label: str
    identity: str | None = None
    """The identity of the study; None where there is none, or where the database does not answer."""
    record: Mapping[str, Any] | None = None
    """What that identity was computed from."""
    why: str | None = None
    """Why the database could not be looked at."""
    refused: str | None = None
    """Why the study can't be in this database: somebody else's has its name, or that of an arm."""


def stored(given: str | None, name: str, studies: Sequence[str] = ()) -> Stored | None:
    """The study of that name in the database that a worker would use; None where none is named and the default file
    does not exist. studies: the names of all its Optuna studies.
    """
    if given is None and from_environment() is None and not DEFAULT.is_file():
        return None
    url = storage_url(given)
    label = label_of(url)
    file = _sqlite_file(url)
    if file is not None and not file.is_file():
        return Stored(label)
    readable = f"sqlite:///{file.absolute().as_uri()}?mode=ro&uri=true" if file is not None else None
    engine = bare_engine(url) if readable is None else sa.create_engine(readable, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            refuse_foreign(connection, label, [name, *studies])
            if not sa.inspect(connection).has_table(schema.searches.name):
                return Stored(label)
            columns = (schema.searches.c.identity, schema.searches.c.spec)
            row = connection.execute(sa.select(*columns).where(schema.searches.c.name == name)).one_or_none()
    except UserError as error:
        return Stored(label, refused=str(error))
    except sa.exc.SQLAlchemyError as error:
        return Stored(label, why=one_line(getattr(error, "orig", None) or error)[:160])
    finally:
        engine.dispose()
    return Stored(label) if row is None else Stored(label, row.identity, json.loads(row.spec))


def _sqlite_file(url: str) -> Path | None:
    parsed = sa.make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def refuse_others(opened: Database, names: Sequence[str]) -> None:
    """Raises UserError where somebody else's Optuna study has one of these names."""
    with opened.engine.begin() as connection:
        refuse_foreign(connection, opened.label, names)


def known_search(opened: Database, study: str, name: str | None = None) -> SearchRow:
    """The row of a search by its study's name or file, or by the name that the workers gave it. Raises UserError."""
    wanted = name or study
    wanted = Path(wanted).stem if wanted.endswith(".toml") else wanted
    return search_row(opened, wanted)


def search_row(opened: Database, name: str, *, remedy: str = "") -> SearchRow:
    """The row of the search with this name. Raises UserError, ending with `remedy`, where there is none."""
    row = opened.searches.search(name)
    arms = [] if row is None else opened.searches.arms_of(row.search_id)
    refuse_others(opened, [name, *(arm.study_name for arm in arms)])
    if row is None:
        known = nearest(name, opened.searches.names())
        raise UserError(f"study {name!r} is not in {opened.label}{known}{remedy and f'; {remedy}'}")
    return row
