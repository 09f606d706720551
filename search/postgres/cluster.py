"""The making of a database cluster in a folder: PostgreSQL's own files, one role, one database, one password."""

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from loguru import logger

from search.postgres.address import NAME
from search.postgres.binaries import Binaries
from trainer.errors import UserError, one_line

MAKE_SECONDS = 120


def make(folder: Path, programs: Binaries, pgpass: Path) -> None:
    """A new cluster in FOLDER/data, beside and renamed: what was interrupted is made again."""
    logger.info("making a database in {} with PostgreSQL {}", folder, programs)
    part = folder / "data.part"
    shutil.rmtree(part, ignore_errors=True)
    words = ["--username=postgres", "--auth=reject", "--encoding=UTF8", "--no-locale", "--data-checksums"]
    done = run([programs.path("initdb"), f"--pgdata={part}", *words], MAKE_SECONDS)
    if done.returncode != 0:
        raise UserError(f"--dir {folder}: initdb failed: {last(done.stderr)}")
    password = secrets.token_urlsafe(24)
    role = f"CREATE ROLE {NAME} LOGIN PASSWORD '{password}';\nCREATE DATABASE {NAME} OWNER {NAME};\n"
    # A server for one process, which reads its standard input: no connection, and no password in any argument.
    scram = ["-c", "password_encryption=scram-sha-256"]
    single = [programs.path("postgres"), "--single", "-D", str(part), *scram, "postgres"]
    done = run(single, MAKE_SECONDS, feed=role)
    mistakes = re.findall(r"(?:ERROR|FATAL|PANIC): .*", done.stderr)
    if done.returncode != 0 or mistakes:
        raise UserError(f"--dir {folder}: the database was not made: {(mistakes or ['postgres ended'])[0]}")
    with (part / "postgresql.conf").open("a") as file:
        file.write("include 'kd_search.conf'\n")
    write(pgpass, f"*:*:{NAME}:{NAME}:{password}\n")
    part.rename(folder / "data")


def run(words: Sequence[str], seconds: float, *, feed: str = "") -> "subprocess.CompletedProcess[str]":
    """One of PostgreSQL's programs, without settings of other servers and without secrets in its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k != "OPTUNA_STORAGE"}
    environment |= {"LC_ALL": "C", "TZ": environment.get("TZ", "UTC")}
    try:
        return subprocess.run(
            words, input=feed, capture_output=True, text=True, timeout=seconds, check=False, cwd="/", env=environment
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{Path(words[0]).name}: did not end within {seconds:g} s; see the server's log") from None


def last(text: str) -> str:
    """The last line that says something."""
    return one_line(next((line for line in reversed(text.splitlines()) if line.strip()), "no message"))


def write(path: Path, text: str) -> None:
    """A private file, whole or not at all."""
    beside = path.with_name(f"{path.name}.part")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
