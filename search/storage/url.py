"""The URL of a search's database, also where none is given, and the kind of disk that a folder lies on."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli.numbers import MOST_SECONDS, real
from trainer.cli.parser import Flags
from trainer.errors import SECRET_PARAMETERS, UserError, nearest, without_passwords

if TYPE_CHECKING:
    import sqlalchemy as sa

WAIT_SECONDS = 600.0
"""How long a worker that begins waits for a database that is away."""
DEFAULT = Path("runs/search.db")
NETWORK_DISKS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "glusterfs", "ceph", "9p", "afs"}
)


def add_storage(parser: Flags) -> None:
    """The flag --storage."""
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="database; default: $OPTUNA_STORAGE, or what the file $OPTUNA_STORAGE_FILE holds (both keep a password "
        f"out of the process list), else sqlite:///{DEFAULT}",
    )


def add_wait(parser: Flags) -> None:
    """The flag --database-wait."""
    parser.add_argument(
        "--database-wait",
        type=real(0, MOST_SECONDS),
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help=f"a worker that begins waits for a database that is away (default {WAIT_SECONDS:g}; 0: not at all)",
    )


def storage_url(given: str | None) -> str:
    """The database URL: the flag's, the environment's, or a SQLite file in the folder of the runs. Raises UserError."""
    if given is not None and not given.strip():
        raise UserError("--storage is empty; give a database URL, such as sqlite:///FILE, or leave the flag out")
    url = given.strip() if given else from_environment()
    if url:
        return url
    return f"sqlite:///{DEFAULT}"


def from_environment() -> str | None:
    """$OPTUNA_STORAGE, or the one word in the file that $OPTUNA_STORAGE_FILE names, as secrets are mounted; None where
    neither is set. Raises UserError."""
    url, file = _variable("OPTUNA_STORAGE"), _variable("OPTUNA_STORAGE_FILE")
    if not file:
        return url
    if url:
        raise UserError("OPTUNA_STORAGE and OPTUNA_STORAGE_FILE are both set; unset one of them")
    try:
        parts = Path(file).read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(f"OPTUNA_STORAGE_FILE = {file}: {reason}; write the database URL into it") from None
    if len(parts) != 1:
        raise UserError(f"OPTUNA_STORAGE_FILE = {file}: {len(parts)} words, not one; write the database URL into it")
    return parts[0]


def _variable(name: str) -> str | None:
    """What a variable holds. Empty, it is what `export NAME=$(...)` leaves of a failed command: raises UserError."""
    value = os.environ.get(name)
    if value is not None and not value.strip():
        raise UserError(f"{name} is set and empty, as a failed command leaves it; set it again, or: unset {name}")
    return value and value.strip()


def disk_kind(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The file system's kind that holds a folder, such as ext4 or nfs; "unknown" where the system does not say."""
    if not mounts.is_file():
        return "unknown"
    best, kind = -1, "unknown"
    for line in mounts.read_text().splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        if folder.is_relative_to(point) and len(point.parts) > best:
            best, kind = len(point.parts), fields[2]
    return kind


def refuse_bad_file(url: "sa.URL", label: str) -> None:
    """Refuse an SQLite file that no waiting makes usable. label: the URL as it may be shown. Raises UserError."""
    if url.database in (None, "", ":memory:"):
        raise UserError(f"storage: {label}: an in-memory database dies with its process; use sqlite:///FILE")
    file = Path(url.database or "")
    folder = file.resolve().parent
    if not folder.is_dir() and file != DEFAULT:
        raise UserError(f"storage: {label}: the folder {folder} does not exist; create it first")
    if file.is_dir():
        raise UserError(f"storage: {label}: is a folder; name a file in it")
    kind = disk_kind(folder)
    if kind in NETWORK_DISKS:
        raise UserError(
            f"storage: {label} lies on a network disk ({kind}), where SQLite's locks are not safe; "
            "use a local disk, or a PostgreSQL, such as that of: python -m search db start --dir FOLDER"
        )
    for place in (file, folder):
        if place.exists() and not os.access(place, os.W_OK):
            raise UserError(
                f"storage: {label}: {place.absolute()} is not writable for you, and SQLite writes to the file and "
                "beside it; see the rights of both (ls -ld), or copy the file to a folder of your own"
            )


DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg2",
    "postgresql+psycopg2": "postgresql+psycopg2",
}
"""The dialects that a URL may name, with the driver that serves each."""


def label_of(url: str) -> str:
    """The URL as it may be shown: without its password, and other secrets. Raises UserError for what is no URL."""
    parsed = _parsed(url)
    hidden = {name: "***" for name in SECRET_PARAMETERS if name in parsed.query}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


def _parsed(url: str) -> "sa.URL":
    if _has_plain_at(url):
        raise UserError(
            f"storage: {without_passwords(url).partition('?')[0]}: the password holds '@'; write it as %40 "
            "(and / as %2F, ? as %3F, % as %25)"
        )
    import sqlalchemy as sa  # a third of a second, which a command that only hands its URL on does not need

    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # a port that is no number: the message would show it
        raise UserError(
            "storage: this is no database URL (not shown, it may hold a password); known forms: "
            "postgresql://USER@HOST/DATABASE, sqlite:///FILE"
        ) from None


def _has_plain_at(url: str) -> bool:
    """Whether a second @ follows where the first one should have ended the password.

    SQLAlchemy ends it there, takes the rest for the host, and shows it.
    """
    before, _, behind = url.partition("://")[2].partition("@")
    place, _, query = behind.partition("?")
    # A query is one where a database stands before it, or it was named before any password: else it is the password's.
    ends_in_query = "?" in before or "/" not in place
    return ":" in before and "@" in (f"{place}{query}" if ends_in_query else place)


def _with_driver(url: str) -> "sa.URL":
    """The URL with the driver that is installed: which one `postgresql://` means depends on SQLAlchemy's version."""
    parsed = _parsed(url)
    driver = DRIVERS.get(parsed.drivername)
    if driver is None:
        close = nearest(parsed.drivername, ("postgresql", "sqlite"))
        raise UserError(f"storage: {label_of(url)}: {parsed.drivername!r} is not supported{close}")
    return parsed.set(drivername=driver)


def _template(url: "sa.URL") -> str:
    """Optuna formats the URL as a template: braces in a password are doubled so that they survive."""
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
