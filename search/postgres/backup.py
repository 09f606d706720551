"""A search's database as one file, taken while workers run, and put back into a database without a search.

PostgreSQL: a dump of one snapshot by its own `pg_dump`; SQLite: a copy by SQLite's backup interface. A backup is
written beside, private, checked by reading it whole, and renamed; its studies and trials are counted in the file.
"""

import contextlib
import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from loguru import logger

from search.postgres.binaries import CLIENT, REMEDY, Binaries, usable
from search.storage import schema
from search.storage.database import OptunaTables, bare_engine, creation_lock
from search.storage.url import label_of
from trainer.atomic_files import halves
from trainer.errors import SECRET_PARAMETERS, UserError, one_line, refusal_text

COUNTED = ("studies", "trials")
DUMP, SQLITE = b"PGDMP", b"SQLite format 3\x00"
"""How files begin."""
SMALL_BYTES = 2**24
"""A SQLite file up to this size is copied in one go, so that writers cannot make the copy begin anew."""
TELL_SECONDS = 10.0
"""How often a long dump says how far it is."""


@dataclass(frozen=True)
class RowCounts:
    """What a database or a backup holds."""

    studies: int
    trials: int

    def __str__(self) -> str:
        return f"{self.studies} studies, {self.trials} trials"


def backup(url: str, target: Path, bin_folder: Path | None, *, force: bool = False) -> RowCounts:
    """Write a backup of a database to a file; one that exists is replaced with `force` alone. Raises UserError."""
    if target.is_dir():
        raise UserError(f"--output {target}: a folder; name a file in it")
    if target.exists() and not force:
        raise UserError(f"--output {target}: exists, and may be the only backup; name another file, or give --force")
    if not target.absolute().parent.is_dir():
        raise UserError(f"--output {target}: the folder {target.absolute().parent} does not exist; create it first")
    engine = bare_engine(url)
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
        raise UserError(f"storage: {label_of(url)}: no such file; give --storage or OPTUNA_STORAGE as the workers had")
    if not _holds(engine):
        raise UserError(f"storage: {label_of(url)} holds no study; there is nothing to back up")
    for rest in halves(target):
        logger.warning("{}: half a backup, of a command that was killed or still runs; it may be removed", rest)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        counts = (_copy if engine.dialect.name == "sqlite" else _dump)(engine, beside, bin_folder)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(target)
    except OSError as error:
        raise UserError(f"--output {target}: cannot be written ({refusal_text(error)})") from None
    finally:
        beside.unlink(missing_ok=True)
    return counts


def restore(file: Path, url: str, bin_folder: Path | None) -> RowCounts:
    """Put a backup into a database that holds no study and nothing of others. Raises UserError."""
    kind = _kind(file)
    engine = bare_engine(url)
    label = label_of(url)
    if kind != engine.dialect.name:
        raise UserError(f"{file}: a backup of {kind} cannot go into {label}; give --storage of the same kind")
    with creation_lock(url):
        _check_empty(engine, label)
        held = (_fill_sqlite if kind == "sqlite" else _fill_postgres)(file, engine, bin_folder)
        with engine.connect() as connection:
            put_back = _count(connection)
    if put_back != held:
        raise UserError(f"{label} holds {put_back} after the restore, and {file} {held}; restore into another database")
    return put_back


