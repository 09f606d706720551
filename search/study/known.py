"""The SQLite databases in which this account began searches, so that a worker in another folder can name them.

A small file of the account, $XDG_STATE_HOME/kd-search/searches.json (~/.local/state where that is not set): names of
studies with absolute paths. Nothing depends on it; where it cannot be read or written, nothing is known.
"""

import json
import os
from pathlib import Path

from trainer.atomic_files import private_folder, write_private

MOST = 500
"""Names that are kept, the newest."""


def remember(name: str, database: Path) -> None:
    """Keep where a study's database lies. database: absolute."""
    known = _read()
    places = [place for place in known.pop(name, []) if place != str(database)]
    known[name] = [*places, str(database)]
    newest = dict(list(known.items())[-MOST:])
    try:
        private_folder(_file().parent)
        write_private(_file(), json.dumps(newest, indent=1))
    except OSError:
        return  # a read-only home: the hint is missing next time, nothing else


def elsewhere(name: str, database: Path) -> list[Path]:
    """Other databases of a study of this name that are still there, the newest first."""
    places = [Path(place) for place in reversed(_read().get(name, []))]
    return [place for place in places if place != database and place.is_file()]


def _file() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "kd-search" / "searches.json"


def _read() -> dict[str, list[str]]:
    try:
        held = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(held, dict):
        return {}
    return {str(name): [str(place) for place in places] for name, places in held.items() if isinstance(places, list)}
