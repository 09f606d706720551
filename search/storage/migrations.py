"""A database of an older version, brought to this program's: Optuna's tables by Optuna, our own by the steps below."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from loguru import logger

from search.storage import schema
from search.storage.database import NEWER, OptunaTables, bare_engine, creation_lock, open_storage, own_version
from search.storage.url import label_of
from trainer.errors import UserError


@dataclass(frozen=True)
class Step:
    """How tables of one version become those of the next."""

    what: str
    statements: tuple[str, ...]
    """For PostgreSQL and SQLite alike, run in one transaction with the change of the version's row."""


STEPS: Mapping[int, Step] = {
    1: Step("kd_search.noted: when the notes were last written", ("ALTER TABLE kd_search ADD COLUMN noted FLOAT",)),
    2: Step(
        "what confirmations leave: kd_opening, kd_finding, the hash of a trial's weights",
        (
            "ALTER TABLE kd_lease ADD COLUMN weights_sha256 VARCHAR(64)",
            "CREATE TABLE kd_opening (study VARCHAR(128) NOT NULL, uuid VARCHAR(32) NOT NULL, "
            "who VARCHAR(200) NOT NULL, opened FLOAT NOT NULL, purpose TEXT NOT NULL, configurations TEXT NOT NULL, "
            "PRIMARY KEY (study, uuid, who))",
            "CREATE TABLE kd_finding (uuid VARCHAR(32) NOT NULL, trial_id INTEGER NOT NULL, "
            "part VARCHAR(128) NOT NULL, record TEXT NOT NULL, PRIMARY KEY (uuid, trial_id, part))",
        ),
    ),
}
"""Version -> the step that leads from it to the next."""


def upgrade(url: str, *, create: bool = False) -> list[str]:
    """Bring the tables of a database to this program's version; returns what was done, nothing where nothing was due.

    create: make them where there are none; otherwise a database without tables is an error. Others that upgrade, or
    that create tables, wait. Workers may go on meanwhile: those of the older program fail with one line when they next
    open the database. Raises UserError, also for tables newer than this program; nothing was changed then.
    """
    if create and not _present(url):
        open_storage(url).engine.dispose()
        return ["tables made"]
    engine = bare_engine(url)
    label = label_of(url)
    if not _present(url):
        lacks = "no such file" if engine.dialect.name == "sqlite" else "it holds no study"
        raise UserError(f"storage: {label}: {lacks}, so nothing to upgrade; db upgrade --create makes the tables")
    with creation_lock(url):
        optuna = OptunaTables(url)
        with engine.connect() as connection:
            version = own_version(connection)
        _check_not_newer(label, optuna, version)
        done = []
        if optuna.older:
            done.append(f"Optuna's tables: {optuna.version} -> {optuna.wanted}")
            logger.info("{}: {}", label, done[-1])
            optuna.upgrade()
        for number in range(version or schema.VERSION, schema.VERSION):
            done.append(f"our tables: {number} -> {number + 1} ({STEPS[number].what})")
            logger.info("{}: {}", label, done[-1])
            _apply(engine, number)
    engine.dispose()
    return done


def _present(url: str) -> bool:
    engine = bare_engine(url)
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
        return False
    present = sa.inspect(engine).has_table("studies")
    engine.dispose()
    return present


def _check_not_newer(label: str, optuna: OptunaTables, version: int | None) -> None:
    if optuna.newer:
        raise UserError(
            f"storage: {label}: Optuna's tables are of version {optuna.version}, which this program's Optuna "
            f"({optuna.wanted}) does not know; {NEWER}"
        )
    if version is not None and version > schema.VERSION:
        raise UserError(
            f"storage: {label} holds tables of version {version}, newer than this program's {schema.VERSION}; {NEWER}"
        )


def _apply(engine: sa.Engine, version: int) -> None:
    row = schema.version_row
    with engine.begin() as connection:
        for statement in STEPS[version].statements:
            connection.exec_driver_sql(statement)
        changed = connection.execute(row.update().where(row.c.version == version).values(version=version + 1))
        if changed.rowcount != 1:
            raise RuntimeError(f"the version's row said {version} under the lock and does not any more")