def _kind(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            head = opened.read(16)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if head.startswith(DUMP):
        return "postgresql"
    if head.startswith(SQLITE):
        return "sqlite"
    raise UserError(f"{file}: no backup; known: files that `python -m search db backup` wrote")


def _holds(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return bool(sa.inspect(connection).has_table("studies"))


def _count(connection: sa.Connection) -> RowCounts:
    return RowCounts(
        *(connection.execute(sa.select(sa.func.count()).select_from(sa.table(t))).scalar_one() for t in COUNTED)
    )


def _check_empty(engine: sa.Engine, label: str) -> None:
    """What a restore would overwrite: empty tables of ours may go, anything else may not."""
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
        return  # to look at it would make it
    with engine.connect() as connection:
        tables = set(sa.inspect(connection).get_table_names())
        strangers = sorted(tables - OptunaTables.names() - set(schema.metadata.tables))
        if strangers:
            raise UserError(
                f"{label} holds tables of something else ({strangers[0]}); restore into a database of its own"
            )
        if "studies" not in tables:
            return
        counts = _count(connection)
        names = connection.execute(sa.text("SELECT study_name FROM studies ORDER BY study_id")).scalars().all()
    if counts.studies:
        shown = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(f"{label} holds {counts} already ({shown}); restore into a database without a search")


# ---- SQLite


def _copy(engine: sa.Engine, target: Path, _bin: Path | None) -> RowCounts:
    _sqlite_pages(Path(engine.url.database or ""), target)
    return _checked_sqlite(target)


def _fill_sqlite(file: Path, engine: sa.Engine, _bin: Path | None) -> RowCounts:
    held = _checked_sqlite(file)
    _sqlite_pages(file, Path(engine.url.database or ""))
    return held


def _sqlite_pages(source: Path, target: Path) -> None:
    """Copy a whole database; the copy replaces the target's contents in one transaction of SQLite's."""
    printed_at = time.monotonic()

    def tell(_status: int, left: int, total: int) -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at > TELL_SECONDS:
            printed_at = time.monotonic()
            logger.info("{}: {:.0%} copied", target.name, 1 - left / total)

    readable = f"{source.absolute().as_uri()}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(readable, uri=True, timeout=30)) as old,
        contextlib.closing(sqlite3.connect(target, timeout=30)) as new,
    ):
        old.backup(new, pages=-1 if source.stat().st_size < SMALL_BYTES else 4096, progress=tell)
        new.execute("PRAGMA journal_mode=DELETE")  # one file, without companions


def _checked_sqlite(file: Path) -> RowCounts:
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as opened:
            verdict = opened.execute("PRAGMA integrity_check").fetchone()[0]
            if verdict != "ok":
                raise UserError(f"{file}: damaged: {one_line(verdict)}")
            studies = opened.execute("SELECT count(*) FROM studies").fetchone()[0]
            trials = opened.execute("SELECT count(*) FROM trials").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise UserError(f"{file}: damaged: {one_line(error)}") from None
    return RowCounts(studies, trials)


# ---- PostgreSQL


def _dump(engine: sa.Engine, target: Path, bin_folder: Path | None) -> RowCounts:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        programs = _client(usable(bin_folder, CLIENT), _major(connection))
        # The dump reads the very snapshot in which the rows are counted.
        snapshot = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
        counts = _count(connection)
        options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}", f"--file={target}"]
        _work([programs.path("pg_dump"), *options], engine.url, target)
    held = _rows(target, programs)
    if held != counts:
        raise UserError(f"{target.name}: holds {held}, and the database {counts}; repeat the backup")
    return counts


def _client(binaries: Sequence[Binaries], server: int) -> Binaries:
    """The oldest client that knows the server: what it writes, most servers can read."""
    fitting = [b for b in binaries if b.major >= server]
    if not fitting:
        known = ", ".join(str(b) for b in binaries)
        raise UserError(f"pg_dump must not be older than the server, which is {server}; found here: {known}; {REMEDY}")
    return min(fitting, key=lambda b: b.major)


def _fill_postgres(file: Path, engine: sa.Engine, bin_folder: Path | None) -> RowCounts:
    with engine.connect() as connection:
        server = _major(connection)
    # A newer client writes settings that an older server does not know; an older client cannot read a newer file.
    programs = min(usable(bin_folder, CLIENT), key=lambda b: (b.major < server, abs(b.major - server)))
    held = _rows(file, programs)
    options = ["--single-transaction", "--exit-on-error", "--clean", "--if-exists", "--no-owner", "--no-privileges"]
    _work([programs.path("pg_restore"), *options, str(file)], engine.url, None)
    return held


def _major(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10000


def _rows(file: Path, programs: Binaries) -> RowCounts:
    """Read a dump whole, as the script that it stands for, and count the rows of interest."""
    counts = dict.fromkeys(COUNTED, 0)
    table: str | None = None
    with _error_output() as errors:
        command = [programs.path("pg_restore"), "--file=-", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors.fileno()) as reader:
            assert reader.stdout is not None  # noqa: S101 - a pipe was asked for
            for line in reader.stdout:
                if table is None:
                    parts = line.split(maxsplit=2)
                    table = parts[1].decode().rpartition(".")[2] if parts[:1] == [b"COPY"] else None
                elif line == b"\\.\n":
                    table = None
                elif table in counts:
                    counts[table] += 1
        if reader.returncode != 0:
            raise UserError(f"{file}: pg_restore {programs} cannot read it: {errors.last()}")
    return RowCounts(**counts)


def _work(program: Sequence[str], url: sa.URL, growing: Path | None) -> None:
    """Run a client program to its end, and say now and then how far it is. No secret is among its arguments."""
    environment = {k: v for k, v in os.environ.items() if k != "OPTUNA_STORAGE"}
    password = url.password if url.password is not None else url.query.get("password")
    if isinstance(password, str):
        environment["PGPASSWORD"] = password
    name = Path(program[0]).name
    with _error_output() as errors, without_secrets(url) as (conninfo, more):
        command = [program[0], f"--dbname={conninfo}", *program[1:]]
        process = subprocess.Popen(
            command, env={**environment, **more}, stdin=subprocess.DEVNULL, stderr=errors.fileno()
        )
        try:
            while True:
                try:
                    code = process.wait(TELL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    size = f": {growing.stat().st_size / 1e6:.1f} MB" if growing is not None else ""
                    logger.info("{} goes on{}", name, size)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if code != 0:
            raise UserError(f"{name} failed: {errors.last()}")


class _ErrorOutput:
    """What a program wrote to its standard error."""

    def __init__(self, file: "tempfile._TemporaryFileWrapper[bytes]") -> None:
        self._file = file

    def fileno(self) -> int:
        return self._file.fileno()

    def last(self) -> str:
        self._file.seek(0)
        lines = [line for line in self._file.read().decode(errors="replace").splitlines() if line.strip()]
        wrong = [line for line in lines if "rror:" in line or "FATAL" in line]
        return one_line((wrong or lines or ["no message"])[0])


@contextlib.contextmanager
def _error_output() -> Iterator[_ErrorOutput]:
    with tempfile.NamedTemporaryFile() as file:
        yield _ErrorOutput(file)


@contextmanager
def without_secrets(url: sa.URL) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL without secrets, for the arguments, and what the environment needs beside PGPASSWORD.

    The other secrets have no variable of their own, so they stand in a service file of mode 0600 as long as this lasts.
    Raises UserError where the URL names a service itself.
    """
    bare = url.difference_update_query(list(SECRET_PARAMETERS))._replace(drivername="postgresql", password=None)
    kept = {name: str(url.query[name]) for name in SECRET_PARAMETERS if name in url.query and name != "password"}
    if not kept:
        yield bare.render_as_string(hide_password=False), {}
        return
    first = next(iter(kept))
    if "service" in url.query:
        raise UserError(f"storage: {first} beside service: write the secret into the file of that service")
    if any("\n" in value for value in kept.values()):
        raise UserError(f"storage: {first} has several lines; no service file can hold it")
    with tempfile.NamedTemporaryFile("w", prefix="kd-service-") as file:  # of mode 0600
        file.write("".join(["[kd]\n", *(f"{name}={value}\n" for name, value in kept.items())]))
        file.flush()
        named = bare.update_query_dict({"service": "kd"})
        yield named.render_as_string(hide_password=False), {"PGSERVICEFILE": file.name}
